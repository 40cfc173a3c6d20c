// `chat_template`: a conversation rendered by a chat template, tokenised whole, and trained where the
// template printed the content of a trained message, or an end of turn that is to be learnt.
//
// While it renders, the template records which bytes came from which message, so each byte of the text
// is known to be trained or not; a token is trained when any of its bytes is.
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/text.h"
#include "data/template/chat_template.h"
#include "data/prompt/prompt.h"

typedef enum TurnEnds { ENDS_TURN, ENDS_ALL, ENDS_LAST, ENDS_NONE } TurnEnds;

typedef struct NamePair {
  char *from, *to;
} NamePair;

typedef struct ChatPrompt {
  ChatTemplate *chat;
  Arena arena;  // strings below
  const char *field_messages, *field_system, *field_tools, *field_training, *field_detail;
  NamePair *properties, *roles;  // property <- field of a message; role <- its name in the data
  int property_count, role_count;
  const char **trained_roles;
  int trained_count;
  TurnEnds ends;  // of turns whose marker is EOS by train_on_eos, of others by train_on_eot
  bool drop_system;
  atomic_bool told_of_tools;  // a notice is due once, whichever row comes first
} ChatPrompt;

static const char *text_or(const char *text, const char *otherwise) { return text ? text : otherwise; }

// ---- What the recipe says

static void add_pair(ChatPrompt *state, NamePair **pairs, int *count, const char *from, size_t length, const char *to) {
  *pairs = memory_grow(*pairs, (size_t)*count + 1, sizeof **pairs);
  (*pairs)[(*count)++] = (NamePair){arena_copy_bytes(&state->arena, from, length), arena_copy_string(&state->arena, to)};
}

static void map_property(ChatPrompt *state, const char *property, const char *field) {
  for (int i = 0; i < state->property_count; i++)
    if (strcmp(state->properties[i].to, property) == 0) state->properties[i].from = arena_copy_string(&state->arena, field);
  for (int i = 0; i < state->property_count; i++)
    if (strcmp(state->properties[i].to, property) == 0) return;
  add_pair(state, &state->properties, &state->property_count, field, strlen(field), property);
}

static void read_properties(ChatPrompt *state, const DatasetRecipe *dataset) {
  static const char *const same[] = {"tool_calls", "tool_call_id", "name"};
  map_property(state, "role", text_or(dataset->message_field_role, "role"));
  map_property(state, "content", text_or(dataset->message_field_content, "content"));
  for (size_t i = 0; i < sizeof same / sizeof *same; i++) map_property(state, same[i], same[i]);
  map_property(state, text_or(dataset->template_thinking_key, "reasoning_content"), text_or(dataset->field_thinking, "reasoning_content"));
  const StringPairs *mappings = &dataset->message_property_mappings;
  for (int i = 0; i < mappings->count; i++) map_property(state, mappings->keys[i], mappings->values[i]);
}

// Roles are given as target: "source, source"; without any, the usual names.
static void read_roles(ChatPrompt *state, const DatasetRecipe *dataset) {
  if (dataset->roles.count == 0) {
    add_pair(state, &state->roles, &state->role_count, "human", strlen("human"), "user");
    add_pair(state, &state->roles, &state->role_count, "gpt", strlen("gpt"), "assistant");
  }
  for (int i = 0; i < dataset->roles.count; i++) {
    const char *source = dataset->roles.values[i];
    while (*source) {
      size_t skip = strspn(source, ", "), length = strcspn(source + skip, ",");
      if (length) add_pair(state, &state->roles, &state->role_count, source + skip, length, dataset->roles.keys[i]);
      source += skip + length;
    }
  }
}

static const char *map_role(const ChatPrompt *state, const char *role) {
  for (int i = 0; i < state->role_count; i++)
    if (strcmp(state->roles[i].from, role) == 0) return state->roles[i].to;
  return role;
}

static void read_trained_roles(ChatPrompt *state, const DatasetRecipe *dataset) {
  bool given = dataset->has_roles_to_train || dataset->roles_to_train.count;
  state->trained_count = given ? dataset->roles_to_train.count : 1;
  state->trained_roles = arena_new(&state->arena, (size_t)state->trained_count + 1, sizeof *state->trained_roles);
  for (int i = 0; i < state->trained_count; i++)
    state->trained_roles[i] = arena_copy_string(&state->arena, map_role(state, given ? dataset->roles_to_train.items[i] : "assistant"));
}

