// `completion`: a text, trained throughout, EOS behind it, cut into pieces of sequence_len tokens.
// `input_output`: {segments: [{label, text}, ...]}; nothing is added, label false masks.
// No type: rows that are already tokens, {input_ids, labels, attention_mask?}.
#include <inttypes.h>
#include <stdlib.h>

#include "data/prompt/prompt.h"

// ---- completion; the state is the field's name

static Status completion_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)recipe;
  prompt->state = memory_copy_string(dataset->field ? dataset->field : "text");
  return prompt_need_eos(prompt);
}

static Status completion_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  RowText text;
  TRY(row_text(&text, row, prompt->state));
  if (text.length) {  // without any text there is nothing to learn, not even where to end
    TRY(encode_text(out, prompt, text.data, text.length, true, true));
    encode_eos(out, prompt, 0);
  }
  int64_t step = prompt->sequence_len > 0 ? prompt->sequence_len : out->ids.count;
  for (int64_t end = step; end < out->ids.count; end += step) ARRAY_PUSH(out->ends, out->count, out->capacity) = end;
  encode_end(out);
  return STATUS_OK;
}

const PromptStrategy prompt_completion = {"completion", completion_open, completion_encode, NULL};

// ---- input_output

static Status no_state(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)prompt, (void)dataset, (void)recipe;
  return STATUS_OK;
}

static Status segments_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  const json_t *segments;
  TRY(row_list(&segments, row, "segments", "{label, text}"));
  for (size_t i = 0; i < json_array_size(segments); i++) {
    const json_t *segment = json_array_get(segments, i), *label = json_object_get(segment, "label");
    RowText text;
    Status status = json_is_object(segment) ? row_text(&text, segment, "text") : status_fail(STATUS_BAD_INPUT, "not an object");
    if (status == STATUS_OK && !label) status = row_missing(segment, "label");
    if (status == STATUS_OK && !json_is_boolean(label) && !json_is_integer(label))
      status = status_fail(STATUS_BAD_INPUT, "\"label\" is not true or false");
    if (status != STATUS_OK) return status_context(status, "segment %zu", i + 1);
    bool trained = json_is_true(label) || json_integer_value(label) != 0 || prompt->train_on_inputs;
    TRY(encode_text(out, prompt, text.data, text.length, false, trained));
  }
  encode_end(out);
  return STATUS_OK;
}

const PromptStrategy prompt_input_output = {"input_output", no_state, segments_encode, NULL};

// ---- pre-tokenised

// Tokens that attention_mask leaves out are padding, which has no place in a row here.
static Status keep_attended(EncodedRow *out, const json_t *row) {
  TokenList mask = {0};
  Status status = STATUS_OK;
  int64_t kept = 0;
  if (json_object_get(row, "attention_mask")) status = row_integers(&mask, row, "attention_mask", 0, 2);
  if (status == STATUS_OK && mask.count && mask.count != out->ids.count) {
    status = status_fail(STATUS_BAD_INPUT, "attention_mask has %" PRId64 " items, input_ids %" PRId64, mask.count, out->ids.count);
  }
  for (int64_t i = 0; status == STATUS_OK && mask.count && i < out->ids.count; i++) {
    if (!mask.ids[i]) continue;
    out->ids.ids[kept] = out->ids.ids[i];
    out->labels.ids[kept++] = out->labels.ids[i];
  }
  if (status == STATUS_OK && mask.count) out->ids.count = out->labels.count = kept;
  token_list_release(&mask);
  return status;
}

static Status pretokenized_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  int64_t limit = prompt->tokenizer ? tokenizer_size(prompt->tokenizer) : INT32_MAX;
  TRY(row_integers(&out->ids, row, "input_ids", 0, limit));
  TRY(row_integers(&out->labels, row, "labels", LABEL_MASKED, limit));
  if (out->labels.count != out->ids.count)
    return status_fail(STATUS_BAD_INPUT, "labels has %" PRId64 " items, input_ids %" PRId64, out->labels.count, out->ids.count);
  TRY(keep_attended(out, row));
  encode_end(out);
  return STATUS_OK;
}

const PromptStrategy prompt_pretokenized = {NULL, no_state, pretokenized_encode, NULL};
