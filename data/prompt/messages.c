// `messages.chat`: a conversation in ChatML or Llama 3 form, each message tokenised on its own, and trained by its weight.
//   ChatML    <|im_start|>ROLE\n  CONTENT  <|im_end|>  \n
//   Llama 3   <|begin_of_text|> (the first)  <|start_header_id|>ROLE<|end_header_id|>\n\n  CONTENT  <|eot_id|>
// Of a message with a weight, its contents (parts of weight 0 left out) and the marker behind them train.
#include <string.h>

#include "core/text.h"
#include "data/prompt/prompt.h"

typedef struct MessagesPrompt {
  bool llama3;
  Arena arena;  // strings below
  const char *field_messages, *role, *content, *training;  // the last three NULL: by what a message has
} MessagesPrompt;

// ---- What the recipe says

static const char *mapped(const DatasetRecipe *dataset, const char *property, const char *otherwise) {
  for (int i = 0; i < dataset->message_property_mappings.count; i++)
    if (strcmp(dataset->message_property_mappings.keys[i], property) == 0) return dataset->message_property_mappings.values[i];
  return otherwise;
}

static Status messages_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  MessagesPrompt *state = prompt->state = memory_new(1, sizeof *state);
  const char *form = dataset->chat_template ? dataset->chat_template : recipe->chat_template ? recipe->chat_template : "chatml";
  if (strcmp(prompt->variant, "chat") != 0)
    return status_fail(STATUS_USAGE, "type: messages.%s is not known; there is messages.chat", prompt->variant);
  state->llama3 = text_starts_with(form, "llama3");
  if (!state->llama3 && strcmp(form, "chatml") != 0)
    return status_fail(STATUS_USAGE, "type: messages.chat writes chatml or llama3, not chat_template: %s; use type: chat_template", form);
  state->field_messages = arena_copy_string(&state->arena, dataset->field_messages ? dataset->field_messages : "messages");
  state->role = arena_copy_string(&state->arena, mapped(dataset, "role", dataset->message_field_role));
  state->content = arena_copy_string(&state->arena, mapped(dataset, "content", dataset->message_field_content));
  state->training = arena_copy_string(&state->arena, dataset->message_field_training);
  return STATUS_OK;
}

static void messages_close(void *pointer) {
  MessagesPrompt *state = pointer;
  arena_release(&state->arena);
}

// ---- A row

// The first of the names that the message has; the last of them where it has none.
static const char *find_field(const json_t *message, const char *given, const char *const names[], int count) {
  for (int i = 0; i < count && !given; i++)
    if (json_object_get(message, names[i]) || i == count - 1) given = names[i];
  return given;
}

// Numbers are cut to whole ones first: 0.5 is no weight.
static bool has_weight(const json_t *value) {
  double number = json_number_value(value);
  return json_is_true(value) || number >= 1 || number <= -1;
}

static Status read_role(const char **role, const json_t *message, const char *field) {
  static const char *const roles[][2] = {{"system", "system"}, {"user", "user"}, {"human", "user"},     {"assistant", "assistant"},
                                         {"gpt", "assistant"}, {"tool", "tool"}, {"ipython", "ipython"}};
  RowText text;
  TRY(row_text(&text, message, field));
  for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
    if (strcmp(roles[i][0], text.data) != 0) continue;
    *role = roles[i][1];
    return STATUS_OK;
  }
  return status_fail(STATUS_BAD_INPUT, "role \"%s\" is none of system, user, human, assistant, gpt, tool, ipython", text.data);
}

// The message so far, and which of its tokens have their labels.
typedef struct MessageText {
  EncodedRow *out;
  const Prompt *prompt;
  int64_t settled;  // tokens of it that have labels
  bool weight, trained;  // of the message; of its last part
  Buffer text;
  TokenList ids;
} MessageText;

// Gives labels to the tokens of the part before, up to `end`.
static void settle(MessageText *message, int64_t end) {
  for (; message->settled < end && message->settled < message->ids.count; message->settled++)
    token_list_push(&message->out->ids, message->ids.ids[message->settled]);
  encode_labels(message->out, message->trained);
}

