#include "server/routes.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/text.h"

// A path that ends with '/' stands for all that begin with it, but "/" for itself.
static const Route routes[] = {
    {"GET", "/", handle_page, .is_open = true, .is_early = true},
    {"GET", "/health", handle_health, .is_open = true, .is_early = true},
    {"GET", "/metrics", handle_metrics, .is_early = true},
    {"GET", "/v1/models", handle_models},
    {"GET", "/v1/models/", handle_model},
    {"POST", "/v1/completions", handle_completions},
    {"POST", "/v1/chat/completions", handle_chat},
    {"POST", "/v1/embeddings", handle_embeddings},
    {"POST", "/tokenize", handle_tokenize},
    {"POST", "/detokenize", handle_detokenize},
    {"GET", "/tokenizer_info", handle_tokenizer_info},
    {"GET", "/lora-adapters", handle_adapters},
    {"POST", "/lora-adapters", handle_set_adapters, .takes_list = true},
};
enum { ROUTES = sizeof routes / sizeof *routes };

// ---- The head

static bool path_matches(const Route *route, const char *path) {
  size_t length = strlen(route->path);
  bool is_prefix = length > 1 && route->path[length - 1] == '/';
  return is_prefix ? strncmp(path, route->path, length) == 0 && path[length] : strcmp(path, route->path) == 0;
}

static Status find_route(Call *call, const char *method) {
  static const char *const allows[] = {"GET, HEAD", "POST", "GET, HEAD, POST"};
  const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
  bool has_get = false, has_post = false;
  for (int i = 0; i < ROUTES; i++) {
    if (!path_matches(&routes[i], call->path)) continue;
    has_get |= strcmp(routes[i].method, "GET") == 0;
    has_post |= strcmp(routes[i].method, "POST") == 0;
    if (!call->route || strcmp(routes[i].method, wanted) == 0) call->route = &routes[i];
  }
  if (!call->route) return call_fail(call, MHD_HTTP_NOT_FOUND, NULL, NULL, "there is nothing at %s", call->path);
  if (strcmp(call->route->method, wanted) == 0) return STATUS_OK;
  call->allow = allows[has_get && has_post ? 2 : has_post];
  return call_fail(call, MHD_HTTP_METHOD_NOT_ALLOWED, NULL, NULL, "%s does not take %s; use %s", call->path, method, call->allow);
}

bool host_is_local(const char *host, const char *own) {
  static const char *const names[] = {"localhost", "[::1]", NULL};
  size_t length = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
  char *name = memory_format("%.*s", (int)length, host);
  bool is_number = text_starts_with(name, "127.") && name[strspn(name, "0123456789.")] == 0;
  bool is_ours = is_number || word_is_in(names, name) || strcmp(name, own) == 0;
  free(name);
  return is_ours;
}

// A page of another origin may ask only where it is allowed: browsers send such requests, though they keep the answers from the page.
static bool origin_is_allowed(const Call *call, const char *host) {
  const char *origin = MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, "Origin");
  const char *allowed = call->server->options.allowed_origin;
  if (!origin || (allowed && (strcmp(allowed, "*") == 0 || strcmp(allowed, origin) == 0))) return true;
  const char *authority = strstr(origin, "://");
  return authority && host && strcmp(authority + 3, host) == 0;
}

static Status check_head(Call *call, const char *method) {
  Server *server = call->server;
  const char *host = MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST);
  const char *key = MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
  const char *length = MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
  if (server->is_loopback && host && !host_is_local(host, server->options.host))
    return call_fail(call, MHD_HTTP_FORBIDDEN, NULL, NULL, "this server is not %s; ask it as localhost", host);
  if (!origin_is_allowed(call, host))
    return call_fail(call, MHD_HTTP_FORBIDDEN, NULL, NULL, "pages of other origins may not ask; --allow-origin lets one");
  Status status = find_route(call, method);
  if (!(call->route && call->route->is_open) && !key_list_allows(&server->keys, key))
    return call_fail(call, MHD_HTTP_UNAUTHORIZED, "invalid_api_key", NULL, "the API key is missing or wrong: Authorization: Bearer KEY");
  TRY(status);
  if (length && strtoll(length, NULL, 10) > server->options.body_limit)
    return call_fail(call, MHD_HTTP_CONTENT_TOO_LARGE, NULL, NULL, "the body has more than %lld bytes; --max-body sets the limit",
                     (long long)server->options.body_limit);
  return STATUS_OK;
}

// ---- The handler

