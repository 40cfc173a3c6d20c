// The strategies of preference training by type and method, tokens of prompts with replies, and rows that need no strategy:
// `passthrough`, or no type.
//   {prompt_input_ids, chosen_input_ids, rejected_input_ids}  or  {prompt_ids, ...}   tokens, used as they are
//   {prompt, chosen, rejected}                                texts, or lists of messages, as TRL takes them
//   {chosen, rejected}                                        the same; their common beginning is the prompt
// KTO has `completion` and `label` in place of `chosen` and `rejected`.
#include "data/prompt/preference.h"

#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "data/prompt/chat.h"

// ---- Which strategy

static const struct {
  const char *type;  // before the first '.'
  const PromptStrategy *strategy;
} strategies[] = {
    {"chat_template", &preference_chat}, {"orpo", &preference_orpo_chat}, {"chatml", &preference_chatml},
    {"llama3", &preference_llama3},      {"zephyr", &preference_zephyr},  {"passthrough", &preference_plain},
};

Status preference_find(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  const char *type = dataset->type;
  prompt->strategy = dataset->type_is_mapping ? &preference_user_defined : &preference_plain;
  if (dataset->type_is_mapping || !type || !*type) return STATUS_OK;
  Buffer reason = {0};
  Status status = STATUS_OK;
  if (!preference_type_fits(&reason, type, recipe->rl)) status = status_fail(STATUS_USAGE, "type: %s: %s", type, reason.data);
  buffer_release(&reason);
  TRY(status);
  size_t length = strcspn(type, ".");
  for (size_t i = 0; i < sizeof strategies / sizeof *strategies; i++)
    if (strlen(strategies[i].type) == length && strncmp(strategies[i].type, type, length) == 0) prompt->strategy = strategies[i].strategy;
  prompt->variant = type[length] ? type + length + 1 : "default";
  return STATUS_OK;
}

// ---- Tokens

void preference_texts_release(PreferenceTexts *texts) {
  buffer_release(&texts->prompt);
  for (int r = 0; r < REPLIES; r++) buffer_release(&texts->whole[r]);
}

static Status encode_whole(EncodedRow *out, const Prompt *prompt, const Buffer *text, const PreferenceTexts *texts) {
  return encode_text(out, prompt, text->length ? text->data : "", text->length, texts->adds_bos, true);
}

static int64_t common_prefix(const TokenList *a, const TokenList *b) {
  int64_t length = 0;
  while (length < a->count && length < b->count && a->ids[length] == b->ids[length]) length++;
  return length;
}

static void append_ids(EncodedRow *out, const TokenList *ids, int64_t begin, int64_t end, bool trained) {
  for (int64_t i = begin; i < end; i++) token_list_push(&out->ids, ids->ids[i]);
  encode_labels(out, trained);
}

// The prompt's beginning that both replies leave as it is, and what each has behind it.
static void join(EncodedRow *out, const Prompt *prompt, const EncodedRow *alone, EncodedRow *whole, int replies, bool adds_eos) {
  out->prompt = alone->ids.count;
  for (int r = 0; r < replies; r++) {
    int64_t common = common_prefix(&alone->ids, &whole[r].ids);
    if (common < out->prompt) out->prompt = common;
  }
  append_ids(out, &alone->ids, 0, out->prompt, false);
  for (int r = 0; r < replies; r++) {
    if (adds_eos && whole[r].ids.count > out->prompt) encode_eos(&whole[r], prompt, out->prompt);
    if (r == REPLY_WORSE) out->rejected = out->ids.count;
    append_ids(out, &whole[r].ids, out->prompt, whole[r].ids.count, true);
  }
  encode_end(out);
}

Status preference_encode(EncodedRow *out, const Prompt *prompt, const PreferenceTexts *texts) {
  int replies = prompt->paired ? REPLIES : 1;
  EncodedRow alone = {0}, whole[REPLIES] = {0};
  Status status = encode_whole(&alone, prompt, &texts->prompt, texts);
  for (int r = 0; r < replies && status == STATUS_OK; r++) status = encode_whole(&whole[r], prompt, &texts->whole[r], texts);
  if (status == STATUS_OK) join(out, prompt, &alone, whole, replies, texts->adds_eos);
  encoded_row_release(&alone);
  for (int r = 0; r < REPLIES; r++) encoded_row_release(&whole[r]);
  return status;
}

Status preference_label(EncodedRow *out, const json_t *row, const char *field) {
  const json_t *label = json_object_get(row, field);
  if (!label) return row_missing(row, field);
  bool is_number = json_is_integer(label) && (json_integer_value(label) == 0 || json_integer_value(label) == 1);
  if (!json_is_boolean(label) && !is_number)
    return status_fail(STATUS_BAD_INPUT, "field \"%s\" is not true or false, which says whether the reply is a good one", field);
  out->is_undesirable = !(json_is_true(label) || json_integer_value(label) == 1);
  return STATUS_OK;
}

// ---- Rows that need no strategy; the state is a ChatPrompt where there is a chat template

static Status plain_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  // Texts and tokens do without a template; conversations are told that there is none.
  const Tokenizer *tokenizer = prompt->tokenizer;
  bool has_template = tokenizer && (dataset->chat_template || recipe->chat_template || tokenizer_chat_template(tokenizer));
  if (!has_template) return STATUS_OK;
  prompt->state = memory_new(1, sizeof(ChatPrompt));
  return chat_prompt_open(prompt, dataset, recipe);
}

