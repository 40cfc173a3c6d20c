// The exchange. Redirects are followed here rather than by libcurl, whose rule for which hosts see the token has changed between versions.
#include "hub/http.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include <curl/curl.h>

#include "core/file.h"
#include "core/log.h"
#include "core/text.h"

enum { MOST_REDIRECTS = 10, MOST_HEADERS = 200, CONNECT_SECONDS = 10, SILENCE_SECONDS = 30, LONGEST_WAIT = 60 };

typedef struct HttpHeader {
  char *name, *value;
} HttpHeader;

struct Http {
  CURL *curl;
  char error[CURL_ERROR_SIZE];
  long silence;  // seconds
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void initialise(void) { curl_global_init(CURL_GLOBAL_DEFAULT); }

Status http_new(Http **out) {
  pthread_once(&once, initialise);
  Http *http = memory_new(1, sizeof *http);
  const char *given = getenv("HF_HUB_DOWNLOAD_TIMEOUT");
  http->silence = given && atol(given) > 0 ? atol(given) : SILENCE_SECONDS;
  http->curl = curl_easy_init();
  *out = http;
  return http->curl ? STATUS_OK : status_fail(STATUS_FAILED, "libcurl cannot be started");
}

void http_free(Http *http) {
  if (!http) return;
  if (http->curl) curl_easy_cleanup(http->curl);
  free(http);
}

// --- the answer ---

static void clear_headers(HttpResponse *response) {
  for (int i = 0; i < response->header_count; i++) free(response->headers[i].name), free(response->headers[i].value);
  response->header_count = 0;
}

void http_response_release(HttpResponse *response) {
  clear_headers(response);
  free(response->headers);
  buffer_release(&response->body);
  *response = (HttpResponse){0};
}

const char *http_header(const HttpResponse *response, const char *name) {
  for (int i = 0; i < response->header_count; i++)
    if (strcmp(response->headers[i].name, name) == 0) return response->headers[i].value;
  return NULL;
}

int64_t http_header_integer(const HttpResponse *response, const char *name) {
  const char *text = http_header(response, name);
  if (!text || !isdigit((unsigned char)*text)) return -1;
  char *end;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  return errno || *end ? -1 : value;
}

typedef struct Transfer {
  CURL *curl;
  HttpResponse *response;
  const HttpRequest *request;
  Status status;  // of the receiver
} Transfer;

static size_t take_header(char *bytes, size_t size, size_t count, void *context) {
  const Transfer *transfer = context;
  HttpResponse *response = transfer->response;
  size_t length = size * count, name = 0;
  if (length >= 5 && memcmp(bytes, "HTTP/", 5) == 0) {
    // What came before the last answer (100 Continue) does not count. The receiver of the body is to know its code.
    long code = 0;
    curl_easy_getinfo(transfer->curl, CURLINFO_RESPONSE_CODE, &code);
    response->code = (int)code;
    clear_headers(response);
    return length;
  }
  const char *colon = memchr(bytes, ':', length);
  if (!colon || response->header_count == MOST_HEADERS) return length;
  HttpHeader header = {.name = memory_format("%.*s", (int)(colon - bytes), bytes)};
  for (; header.name[name]; name++) header.name[name] = (char)tolower((unsigned char)header.name[name]);
  size_t begin = (size_t)(colon - bytes) + 1, end = length;
  while (begin < end && isspace((unsigned char)bytes[begin])) begin++;
  while (end > begin && isspace((unsigned char)bytes[end - 1])) end--;
  header.value = memory_format("%.*s", (int)(end - begin), bytes + begin);
  ARRAY_PUSH(response->headers, response->header_count, response->header_capacity) = header;
  return length;
}

static size_t take_body(char *bytes, size_t size, size_t count, void *context) {
  Transfer *transfer = context;
  HttpResponse *response = transfer->response;
  size_t length = size * count;
  if (response->code != 200 && response->code != 206) return length;  // the page that tells a person what is wrong
  if (transfer->request->receiver) {
    transfer->status = transfer->request->receiver(transfer->request->context, response, bytes, length);
  } else if (response->body.length + length > HTTP_BODY_LIMIT) {
    transfer->status = status_fail(STATUS_BAD_INPUT, "the answer is longer than %d bytes", HTTP_BODY_LIMIT);
  } else {
    buffer_append(&response->body, bytes, length);
  }
  return transfer->status == STATUS_OK ? length : 0;
}

// --- the request ---

// "scheme://host:port" of a URL; NULL when it is none of http or https.
static char *url_origin(const char *url) {
  CURLU *parts = curl_url();
  char *scheme = NULL, *host = NULL, *port = NULL, *origin = NULL;
  if (parts && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK && curl_url_get(parts, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
      curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
      curl_url_get(parts, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
      (strcasecmp(scheme, "https") == 0 || strcasecmp(scheme, "http") == 0))
    origin = memory_format("%s://%s:%s", scheme, host, port);
  for (char *p = origin; p && *p; p++) *p = (char)tolower((unsigned char)*p);
  curl_free(scheme), curl_free(host), curl_free(port);
  curl_url_cleanup(parts);
  return origin;
}

// `location` as seen from `base`; NULL when it is no URL.
static char *url_follow(const char *base, const char *location) {
  CURLU *parts = curl_url();
  char *whole = NULL, *copy = NULL;
  if (parts && curl_url_set(parts, CURLUPART_URL, base, 0) == CURLUE_OK && curl_url_set(parts, CURLUPART_URL, location, 0) == CURLUE_OK &&
      curl_url_get(parts, CURLUPART_URL, &whole, 0) == CURLUE_OK)
    copy = memory_copy_string(whole);
  curl_free(whole);
  curl_url_cleanup(parts);
  return copy;
}

static void set_certificates(CURL *curl) {
  static const char *const names[] = {"CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *path = getenv(names[i]);
    if (!path || !*path) continue;
    curl_easy_setopt(curl, directory_exists(path) ? CURLOPT_CAPATH : CURLOPT_CAINFO, path);
    return;
  }
}

static struct curl_slist *request_headers(const HttpRequest *request, bool with_token) {
  struct curl_slist *headers = curl_slist_append(NULL, "Accept-Encoding: identity");
  if (!with_token) return headers;
  char *line = memory_format("Authorization: Bearer %s", request->token);
  headers = curl_slist_append(headers, line);
  free(line);
  return headers;
}

static HttpOutcome outcome_of(CURL *curl, CURLcode code) {
  double connected = 0;
  curl_easy_getinfo(curl, CURLINFO_CONNECT_TIME, &connected);
  if (code == CURLE_OPERATION_TIMEDOUT && connected == 0) return HTTP_UNREACHABLE;
  switch (code) {
    case CURLE_OK: return HTTP_ANSWERED;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT: return HTTP_UNREACHABLE;
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM: return HTTP_LOST;
    default: return HTTP_REFUSED;
  }
}

// One hop.
static Status exchange(HttpResponse *response, Http *http, const HttpRequest *request, const char *url, const char *origin,
                       bool with_token) {
  CURL *curl = http->curl;
  Transfer transfer = {.curl = curl, .response = response, .request = request};
  struct curl_slist *headers = request_headers(request, with_token);
  curl_easy_reset(curl);  // keeps the connections
  http->error[0] = 0;
  response->code = 0;
  clear_headers(response);
  curl_easy_setopt(curl, CURLOPT_URL, url);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, http->error);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "lora.c/" LORA_VERSION);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, http->silence);
  if (request->head) curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
  if (request->from > 0) {
    char range[32];
    snprintf(range, sizeof range, "%lld-", (long long)request->from);
    curl_easy_setopt(curl, CURLOPT_RANGE, range);
  }
  set_certificates(curl);
  CURLcode code = curl_easy_perform(curl);
  curl_slist_free_all(headers);
  response->outcome = transfer.status == STATUS_OK ? outcome_of(curl, code) : HTTP_REFUSED;
  if (transfer.status != STATUS_OK) return transfer.status;
  if (code == CURLE_OK) return STATUS_OK;
  return status_fail(STATUS_FAILED, "%s: %s%s", origin, http->error[0] ? http->error : curl_easy_strerror(code),
                     code == CURLE_PEER_FAILED_VERIFICATION
                         ? "; where a proxy has certificates of its own, set CURL_CA_BUNDLE to a file with its authority's"
                         : "");
}

