// One list of what a recipe names, walked for fetching and for looking.
#include "cli/hub_files.h"

#include <stdlib.h>

#include "core/file.h"
#include "data/source/dataset_paths.h"
#include "hub/names.h"

// A value of the recipe that names files.
typedef struct Wanted {
  char **value;
  HubKind kind;
  const char *revision;
  DatasetRecipe *dataset;  // NULL: none
} Wanted;

static bool is_there(const char *path) { return file_exists(path) || directory_exists(path); }

// A dataset may also be named beside the recipe, by a pattern, or by its data_files alone.
static bool is_on_disk(const Recipe *recipe, const Wanted *wanted) {
  return wanted->dataset ? dataset_is_on_disk(wanted->dataset, recipe) : is_there(*wanted->value);
}

// Which of the snapshot's files the dataset is: what the Hub's rules chose, since the snapshot may hold others.
static void set_data_files(Recipe *recipe, DatasetRecipe *dataset, const HubNames *names) {
  dataset->data_files = (StringList){arena_new(&recipe->arena, (size_t)names->count + 1, sizeof(char *)), names->count};
  for (int i = 0; i < names->count; i++) dataset->data_files.items[i] = arena_copy_string(&recipe->arena, names->items[i]);
}

// Puts the path in place of the id; does nothing to what is on this disk, or cannot be an id.
static Status resolve(Recipe *recipe, const Wanted *wanted, bool cache_only) {
  const char *given = *wanted->value;
  if (is_on_disk(recipe, wanted) || !hub_is_id(given)) return STATUS_OK;
  HubRequest request = {.kind = wanted->kind, .id = given, .revision = wanted->revision, .cache_only = cache_only};
  if (wanted->dataset) {
    request.patterns = (const char *const *)wanted->dataset->data_files.items;
    request.pattern_count = wanted->dataset->data_files.count;
    request.subset = wanted->dataset->name;
    request.split = wanted->dataset->split;
  }
  char *path;
  HubNames names;
  Status status = hub_resolve_files(&path, &names, &request);
  if (status == STATUS_OK) {
    *wanted->value = arena_copy_string(&recipe->arena, path);
    if (wanted->dataset) set_data_files(recipe, wanted->dataset, &names);
    hub_names_release(&names);
    free(path);
    return STATUS_OK;
  }
  return status_context(status, "there is no file or folder \"%s\" on this disk, and as an id of the Hub", given);
}

// Over all that a recipe names: to fetch it, or, with `missing`, to look for it.
typedef struct Walk {
  Recipe *recipe;
  int files;  // RecipeFiles
  MissingFunction missing;  // NULL: fetch, and stop at the first failure
  void *argument;
} Walk;

static Status look(const Recipe *recipe, const Wanted *wanted) {
  if (wanted->dataset) {
    PathList paths;
    TRY(dataset_paths(&paths, wanted->dataset, recipe));
    path_list_release(&paths);
    return STATUS_OK;
  }
  if (is_there(*wanted->value)) return STATUS_OK;
  return status_fail(STATUS_USAGE, "there is no file or folder \"%s\"; correct the path", *wanted->value);
}

static Status visit(const Walk *walk, const char *key, const Wanted *wanted) {
  if (!*wanted->value && !wanted->dataset) return STATUS_OK;
  Status status = *wanted->value ? resolve(walk->recipe, wanted, walk->missing != NULL) : STATUS_OK;
  if (!walk->missing) return status == STATUS_OK ? status : recipe_fail(walk->recipe, status, key, "%s", status_message());
  if (status == STATUS_OK) status = look(walk->recipe, wanted);
  if (status != STATUS_OK) {
    char *message = memory_copy_string(status_message());
    walk->missing(walk->argument, key, message);
    free(message);
  }
  return STATUS_OK;
}

static Status visit_dataset(const Walk *walk, const char *key, DatasetRecipe *dataset) {
  char *given = dataset->path;
  Status status =
      visit(walk, key, &(Wanted){.value = &dataset->path, .kind = HUB_DATASET, .revision = dataset->revision, .dataset = dataset});
  if (dataset->path != given) dataset->hub_id = given;
  return status;
}

static Status visit_datasets(const Walk *walk, const char *list, DatasetRecipe *datasets, int count) {
  Status status = STATUS_OK;
  for (int i = 0; i < count && status == STATUS_OK; i++) {
    char *key = memory_format("%s.%d.path", list, i);
    status = visit_dataset(walk, key, &datasets[i]);
    free(key);
  }
  return status;
}

static Status visit_model(const Walk *walk) {
  Recipe *recipe = walk->recipe;
  bool weights = walk->files & RECIPE_MODEL, tokenizer = walk->files & RECIPE_TOKENIZER;
  char *given = recipe->base_model;
  Wanted model = {.value = &recipe->base_model, .kind = weights ? HUB_MODEL : HUB_TOKENIZER, .revision = recipe->revision_of_model};
  if (weights || (tokenizer && !recipe->tokenizer_config)) TRY(visit(walk, "base_model", &model));
  if (recipe->base_model != given) recipe->base_model_id = given;
  if (tokenizer) TRY(visit(walk, "tokenizer_config", &(Wanted){.value = &recipe->tokenizer_config, .kind = HUB_TOKENIZER}));
  if (weights) TRY(visit(walk, "lora_model_dir", &(Wanted){.value = &recipe->lora_model_dir, .kind = HUB_ADAPTER}));
  return STATUS_OK;
}

static Status walk_files(const Walk *walk) {
  Recipe *recipe = walk->recipe;
  TRY(visit_model(walk));
  if (!(walk->files & RECIPE_DATA)) return STATUS_OK;
  TRY(visit_datasets(walk, "datasets", recipe->datasets, recipe->dataset_count));
  if (recipe->has_pretraining) TRY(visit_dataset(walk, "pretraining_dataset", &recipe->pretraining));
  return visit_datasets(walk, "test_datasets", recipe->test_datasets, recipe->test_dataset_count);
}

Status recipe_fetch(Recipe *recipe, int files) { return walk_files(&(Walk){.recipe = recipe, .files = files}); }

void recipe_look_for_files(Recipe *recipe, MissingFunction missing, void *argument) {
  walk_files(&(Walk){.recipe = recipe, .files = RECIPE_ALL, .missing = missing, .argument = argument});
}

Status hub_argument_path(char **path, const char *option, const char *given, HubKind kind) {
  if (is_there(given) || !hub_is_id(given)) {
    *path = memory_copy_string(given);
    return STATUS_OK;
  }
  Status status = hub_resolve(path, &(HubRequest){.kind = kind, .id = given});
  return status_context(status, "%s %s: there is no such file or folder on this disk, and as an id of the Hub", option, given);
}
