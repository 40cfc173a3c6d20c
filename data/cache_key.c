// What prepared rows depend on, as one hash.
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "data/cache.h"
#include "data/dataset.h"
#include "data/source/dataset_paths.h"

static Status add_files(Buffer *text, const DatasetRecipe *datasets, int count, const Recipe *recipe) {
  for (int d = 0; d < count; d++) {
    PathList paths;
    TRY(dataset_paths(&paths, &datasets[d], recipe));
    Status status = STATUS_OK;
    for (int64_t i = 0; i < paths.count && status == STATUS_OK; i++) {
      char hex[65];
      status = sha256_file(hex, paths.items[i].path);
      buffer_format(text, "%d %s %s\n", d, paths.items[i].path, hex);
    }
    path_list_release(&paths);
    TRY(status);
  }
  return STATUS_OK;
}

// A template may stand in a file that the recipe only names.
static Status add_template(Buffer *text, const char *jinja) {
  char hex[65];
  if (!jinja || strchr(jinja, '\n') || !file_exists(jinja)) return STATUS_OK;
  TRY(sha256_file(hex, jinja));
  buffer_format(text, "template %s\n", hex);
  return STATUS_OK;
}

// Another build may make other rows of the same files.
static void add_program(Buffer *text) {
  char hex[65];
  bool known = sha256_file(hex, "/proc/self/exe") == STATUS_OK;
  buffer_format(text, "lora.c %s %s\n", LORA_VERSION, known ? hex : "");
}

static Status describe(Buffer *text, const Recipe *recipe, bool skip_bad_rows) {
  add_program(text);
  buffer_format(text, "bad rows %s\n", skip_bad_rows ? "skipped" : "refused");
  recipe_write_row_settings(text, recipe);
  if (dataset_needs_tokenizer(recipe)) {
    char hex[65];
    TRY(tokenizer_fingerprint(hex, dataset_tokenizer_path(recipe)));
    buffer_format(text, "vocabulary %s\n", hex);
  }
  TRY(add_template(text, recipe->chat_template_jinja));
  for (int d = 0; d < recipe->dataset_count; d++) TRY(add_template(text, recipe->datasets[d].chat_template_jinja));
  for (int d = 0; d < recipe->test_dataset_count; d++) TRY(add_template(text, recipe->test_datasets[d].chat_template_jinja));
  TRY(add_files(text, recipe->datasets, recipe->dataset_count, recipe));
  return add_files(text, recipe->test_datasets, recipe->test_dataset_count, recipe);
}

Status cache_key(char key[65], const Recipe *recipe, bool skip_bad_rows) {
  Buffer text = {0};
  Status status = describe(&text, recipe, skip_bad_rows);
  if (status == STATUS_OK) sha256_bytes(key, text.data, text.length);
  buffer_release(&text);
  return status;
}
