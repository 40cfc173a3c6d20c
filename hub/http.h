// One HTTP exchange by libcurl (RFC 9110), with its redirects. The token goes to the origin (scheme, host, port) of the URL that was
// asked for and to no other; from https nothing leads to http; certificates are verified, by CURL_CA_BUNDLE, SSL_CERT_FILE or
// REQUESTS_CA_BUNDLE where one is set; proxies are taken from the environment as libcurl does.
#ifndef HUB_HTTP_H
#define HUB_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "core/memory.h"
#include "core/status.h"

typedef enum HttpOutcome {
  HTTP_ANSWERED,  // with `code`, and to its end
  HTTP_LOST,  // the connection broke, was silent for too long, or ended early
  HTTP_UNREACHABLE,  // no connection came about
  HTTP_REFUSED,  // the answer is not to be trusted (certificate, redirect), or the receiver failed
} HttpOutcome;

typedef struct HttpResponse {
  HttpOutcome outcome;
  int code;  // of the last answer; 0: none
  struct HttpHeader *headers;
  int header_count, header_capacity;
  Buffer body;  // of a 2xx answer to a request without a receiver
} HttpResponse;

// Takes a piece of the body of a 200 or 206 answer.
typedef Status (*HttpReceiver)(void *context, const HttpResponse *response, const void *bytes, size_t length);

typedef struct HttpRequest {
  const char *url, *token;  // token may be NULL
  bool head;  // HEAD; it ends at a redirect that bears x-linked-etag, which is the file's own description
  int64_t from;  // asks for the bytes from here on; 0: all
  HttpReceiver receiver;  // NULL: into response->body, at most HTTP_BODY_LIMIT bytes
  void *context;
} HttpRequest;

enum { HTTP_BODY_LIMIT = 64 << 20, HTTP_ATTEMPTS = 5 };

typedef struct Http Http;

Status http_new(Http **http);
void http_free(Http *http);

// One attempt. STATUS_OK for any HTTP_ANSWERED, whatever its code. Release the response in any case.
Status http_send(HttpResponse *response, Http *http, const HttpRequest *request);
// Up to HTTP_ATTEMPTS of them, for a request whose body is not received in pieces.
Status http_send_patiently(HttpResponse *response, Http *http, const HttpRequest *request);
// Whether an attempt that ended so is worth another, and the wait before it; `attempt` counts from 0. A Retry-After that is longer
// than a minute is an answer, not a wait.
bool http_is_transient(const HttpResponse *response);
void http_wait(const HttpResponse *response, int attempt);
const char *http_header(const HttpResponse *response, const char *name);  // `name` in lower case; NULL: it has none
int64_t http_header_integer(const HttpResponse *response, const char *name);  // -1: none, or no count
void http_response_release(HttpResponse *response);

#endif
