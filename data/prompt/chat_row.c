// From a row to its conversation: mapped properties and roles, the system message, tools, thoughts, and which messages train.
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/text.h"
#include "data/prompt/chat.h"

void conversation_release(Conversation *conversation) {
  json_decref(conversation->messages);
  json_decref(conversation->tools);
  free(conversation->turns);
}

// ---- Which messages train

const char *chat_map_role(const ChatPrompt *state, const char *role) {
  for (int i = 0; i < state->role_count; i++)
    if (strcmp(state->roles[i].from, role) == 0) return state->roles[i].to;
  return role;
}

static bool is_trained_role(const Prompt *prompt, const char *role) {
  const ChatPrompt *state = prompt->state;
  for (int i = 0; i < state->trained_count; i++)
    if (strcmp(state->trained_roles[i], role) == 0) return true;
  return prompt->train_on_inputs;
}

static bool truth(const json_t *value) { return json_is_true(value) || (json_is_number(value) && json_number_value(value) != 0); }

static Status read_turn(Turn *turn, const Prompt *prompt, const json_t *message, const char *role) {
  const ChatPrompt *state = prompt->state;
  const json_t *training = state->field_training ? json_object_get(message, state->field_training) : NULL;
  const json_t *detail = state->field_detail ? json_object_get(message, state->field_detail) : NULL;
  turn->detail = json_is_null(detail) ? NULL : detail;
  if (turn->detail && !json_is_array(turn->detail)) return status_fail(STATUS_BAD_INPUT, "\"%s\" is not a list", state->field_detail);
  if (training && !json_is_null(training)) turn->trained = truth(training);
  else if (turn->detail) turn->trained = json_array_size(turn->detail) > 0;
  else turn->trained = is_trained_role(prompt, role);
  return STATUS_OK;
}

// ---- A message by the template's names

// Mapped properties, and every other field as it is.
static json_t *map_message(const ChatPrompt *state, const json_t *message) {
  json_t *mapped = json_object(), *value;
  const char *key;
  for (int i = 0; i < state->property_count; i++) {
    value = json_object_get(message, state->properties[i].from);
    if (value && !json_is_null(value)) json_object_set(mapped, state->properties[i].to, value);
  }
  json_object_foreach((json_t *)(uintptr_t)message, key, value) {
    bool used = json_object_get(mapped, key) || json_is_null(value);
    for (int i = 0; i < state->property_count && !used; i++) used = strcmp(state->properties[i].from, key) == 0;
    if (!used) json_object_set(mapped, key, value);
  }
  return mapped;
}

static json_t *stripped(const char *begin, const char *end) {
  size_t length = (size_t)(end - begin);
  text_strip(&begin, &length);
  return json_stringn(begin, length);
}

// What stands between two marks; false when they are not both there.
static bool find_marked(const char **begin, const char **end, const char *text, const char *const marks[2]) {
  const char *open = strstr(text, marks[0]), *close = strstr(text, marks[1]);
  if (!open || !close || close < open) return false;
  *begin = open + strlen(marks[0]);
  *end = close;
  return true;
}

// split_thinking: thoughts that stand in marks within the content become a field of their own.
static void split_thinking(const ChatPrompt *state, json_t *message) {
  static const char *const marks[][2] = {
      {"<think>", "</think>"}, {"<reasoning>", "</reasoning>"}, {"<|begin_of_thought|>", "<|end_of_thought|>"}};
  static const char *const solution[2] = {"<|begin_of_solution|>", "<|end_of_solution|>"};
  const json_t *content = json_object_get(message, "content");
  const char *begin, *end, *text = json_string_value(content);
  for (size_t i = 0; text && i < sizeof marks / sizeof *marks; i++) {
    if (!find_marked(&begin, &end, text, marks[i])) continue;
    json_object_set_new(message, state->thinking_key, stripped(begin, end));
    const char *rest = end + strlen(marks[i][1]);
    for (size_t step; (step = text_space_length(rest, strlen(rest))); rest += step) continue;
    json_t *answer = find_marked(&begin, &end, rest, solution) ? stripped(begin, end) : json_string(rest);
    json_object_set_new(message, "content", answer);
    return;
  }
}

// Gives the arguments of a message's tool calls the form that the template prints: an object, or JSON as text. The row's own values
// stay as they are.
static Status convert_arguments(json_t *message, bool as_text) {
  json_t *calls = json_object_get(message, "tool_calls");
  if (!json_is_array(calls)) return STATUS_OK;
  calls = json_deep_copy(calls);
  json_object_set_new(message, "tool_calls", calls);
  for (size_t i = 0; i < json_array_size(calls); i++) {
    json_t *call = json_array_get(calls, i), *function = json_object_get(call, "function");
    json_t *holder = function ? function : call, *arguments = json_object_get(holder, "arguments");
    if (as_text && (json_is_object(arguments) || json_is_array(arguments))) {
      char *text = json_dumps(arguments, 0);
      json_object_set_new(holder, "arguments", json_string(text));
      free(text);
    } else if (!as_text && json_is_string(arguments)) {
      json_t *value = json_loadb(json_string_value(arguments), json_string_length(arguments), JSON_DECODE_ANY, NULL);
      if (!value) return status_fail(STATUS_BAD_INPUT, "the arguments of tool call %zu are a text that is not JSON", i + 1);
      json_object_set_new(holder, "arguments", value);
    }
  }
  return STATUS_OK;
}

