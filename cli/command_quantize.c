// `lora quantize`: a model in another type, by the way that `lora merge` writes it, without adapters.
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "adapters/merge.h"
#include "cli/command.h"
#include "cli/hub_files.h"
#include "cli/options.h"
#include "core/log.h"
#include "core/text.h"

typedef struct QuantizeCommand {
  const char *in, *out, *type, *importance;
} QuantizeCommand;

static void print_result(const QuantizeCommand *command, const MergeReport *report, double seconds, bool json) {
  double bits = 8 * (double)report->bytes / (double)report->weights;
  if (json) {
    json_t *result =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:f}", "output", command->out, "type", command->type, "main_type",
                  block_traits(report->main_type)->name, "tensors", (json_int_t)report->tensors, "bytes_before",
                  (json_int_t)report->base_bytes, "bytes", (json_int_t)report->bytes, "bits_per_weight", bits, "seconds", seconds);
    json_dumpf(result, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(result);
    return;
  }
  char before[32], after[32];
  printf("%s: %lld tensors, mostly %s, %s from %s, %.2f bits a weight\n", command->out, (long long)report->tensors,
         block_traits(report->main_type)->name, format_bytes(after, (double)report->bytes),
         format_bytes(before, (double)report->base_bytes), bits);
}

static Status tell_source(const Model *model, const Quantization *type) {
  BlockType base = model->linears[0]->weight.type;
  if (type && block_traits(base)->elements > 1)
    log_notice("%s is quantised already (%s): what that has rounded away stays away; a file of floats gives a better one", model->path,
               block_traits(base)->name);
  return STATUS_OK;
}

static Status quantize(const QuantizeCommand *command, const char *path, MergeOptions options, const Arguments *arguments) {
  Backend *backend;
  Model *model = NULL;
  MergeReport report;
  TRY(backend_new(&backend, NULL, (int)arguments->threads));
  double start = time_seconds();
  Status status = model_open(&model, path, (ModelOptions){0}, backend);
  if (status == STATUS_OK) status = tell_source(model, options.type);
  if (status == STATUS_OK) status = merge_write_gguf(&report, model, command->out, options);
  if (status == STATUS_OK && report.without_importance)
    log_notice("%s: %lld matrices are not in it; their columns count alike", command->importance, (long long)report.without_importance);
  if (status == STATUS_OK) print_result(command, &report, time_seconds() - start, arguments->json);
  if (model) model_close(model);
  backend_free(backend);
  return status;
}

static Status run(const QuantizeCommand *command, const Arguments *arguments) {
  MergeOptions options = {0};
  if (!command->type) return status_fail(STATUS_USAGE, "quantize: --type is missing; `lora quantize --help` lists the types");
  TRY(status_context(quantization_parse(&options.type, command->type), "--type"));
  if (!text_ends_with(command->out, ".gguf"))
    return status_fail(STATUS_USAGE, "%s: quantize writes GGUF; name a file that ends in .gguf", command->out);
  ImportanceMatrix importance = {0};
  char *path = NULL;
  Status status = STATUS_OK;
  if (command->importance) TRY_DONE(imatrix_open(&importance, command->importance));
  if (command->importance) options.importance = &importance;
  TRY_DONE(hub_argument_path(&path, "IN", command->in, HUB_MODEL));
  status = quantize(command, path, options, arguments);
done:
  free(path);
  imatrix_close(&importance);
  return status;
}

Status command_quantize(int argc, char **argv) {
  QuantizeCommand command = {0};
  char *names = quantization_names(), *type_help = memory_format("%s (the base's own)", names);
  const Option options[] = {
      {.name = "type", .kind = OPTION_STRING, .value = &command.type, .argument = "T", .help = type_help},
      {.name = "imatrix",
       .kind = OPTION_STRING,
       .value = &command.importance,
       .argument = "FILE",
       .help = "what errors count by, as `lora imatrix` or llama.cpp writes it"},
  };
  const CommandLine line = {
      .name = "quantize",
      .usage = "IN OUT.gguf --type T [--imatrix FILE]",
      .summary =
          "Writes a model, a GGUF file or a Hugging Face folder, as a GGUF file of another type. The _s, _m and _l types\n"
          "are mixes, which give more bits to the tensors that suffer most from few.",
      .options = options,
      .option_count = sizeof options / sizeof options[0],
      .min_positional = 2,
      .max_positional = 2,
      .positional = "IN and OUT.gguf"};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) {
    command.in = arguments.positional.items[0];
    command.out = arguments.positional.items[1];
    status = run(&command, &arguments);
  }
  arguments_release(&arguments);
  free(type_help);
  free(names);
  return status;
}