static Status read_turn_ends(TurnEnds *ends, const char *key, const char *value) {
  static const char *const names[] = {[ENDS_TURN] = "turn", [ENDS_ALL] = "all", [ENDS_LAST] = "last", [ENDS_NONE] = "none"};
  for (int i = 0; i < (int)(sizeof names / sizeof *names); i++) {
    if (strcmp(value, names[i]) != 0) continue;
    *ends = (TurnEnds)i;
    return STATUS_OK;
  }
  return status_fail(STATUS_USAGE, "%s: %s is none of turn, all, last, none", key, value);
}

static Status check_marker(const Prompt *prompt, const char *marker, bool refuse) {
  if (!*marker || tokenizer_find(prompt->tokenizer, marker) >= 0) return STATUS_OK;
  if (refuse) {
    return status_fail(STATUS_USAGE,
                       "eot_tokens: \"%s\" is not one token of the vocabulary; name one that is, as by added_tokens_overrides", marker);
  }
  log_warning(
      "the chat template ends turns with \"%s\", which is several tokens in this vocabulary; a template of the model's own is better",
      marker);
  return STATUS_OK;
}

// train_on_eos is about turns that end in the vocabulary's EOS, train_on_eot about every other marker.
static Status open_turn_ends(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  ChatPrompt *state = prompt->state;
  const char *marker = chat_template_stop(state->chat), *eos = text_or(dataset->train_on_eos, "turn");
  TurnEnds by_eos = ENDS_TURN, by_eot = ENDS_TURN;
  for (int i = 0; i < recipe->eot_tokens.count; i++) TRY(check_marker(prompt, recipe->eot_tokens.items[i], true));
  TRY(check_marker(prompt, marker, false));
  TRY(read_turn_ends(&by_eos, "train_on_eos", eos));
  TRY(read_turn_ends(&by_eot, "train_on_eot", text_or(dataset->train_on_eot, eos)));
  int32_t id = tokenizer_eos(prompt->tokenizer);
  state->ends = id >= 0 && tokenizer_find(prompt->tokenizer, marker) == id ? by_eos : by_eot;
  return STATUS_OK;
}

static Status chat_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  ChatPrompt *state = prompt->state = memory_new(1, sizeof *state);
  if (*prompt->variant && strcmp(prompt->variant, "default") != 0)
    return status_fail(STATUS_USAGE, "type: chat_template.%s is one of preference training; use `type: chat_template`", prompt->variant);
  if (dataset->split_thinking == CHOICE_TRUE)
    return status_fail(STATUS_USAGE, "split_thinking: the built-in chat templates have no place for thoughts; leave the key out");
  bool own = dataset->chat_template != NULL;
  ChatTemplateOptions options = {own ? dataset->chat_template : recipe->chat_template,
                                 own || dataset->chat_template_jinja ? dataset->chat_template_jinja : recipe->chat_template_jinja,
                                 recipe->default_system_message};
  if (!options.name && options.jinja) options.name = "jinja";
  TRY(chat_template_open(&state->chat, &options, prompt->tokenizer));
  Arena *arena = &state->arena;
  state->field_messages = arena_copy_string(arena, text_or(dataset->field_messages, "messages"));
  state->field_system = arena_copy_string(arena, text_or(dataset->field_system, "system"));
  state->field_tools = arena_copy_string(arena, text_or(dataset->field_tools, "tools"));
  state->field_training = arena_copy_string(arena, dataset->message_field_training);
  state->field_detail = arena_copy_string(arena, dataset->message_field_training_detail);
  state->drop_system = dataset->drop_system_message == CHOICE_TRUE;
  read_properties(state, dataset);
  read_roles(state, dataset);
  read_trained_roles(state, dataset);
  return open_turn_ends(prompt, dataset, recipe);
}

static void chat_close(void *pointer) {
  ChatPrompt *state = pointer;
  chat_template_free(state->chat);
  free(state->properties);
  free(state->roles);
  arena_release(&state->arena);
}

// ---- A row's conversation

