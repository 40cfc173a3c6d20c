// GET /v1/models and /v1/models/NAME: what requests may name, the base and each adapter. GET and POST /lora-adapters: adapters and their
// scales.
#include <stdlib.h>
#include <string.h>

#include "server/routes.h"

static json_t *model_object(const Server *server, const char *name) {
  const ServedModel *served = &server->served;
  json_t *object = json_pack("{s:s, s:s, s:I, s:s, s:I}", "id", name, "object", "model", "created", (json_int_t)server->created, "owned_by",
                             "lora", "max_model_len", (json_int_t)served->engine.context);
  if (strcmp(name, served->name) != 0) json_object_set_new(object, "parent", json_string(served->name));
  return object;
}

static int adapter_count(const Server *server) { return server->served.adapters ? adapter_bank_count(server->served.adapters) : 0; }

Status handle_models(Call *call) {
  const Server *server = call->server;
  json_t *data = json_pack("[o]", model_object(server, server->served.name));
  for (int i = 0; i < adapter_count(server); i++)
    json_array_append_new(data, model_object(server, adapter_bank_name(server->served.adapters, i)));
  return call_reply_json(call, MHD_HTTP_OK, json_pack("{s:s, s:o}", "object", "list", "data", data));
}

Status handle_model(Call *call) {
  const Server *server = call->server;
  const char *name = call->path + strlen(call->route->path);
  bool is_there =
      strcmp(name, server->served.name) == 0 || (adapter_count(server) && adapter_bank_find(server->served.adapters, name) >= 0);
  if (is_there) return call_reply_json(call, MHD_HTTP_OK, model_object(server, name));
  return call_fail(call, MHD_HTTP_NOT_FOUND, "model_not_found", "model", "the model \"%s\" is not served here", name);
}

// ---- Scales

// New shares of adapters.
typedef struct Scales {
  int count;
  int *numbers;
  double *values;
} Scales;

Status handle_adapters(Call *call) {
  const AdapterBank *bank = call->server->served.adapters;
  json_t *list = json_array();
  for (int i = 0; i < adapter_count(call->server); i++)
    json_array_append_new(list, json_pack("{s:i, s:s, s:s, s:f}", "id", i, "name", adapter_bank_name(bank, i), "path",
                                          adapter_bank_path(bank, i), "scale", server_scale(call->server, i)));
  return call_reply_json(call, MHD_HTTP_OK, list);
}

static Status read_scale(Call *call, Scales *scales, const json_t *item) {
  int64_t id = -1;
  double value = 0;
  if (!json_is_object(item)) return status_fail(STATUS_USAGE, "the body must be a list of {\"id\", \"scale\"}");
  call->fields.object = item;
  TRY(fields_integer(&id, &call->fields, "id", 0, adapter_count(call->server) - 1));
  TRY(fields_float(&value, &call->fields, "scale", -1000, 1000));
  if (id < 0) return fields_fail(&call->fields, "id", "\"id\" is missing: GET /lora-adapters tells the ids");
  if (!fields_get(&call->fields, "scale")) return fields_fail(&call->fields, "scale", "\"scale\" is missing");
  scales->numbers[scales->count] = (int)id;
  scales->values[scales->count++] = value;
  return STATUS_OK;
}

Status handle_set_adapters(Call *call) {
  enum { MOST = 256 };
  int numbers[MOST];
  double values[MOST];
  Scales scales = {.numbers = numbers, .values = values};
  size_t count = json_array_size(call->json);
  if (count > MOST) return status_fail(STATUS_USAGE, "the list has %zu adapters; at most %d are taken", count, MOST);
  for (size_t i = 0; i < count; i++) TRY(read_scale(call, &scales, json_array_get(call->json, i)));
  for (int i = 0; i < scales.count; i++)
    if (server_set_scale(call->server, numbers[i], values[i]) != STATUS_OK)
      return fields_fail(&call->fields, "scale", "%s", status_message());
  return handle_adapters(call);
}
