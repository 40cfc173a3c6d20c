// `lora validate`: says what stands against recipes, without a model or data; with --files, whether the files that
// they name are there too.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/command.h"
#include "cli/hub_files.h"
#include "cli/options.h"
#include "core/file.h"
#include "core/memory.h"
#include "recipes/recipe.h"

// What is found missing on this disk, as lines for people and as entries for programs.
typedef struct Missing {
  const Recipe *recipe;
  Buffer lines;
  json_t *entries;
} Missing;

static json_t *entry_new(RecipePosition at, const char *key, const char *message) {
  return json_pack("{s:i, s:i, s:s, s:s}", "line", at.line, "column", at.column, "key", key, "message", message);
}

static void add_missing(void *argument, const char *key, const char *message) {
  Missing *missing = argument;
  recipe_fail(missing->recipe, STATUS_USAGE, key, "%s", message);
  buffer_format(&missing->lines, "%s%s", missing->lines.length ? "\n" : "", status_message());
  json_array_append_new(missing->entries, entry_new(recipe_position(missing->recipe, key), key, message));
}

static Status check_files(Recipe *recipe, json_t *entries) {
  Missing missing = {.recipe = recipe, .entries = entries};
  recipe_look_for_files(recipe, add_missing, &missing);
  Status status = missing.lines.length ? status_fail(STATUS_USAGE, "%s", missing.lines.data) : STATUS_OK;
  buffer_release(&missing.lines);
  return status;
}

// Of a file that is no YAML or cannot be read, the message is all there is: "PATH:LINE:COLUMN: text", or text.
static json_t *entry_of_message(const Recipe *recipe, const char *message) {
  RecipePosition at = {0, 0};
  size_t length = recipe->path ? strlen(recipe->path) : 0;
  int used = 0;
  if (length && strncmp(message, recipe->path, length) == 0 && sscanf(message + length, ":%d:%d: %n", &at.line, &at.column, &used) == 2)
    message += length + (size_t)used;
  return entry_new(at, "", message);
}

// One recipe's result: {"file", "valid", "message", "problems": [{line, column, key, message}], "notices": [...]};
// `missing` (its reference is taken) has the problems that --files found.
static json_t *describe(const char *path, const Recipe *recipe, Status status, json_t *missing) {
  json_t *problems = missing, *notices = json_array();
  for (int i = 0; i < recipe->remark_count; i++) {
    const RecipeRemark *remark = &recipe->remarks[i];
    json_array_append_new(remark->is_notice ? notices : problems, entry_new(remark->position, remark->key, remark->message));
  }
  const char *message = status == STATUS_OK ? "" : status_message();
  if (status != STATUS_OK && json_array_size(problems) == 0) json_array_append_new(problems, entry_of_message(recipe, message));
  return json_pack("{s:s, s:b, s:s, s:o, s:o}", "file", path, "valid", status == STATUS_OK, "message", message, "problems", problems,
                   "notices", notices);
}

static void print_result(const char *path, const Recipe *recipe, Status status) {
  if (status != STATUS_OK) printf("%s\n", status_message());
  else if (!recipe->adapter) printf("%s: valid\n", path);
  else printf("%s: valid: %s, rank %lld\n", path, recipe->adapter, (long long)recipe->lora_r);
}

static Status validate_all(const Arguments *arguments, bool files) {
  int refused = 0;
  json_t *results = arguments->json ? json_array() : NULL;
  for (int i = 0; i < arguments->positional.count; i++) {
    const char *path = arguments->positional.items[i];
    Recipe recipe;
    Status status = recipe_load(&recipe, path, arguments->overrides, arguments->override_count);
    json_t *missing = json_array();
    if (status == STATUS_OK && files) status = check_files(&recipe, missing);
    if (status != STATUS_OK) refused++;
    if (results) json_array_append_new(results, describe(path, &recipe, status, json_incref(missing)));
    else print_result(path, &recipe, status);
    json_decref(missing);
    recipe_release(&recipe);
  }
  if (results) {
    json_dumpf(results, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(results);
  }
  if (refused == 0) return STATUS_OK;
  return status_fail(STATUS_USAGE, "%d of %d recipes refused", refused, arguments->positional.count);
}

static Status print_reference(void) {
  Buffer text = {0};
  recipe_print_reference(&text);
  fwrite(text.data, 1, text.length, stdout);
  buffer_release(&text);
  return STATUS_OK;
}

Status command_validate(int argc, char **argv) {
  bool files = false, reference = false;
  const Option options[] = {
      {.name = "files",
       .kind = OPTION_FLAG,
       .value = &files,
       .help = "look for the model, the adapter and the datasets too, on this disk and in the Hub's cache"},
      {.name = "reference", .kind = OPTION_FLAG, .value = &reference, .help = "print docs/recipes.md: every key of a recipe"},
  };
  const CommandLine line = {
      .name = "validate",
      .usage = "RECIPE... [options] [--KEY VALUE...]",
      .summary =
          "Checks recipes: every key, its type and range, and the keys against each other. Exit code 0: nothing stands\n"
          "against them; 2: refused, a line a problem: FILE:LINE:COL: key: what is wrong, and what to do. RECIPE - is standard input.",
      .options = options,
      .option_count = sizeof options / sizeof options[0],
      .max_positional = -1,
      .positional = "RECIPE",
      .takes_overrides = true};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) {
    if (reference) status = print_reference();
    else if (arguments.positional.count == 0)
      status = status_fail(STATUS_USAGE, "validate: RECIPE is missing; usage: lora validate %s", line.usage);
    else status = validate_all(&arguments, files);
  }
  arguments_release(&arguments);
  return status;
}
