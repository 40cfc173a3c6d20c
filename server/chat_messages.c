#include "server/chat_messages.h"

#include <stdlib.h>
#include <string.h>

#include "core/text.h"

// ---- Contents

// Appends what the parts say; false for a part that is no text.
static bool join_parts(Buffer *text, const json_t *parts) {
  for (size_t i = 0; i < json_array_size(parts); i++) {
    const json_t *part = json_array_get(parts, i), *own = json_object_get(part, "text");
    const char *type = json_string_value(json_object_get(part, "type"));
    if (!type || strcmp(type, "text") != 0 || !json_is_string(own)) return false;
    buffer_append(text, json_string_value(own), json_string_length(own));
  }
  return true;
}

static Status read_content(json_t *message, const json_t *content, Fields *fields, size_t index) {
  if (!content || json_is_null(content) || json_is_string(content)) return STATUS_OK;
  if (!json_is_array(content))
    return fields_fail(fields, "messages", "the \"content\" of message %zu must be a string or a list of parts", index + 1);
  Buffer text = {0};
  buffer_reserve(&text, 1);
  bool is_text = join_parts(&text, content);
  if (is_text) json_object_set_new(message, "content", json_stringn(text.data, text.length));
  buffer_release(&text);
  if (is_text) return STATUS_OK;
  return fields_fail(fields, "messages",
                     "message %zu has a part that is no {\"type\": \"text\", \"text\": ...}: this model reads text only", index + 1);
}

// ---- Tool calls

// The client writes arguments as text; most templates print an object.
static Status convert_call(json_t *call, bool as_text, Fields *fields, size_t index) {
  json_t *function = json_object_get(call, "function"), *arguments = json_object_get(function, "arguments");
  if (!json_is_string(json_object_get(function, "name")))
    return fields_fail(fields, "messages", "a tool call of message %zu has no function with a name", index + 1);
  if (!as_text && json_is_string(arguments)) {
    const char *text = json_string_length(arguments) ? json_string_value(arguments) : "{}";
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    if (!value) return fields_fail(fields, "messages", "the arguments of a tool call of message %zu are no JSON", index + 1);
    json_object_set_new(function, "arguments", value);
  } else if (as_text && (json_is_object(arguments) || json_is_array(arguments))) {
    char *text = json_dumps(arguments, JSON_COMPACT);
    json_object_set_new(function, "arguments", json_string(text));
    free(text);
  }
  return STATUS_OK;
}

static Status read_calls(json_t *message, Fields *fields, size_t index, bool as_text) {
  const json_t *given = json_object_get(message, "tool_calls");
  if (!given || json_is_null(given)) return STATUS_OK;
  if (!json_is_array(given)) return fields_fail(fields, "messages", "the \"tool_calls\" of message %zu must be a list", index + 1);
  json_t *calls = json_deep_copy(given), *call;
  json_object_set_new(message, "tool_calls", calls);
  size_t i;
  json_array_foreach(calls, i, call) TRY(convert_call(call, as_text, fields, index));
  return STATUS_OK;
}

// ---- Messages

static Status read_message(json_t *messages, const json_t *given, Fields *fields, size_t index, bool as_text) {
  const char *role = json_string_value(json_object_get(given, "role"));
  if (!role) return fields_fail(fields, "messages", "message %zu must be an object with a \"role\"", index + 1);
  json_t *message = json_copy((json_t *)(uintptr_t)given);
  json_array_append_new(messages, message);
  // OpenAI's newer name of the same; templates know the old one.
  if (strcmp(role, "developer") == 0) json_object_set_new(message, "role", json_string("system"));
  TRY(read_content(message, json_object_get(given, "content"), fields, index));
  return read_calls(message, fields, index, as_text);
}

Status chat_messages_read(json_t **messages, Fields *fields, const ChatTemplate *chat) {
  const json_t *given = NULL;
  *messages = json_array();
  TRY(fields_array(&given, fields, "messages"));
  if (json_array_size(given) == 0) return fields_fail(fields, "messages", "\"messages\" is missing or empty");
  bool as_text = chat_template_wants_argument_text(chat);
  for (size_t i = 0; i < json_array_size(given); i++) TRY(read_message(*messages, json_array_get(given, i), fields, i, as_text));
  return STATUS_OK;
}

// ---- The prompt

// Up to the end of the last message, which the model goes on with.
static Status write_unfinished(Buffer *text, const ChatTemplate *chat, const json_t *messages, const json_t *tools, Fields *fields) {
  ChatText rendered = {0};
  Status status = chat_template_render(&rendered, chat, messages, tools, false);
  int64_t last = (int64_t)json_array_size(messages) - 1;
  const ChatSpan *span = rendered.count ? &rendered.spans[rendered.count - 1] : NULL;
  if (status == STATUS_OK && (!span || span->message != last))
    status = fields_fail(fields, "continue_final_message", "%s does not print the last message at the end", chat_template_name(chat));
  if (status == STATUS_OK) buffer_append(text, rendered.text.data, span->end);
  chat_text_release(&rendered);
  return status;
}

static Status write_prompt(Buffer *text, const ChatTemplate *chat, const json_t *messages, const json_t *tools, Fields *fields) {
  const json_t *variables = NULL;
  bool generation_prompt = true, goes_on = false;
  TRY(fields_object(&variables, fields, "chat_template_kwargs"));
  TRY(fields_bool(&goes_on, fields, "continue_final_message"));
  if (goes_on) return write_unfinished(text, chat, messages, tools, fields);
  TRY(fields_bool(&generation_prompt, fields, "add_generation_prompt"));
  Status status = chat_template_write(text, chat, messages, tools, variables, generation_prompt);
  if (status != STATUS_OK) fields->param = "messages";
  return status;
}

Status chat_messages_encode(TokenList *out, Fields *fields, const ChatTools *tools, const ChatTemplate *chat, const Tokenizer *tokenizer) {
  json_t *messages = NULL;
  Buffer text = {0};
  Status status = chat_messages_read(&messages, fields, chat);
  if (status == STATUS_OK) status = write_prompt(&text, chat, messages, tools->list, fields);
  buffer_append_string(&text, tools->before);
  if (status == STATUS_OK) status = tokenizer_encode(out, tokenizer, text.data ? text.data : "", text.length, TOKENIZE_PARSE_SPECIAL);
  if (status == STATUS_OK && out->count == 0)
    status = fields_fail(fields, "messages", "the template makes an empty prompt of the messages");
  buffer_release(&text);
  json_decref(messages);
  return status;
}
