// The table of prompt strategies, and the small steps that they share.
#include "data/prompt/prompt.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"

static const PromptStrategy *const strategies[] = {
    &prompt_alpaca,       &prompt_alpaca_chat,   &prompt_alpaca_instruct, &prompt_alpaca_w_system, &prompt_context_qa,
    &prompt_creative_acr, &prompt_jeopardy,      &prompt_metharme,        &prompt_oasst,           &prompt_orcamini,
    &prompt_gpteacher,    &prompt_summarizetldr, &prompt_explainchoice,   &prompt_concisechoice,   &prompt_reflection,
    &prompt_completion,   &prompt_input_output,  &prompt_messages,        &prompt_pygmalion,       &prompt_chat_template,
};
enum { STRATEGY_COUNT = sizeof strategies / sizeof *strategies };

static Status refuse_type(const char *type, const char *base) {
  if (strcmp(base, "sharegpt") == 0) {
    return status_fail(STATUS_USAGE,
                       "type: sharegpt is no more; use `type: chat_template` with `field_messages: conversations` and "
                       "`message_property_mappings: {role: from, content: value}`");
  }
  const char *names[STRATEGY_COUNT];
  Buffer known = {0};
  for (int i = 0; i < STRATEGY_COUNT; i++) {
    names[i] = strategies[i]->type;
    buffer_format(&known, "%s%s", i ? ", " : "", names[i]);
  }
  const char *nearest = nearest_name(base, names, STRATEGY_COUNT);
  Status status = nearest
                      ? status_fail(STATUS_USAGE, "type: %s is not known; did you mean %s?", type, nearest)
                      : status_fail(STATUS_USAGE, "type: %s is not known; there are %s, and a mapping of format strings", type, known.data);
  buffer_release(&known);
  return status;
}

static Status find_strategy(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  if (recipe->rl) return preference_find(prompt, dataset, recipe);
  if (dataset->type_is_mapping) prompt->strategy = &prompt_mapping;
  else if (!dataset->type || !*dataset->type) prompt->strategy = &prompt_pretokenized;
  if (prompt->strategy) return STATUS_OK;
  const char *reason = dataset_type_refusal(dataset->type);
  if (reason) return status_fail(STATUS_USAGE, "type: %s: %s", dataset->type, reason);
  size_t length = strcspn(dataset->type, ":.");
  for (int i = 0; i < STRATEGY_COUNT; i++) {
    const char *type = strategies[i]->type;
    if (strlen(type) == length && strncmp(type, dataset->type, length) == 0) prompt->strategy = strategies[i];
  }
  if (prompt->strategy) {
    prompt->variant = dataset->type[length] ? dataset->type + length + 1 : "";
    return STATUS_OK;
  }
  char *base = memory_format("%.*s", (int)length, dataset->type);
  Status status = refuse_type(dataset->type, base);
  free(base);
  return status;
}

Status prompt_open(Prompt **out, const DatasetRecipe *dataset, const Recipe *recipe, const Tokenizer *tokenizer) {
  Prompt *prompt = memory_new(1, sizeof *prompt);
  *prompt =
      (Prompt){.tokenizer = tokenizer, .variant = "", .train_on_inputs = recipe->train_on_inputs, .sequence_len = recipe->sequence_len};
  *out = NULL;
  prompt->paired = recipe->rl && strcmp(recipe->rl, "kto") != 0;
  Status status = find_strategy(prompt, dataset, recipe);
  bool may_be_tokens = !dataset->type && !dataset->type_is_mapping;
  if (status == STATUS_OK && !tokenizer && !may_be_tokens)
    status = status_fail(STATUS_FAILED, "type: %s needs a tokenizer", dataset->type ? dataset->type : "(a mapping)");
  if (status == STATUS_OK) status = prompt->strategy->open(prompt, dataset, recipe);
  if (status == STATUS_OK) *out = prompt;
  else prompt_free(prompt);
  return status;
}

void prompt_free(Prompt *prompt) {
  if (!prompt) return;
  if (prompt->state && prompt->strategy->close) prompt->strategy->close(prompt->state);
  free(prompt->state);
  free(prompt);
}

Status prompt_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  static const char *const kinds[] = {"an object", "an array", "a string", "a number", "a number", "true", "false", "null"};
  if (!json_is_object(row)) return status_fail(STATUS_BAD_INPUT, "a row must be an object, this is %s", kinds[json_typeof(row)]);
  return prompt->strategy->encode(out, prompt, row);
}

void encoded_row_clear(EncodedRow *row) {
  row->ids.count = row->labels.count = row->count = 0;
  row->prompt = row->rejected = 0;
  row->is_undesirable = false;
}

void encoded_row_release(EncodedRow *row) {
  token_list_release(&row->ids);
  token_list_release(&row->labels);
  free(row->ends);
  *row = (EncodedRow){0};
}

Status row_missing(const json_t *row, const char *field) {
  Buffer fields = {0};
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)(uintptr_t)row, key, value) buffer_format(&fields, "%s%s", fields.length ? ", " : "", key);
  Status status = status_fail(STATUS_BAD_INPUT, "field \"%s\" is missing; the row has: %s", field, fields.length ? fields.data : "none");
  buffer_release(&fields);
  return status;
}