static Status run_handler(Call *call) {
  int state = atomic_load(&call->server->state);
  if (!call->route->is_early && state == SERVER_LOADING)
    return call_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, NULL, NULL, "the model is loading");
  if (!call->route->is_early && state == SERVER_STOPPING)
    return call_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, NULL, NULL, "the server is stopping");
  if (strcmp(call->route->method, "POST") == 0) {
    TRY(json_body_read(&call->json, call->body.data, call->body.length));
    if (json_is_array(call->json) != call->route->takes_list)
      return status_fail(STATUS_USAGE, "the body must be a JSON %s", call->route->takes_list ? "list" : "object");
    call->fields.object = call->json;
  }
  return call->route->handle(call);
}

// Counted while its answer is under way, so that a server that stops waits for it.
static enum MHD_Result answer(Call *call, Status failure) {
  atomic_fetch_add(&call->server->calls, 1);
  call->is_counted = true;
  call_pause_timeout(call);
  if (failure == STATUS_OK) failure = run_handler(call);
  Status status = failure == STATUS_OK ? STATUS_OK : call_reply_failure(call, failure);
  call_resume_timeout(call);
  return status == STATUS_OK ? MHD_YES : MHD_NO;
}

// A browser asks before it sends what a page of another origin wants to.
static enum MHD_Result answer_preflight(Call *call) {
  struct MHD_Response *response = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
  const char *origin = call->server->options.allowed_origin;
  MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, origin);
  MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_METHODS, "GET, POST");
  MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type");
  call->status = MHD_HTTP_NO_CONTENT;
  enum MHD_Result result = MHD_queue_response(call->connection, MHD_HTTP_NO_CONTENT, response);
  MHD_destroy_response(response);
  return result;
}

// ---- The library's callbacks

static enum MHD_Result begin(Server *server, struct MHD_Connection *connection, const char *url, const char *method, void **request) {
  Call *call = memory_new(1, sizeof *call);
  const union MHD_ConnectionInfo *information = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
  *call = (Call){.server = server, .connection = connection, .path = memory_copy_string(url), .begun = time_seconds()};
  call->socket = information ? information->connect_fd : -1;
  *request = call;
  if (server->options.allowed_origin && strcmp(method, "OPTIONS") == 0) return answer_preflight(call);
  call->is_refused = check_head(call, method) != STATUS_OK;
  // Who asks before sending a body is told at once. Others read an answer only when they have sent it all.
  bool asks_first = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT) != NULL;
  return call->is_refused && asks_first ? answer(call, STATUS_FAILED) : MHD_YES;
}

// False: more than is even worth throwing away.
static bool take_body(Call *call, const char *bytes, size_t length) {
  enum { DRAINED_MOST = 256 << 20 };
  int64_t limit = call->server->options.body_limit, size = (int64_t)(call->body.length + length);
  if (!call->is_refused && size <= limit) {
    buffer_append(&call->body, bytes, length);
    return true;
  }
  if (!call->is_refused)
    call_fail(call, MHD_HTTP_CONTENT_TOO_LARGE, NULL, NULL, "the body has more than %lld bytes; --max-body sets the limit",
              (long long)limit);
  call->is_refused = true;
  call->drained += (int64_t)length;
  return call->drained <= DRAINED_MOST;
}

enum MHD_Result routes_handle(void *context, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
                              const char *upload, size_t *upload_size, void **request) {
  (void)version;
  Call *call = *request;
  if (!call) return begin(context, connection, url, method, request);
  if (*upload_size) {
    bool goes_on = take_body(call, upload, *upload_size);
    *upload_size = 0;
    return goes_on ? MHD_YES : MHD_NO;
  }
  // What was refused has its message still: a connection has its thread, and nothing has failed on it since.
  return answer(call, call->is_refused ? STATUS_FAILED : STATUS_OK);
}

void routes_completed(void *context, struct MHD_Connection *connection, void **request, enum MHD_RequestTerminationCode code) {
  (void)connection, (void)code;
  Server *server = context;
  Call *call = *request;
  if (!call) return;
  if (call->release) call->release(call->work);
  metrics_count(&server->metrics, call->route ? call->route->path : "other", call->status);
  metrics_time(&server->metrics, METRIC_REQUEST, time_seconds() - call->begun);
  if (call->is_counted) atomic_fetch_sub(&server->calls, 1);
  json_decref(call->json);
  buffer_release(&call->body);
  free(call->path);
  free(call);
  *request = NULL;
}
