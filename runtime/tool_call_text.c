// The text of calls: JSON, whose arguments are kept as they were written, and Qwen3-Coder's elements.
#include "runtime/tool_call_text.h"

#include <stdlib.h>
#include <string.h>

bool tool_call_is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

void tool_call_strip(const char **text, size_t *length) {
  while (*length && tool_call_is_space(**text)) ++*text, --*length;
  while (*length && tool_call_is_space((*text)[*length - 1])) --*length;
}

void tool_calls_cut(ToolCalls *calls, int count) {
  while (calls->count > count) {
    ToolCall *call = &calls->items[--calls->count];
    free(call->name);
    free(call->arguments);
  }
}

static void add_call(ToolCalls *out, const char *name, size_t name_length, const char *arguments, size_t length) {
  ARRAY_PUSH(out->items, out->count, out->capacity) =
      (ToolCall){memory_format("%.*s", (int)name_length, name), memory_format("%.*s", (int)length, arguments)};
}

static bool is_object(const char *text, size_t length) {
  if (memchr(text, 0, length)) return false;  // which jansson passes over, and strings end at
  json_t *value = json_loadb(text, length, 0, NULL);
  bool is = json_is_object(value);
  json_decref(value);
  return is;
}

bool tool_call_read_named(ToolCalls *out, const char *name, size_t name_length, const char *arguments, size_t length) {
  tool_call_strip(&name, &name_length);
  tool_call_strip(&arguments, &length);
  if (!name_length || !is_object(arguments, length)) return false;
  add_call(out, name, name_length, arguments, length);
  return true;
}

// Where the value that begins at `text` ends; what is given is known to be JSON.
static const char *value_end(const char *text, const char *end) {
  int depth = 0;
  bool in_string = false;
  for (; text < end; text++) {
    if (in_string) {
      if (*text == '\\') text++;
      else if (*text == '"') in_string = false;
      if (!in_string && !depth) return text + 1;
      continue;
    }
    if (!depth && strchr(",]}", *text)) return text;
    if (*text == '"') in_string = true;
    if (*text == '{' || *text == '[') depth++;
    if ((*text == '}' || *text == ']') && !--depth) return text + 1;
  }
  return end;
}

static const char *skip_space(const char *text, const char *end) {
  while (text < end && tool_call_is_space(*text)) text++;
  return text;
}

// The text of an object's member; false without it.
static bool find_member(const char **value, size_t *length, const char *object, const char *end, const char *key) {
  for (const char *at = skip_space(object + 1, end); at < end && *at == '"';) {
    const char *name = at, *name_end = value_end(at, end), *begin = skip_space(name_end, end);
    begin = skip_space(begin + 1, end);  // behind ':'
    const char *stop = value_end(begin, end);
    if ((size_t)(name_end - name) == strlen(key) + 2 && memcmp(name + 1, key, strlen(key)) == 0) {
      *value = begin, *length = (size_t)(stop - begin);
      tool_call_strip(value, length);
      return true;
    }
    at = skip_space(stop, end);
    if (at < end && *at == ',') at = skip_space(at + 1, end);
  }
  return false;
}

// `value`: what `text` means.
static bool read_object(ToolCalls *out, const json_t *value, const char *text, const char *end, bool needs_arguments) {
  const json_t *name = json_object_get(value, "name"), *inner = json_object_get(value, "function");
  const char *part;
  size_t length;
  if (!name && json_is_object(inner))
    return find_member(&part, &length, text, end, "function") && read_object(out, inner, part, part + length, needs_arguments);
  const char *key = json_object_get(value, "arguments") ? "arguments" : "parameters";
  const json_t *arguments = json_object_get(value, key);
  if (!json_is_string(name) || !json_string_length(name)) return false;
  const char *words = json_string_value(name);
  if (!arguments && needs_arguments) return false;
  if (!arguments || json_is_null(arguments)) return tool_call_read_named(out, words, strlen(words), "{}", 2);
  if (json_is_string(arguments))  // JSON within JSON
    return tool_call_read_named(out, words, strlen(words), json_string_value(arguments), json_string_length(arguments));
  return json_is_object(arguments) && find_member(&part, &length, text, end, key) &&
         tool_call_read_named(out, words, strlen(words), part, length);
}