bool text_of_value(RowText *text, const json_t *value) {
  if (json_is_string(value)) {
    text->data = json_string_value(value);
    text->length = json_string_length(value);
    return true;
  }
  if (json_is_integer(value)) snprintf(text->own, sizeof text->own, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
  else if (json_is_real(value)) text_from_float(text->own, json_real_value(value));
  else if (json_is_boolean(value)) strcpy(text->own, json_is_true(value) ? "True" : "False");
  else return false;
  text->data = text->own;
  text->length = strlen(text->own);
  return true;
}

Status row_text(RowText *text, const json_t *row, const char *field) {
  const json_t *value = json_object_get(row, field);
  if (!value) return row_missing(row, field);
  if (text_of_value(text, value)) return STATUS_OK;
  const char *kind = json_is_null(value) ? "null" : json_is_array(value) ? "a list" : "an object";
  return status_fail(STATUS_BAD_INPUT, "field \"%s\" is %s, where text is needed", field, kind);
}

Status row_optional_text(RowText *text, const json_t *row, const char *field) {
  const json_t *value = json_object_get(row, field);
  text->data = "";
  text->length = 0;
  return value && !json_is_null(value) ? row_text(text, row, field) : STATUS_OK;
}

Status row_list(const json_t **list, const json_t *row, const char *field, const char *of_what) {
  *list = json_object_get(row, field);
  if (!*list) return row_missing(row, field);
  return json_is_array(*list) ? STATUS_OK : status_fail(STATUS_BAD_INPUT, "field \"%s\" is not a list of %s", field, of_what);
}

Status row_integers(TokenList *out, const json_t *row, const char *field, int64_t masked, int64_t limit) {
  const json_t *list;
  TRY(row_list(&list, row, field, "numbers"));
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *item = json_array_get(list, i);
    json_int_t value = json_integer_value(item);
    if (!json_is_integer(item)) return status_fail(STATUS_BAD_INPUT, "%s[%zu] is not a whole number", field, i);
    if ((value < 0 && value != masked) || value >= limit)
      return status_fail(STATUS_BAD_INPUT, "%s[%zu] is %" JSON_INTEGER_FORMAT ", outside 0 .. %" PRId64, field, i, value, limit - 1);
    token_list_push(out, (int32_t)value);
  }
  return STATUS_OK;
}

bool format_expand(Buffer *out, const char *format, const char *const *names, const RowText *texts, int count, char unknown[64]) {
  for (const char *p = format; *p; p++) {
    if ((*p == '{' || *p == '}') && p[1] == *p) {
      buffer_append(out, p++, 1);
      continue;
    }
    size_t length = *p == '{' ? strcspn(p + 1, "{}") : 0;
    if (*p != '{' || p[length + 1] != '}') {
      buffer_append(out, p, 1);
      continue;
    }
    int found = -1;
    for (int i = 0; i < count; i++)
      if (strlen(names[i]) == length && memcmp(names[i], p + 1, length) == 0) found = i;
    if (found < 0) {
      snprintf(unknown, 64, "%.*s", (int)length, p + 1);
      return false;
    }
    buffer_append(out, texts[found].data, texts[found].length);
    p += length + 1;
  }
  return true;
}

void encode_labels(EncodedRow *out, bool trained) {
  for (int64_t i = out->labels.count; i < out->ids.count; i++) token_list_push(&out->labels, trained ? out->ids.ids[i] : LABEL_MASKED);
}

Status encode_text(EncodedRow *out, const Prompt *prompt, const char *text, size_t length, bool bos, bool trained) {
  int64_t begin = out->ids.count;
  int32_t id = tokenizer_bos(prompt->tokenizer);
  bool adds = bos && id >= 0 && tokenizer_adds_bos(prompt->tokenizer);
  if (adds) token_list_push(&out->ids, id);
  TRY(tokenizer_encode(&out->ids, prompt->tokenizer, text, length, TOKENIZE_PARSE_SPECIAL));
  if (adds && out->ids.count > begin + 1 && out->ids.ids[begin + 1] == id) {  // the text brought its own
    out->ids.count--;
    memmove(out->ids.ids + begin, out->ids.ids + begin + 1, (size_t)(out->ids.count - begin) * sizeof *out->ids.ids);
  }
  encode_labels(out, trained);
  return STATUS_OK;
}

void encode_eos(EncodedRow *out, const Prompt *prompt, int64_t begin) {
  int32_t eos = tokenizer_eos(prompt->tokenizer);
  if (out->ids.count > begin && out->ids.ids[out->ids.count - 1] == eos) return;
  token_list_push(&out->ids, eos);
  encode_labels(out, true);
}

Status encode_behind_mask(EncodedRow *out, const Prompt *prompt, const Buffer *text, size_t masked, bool bos) {
  int64_t begin = out->ids.count;
  if (masked) TRY(encode_text(out, prompt, text->data, masked, bos, false));
  int64_t end = out->ids.count;
  out->ids.count = out->labels.count = begin;
  TRY(encode_text(out, prompt, text->data, text->length, bos, true));
  encode_eos(out, prompt, begin);
  for (int64_t i = begin; i < end && i < out->labels.count; i++) out->labels.ids[i] = LABEL_MASKED;
  return STATUS_OK;
}

void encode_end(EncodedRow *out) { ARRAY_PUSH(out->ends, out->count, out->capacity) = out->ids.count; }

Status prompt_need_eos(const Prompt *prompt) {
  if (tokenizer_eos(prompt->tokenizer) >= 0) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "the vocabulary names no end-of-text token; say which it is, as `special_tokens: {eos_token: ...}`");
}
