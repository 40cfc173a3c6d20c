// The fixture of tests that need rows: its recipe trains the tiny model, which is never loaded.
#include "tests/support/data.h"

#include "core/file.h"
#include "core/log.h"
#include "tests/support/test.h"

void data_test_write(const DataTest *test, const char *name, const char *text) {
  char *path = path_join(test->folder, name);
  assert_ok(file_write_whole(path, text, strlen(text)));
  free(path);
}

void data_test_start(DataTest *test, const char *rows, const char *dataset, const char *top) {
  *test = (DataTest){.folder = temporary_folder()};
  log_set_quiet(true);
  data_test_write(test, "rows.jsonl", rows);
  test->text = memory_format(
      "base_model: %s/data/tiny-hf\nlearning_rate: 1e-4\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\nadapter: lora\nlora_r: 4\n"
      "lora_alpha: 8\nlora_target_linear: true\ndatasets:\n  - path: %s/rows.jsonl\n%s%s",
      TESTS_DIR, test->folder, dataset, top);
  Status status = recipe_parse(&test->recipe, "recipe.yml", test->text, strlen(test->text), NULL, 0);
  assert_ok(status);
}

Status data_test_prepare(DataTest *test) {
  if (!test->tokenizer) assert_ok(dataset_open_tokenizer(&test->tokenizer, &test->recipe));
  row_set_release(&test->train);
  row_set_release(&test->evaluation);
  return dataset_prepare(&test->train, &test->evaluation, &test->recipe, test->tokenizer, NULL);
}

void data_test_end(DataTest *test) {
  row_set_release(&test->train);
  row_set_release(&test->evaluation);
  tokenizer_free(test->tokenizer);
  recipe_release(&test->recipe);
  assert_ok(directory_remove(test->folder));
  free(test->folder);
  free(test->text);
}
