// `chat_template`: a conversation rendered by a chat template, tokenised whole, and trained where a model would have to write.
// A token is trained when any of its bytes is.
#include "data/prompt/chat.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"

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

static const char *thinking_key(const DatasetRecipe *dataset) { return text_or(dataset->template_thinking_key, "reasoning_content"); }

static void read_properties(ChatPrompt *state, const DatasetRecipe *dataset) {
  map_property(state, "role", text_or(dataset->message_field_role, "role"));
  map_property(state, "content", text_or(dataset->message_field_content, "content"));
  map_property(state, thinking_key(dataset), text_or(dataset->field_thinking, "reasoning_content"));
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

static void read_trained_roles(ChatPrompt *state, const DatasetRecipe *dataset) {
  bool given = dataset->has_roles_to_train || dataset->roles_to_train.count;
  state->trained_count = given ? dataset->roles_to_train.count : 1;
  state->trained_roles = arena_new(&state->arena, (size_t)state->trained_count + 1, sizeof *state->trained_roles);
  for (int i = 0; i < state->trained_count; i++)
    state->trained_roles[i] =
        arena_copy_string(&state->arena, chat_map_role(state, given ? dataset->roles_to_train.items[i] : "assistant"));
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
  const char *eos = text_or(dataset->train_on_eos, "turn");
  for (int i = 0; i < recipe->eot_tokens.count; i++) TRY(check_marker(prompt, recipe->eot_tokens.items[i], true));
  TRY(check_marker(prompt, chat_template_stop(state->chat), false));
  TRY(read_turn_ends(&state->eos_ends, "train_on_eos", eos));
  return read_turn_ends(&state->eot_ends, "train_on_eot", text_or(dataset->train_on_eot, eos));
}

Status chat_prompt_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  ChatPrompt *state = prompt->state;
  ChatTemplateOptions options = chat_template_options(recipe, dataset);
  TRY(chat_template_open(&state->chat, &options, prompt->tokenizer));
  Arena *arena = &state->arena;
  state->field_messages = arena_copy_string(arena, text_or(dataset->field_messages, "messages"));
  state->field_system = arena_copy_string(arena, text_or(dataset->field_system, "system"));
  state->field_tools = arena_copy_string(arena, text_or(dataset->field_tools, "tools"));
  state->field_training = arena_copy_string(arena, dataset->message_field_training);
  state->field_detail = arena_copy_string(arena, dataset->message_field_training_detail);
  state->thinking_key = arena_copy_string(arena, thinking_key(dataset));
  state->drop_system = dataset->drop_system_message == CHOICE_TRUE;
  state->split_thinking = dataset->split_thinking == CHOICE_TRUE;
  read_properties(state, dataset);
  read_roles(state, dataset);
  read_trained_roles(state, dataset);
  return open_turn_ends(prompt, dataset, recipe);
}

static Status chat_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  prompt->state = memory_new(1, sizeof(ChatPrompt));
  if (*prompt->variant && strcmp(prompt->variant, "default") != 0)
    return status_fail(STATUS_USAGE, "type: chat_template.%s is one of preference training; use `type: chat_template`", prompt->variant);
  return chat_prompt_open(prompt, dataset, recipe);
}

void chat_prompt_close(void *pointer) {
  ChatPrompt *state = pointer;
  chat_template_free(state->chat);
  free(state->properties);
  free(state->roles);
  arena_release(&state->arena);
}

// ---- A row

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
  Status status = chat_mask(mask, prompt, conversation, text);
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
  Status status = conversation_read(&conversation, prompt, row);
  if (status == STATUS_OK) status = chat_template_render(&text, state->chat, conversation.messages, conversation.tools, false);
  if (status == STATUS_OK) status = encode_chat(out, prompt, &conversation, &text);
  chat_text_release(&text);
  conversation_release(&conversation);
  return status;
}

const PromptStrategy prompt_chat_template = {"chat_template", chat_open, chat_encode, chat_prompt_close};
