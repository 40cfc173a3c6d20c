// GET /health and /metrics.
#include "server/routes.h"

Status handle_health(Call *call) {
  static const char *const names[] = {[SERVER_LOADING] = "loading", [SERVER_READY] = "ok", [SERVER_STOPPING] = "stopping"};
  int state = atomic_load(&call->server->state);
  int status = state == SERVER_READY ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
  return call_reply_json(call, status, json_pack("{s:s}", "status", names[state]));
}

Status handle_metrics(Call *call) {
  Buffer text = {0};
  EngineCounts counts;
  bool has_engine = server_counts(&counts, call->server);
  metrics_write(&text, &call->server->metrics, has_engine ? &counts : NULL);
  Status status = call_reply(call, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", text.data, text.length);
  buffer_release(&text);
  return status;
}
