// Any bytes as a dataset file: its rows, if it has any, through every prompt strategy with a small byte-level
// vocabulary. What a strategy accepts must be tokens of the vocabulary, with labels under them, in whole sequences.
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "data/source/dataset_file.h"
#include "data/prompt/prompt.h"
#include "data/tokenizer/parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Tokenizer *own_vocabulary(void) {
  Tokenizer *tokenizer;
  Buffer json = {0};
  buffer_append_string(&json, "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"<|im_start|>\": 0, \"<|im_end|>\": 1");
  for (int byte = 0; byte < 256; byte++) {
    char text[4];
    int length = byte_to_alphabet(text, (uint8_t)byte);
    buffer_format(&json, ", \"%s%.*s\": %d", byte == '"' || byte == '\\' ? "\\" : "", length, text, byte + 2);
  }
  buffer_append_string(&json,
                       "}, \"merges\": []}, \"added_tokens\": [{\"id\": 0, \"content\": \"<|im_start|>\", \"special\": true}, "
                       "{\"id\": 1, \"content\": \"<|im_end|>\", \"special\": true}], \"pre_tokenizer\": {\"type\": \"ByteLevel\"}}");
  if (tokenizer_from_json(&tokenizer, "own", json.data, json.length) != STATUS_OK) abort();
  if (tokenizer_set_special(tokenizer, "eos", "<|im_end|>") != STATUS_OK) abort();
  buffer_release(&json);
  return tokenizer;
}

enum { PROMPTS = 10 };

// The strategies, opened once and kept until the process ends.
static Prompt **open_prompts(void) {
  static char types[PROMPTS][40] = {"",
                                    "",
                                    "alpaca",
                                    "alpaca_w_system",
                                    "completion",
                                    "input_output",
                                    "explainchoice",
                                    "chat_template",
                                    "chat_template",
                                    "chat_template"};
  static char *const chats[] = {"chatml", "llama3", "alpaca"};
  static char training[] = "train", detail[] = "detail";
  static Prompt *prompts[PROMPTS];
  if (prompts[0]) return prompts;
  log_set_quiet(true);
  Tokenizer *tokenizer = own_vocabulary();
  Recipe recipe = {.sequence_len = 50};
  for (int i = 0; i < PROMPTS; i++) {
    DatasetRecipe dataset = {.type = i > 1 ? types[i] : NULL, .type_is_mapping = i == 1};
    if (i > 6) dataset.chat_template = chats[i - 7];
    if (i == 7) dataset.message_field_training = training, dataset.message_field_training_detail = detail;
    if (prompt_open(&prompts[i], &dataset, &recipe, tokenizer) != STATUS_OK) abort();
  }
  return prompts;
}

static void check(const EncodedRow *encoded) {
  if (encoded->ids.count != encoded->labels.count || encoded->count < 1 || encoded->ends[encoded->count - 1] != encoded->ids.count) abort();
  for (int64_t i = 0; i < encoded->ids.count; i++) {
    int32_t id = encoded->ids.ids[i], label = encoded->labels.ids[i];
    if (id < 0 || id > 257 || label > 257 || (label < 0 && label != LABEL_MASKED)) abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Prompt **prompts = open_prompts();
  DatasetFile file;
  if (dataset_file_parse(&file, "fuzz.json", (const char *)data, size) != STATUS_OK) return 0;
  EncodedRow encoded = {0};
  for (int64_t r = 0; r < file.count && r < 50; r++) {
    json_t *row;
    if (dataset_file_row(&row, &file, r) != STATUS_OK) continue;
    for (int i = 0; i < PROMPTS; i++) {
      encoded_row_clear(&encoded);
      if (prompt_encode(&encoded, prompts[i], row) == STATUS_OK) check(&encoded);
    }
    json_decref(row);
  }
  encoded_row_release(&encoded);
  dataset_file_release(&file);
  return 0;
}