static bool read_list(ToolCalls *out, const json_t *list, const char *text, const char *end, bool needs_arguments) {
  const json_t *item;
  size_t i;
  int before = out->count;
  const char *at = skip_space(text + 1, end);
  json_array_foreach(list, i, item) {
    const char *stop = value_end(at, end);
    if (!json_is_object(item) || !read_object(out, item, at, stop, needs_arguments)) return tool_calls_cut(out, before), false;
    at = skip_space(stop, end);
    if (at < end && *at == ',') at = skip_space(at + 1, end);
  }
  return out->count > before;
}

bool tool_call_read_json(ToolCalls *out, const char *text, size_t length, bool needs_arguments) {
  tool_call_strip(&text, &length);
  json_t *value = json_loadb(text, length, 0, NULL);
  bool is_call = json_is_object(value) ? read_object(out, value, text, text + length, needs_arguments)
                                       : json_is_array(value) && read_list(out, value, text, text + length, needs_arguments);
  json_decref(value);
  return is_call;
}

static const char *find_text(const char *text, const char *end, const char *word) {
  size_t length = strlen(word);
  for (; text < end && (size_t)(end - text) >= length; text++)
    if (memcmp(text, word, length) == 0) return text;
  return NULL;
}

// Whether the tools say that a parameter is text.
static bool is_text_parameter(const json_t *tools, const char *function, const char *key) {
  const json_t *tool;
  size_t i;
  json_array_foreach(tools, i, tool) {
    const json_t *inner = json_object_get(tool, "function"), *own = inner ? inner : tool;
    const char *name = json_string_value(json_object_get(own, "name"));
    if (!name || strcmp(name, function) != 0) continue;
    const json_t *parameter = json_object_get(json_object_get(json_object_get(own, "parameters"), "properties"), key);
    const char *type = json_string_value(json_object_get(parameter, "type"));
    return type && strcmp(type, "string") == 0;
  }
  return false;
}

// One line break at each end belongs to the element.
static json_t *read_parameter(const char *text, const char *end, bool is_text) {
  if (text < end && *text == '\n') text++;
  if (text < end && end[-1] == '\n') end--;
  json_t *value = is_text ? NULL : json_loadb(text, (size_t)(end - text), JSON_DECODE_ANY, NULL);
  if (json_is_string(value)) json_decref(value), value = NULL;  // quotes that were written are part of a text
  return value ? value : json_stringn(text, (size_t)(end - text));
}

static bool read_parameters(json_t *arguments, const char *function, const char *at, const char *end, const json_t *tools) {
  static const char open[] = "<parameter=", close[] = "</parameter>";
  for (const char *stop; (at = find_text(at, end, open)); at = stop + strlen(close)) {
    at += strlen(open);
    const char *key_end = find_text(at, end, ">");
    if (!key_end || key_end == at) return false;
    stop = find_text(key_end + 1, end, close);
    if (!stop) return false;
    char *key = memory_format("%.*s", (int)(key_end - at), at);
    json_t *value = read_parameter(key_end + 1, stop, is_text_parameter(tools, function, key));
    bool is_set = value && json_object_set_new(arguments, key, value) == 0;
    free(key);
    if (!is_set) return false;
  }
  return true;
}

bool tool_call_read_xml(ToolCalls *out, const char *text, size_t length, const json_t *tools) {
  static const char open[] = "<function=";
  const char *end = text + length, *at = find_text(text, end, open), *name_end = at ? find_text(at, end, ">") : NULL;
  if (!name_end || name_end == at + strlen(open)) return false;
  if (find_text(name_end, end, open)) return false;  // the first one was not closed
  at += strlen(open);
  char *name = memory_format("%.*s", (int)(name_end - at), at), *words = NULL;
  json_t *arguments = json_object();
  if (read_parameters(arguments, name, name_end + 1, end, tools)) words = json_dumps(arguments, JSON_COMPACT);
  bool is_call = words && tool_call_read_named(out, name, strlen(name), words, strlen(words));
  free(words);
  free(name);
  json_decref(arguments);
  return is_call;
}
