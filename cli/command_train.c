// `lora train`: runs a recipe.
#include <signal.h>

#include "cli/command.h"
#include "cli/options.h"
#include "core/log.h"
#include "kernels/backend.h"
#include "recipes/recipe.h"
#include "trainer/train.h"

static volatile int caught_signal;

// The first signal asks for a checkpoint after the present step; a second one ends the process at once.
static void catch_signal(int number) {
  caught_signal = number;
  signal(number, SIG_DFL);
}

static Status run(const Recipe *recipe, const char *resume, const Arguments *arguments) {
  Backend *backend;
  TRY(backend_new(&backend, recipe->device, (int)arguments->threads));
  signal(SIGINT, catch_signal);
  signal(SIGTERM, catch_signal);
  Status status = train(recipe, (TrainOptions){.resume = resume, .signal = &caught_signal}, backend);
  backend_free(backend);
  return status;
}

Status command_train(int argc, char **argv) {
  const char *resume = NULL;
  const Option options[] = {
      {"resume", OPTION_OPTIONAL_STRING, &resume, "CHECKPOINT",
       "go on from this checkpoint folder, or from the newest whole one in output_dir"},
  };
  const CommandLine line = {.name = "train",
                            .usage = "RECIPE [--key value ...] [--resume [CHECKPOINT]]",
                            .summary = "Trains what the recipe says. Any recipe key can be overridden, nested ones with dots.",
                            .options = options,
                            .option_count = 1,
                            .min_positional = 1,
                            .max_positional = 1,
                            .positional = "RECIPE",
                            .takes_overrides = true};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) {
    Recipe recipe;
    status = recipe_load(&recipe, arguments.positional.items[0], arguments.overrides, arguments.override_count);
    if (status == STATUS_OK) status = run(&recipe, resume, &arguments);
    recipe_release(&recipe);
  }
  arguments_release(&arguments);
  return status;
}
