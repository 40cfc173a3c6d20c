// `lora imatrix`: an importance matrix of a model over a text.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <jansson.h>

#include "cli/command.h"
#include "cli/loaded_model.h"
#include "cli/model_options.h"
#include "core/file.h"
#include "core/log.h"
#include "eval/importance.h"
#include "eval/perplexity.h"

typedef struct ImatrixCommand {
  const char *model, *text, *output;
  int64_t context, chunks;
} ImatrixCommand;

static void print_result(const ImatrixCommand *command, const Importance *importance, bool json) {
  if (!json) {
    printf("%s: %" PRId64 " matrices over %" PRId64 " chunks of %" PRId64 " tokens\n", command->output, importance->count,
           importance->chunks, command->context);
    return;
  }
  json_t *object = json_pack("{s:s, s:I, s:I, s:I}", "output", command->output, "matrices", (json_int_t)importance->count, "chunks",
                             (json_int_t)importance->chunks, "context", (json_int_t)command->context);
  json_dumpf(object, stdout, JSON_INDENT(2));
  printf("\n");
  json_decref(object);
}

static Status measure(const ImatrixCommand *command, const LoadedModel *loaded, const FileMap *text, bool json) {
  const Model *model = loaded->model;
  if (command->context > model->config.context_length)
    return status_fail(STATUS_USAGE, "imatrix: --context %" PRId64 " is more than the %" PRId64 " tokens that %s was made for",
                       command->context, model->config.context_length, model->path);
  TokenList ids = {0};
  Importance importance = {0};
  double start = time_seconds();
  int32_t bos = tokenizer_adds_bos(loaded->tokenizer) ? tokenizer_bos(loaded->tokenizer) : -1;
  Status status = perplexity_encode(&ids, loaded->tokenizer, (const char *)text->data, text->size);
  if (status == STATUS_OK)
    status = status_context(importance_measure(&importance, model, ids.ids, ids.count, command->context, command->chunks, bos), "%s",
                            command->text);
  if (status == STATUS_OK)
    status = imatrix_write(command->output, importance.entries, importance.count,
                           (ImatrixText){command->text, importance.chunks, command->context});
  if (status == STATUS_OK) {
    log_info("%" PRId64 " chunks (%.1f tokens a second)", importance.chunks,
             (double)(importance.chunks * command->context) / (time_seconds() - start));
    print_result(command, &importance, json);
  }
  importance_release(&importance);
  token_list_release(&ids);
  return status;
}

static Status check(const ImatrixCommand *command) {
  if (!command->text || !command->output)
    return status_fail(STATUS_USAGE, "imatrix: --%s FILE is missing", command->text ? "output" : "text");
  const char *inputs[] = {command->text, command->model};
  struct stat input, output;
  for (int i = 0; i < 2; i++)
    if (inputs[i] && stat(inputs[i], &input) == 0 && stat(command->output, &output) == 0 && input.st_dev == output.st_dev &&
        input.st_ino == output.st_ino)
      return status_fail(STATUS_USAGE, "--output %s: this is what is read; name another", command->output);
  return STATUS_OK;
}

static Status run(const ImatrixCommand *command, const Arguments *arguments) {
  TRY(check(command));
  LoadedModel loaded = {0};
  FileMap text;  // the bytes as they are: file_read would unpack a gzip file
  const ArgumentList none = {0};
  TRY(file_map(&text, command->text));
  Status status = loaded_model_open(&loaded, "imatrix", command->model, &none, arguments);
  if (status == STATUS_OK) status = measure(command, &loaded, &text, arguments->json);
  loaded_model_release(&loaded);
  file_unmap(&text);
  return status;
}

Status command_imatrix(int argc, char **argv) {
  ImatrixCommand command = {.context = 512};
  const Option options[] = {
      model_option(&command.model),
      {.name = "text", .kind = OPTION_STRING, .value = &command.text, .argument = "FILE", .help = "the text, as it is"},
      {.name = "output", .kind = OPTION_STRING, .value = &command.output, .argument = "FILE", .help = "the matrix, a GGUF file"},
      {.name = "context",
       .kind = OPTION_INTEGER,
       .value = &command.context,
       .argument = "N",
       .help = "tokens of a chunk (default: 512)",
       .min = 4,
       .max = 1e9},
      {.name = "chunks",
       .kind = OPTION_INTEGER,
       .value = &command.chunks,
       .argument = "N",
       .help = "how many chunks at most (default: the whole text)",
       .min = 1,
       .max = 1e9},
  };
  const CommandLine line = {
      .name = "imatrix",
      .usage = "--model MODEL --text FILE --output FILE [--context N] [--chunks N]",
      .summary =
          "Measures, over a text, the mean squared activation of each column of the model's matrices, and writes it in\n"
          "llama.cpp's format: `lora quantize --imatrix` weighs errors by it.",
      .options = options,
      .option_count = sizeof options / sizeof options[0]};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) status = run(&command, &arguments);
  arguments_release(&arguments);
  return status;
}