// A part is as many tokens as it adds to the text before it; where the two melt into one token, that token is the earlier part's.
static Status add_part(MessageText *message, const char *text, size_t length, bool trained) {
  int64_t end = message->ids.count;
  buffer_append(&message->text, text, length);
  message->ids.count = 0;
  TRY(tokenizer_encode(&message->ids, message->prompt->tokenizer, message->text.data, message->text.length, TOKENIZE_PARSE_SPECIAL));
  settle(message, end);
  message->trained = trained && message->weight;
  return STATUS_OK;
}

static Status add_content(MessageText *message, const json_t *value) {
  RowText text;
  if (text_of_value(&text, value)) return add_part(message, text.data, text.length, true);
  if (!json_is_array(value)) return status_fail(STATUS_BAD_INPUT, "its content is neither text nor a list of parts");
  for (size_t i = 0; i < json_array_size(value); i++) {
    const json_t *part = json_array_get(value, i), *weight = json_object_get(part, "weight");
    const char *type = json_string_value(json_object_get(part, "type"));
    if (!type || strcmp(type, "text") != 0)
      return status_fail(STATUS_BAD_INPUT, "part %zu is not {type: text, value: ...}; for tools use type: chat_template", i + 1);
    TRY(row_text(&text, part, "value"));
    TRY(add_part(message, text.data, text.length, !json_is_number(weight) || json_number_value(weight) != 0));
  }
  return STATUS_OK;
}

static Status add_head(MessageText *message, const char *role, bool first) {
  const MessagesPrompt *state = message->prompt->state;
  static const char begin[] = "<|begin_of_text|>";
  if (state->llama3 && first) TRY(add_part(message, begin, sizeof begin - 1, false));
  Buffer head = {0};
  if (!state->llama3) buffer_format(&head, "<|im_start|>%s\n", role);
  else buffer_format(&head, "<|start_header_id|>%s<|end_header_id|>\n\n", strcmp(role, "tool") == 0 ? "ipython" : role);
  Status status = add_part(message, head.data, head.length, false);
  buffer_release(&head);
  return status;
}

static Status add_message(MessageText *message, const json_t *value, bool first) {
  static const char *const roles[] = {"role", "from"}, *const contents[] = {"value", "text", "content"};
  static const char *const weights[] = {"train", "weight"};
  const MessagesPrompt *state = message->prompt->state;
  const char *role = "", *end = state->llama3 ? "<|eot_id|>" : "<|im_end|>";
  if (!json_is_object(value)) return status_fail(STATUS_BAD_INPUT, "it is not an object");
  TRY(read_role(&role, value, find_field(value, state->role, roles, 2)));
  const char *field = find_field(value, state->content, contents, 3);
  const json_t *content = json_object_get(value, field);
  if (!content) return row_missing(value, field);
  const json_t *weight = json_object_get(value, find_field(value, state->training, weights, 2));
  bool weighed = weight && !json_is_null(weight);
  message->weight = weighed ? has_weight(weight) : strcmp(role, "assistant") == 0 || message->prompt->train_on_inputs;
  TRY(add_head(message, role, first));
  TRY(add_content(message, content));
  TRY(add_part(message, end, strlen(end), true));
  if (!state->llama3) TRY(add_part(message, "\n", 1, false));
  settle(message, message->ids.count);
  return STATUS_OK;
}

static Status messages_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  const MessagesPrompt *state = prompt->state;
  const json_t *messages;
  TRY(row_list(&messages, row, state->field_messages, "messages"));
  if (!json_array_size(messages)) return status_fail(STATUS_BAD_INPUT, "field \"%s\" has no messages", state->field_messages);
  for (size_t i = 0; i < json_array_size(messages); i++) {
    MessageText message = {.out = out, .prompt = prompt};
    Status status = add_message(&message, json_array_get(messages, i), i == 0);
    buffer_release(&message.text);
    token_list_release(&message.ids);
    TRY(status_context(status, "message %zu", i + 1));
  }
  encode_end(out);
  return STATUS_OK;
}

const PromptStrategy prompt_messages = {"messages", messages_open, messages_encode, messages_close};