typedef struct Turn {
  bool trained;
  const json_t *detail;  // parts of the content by character offsets; NULL: all of it
} Turn;

typedef struct Conversation {
  json_t *messages;  // new: role, content and the like, by the template's names
  json_t *tools;  // new, or NULL
  Turn *turns;  // [messages]
} Conversation;

static void conversation_release(Conversation *conversation) {
  json_decref(conversation->messages);
  json_decref(conversation->tools);
  free(conversation->turns);
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

static Status add_message(Conversation *conversation, const Prompt *prompt, const json_t *message) {
  const ChatPrompt *state = prompt->state;
  if (!json_is_object(message)) return status_fail(STATUS_BAD_INPUT, "it is not an object");
  json_t *mapped = json_object();
  for (int i = 0; i < state->property_count; i++) {
    json_t *value = json_object_get(message, state->properties[i].from);
    if (value && !json_is_null(value)) json_object_set(mapped, state->properties[i].to, value);
  }
  const char *role = json_string_value(json_object_get(mapped, "role"));
  Status status = STATUS_OK;
  if (!role) {
    for (int i = 0; i < state->property_count; i++)
      if (strcmp(state->properties[i].to, "role") == 0) status = row_missing(message, state->properties[i].from);
  } else {
    role = map_role(state, role);
    json_object_set_new(mapped, "role", json_string(role));
    size_t index = json_array_size(conversation->messages);
    conversation->turns = memory_grow(conversation->turns, index + 1, sizeof *conversation->turns);
    conversation->turns[index] = (Turn){0};
    status = read_turn(&conversation->turns[index], prompt, message, role);
    if (status == STATUS_OK) json_array_append(conversation->messages, mapped);
  }
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
    log_notice("rows have tools, which the %s template does not print: they are left out", chat_template_name(state->chat));
  return STATUS_OK;
}

static Status read_conversation(Conversation *conversation, const Prompt *prompt, const json_t *row) {
  ChatPrompt *state = prompt->state;
  const json_t *messages = json_object_get(row, state->field_messages);
  conversation->messages = json_array();
  if (!messages) return row_missing(row, state->field_messages);
  if (!json_is_array(messages)) return status_fail(STATUS_BAD_INPUT, "field \"%s\" is not a list of messages", state->field_messages);
  for (size_t i = 0; i < json_array_size(messages); i++)
    TRY(status_context(add_message(conversation, prompt, json_array_get(messages, i)), "message %zu", i + 1));
  add_system(conversation, prompt, row);
  if (state->drop_system) drop_system(conversation);
  return read_tools(conversation, state, row);
}

// ---- Bytes to train, and their tokens

static void mark(uint8_t *mask, size_t begin, size_t end, bool value) {
  if (end > begin) memset(mask + begin, value, end - begin);
}

// The byte of the content where its character `index` begins; its length past the last one.
static size_t character_offset(const char *content, size_t length, json_int_t index) {
  size_t offset = 0;
  for (; index > 0 && offset < length; index--) {
    int step = utf8_length((const unsigned char *)content + offset, length - offset);
    offset += step ? (size_t)step : 1;
  }
  return offset;
}

// {begin_offset, end_offset, train}: characters of the whole content, the last one included.
static Status mark_detail(uint8_t *mask, const ChatSpan *span, const json_t *content, const json_t *detail) {
  for (size_t i = 0; i < json_array_size(detail); i++) {
    const json_t *part = json_array_get(detail, i);
    const json_t *begin = json_object_get(part, "begin_offset"), *end = json_object_get(part, "end_offset");
    if (!json_is_integer(begin) || !json_is_integer(end))
      return status_fail(STATUS_BAD_INPUT, "training detail %zu has no begin_offset and end_offset", i + 1);
    if (!truth(json_object_get(part, "train"))) continue;
    const char *text = json_string_value(content);
    size_t first = character_offset(text, json_string_length(content), json_integer_value(begin));
    size_t last = character_offset(text, json_string_length(content), json_integer_value(end)), length = span->end - span->begin;
    if (json_integer_value(end) >= 0) last += character_offset(text + last, json_string_length(content) - last, 1);
    first = first > span->cut ? first - span->cut : 0;
    last = last > span->cut ? last - span->cut : 0;
    if (last > length) last = length;
    if (first < last) mark(mask, span->begin + first, span->begin + last, true);
  }
  return STATUS_OK;
}

static Status mark_turns(uint8_t *mask, const ChatPrompt *state, const Conversation *conversation, const ChatText *text) {
  size_t count = json_array_size(conversation->messages);
  bool *printed = memory_new(count + 1, sizeof *printed);
  Status status = STATUS_OK;
  for (int64_t s = 0; s < text->count && status == STATUS_OK; s++) {
    const ChatSpan *span = &text->spans[s];
    if (span->message < 0) continue;
    const Turn *turn = &conversation->turns[span->message];
    printed[span->message] = true;
    const json_t *content = json_object_get(json_array_get(conversation->messages, (size_t)span->message), "content");
    if (turn->trained && turn->detail) status = mark_detail(mask, span, content, turn->detail);
    else mark(mask, span->begin, span->end, turn->trained);
    bool last = s == text->count - 1;
    bool ends = state->ends == ENDS_ALL || (state->ends == ENDS_TURN && turn->trained) || (state->ends == ENDS_LAST && last);
    mark(mask, span->stop_begin, span->stop_end, ends);
  }
  for (size_t i = 0; i < count && status == STATUS_OK; i++)
    if (conversation->turns[i].trained && !printed[i])
      status = status_fail(STATUS_BAD_INPUT, "message %zu is to be trained, but the %s template does not print it", i + 1,
                           chat_template_name(state->chat));
  free(printed);
  return status;
}

static bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

// Walks along the text token by token. Vocabularies may put a space before a text, and drop white space
// beside some tokens; anything else that differs means that the mask cannot be trusted.
static Status label_tokens(EncodedRow *out, const Prompt *prompt, const Buffer *text, const uint8_t *mask) {
  size_t at = 0;
  Buffer piece = {0};
  Status status = STATUS_OK;
  for (int64_t i = out->labels.count; i < out->ids.count && status == STATUS_OK; i++) {
    piece.length = 0;
    tokenizer_decode_piece(&piece, prompt->tokenizer, out->ids.ids[i], true);
    size_t skip = 0;
    if (at == 0 && piece.length && piece.data[0] == ' ' && text->data[0] != ' ') skip = 1;
    size_t length = piece.length - skip, start = at;
    while (start < text->length && is_blank(text->data[start]) &&
           (text->length - start < length || memcmp(text->data + start, piece.data + skip, length) != 0))
      start++;
    if (text->length - start < length || (length && memcmp(text->data + start, piece.data + skip, length) != 0)) {
      status =
          status_fail(STATUS_BAD_INPUT, "token %" PRId64 " does not spell the text at byte %zu; this vocabulary rewrites its text", i, at);
      break;
    }
    bool trained = length && memchr(mask + start, true, length) != NULL;
    token_list_push(&out->labels, trained ? out->ids.ids[i] : LABEL_MASKED);
    at = start + length;
  }
  buffer_release(&piece);
  return status;
}

static Status encode_chat(EncodedRow *out, const Prompt *prompt, const Conversation *conversation, const ChatText *text) {
  uint8_t *mask = memory_new(text->text.length + 1, 1);
  Status status = mark_turns(mask, prompt->state, conversation, text);
  if (status == STATUS_OK)
    status = tokenizer_encode(&out->ids, prompt->tokenizer, text->text.data, text->text.length, TOKENIZE_PARSE_SPECIAL);
  if (status == STATUS_OK) status = label_tokens(out, prompt, &text->text, mask);
  free(mask);
  if (status == STATUS_OK) encode_end(out);
  return status;
}

static Status chat_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  const ChatPrompt *state = prompt->state;
  Conversation conversation = {0};
  ChatText text = {0};
  Status status = read_conversation(&conversation, prompt, row);
  if (status == STATUS_OK) status = chat_template_render(&text, state->chat, conversation.messages, conversation.tools, false);
  if (status == STATUS_OK) status = encode_chat(out, prompt, &conversation, &text);
  chat_text_release(&text);
  conversation_release(&conversation);
  return status;
}

const PromptStrategy prompt_chat_template = {"chat_template", chat_open, chat_encode, chat_close};