const char *chat_field_of(const ChatPrompt *state, const char *property) {
  for (int i = 0; i < state->property_count; i++)
    if (strcmp(state->properties[i].to, property) == 0) return state->properties[i].from;
  return property;
}

static Status check_message(const ChatPrompt *state, const json_t *mapped, const json_t *message) {
  const char *content = chat_field_of(state, "content");
  if (!json_is_string(json_object_get(mapped, "role"))) return row_missing(message, chat_field_of(state, "role"));
  bool says = json_object_get(mapped, "content") || json_object_get(mapped, "tool_calls") || json_object_get(mapped, state->thinking_key);
  if (says) return STATUS_OK;
  if (!json_object_get(message, content)) return row_missing(message, content);
  return status_fail(STATUS_BAD_INPUT, "it has no text content: field \"%s\" is null", content);
}

static Status add_mapped(Conversation *conversation, const Prompt *prompt, json_t *mapped, const json_t *message) {
  const ChatPrompt *state = prompt->state;
  TRY(check_message(state, mapped, message));
  const char *role = chat_map_role(state, json_string_value(json_object_get(mapped, "role")));
  size_t index = json_array_size(conversation->messages);
  conversation->turns = memory_grow(conversation->turns, index + 1, sizeof *conversation->turns);
  conversation->turns[index] = (Turn){0};
  TRY(read_turn(&conversation->turns[index], prompt, message, role));
  TRY(convert_arguments(mapped, chat_template_wants_argument_text(state->chat)));
  if (state->split_thinking && strcmp(role, "assistant") == 0) split_thinking(state, mapped);
  json_object_set_new(mapped, "role", json_string(role));
  json_array_append(conversation->messages, mapped);
  return STATUS_OK;
}

Status conversation_add(Conversation *conversation, const Prompt *prompt, const json_t *message) {
  if (!json_is_object(message)) return status_fail(STATUS_BAD_INPUT, "it is not an object");
  json_t *mapped = map_message(prompt->state, message);
  Status status = add_mapped(conversation, prompt, mapped, message);
  json_decref(mapped);
  return status;
}

// A row's `system` text goes first where the conversation has no system message of its own.
static void add_system(Conversation *conversation, const Prompt *prompt, const json_t *row) {
  const ChatPrompt *state = prompt->state;
  const char *first = json_string_value(json_object_get(json_array_get(conversation->messages, 0), "role"));
  json_t *system = json_object_get(row, state->field_system);
  size_t count = json_array_size(conversation->messages);
  if (!json_is_string(system) || !json_string_length(system) || (first && strcmp(first, "system") == 0)) return;
  json_array_insert_new(conversation->messages, 0, json_pack("{s:s, s:O}", "role", "system", "content", system));
  conversation->turns = memory_grow(conversation->turns, count + 1, sizeof *conversation->turns);
  memmove(conversation->turns + 1, conversation->turns, count * sizeof *conversation->turns);
  conversation->turns[0] = (Turn){.trained = is_trained_role(prompt, "system")};
}

static void drop_system(Conversation *conversation) {
  const char *first = json_string_value(json_object_get(json_array_get(conversation->messages, 0), "role"));
  if (!first || strcmp(first, "system") != 0) return;
  json_array_remove(conversation->messages, 0);
  memmove(conversation->turns, conversation->turns + 1, json_array_size(conversation->messages) * sizeof *conversation->turns);
}

// Tools are a list, or a list written as JSON in a string.
static Status read_tools(Conversation *conversation, ChatPrompt *state, const json_t *row) {
  json_t *tools = json_object_get(row, state->field_tools);
  if (!tools || json_is_null(tools)) return STATUS_OK;
  if (json_is_string(tools)) {
    if (!json_string_length(tools)) return STATUS_OK;
    conversation->tools = json_loadb(json_string_value(tools), json_string_length(tools), 0, NULL);
  } else {
    conversation->tools = json_incref(tools);
  }
  if (!json_is_array(conversation->tools)) return status_fail(STATUS_BAD_INPUT, "field \"%s\" is not a list of tools", state->field_tools);
  bool unprinted = json_array_size(conversation->tools) > 0 && !chat_template_knows_tools(state->chat);
  if (unprinted && !atomic_exchange(&state->told_of_tools, true))
    log_notice("rows have tools, which %s does not print: they are left out", chat_template_name(state->chat));
  return STATUS_OK;
}

Status conversation_read_list(Conversation *conversation, const Prompt *prompt, const json_t *row, const json_t *messages) {
  ChatPrompt *state = prompt->state;
  conversation->messages = json_array();
  for (size_t i = 0; i < json_array_size(messages); i++)
    TRY(status_context(conversation_add(conversation, prompt, json_array_get(messages, i)), "message %zu", i + 1));
  add_system(conversation, prompt, row);
  if (state->drop_system) drop_system(conversation);
  return read_tools(conversation, state, row);
}

Status conversation_read(Conversation *conversation, const Prompt *prompt, const json_t *row) {
  const json_t *messages;
  TRY(row_list(&messages, row, ((const ChatPrompt *)prompt->state)->field_messages, "messages"));
  return conversation_read_list(conversation, prompt, row, messages);
}
