// `lora inspect`: what a file or folder holds, and what is wrong with it.
#include "cli/command.h"
#include "cli/options.h"
#include "inspect/inspect.h"

static Status run(const char *path, InspectOptions options, const Arguments *arguments) {
  Backend *backend;
  TRY(backend_new(&backend, NULL, (int)arguments->threads));
  Status status = inspect(path, options, backend);
  backend_free(backend);
  return status;
}

Status command_inspect(int argc, char **argv) {
  bool tensors = false, no_statistics = false;
  const Option options[] = {
      {.name = "tensors", .kind = OPTION_FLAG, .value = &tensors, .help = "list every tensor with its type, shape, size and statistics"},
      {.name = "no-statistics",
       .kind = OPTION_FLAG,
       .value = &no_statistics,
       .help = "read no values: quick with large files, but NaN, zeros and norms are not seen"},
  };
  const CommandLine line = {
      .name = "inspect",
      .usage = "FILE|FOLDER [--tensors] [--no-statistics] [--json]",
      .summary =
          "Shows what is in a GGUF or safetensors file, the folder of a model or an adapter, a checkpoint or the output of a run:\n"
          "metadata, types and sizes, the values' statistics, and problems. The exit code is 2 when there is a problem.",
      .options = options,
      .option_count = sizeof options / sizeof options[0],
      .min_positional = 1,
      .max_positional = 1,
      .positional = "FILE or FOLDER"};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) {
    InspectOptions wanted = {.statistics = !no_statistics, .json = arguments.json, .tensors = tensors};
    status = run(arguments.positional.items[0], wanted, &arguments);
  }
  arguments_release(&arguments);
  return status;
}
