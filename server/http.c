#include "server/http.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text_stream.h"

enum { EVENT_BLOCK = 16384 };

// ---- Failures

Status call_fail(Call *call, int status, const char *code, const char *param, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  call->status = status;
  call->code = code;
  call->fields.param = param;
  return status_fail(STATUS_FAILED, "%s", text);
}

static const char *error_type(int status) {
  if (status == 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

// A message may have been cut in the middle of a character, or repeat bytes of the client's that are none.
static json_t *valid_string(const char *message) {
  Buffer text = {0};
  TextStream stream;
  text_stream_new(&stream, NULL, 0);
  text_stream_push(&text, &stream, message, strlen(message));
  text_stream_finish(&text, &stream);
  text_stream_release(&stream);
  json_t *string = json_stringn(text.data ? text.data : "", text.length);
  buffer_release(&text);
  return string;
}

json_t *error_object(int status, const char *message, const char *param, const char *code) {
  return json_pack("{s:{s:o, s:s, s:s?, s:s?}}", "error", "message", valid_string(message), "type", error_type(status), "param", param,
                   "code", code);
}

static int failure_status(Status failure) {
  switch (failure) {
    case STATUS_USAGE:
    case STATUS_BAD_INPUT: return MHD_HTTP_BAD_REQUEST;
    case STATUS_NO_SPACE: return MHD_HTTP_SERVICE_UNAVAILABLE;
    default: return MHD_HTTP_INTERNAL_SERVER_ERROR;
  }
}

Status call_reply_failure(Call *call, Status failure) {
  int status = call->status ? call->status : failure_status(failure);
  return call_reply_json(call, status, error_object(status, status_message(), call->fields.param, call->code));
}

// ---- Replies

char *json_text(const json_t *value) { return json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9)); }

static void add_headers(Call *call, struct MHD_Response *response, const char *type) {
  const char *origin = call->server->options.allowed_origin;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
  MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
  MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
  if (origin) {
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, "Origin");
  }
  if (call->status == MHD_HTTP_UNAUTHORIZED) MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
  if (call->status == MHD_HTTP_TOO_MANY_REQUESTS || call->status == MHD_HTTP_SERVICE_UNAVAILABLE)
    MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "1");
  if (call->policy) MHD_add_response_header(response, "Content-Security-Policy", call->policy);
  if (call->allow) MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, call->allow);
  if (atomic_load(&call->server->state) == SERVER_STOPPING) MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
}

static Status queue(Call *call, struct MHD_Response *response, const char *type) {
  if (!response) return status_fail(STATUS_NO_SPACE, "there is no memory for the answer");
  add_headers(call, response, type);
  enum MHD_Result result = MHD_queue_response(call->connection, (unsigned)call->status, response);
  MHD_destroy_response(response);
  return result == MHD_YES ? STATUS_OK : status_fail(STATUS_FAILED, "the answer could not be queued");
}

Status call_reply(Call *call, int status, const char *type, const void *bytes, size_t length) {
  call->status = status;
  // The library only reads the bytes that it copies; its parameter is older than that rule.
  return queue(call, MHD_create_response_from_buffer(length, (void *)(uintptr_t)bytes, MHD_RESPMEM_MUST_COPY), type);
}

Status call_reply_json(Call *call, int status, json_t *object) {
  char *text = json_text(object);
  json_decref(object);
  if (!text) return status_fail(STATUS_FAILED, "the answer is no text that JSON could hold");
  Status done = call_reply(call, status, "application/json", text, strlen(text));
  free(text);
  return done;
}

Status call_reply_events(Call *call, MHD_ContentReaderCallback read, void *context) {
  call->status = MHD_HTTP_OK;
  return queue(call, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, EVENT_BLOCK, read, context, NULL), "text/event-stream");
}

// ---- Time

// A timeout that was 0 begins anew when it is set: the library's own rule, without which it would count the wait as silence.
void call_pause_timeout(Call *call) { MHD_set_connection_option(call->connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u); }

void call_resume_timeout(Call *call) {
  MHD_set_connection_option(call->connection, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)call->server->options.timeout);
}
