// `reflection`: an Alpaca prompt, masked, and a reply of a thought, a reflection on it and a final response, trained with EOS behind it.
//   reply = ### Thought: {output} ### Agent Reflection: {reflection} ### Final Response: {corrected}
// Prompt and reply are tokenised as one text, and as many tokens masked as the prompt has on its own, as Axolotl does it.
#include "data/prompt/alpaca.h"

static Status read_reply(Buffer *out, const json_t *row) {
  static const char *const parts[][2] = {
      {"### Thought:\n", "output"}, {"\n\n### Agent Reflection:\n", "reflection"}, {"\n\n### Final Response:\n", "corrected"}};
  for (int i = 0; i < 3; i++) {
    RowText text;
    TRY(row_text(&text, row, parts[i][1]));
    // Axolotl prints no reply where any of the three is empty.
    if (!text.length) return status_fail(STATUS_BAD_INPUT, "field \"%s\" is empty, and the reply is made of it", parts[i][1]);
    buffer_append_string(out, parts[i][0]);
    buffer_append(out, text.data, text.length);
  }
  return STATUS_OK;
}

static Status encode_masked(EncodedRow *out, const Prompt *prompt, const Buffer *text, size_t prompt_length) {
  int64_t begin = out->ids.count;
  TRY(encode_text(out, prompt, text->data, prompt_length, true, false));
  int64_t masked = prompt->train_on_inputs ? 0 : out->ids.count - begin;
  out->ids.count = out->labels.count = begin;
  TRY(encode_text(out, prompt, text->data, text->length, true, true));
  for (int64_t i = begin; i < begin + masked && i < out->labels.count; i++) out->labels.ids[i] = LABEL_MASKED;
  encode_eos(out, prompt, begin);
  encode_end(out);
  return STATUS_OK;
}

static Status reflection_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  Buffer text = {0};
  Status status = alpaca_build_prompt(&text, prompt->state, row);
  size_t prompt_length = text.length;
  if (status == STATUS_OK) status = read_reply(&text, row);
  if (status == STATUS_OK) status = encode_masked(out, prompt, &text, prompt_length);
  buffer_release(&text);
  return status;
}

const PromptStrategy prompt_reflection = {"reflection", alpaca_open, reflection_encode, NULL};
