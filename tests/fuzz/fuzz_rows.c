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

enum { SUPERVISED = 17, PREFERENCES = 15, PROMPTS = SUPERVISED + PREFERENCES };

// Those of preference training: of pairs, then of KTO.
static void open_preferences(Prompt **prompts, const Tokenizer *tokenizer) {
  static char types[PREFERENCES][40] = {"",
                                        "",
                                        "chatml",
                                        "chatml.argilla_chat",
                                        "llama3.ultra",
                                        "zephyr.nectar",
                                        "chat_template",
                                        "chat_template.argilla_chat",
                                        "chat_template.argilla",
                                        "passthrough",
                                        "",
                                        "",
                                        "chatml.argilla_chat",
                                        "llama3.argilla",
                                        "chat_template"};
  static char chatml[] = "chatml", qwen3[] = "qwen3", dpo[] = "dpo", kto[] = "kto", format[] = "{system}: {prompt}";
  for (int i = 0; i < PREFERENCES; i++) {
    Recipe recipe = {.sequence_len = 50, .rl = i < 10 ? dpo : kto};
    DatasetRecipe dataset = {
        .type = *types[i] ? types[i] : NULL, .type_is_mapping = i == 1 || i == 11, .chat_template = i == 7 ? qwen3 : chatml};
    if (dataset.type_is_mapping) dataset.prompt_format = format;
    if (prompt_open(&prompts[i], &dataset, &recipe, tokenizer) != STATUS_OK) abort();
  }
}

// The strategies, opened once and kept until the process ends.
static Prompt **open_prompts(void) {
  static char types[SUPERVISED][40] = {"",
                                       "",
                                       "alpaca",
                                       "alpaca_w_system",
                                       "completion",
                                       "input_output",
                                       "explainchoice",
                                       "chat_template",
                                       "chat_template",
                                       "chat_template",
                                       "reflection",
                                       "context_qa",
                                       "creative_acr.load_critique",
                                       "metharme",
                                       "orcamini",
                                       "pygmalion",
                                       "messages.chat"};
  static char *const chats[] = {"chatml", "llama3", "alpaca"};
  static char training[] = "train", detail[] = "detail";
  static Prompt *prompts[PROMPTS];
  if (prompts[0]) return prompts;
  log_set_quiet(true);
  Tokenizer *tokenizer = own_vocabulary();
  Recipe recipe = {.sequence_len = 50};
  for (int i = 0; i < SUPERVISED; i++) {
    DatasetRecipe dataset = {.type = i > 1 ? types[i] : NULL, .type_is_mapping = i == 1};
    if (i > 6 && i < 10) dataset.chat_template = chats[i - 7];
    if (i == 7) dataset.message_field_training = training, dataset.message_field_training_detail = detail;
    if (prompt_open(&prompts[i], &dataset, &recipe, tokenizer) != STATUS_OK) abort();
  }
  open_preferences(prompts + SUPERVISED, tokenizer);
  return prompts;
}

// A prompt that is masked, and one reply behind it or two that are not.
static void check_replies(const EncodedRow *encoded, bool paired) {
  int64_t count = encoded->ids.count;
  if (encoded->count != 1 || encoded->prompt < 0 || encoded->prompt > count) abort();
  if (paired ? encoded->rejected < encoded->prompt || encoded->rejected > count || encoded->is_undesirable : encoded->rejected != 0)
    abort();
  for (int64_t i = 0; i < count; i++)
    if (encoded->labels.ids[i] != (i < encoded->prompt ? LABEL_MASKED : encoded->ids.ids[i])) abort();
}

static void check(const EncodedRow *encoded) {
  if (encoded->ids.count != encoded->labels.count || encoded->count < 1 || encoded->ends[encoded->count - 1] != encoded->ids.count) abort();
  for (int64_t i = 0; i < encoded->ids.count; i++) {
    int32_t id = encoded->ids.ids[i], label = encoded->labels.ids[i];
    if (id < 0 || id > 257 || label > 257 || (label < 0 && label != LABEL_MASKED)) abort();
  }
}

// The same rows come from text that arrives in pieces.
static void scan_in_pieces(const DatasetFile *file, RowFormat format, const char *text, size_t size, bool good) {
  RowScan scan;
  row_scan_start(&scan, format, "fuzz.json");
  ScanResult result = SCAN_ROW;
  Status status = STATUS_OK;
  int64_t count = 0;
  for (size_t at = 0, seen = size < 3 ? size : 3; status == STATUS_OK && result != SCAN_END;) {
    RowPlace place;
    char *piece = memcpy(memory_new(seen + 1, 1), text, seen);  // so that reading beyond it shows
    status = row_scan_next(&scan, &result, &place, piece, seen, &at, seen == size);
    free(piece);
    if (result == SCAN_MORE) seen += size - seen < 7 ? size - seen : 7;
    if (status != STATUS_OK || result != SCAN_ROW) continue;
    if (good && (count >= file->count || memcmp(&place, &file->rows[count], sizeof place) != 0)) abort();
    count++;
  }
  if (good != (status == STATUS_OK) || (good && count != file->count)) abort();
  row_scan_release(&scan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Prompt **prompts = open_prompts();
  DatasetFile file;
  RowFormat format = size && data[0] >= 1 && data[0] <= 3 ? (RowFormat)data[0] : ROWS_JSON;  // else the bytes are JSON throughout
  if (format != ROWS_JSON) data++, size--;
  bool good = dataset_file_parse(&file, "fuzz.json", format, (const char *)data, size) == STATUS_OK;
  scan_in_pieces(&file, format, (const char *)data, size, good);
  EncodedRow encoded = {0};
  for (int64_t r = 0; r < file.count && r < 50; r++) {
    json_t *row;
    if (dataset_file_row(&row, &file, r) != STATUS_OK) continue;
    for (int i = 0; i < PROMPTS; i++) {
      encoded_row_clear(&encoded);
      if (prompt_encode(&encoded, prompts[i], row) != STATUS_OK) continue;
      check(&encoded);
      if (i >= SUPERVISED) check_replies(&encoded, i < SUPERVISED + 10);
    }
    json_decref(row);
  }
  encoded_row_release(&encoded);
  dataset_file_release(&file);
  return 0;
}