static bool is_redirect(int code) { return code == 301 || code == 302 || code == 303 || code == 307 || code == 308; }

static Status refuse(HttpResponse *response, const char *origin, const char *why) {
  response->outcome = HTTP_REFUSED;
  return status_fail(STATUS_FAILED, "%s: %s", origin, why);
}

// Takes *url and *origin on to where the answer points.
static Status follow_redirect(HttpResponse *response, char **url, char **origin) {
  const char *location = http_header(response, "location");
  char *next = location ? url_follow(*url, location) : NULL, *next_origin = next ? url_origin(next) : NULL;
  Status status = STATUS_OK;
  if (!next_origin) status = refuse(response, *origin, "redirects to what is no http or https address");
  else if (text_starts_with(*origin, "https:") && !text_starts_with(next_origin, "https:"))
    status = refuse(response, *origin, "redirects from https to http, which is refused");
  if (status != STATUS_OK) {
    free(next), free(next_origin);
    return status;
  }
  free(*url), free(*origin);
  *url = next, *origin = next_origin;
  return STATUS_OK;
}

Status http_send(HttpResponse *response, Http *http, const HttpRequest *request) {
  *response = (HttpResponse){0};
  char *url = memory_copy_string(request->url), *home = url_origin(url), *origin = memory_copy_string(home);
  Status status = STATUS_OK;
  response->outcome = HTTP_REFUSED;
  if (!home) status = status_fail(STATUS_USAGE, "\"%s\" is no http or https address; correct HF_ENDPOINT", url);
  for (int hops = 0; status == STATUS_OK; hops++) {
    status = exchange(response, http, request, url, origin, request->token && strcmp(origin, home) == 0);
    if (status != STATUS_OK || !is_redirect(response->code)) break;
    if (request->head && http_header(response, "x-linked-etag")) break;
    status = hops == MOST_REDIRECTS ? refuse(response, origin, "redirects without end") : follow_redirect(response, &url, &origin);
  }
  free(url), free(home), free(origin);
  return status;
}

// --- patience ---

bool http_is_transient(const HttpResponse *response) {
  if (response->outcome == HTTP_LOST) return true;
  if (response->outcome != HTTP_ANSWERED) return false;
  if (http_header_integer(response, "retry-after") > LONGEST_WAIT) return false;
  return response->code == 408 || response->code == 429 || response->code >= 500;
}

void http_wait(const HttpResponse *response, int attempt) {
  double seconds = 0.25 * (double)(1 << (attempt < 5 ? attempt : 5));
  int64_t asked = http_header_integer(response, "retry-after");
  if (asked > 0 && asked <= LONGEST_WAIT) seconds = (double)asked;
  if (asked > 1) log_notice("the server asks to wait; trying again in %g s", seconds);
  struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  while (nanosleep(&time, &time) != 0 && errno == EINTR) {}
}

Status http_send_patiently(HttpResponse *response, Http *http, const HttpRequest *request) {
  for (int attempt = 0;; attempt++) {
    Status status = http_send(response, http, request);
    if (!http_is_transient(response) || attempt + 1 == HTTP_ATTEMPTS) return status;
    http_wait(response, attempt);
    http_response_release(response);
  }
}
