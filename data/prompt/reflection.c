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

static Status reflection_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  Buffer text = {0};
  Status status = alpaca_build_prompt(&text, prompt->state, row);
  size_t masked = prompt->train_on_inputs ? 0 : text.length;
  if (status == STATUS_OK) status = read_reply(&text, row);
  if (status == STATUS_OK) status = encode_behind_mask(out, prompt, &text, masked, true);
  if (status == STATUS_OK) encode_end(out);
  buffer_release(&text);
  return status;
}

const PromptStrategy prompt_reflection = {"reflection", alpaca_open, reflection_encode, NULL};
