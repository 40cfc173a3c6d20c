// `lora merge`: adapters into their base's weights, and how far the written file is from what was merged.
#include <stdlib.h>

#include "adapters/quantization.h"
#include "cli/command.h"
#include "cli/merge_job.h"
#include "cli/model_options.h"

Status command_merge(int argc, char **argv) {
  MergeJob job = {.type_name = "same", .max_kl = -1};
  char *names = quantization_names(), *type_help = memory_format("%s: the base's own (default)", names);
  const Option options[] = {
      model_option(&job.model),
      adapter_option(&job.adapters),
      {.name = "output",
       .kind = OPTION_STRING,
       .value = &job.output,
       .argument = "OUT",
       .help = "a file that ends in .gguf, else a Hugging Face folder"},
      {.name = "type", .kind = OPTION_STRING, .value = &job.type_name, .argument = "T", .help = type_help},
      {.name = "text",
       .kind = OPTION_STRING,
       .value = &job.text,
       .argument = "FILE",
       .help = "measure on this text (default: the training data)"},
      {.name = "max-kl",
       .kind = OPTION_FLOAT,
       .value = &job.max_kl,
       .argument = "X",
       .help = "fail when the mean KL divergence is above X nats",
       .min = 0,
       .max = 1e9},
  };
  const CommandLine line = {
      .name = "merge",
      .usage = "--model MODEL --adapter A[:scale]... --output X.gguf|FOLDER [--type T]",
      .summary =
          "Writes the model with its adapters merged into the weights, then measures, on at most 4096 tokens, the mean KL\n"
          "divergence from base + adapter to the file that it wrote.",
      .options = options,
      .option_count = sizeof options / sizeof options[0]};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) {
    job.arguments = &arguments;
    if (!job.model || !job.output || job.adapters.count == 0)
      status = status_fail(STATUS_USAGE, "merge: %s is missing; usage: lora merge %s",
                           !job.model    ? "--model"
                           : !job.output ? "--output"
                                         : "--adapter",
                           line.usage);
    else status = merge_job_run(&job);
  }
  free(job.adapters.items);
  free(type_help);
  free(names);
  arguments_release(&arguments);
  return status;
}
