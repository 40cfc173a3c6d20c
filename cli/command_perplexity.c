// `lora perplexity`: how well a model foretells a text, by llama.cpp's method.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "cli/command.h"
#include "cli/loaded_model.h"
#include "cli/model_options.h"
#include "core/file.h"
#include "core/log.h"
#include "eval/perplexity.h"

typedef struct PerplexityCommand {
  const char *model, *text;
  ArgumentList adapters;
  int64_t context;
} PerplexityCommand;

static void print_result(const Perplexity *result, int64_t context, double seconds, bool json) {
  log_info("%" PRId64 " chunks of %" PRId64 " tokens (%.1f tokens a second)", result->chunks, context,
           seconds > 0 ? (double)(result->chunks * context) / seconds : 0);
  if (!json) {
    printf("perplexity %.4f over %" PRId64 " tokens\n", perplexity_value(result), result->tokens);
    return;
  }
  json_t *object =
      json_pack("{s:f, s:f, s:I, s:I, s:I}", "perplexity", perplexity_value(result), "nll", result->nll / (double)result->tokens, "tokens",
                (json_int_t)result->tokens, "chunks", (json_int_t)result->chunks, "context", (json_int_t)context);
  json_dumpf(object, stdout, JSON_COMPACT);
  printf("\n");
  json_decref(object);
}

static Status measure(const PerplexityCommand *command, const LoadedModel *loaded, const FileMap *text, bool json) {
  const Model *model = loaded->model;
  if (command->context > model->config.context_length)
    return status_fail(STATUS_USAGE, "perplexity: --context %" PRId64 " is more than the %" PRId64 " tokens that %s was made for",
                       command->context, model->config.context_length, model->path);
  TokenList ids = {0};
  Perplexity result;
  double start = time_seconds();
  Status status = perplexity_encode(&ids, loaded->tokenizer, (const char *)text->data, text->size);
  int32_t bos = tokenizer_adds_bos(loaded->tokenizer) ? tokenizer_bos(loaded->tokenizer) : -1;
  if (status == STATUS_OK)
    status = status_context(perplexity_measure(&result, model, ids.ids, ids.count, command->context, bos), "%s", command->text);
  if (status == STATUS_OK) print_result(&result, command->context, time_seconds() - start, json);
  token_list_release(&ids);
  return status;
}

static Status run(const PerplexityCommand *command, const Arguments *arguments) {
  if (!command->text) return status_fail(STATUS_USAGE, "perplexity: --text FILE is missing");
  LoadedModel loaded = {0};
  FileMap text;  // the bytes as they are: file_read would unpack a gzip file
  TRY(file_map(&text, command->text));
  Status status = loaded_model_open(&loaded, "perplexity", command->model, &command->adapters, arguments);
  if (status == STATUS_OK) status = measure(command, &loaded, &text, arguments->json);
  loaded_model_release(&loaded);
  file_unmap(&text);
  return status;
}

Status command_perplexity(int argc, char **argv) {
  PerplexityCommand command = {.context = 512};
  const Option options[] = {
      model_option(&command.model),
      adapter_option(&command.adapters),
      {.name = "text", .kind = OPTION_STRING, .value = &command.text, .argument = "FILE", .help = "the text, as it is"},
      {.name = "context",
       .kind = OPTION_INTEGER,
       .value = &command.context,
       .argument = "N",
       .help = "tokens of a chunk (default: 512); results at different contexts do not compare",
       .min = 4,
       .max = 1e9},
  };
  const CommandLine line = {
      .name = "perplexity",
      .usage = "--model MODEL [--adapter A[:SCALE]]... --text FILE [--context N]",
      .summary =
          "Measures the perplexity of a text by llama.cpp's method: chunks of the context, BOS first where the model\n"
          "adds one, the second half of each counted.",
      .options = options,
      .option_count = sizeof options / sizeof options[0]};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) status = run(&command, &arguments);
  free(command.adapters.items);
  arguments_release(&arguments);
  return status;
}