// The first of two names that the row has, else the first.
static const char *either(const json_t *row, const char *name, const char *other) {
  return !json_object_get(row, name) && json_object_get(row, other) ? other : name;
}

static Status append_tokens(EncodedRow *out, const Prompt *prompt, const json_t *row, const char *name, const char *other, bool trained) {
  int64_t limit = prompt->tokenizer ? tokenizer_size(prompt->tokenizer) : INT32_MAX;
  TRY(row_integers(&out->ids, row, either(row, name, other), 0, limit));
  encode_labels(out, trained);
  return STATUS_OK;
}

static Status encode_tokens(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  TRY(append_tokens(out, prompt, row, "prompt_input_ids", "prompt_ids", false));
  out->prompt = out->ids.count;
  if (prompt->paired) {
    TRY(append_tokens(out, prompt, row, "chosen_input_ids", "chosen_ids", true));
    out->rejected = out->ids.count;
    TRY(append_tokens(out, prompt, row, "rejected_input_ids", "rejected_ids", true));
  } else {
    TRY(append_tokens(out, prompt, row, "completion_input_ids", "completion_ids", true));
    TRY(preference_label(out, row, "label"));
  }
  encode_end(out);
  return STATUS_OK;
}

// Bytes of the beginning that two texts share, up to whole characters, without a space at its end: TRL's extract_prompt. The last
// character of a text is always a reply's.
static size_t shared_beginning(const RowText *a, const RowText *b) {
  size_t shorter = a->length < b->length ? a->length : b->length, at = 0, last = 0;
  for (size_t next = 0; next < shorter; next += last) {
    int step = utf8_length((const unsigned char *)a->data + next, shorter - next);
    last = step ? (size_t)step : 1;
    at = next;
    if (memcmp(a->data + next, b->data + next, last) != 0) break;
  }
  return at > 0 && at < shorter && a->data[at - 1] == ' ' && a->data[at] != b->data[at] ? at - 1 : at;
}

static Status encode_texts(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  static const char *const pair[] = {"chosen", "rejected"}, *const single[] = {"completion"};
  RowText replies[REPLIES], text;
  PreferenceTexts texts = {.adds_bos = true, .adds_eos = true};
  int count = prompt->paired ? REPLIES : 1;
  TRY(prompt_need_eos(prompt));
  for (int r = 0; r < count; r++) TRY(row_text(&replies[r], row, (prompt->paired ? pair : single)[r]));
  size_t shared = 0;
  if (!prompt->paired || json_object_get(row, "prompt")) {
    TRY(row_text(&text, row, "prompt"));
  } else {
    shared = shared_beginning(&replies[REPLY_BETTER], &replies[REPLY_WORSE]);
    text = (RowText){.data = replies[REPLY_BETTER].data, .length = shared};
  }
  buffer_append(&texts.prompt, text.data, text.length);
  for (int r = 0; r < count; r++) {
    buffer_append(&texts.whole[r], text.data, text.length);
    buffer_append(&texts.whole[r], replies[r].data + shared, replies[r].length - shared);
  }
  Status status = preference_encode(out, prompt, &texts);
  if (status == STATUS_OK && !prompt->paired) status = preference_label(out, row, "label");
  preference_texts_release(&texts);
  return status;
}

// The messages that two lists begin with alike: the prompt of rows without one. The last message is always a reply.
static size_t shared_messages(const json_t *a, const json_t *b) {
  size_t shorter = json_array_size(a) < json_array_size(b) ? json_array_size(a) : json_array_size(b), at = 0;
  while (at + 1 < shorter && json_equal(json_array_get(a, at), json_array_get(b, at))) at++;
  return at;
}

static json_t *slice(const json_t *list, size_t begin, size_t end) {
  json_t *part = json_array();
  for (size_t i = begin; i < end; i++) json_array_append(part, json_array_get(list, i));
  return part;
}

static Status encode_conversation(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  const json_t *messages, *first, *second = NULL;
  if (!prompt->state)
    return status_fail(STATUS_BAD_INPUT, "the row has messages, and there is no chat template to print them; choose a `chat_template`");
  TRY(row_list(&first, row, prompt->paired ? "chosen" : "completion", "messages"));
  if (prompt->paired) TRY(row_list(&second, row, "rejected", "messages"));
  size_t shared = 0;
  if (!prompt->paired || json_object_get(row, "prompt")) TRY(row_list(&messages, row, "prompt", "messages"));
  else messages = first, shared = shared_messages(first, second);
  PreferenceTurns turns = {.prompt = slice(messages, 0, messages == first ? shared : json_array_size(messages)),
                           .replies = {slice(first, shared, json_array_size(first)), slice(second, shared, json_array_size(second))}};
  Status status = preference_encode_turns(out, prompt, row, &turns);
  if (status == STATUS_OK && !prompt->paired) status = preference_label(out, row, "label");
  preference_turns_release(&turns);
  return status;
}

static Status plain_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  if (json_object_get(row, either(row, "prompt_input_ids", "prompt_ids"))) return encode_tokens(out, prompt, row);
  if (!prompt->tokenizer)
    return status_fail(STATUS_BAD_INPUT, "the row has no prompt_input_ids, and texts need a tokenizer, which the model has not");
  if (json_is_array(json_object_get(row, prompt->paired ? "chosen" : "completion"))) return encode_conversation(out, prompt, row);
  return encode_texts(out, prompt, row);
}

const PromptStrategy preference_plain = {"passthrough", plain_open, plain_encode, chat_prompt_close};
