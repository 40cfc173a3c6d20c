#include "server/chat_tools.h"

#include <string.h>
#include <sys/random.h>

// How a format that writes JSON puts a call: an object, or a list of them, between its marks.
typedef struct CallForm {
  const char *before, *behind, *arguments;
  bool is_list;
} CallForm;

static const CallForm call_forms[TOOL_FORMAT_COUNT] = {
    [TOOL_FORMAT_HERMES] = {"<tool_call>\n", "\n</tool_call>", "arguments"},
    [TOOL_FORMAT_LLAMA] = {"", "", "parameters"},
    [TOOL_FORMAT_MISTRAL] = {"[TOOL_CALLS]", "", "arguments", .is_list = true},
    [TOOL_FORMAT_PHI] = {"<|tool_call|>", "<|/tool_call|>", "arguments", .is_list = true},
    [TOOL_FORMAT_GRANITE] = {"<|tool_call|>", "", "arguments", .is_list = true},
    [TOOL_FORMAT_FUNCTOOLS] = {"functools", "", "arguments", .is_list = true},
};

// ---- What has to be called

static json_t *call_schema(const json_t *function, const CallForm *form) {
  json_t *parameters = json_object_get(function, "parameters");
  json_t *own = json_is_object(parameters) ? json_incref(parameters) : json_pack("{s:s}", "type", "object");
  json_t *schema = json_pack("{s:s, s:{s:{s:O}}, s:[s, s], s:b}", "type", "object", "properties", "name", "const",
                             json_object_get(function, "name"), "required", "name", form->arguments, "additionalProperties", 0);
  json_object_set_new(json_object_get(schema, "properties"), form->arguments, own);
  return schema;
}

// Any of the tools, or the one of that name (NULL: any); NULL where there is none.
static json_t *calls_schema(const json_t *list, const char *name, const CallForm *form) {
  json_t *choices = json_array();
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *function = json_object_get(json_array_get(list, i), "function");
    if (!name || strcmp(json_string_value(json_object_get(function, "name")), name) == 0)
      json_array_append_new(choices, call_schema(function, form));
  }
  if (json_array_size(choices) == 0) {
    json_decref(choices);
    return NULL;
  }
  json_t *schema = json_array_size(choices) == 1 ? json_incref(json_array_get(choices, 0)) : json_pack("{s:O}", "anyOf", choices);
  json_decref(choices);
  if (!form->is_list) return schema;
  return json_pack("{s:s, s:o, s:i, s:i}", "type", "array", "items", schema, "minItems", 1, "maxItems", 1);
}

static Status demand_call(ChatTools *tools, const char *name, Fields *fields, const ChatTemplate *chat) {
  const CallForm *form = &call_forms[tools->format];
  if (!tools->list) return fields_fail(fields, "tool_choice", "\"tool_choice\" asks for a call, and there are no \"tools\"");
  if (!form->arguments)
    return fields_fail(fields, "tool_choice", "calls cannot be demanded of %s (its format of calls: %s); use \"auto\"",
                       chat_template_name(chat), tool_format_name(tools->format));
  tools->schema = calls_schema(tools->list, name, form);
  if (!tools->schema) return fields_fail(fields, "tool_choice", "\"tool_choice\" names %s, which is none of the tools", name);
  tools->before = form->before;
  tools->behind = form->behind;
  return STATUS_OK;
}

// *kind: "none", "auto" or "required"; *name: of the one that has to be called.
static Status read_choice(const char **kind, const char **name, Fields *fields) {
  static const char *const kinds[] = {"none", "auto", "required"};
  const json_t *choice = fields_get(fields, "tool_choice");
  *kind = "auto";
  *name = json_string_value(json_object_get(json_object_get(choice, "function"), "name"));
  if (*name) *kind = "required";
  if (!choice || *name) return STATUS_OK;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (!json_is_string(choice) || strcmp(json_string_value(choice), kinds[i]) != 0) continue;
    *kind = kinds[i];
    return STATUS_OK;
  }
  return fields_fail(fields, "tool_choice",
                     "\"tool_choice\" must be \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": ...}}");
}

// ---- The fields

static Status check_tools(const json_t *list, Fields *fields) {
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *function = json_object_get(json_array_get(list, i), "function");
    if (!json_is_string(json_object_get(function, "name")))
      return fields_fail(fields, "tools", "tool %zu must be {\"type\": \"function\", \"function\": {\"name\": ...}}", i + 1);
  }
  return STATUS_OK;
}

Status chat_tools_read(ChatTools *tools, Fields *fields, const ChatTemplate *chat) {
  const char *kind, *name;
  *tools = (ChatTools){.before = "", .behind = ""};
  TRY(fields_array(&tools->list, fields, "tools"));
  TRY(check_tools(tools->list, fields));
  TRY(read_choice(&kind, &name, fields));
  if (json_array_size(tools->list) == 0 || strcmp(kind, "none") == 0) tools->list = NULL;
  if (tools->list && !chat_template_knows_tools(chat))
    return fields_fail(fields, "tools",
                       "%s does not print tools: the model would not see them; serve with --chat-template and one that does, as qwen_25",
                       chat_template_name(chat));
  if (tools->list) tools->format = tool_format_detect(chat_template_source(chat));
  return strcmp(kind, "required") == 0 ? demand_call(tools, name, fields, chat) : STATUS_OK;
}

void chat_tools_release(ChatTools *tools) {
  json_decref(tools->schema);
  *tools = (ChatTools){0};
}

// ---- Calls

json_t *tool_call_object(const ToolCall *call, int index) {
  static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  enum { LENGTH = 9 };  // some templates take no other when a call is sent back to them
  uint8_t random[LENGTH];
  char id[LENGTH + 1] = {0};
  if (getrandom(random, sizeof random, 0) != sizeof random) memset(random, 0, sizeof random);
  for (int i = 0; i < LENGTH; i++) id[i] = letters[random[i] % (sizeof letters - 1)];
  json_t *object =
      json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", id, "type", "function", "function", "name", call->name, "arguments", call->arguments);
  if (index >= 0) json_object_set_new(object, "index", json_integer(index));
  return object;
}
