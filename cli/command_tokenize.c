// `lora tokenize`: a text's token ids, on one line; or how long it takes to find them.
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "cli/command.h"
#include "cli/options.h"
#include "core/file.h"
#include "core/log.h"
#include "core/memory.h"
#include "data/tokenizer/tokenizer.h"

static Status read_text(Buffer *text, const char *given, const char *file) {
  if (!given == !file) return status_fail(STATUS_USAGE, "tokenize: give the text by --text S, or in a file by --file F");
  if (given) {
    buffer_append_string(text, given);
    return STATUS_OK;
  }
  FileMap map;  // the bytes as they are: file_read would unpack a gzip file
  TRY(file_map(&map, file));
  buffer_append(text, map.data, map.size);
  file_unmap(&map);
  return STATUS_OK;
}

static void print_ids(const Tokenizer *tokenizer, const TokenList *ids, bool json) {
  if (!json) {
    for (int64_t i = 0; i < ids->count; i++) printf(i ? " %d" : "%d", ids->ids[i]);
    printf("\n");
    return;
  }
  json_t *numbers = json_array(), *texts = json_array();
  for (int64_t i = 0; i < ids->count; i++) {
    json_array_append_new(numbers, json_integer(ids->ids[i]));
    json_array_append_new(texts, json_string(tokenizer_text(tokenizer, ids->ids[i])));
  }
  json_t *result = json_pack("{s:o, s:o}", "ids", numbers, "tokens", texts);
  json_dumpf(result, stdout, JSON_COMPACT);
  printf("\n");
  json_decref(result);
}

// Encodes the text as a whole, then line by line (with the line feeds), and prints the seconds that each took.
static Status print_times(const Tokenizer *tokenizer, const Buffer *text, int flags) {
  TokenList ids = {0};
  const char *line = text->data, *end = text->data + text->length;
  double start = time_seconds();
  Status status = tokenizer_encode(&ids, tokenizer, text->data, text->length, flags);
  double whole = time_seconds() - start;
  int64_t count = ids.count;
  start = time_seconds();
  while (line < end && status == STATUS_OK) {
    const char *feed = memchr(line, '\n', (size_t)(end - line));
    size_t length = feed ? (size_t)(feed - line) + 1 : (size_t)(end - line);
    ids.count = 0;
    status = tokenizer_encode(&ids, tokenizer, line, length, flags);
    line += length;
  }
  double lines = time_seconds() - start;
  if (status == STATUS_OK)
    printf("{\"bytes\": %zu, \"tokens\": %lld, \"seconds_whole\": %.6f, \"seconds_lines\": %.6f}\n", text->length, (long long)count, whole,
           lines);
  token_list_release(&ids);
  return status;
}

typedef struct TokenizeOptions {
  const char *model, *text, *file;
  bool no_special, time;
} TokenizeOptions;

static Status tokenize(const TokenizeOptions *options, bool json) {
  const char *model = options->model;
  if (!model) return status_fail(STATUS_USAGE, "tokenize: --model MODEL is missing: a GGUF file or a Hugging Face folder");
  Buffer text = {0};
  Tokenizer *tokenizer = NULL;
  TokenList ids = {0};
  Status status = read_text(&text, options->text, options->file);
  buffer_reserve(&text, 1);
  if (status == STATUS_OK) status = tokenizer_open(&tokenizer, model);
  int flags = options->no_special ? 0 : TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL;
  if (status == STATUS_OK && options->time) {
    status = print_times(tokenizer, &text, flags);
  } else if (status == STATUS_OK) {
    status = tokenizer_encode(&ids, tokenizer, text.data, text.length, flags);
    if (status == STATUS_OK) print_ids(tokenizer, &ids, json);
  }
  token_list_release(&ids);
  tokenizer_free(tokenizer);
  buffer_release(&text);
  return status;
}

Status command_tokenize(int argc, char **argv) {
  TokenizeOptions given = {0};
  const Option options[] = {
      {.name = "model",
       .kind = OPTION_STRING,
       .value = &given.model,
       .argument = "MODEL",
       .help = "a GGUF file (a vocabulary alone will do) or a folder"},
      {.name = "text", .kind = OPTION_STRING, .value = &given.text, .argument = "S", .help = "the text"},
      {.name = "file",
       .kind = OPTION_STRING,
       .value = &given.file,
       .argument = "F",
       .help = "a file whose bytes are the text, just as they are"},
      {.name = "no-special",
       .kind = OPTION_FLAG,
       .value = &given.no_special,
       .help = "add no BOS or EOS, and read control tokens in the text as plain text"},
      {.name = "time",
       .kind = OPTION_FLAG,
       .value = &given.time,
       .help = "print how long the text took as a whole and line by line, as JSON, instead of the ids"},
  };
  const CommandLine line = {
      .name = "tokenize",
      .usage = "--model MODEL (--text S | --file F) [--no-special] [--time]",
      .summary = "Prints the token ids of a text on one line; with --json also the tokens as they stand in the vocabulary.",
      .options = options,
      .option_count = sizeof options / sizeof options[0]};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) status = tokenize(&given, arguments.json);
  arguments_release(&arguments);
  return status;
}
