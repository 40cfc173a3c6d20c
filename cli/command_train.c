// `lora train`: runs a recipe.
#include <signal.h>
#include <stdlib.h>

#include "adapters/merge.h"
#include "cli/command.h"
#include "cli/hub_files.h"
#include "cli/merge_job.h"
#include "core/file.h"
#include "core/log.h"
#include "kernels/backend.h"
#include "parallel/group.h"
#include "recipes/recipe.h"
#include "trainer/train.h"

static volatile int caught_signal;

// The first signal asks for a checkpoint after the present step; a second one ends the process at once.
static void catch_signal(int number) {
  caught_signal = number;
  signal(number, SIG_DFL);
}

// The types of `export`, before hours are spent on what cannot be written.
static Status check_export(const Recipe *recipe) {
  for (int i = 0; i < recipe->export_gguf.count; i++) {
    const Quantization *type;
    if (quantization_parse(&type, recipe->export_gguf.items[i]) != STATUS_OK)
      return recipe_fail(recipe, STATUS_USAGE, "export", "%s", status_message());
  }
  return STATUS_OK;
}

// Of a run that trained all of the model, output_dir is the model.
static Status merge_into(const Recipe *recipe, const char *name, const char *type, const Arguments *arguments) {
  char *output = path_join(recipe->output_dir, name);
  const char *adapter = recipe->output_dir;
  MergeJob job = {.model = recipe->adapter ? recipe->base_model : recipe->output_dir,
                  .output = output,
                  .type_name = type,
                  .adapters = {.items = &adapter, .count = recipe->adapter != NULL},
                  .max_kl = -1,
                  .arguments = arguments};
  Status status = merge_job_run(&job);
  free(output);
  return status;
}

// Where no GGUF adapter can hold what was trained, the base with all of it. What was trained is saved by now: no reason to fail.
static void merge_unless_adapter(const Recipe *recipe, const Arguments *arguments) {
  char *path = path_join(recipe->output_dir, "adapter.gguf");
  if (recipe->adapter && !file_exists(path) && merge_into(recipe, "merged.gguf", "same", arguments) != STATUS_OK)
    log_warning("merged.gguf was not written: %s", status_message());
  free(path);
}

// What `export` asks for: output_dir/merged-TYPE.gguf, and output_dir/merged/ as a Hugging Face folder.
static Status export_merged(const Recipe *recipe, const Arguments *arguments) {
  Status status = STATUS_OK;
  merge_unless_adapter(recipe, arguments);
  for (int i = 0; status == STATUS_OK && i < recipe->export_gguf.count; i++) {
    char *name = memory_format("merged-%s.gguf", recipe->export_gguf.items[i]);
    status = merge_into(recipe, name, recipe->export_gguf.items[i], arguments);
    free(name);
  }
  if (status == STATUS_OK && recipe->export_merge && recipe->adapter) status = merge_into(recipe, "merged", "same", arguments);
  return status;
}

static Status fetch(void *context) { return recipe_fetch(context, RECIPE_ALL); }

// What has to be the same on every rank, for the ranks of one run do the same steps. (Kernels of another instruction set give other bits.)
static Status compare_ranks(const Recipe *recipe, const Backend *backend, Group *group) {
  TRY(group_compare("version of lora", LORA_VERSION, group));
  TRY(group_compare("instruction set (LORA_CPU)", backend->kernels->name, group));
  return group_compare("recipe", recipe->resolved, group);
}

static Status train_and_export(Recipe *recipe, TrainOptions options, Backend *backend, const Arguments *arguments, Group *group) {
  bool is_first = group_is_first(group);
  signal(SIGINT, catch_signal);
  signal(SIGTERM, catch_signal);
  signal(SIGUSR1, catch_signal);  // which mpirun passes on without ending the ranks soon after
  TRY(group_join_devices(backend, group));
  TRY(compare_ranks(recipe, backend, group));
  TRY(train(recipe, options, backend, group));
  return is_first ? export_merged(recipe, arguments) : STATUS_OK;
}

static Status run(Recipe *recipe, TrainOptions options, const Arguments *arguments, Group *group) {
  Backend *backend;
  char *device;
  group->timeout = (double)recipe->ddp_timeout;
  TRY(check_export(recipe));
  TRY(recipe_check_trainable(recipe));  // before anything large is downloaded for it
  TRY(group_in_turns(fetch, recipe, "what is downloaded", group));
  group_share_processors(group);
  TRY(group_device(&device, recipe->device, group));
  Status status = backend_new(&backend, device, (int)arguments->threads);
  free(device);
  if (status != STATUS_OK) return status;
  status = train_and_export(recipe, options, backend, arguments, group);
  // Before the device is closed, which might wait for ranks that know nothing of it yet.
  if (status != STATUS_OK) group_abort(group, status);
  backend_free(backend);
  return status;
}

static Status load_and_run(TrainOptions options, const Arguments *arguments) {
  Group group;
  Recipe recipe;
  TRY(group_open(&group));
  Status status = recipe_load(&recipe, arguments->positional.items[0], arguments->overrides, arguments->override_count);
  if (status == STATUS_OK) status = run(&recipe, options, arguments, &group);
  if (status != STATUS_OK) group_abort(&group, status);
  recipe_release(&recipe);
  return status;
}

Status command_train(int argc, char **argv) {
  TrainOptions train_options = {.signal = &caught_signal};
  const Option options[] = {
      {"resume", OPTION_OPTIONAL_STRING, &train_options.resume, "CHECKPOINT",
       "go on from this checkpoint folder, or from the newest whole one in output_dir"},
      {"profile", OPTION_FLAG, &train_options.profile, NULL, "at the end, print time by operation and memory by purpose"},
  };
  const CommandLine line = {.name = "train",
                            .usage = "RECIPE [--key value ...] [--resume [CHECKPOINT]] [--profile]",
                            .summary = "Trains what the recipe says. Any recipe key can be overridden, nested ones with dots.",
                            .options = options,
                            .option_count = 2,
                            .min_positional = 1,
                            .max_positional = 1,
                            .positional = "RECIPE",
                            .takes_overrides = true};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) status = load_and_run(train_options, &arguments);
  arguments_release(&arguments);
  return status;
}
