// The cache of prepared rows: it gives back what was prepared, for the same contents and settings alone, and damage to it costs no more
// than the time to make it again.
#include <dirent.h>

#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "data/cache.h"
#include "data/prepared.h"
#include "formats/hdf5.h"
#include "tests/support/data.h"
#include "tests/support/test.h"

// LeakSanitizer asks for this: HDF5 itself loses some memory when it turns a damaged file away.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

static const char rows_text[] =
    "{\"instruction\": \"a\", \"output\": \"one two\"}\n{\"instruction\": \"b\", \"output\": \"x\"}\n"
    "{\"instruction\": \"c\", \"output\": \"\\u20ac and more\"}\n{\"instruction\": \"d\", \"output\": \"four\"}\n";
static const char dataset_keys[] = "    type: alpaca\n";

static void start(DataTest *test, const char *top) {
  data_test_start(test, rows_text, dataset_keys, top);
  assert_ok(dataset_open_tokenizer(&test->tokenizer, &test->recipe));
  test->recipe.dataset_prepared_path = path_join(test->folder, "prepared");
}

static void stop(DataTest *test) {
  free(test->recipe.dataset_prepared_path);
  data_test_end(test);
}

static Status load(DataTest *test, const DatasetOptions *options) {
  row_set_release(&test->train);
  row_set_release(&test->evaluation);
  return prepared_load(&test->train, &test->evaluation, &test->recipe, test->tokenizer, options);
}

static int files_in(const char *folder) {
  int count = 0;
  DIR *stream = opendir(folder);
  for (struct dirent *entry; stream && (entry = readdir(stream));) count += entry->d_name[0] != '.';
  if (stream) closedir(stream);
  return count;
}

static void assert_same_set(const RowSet *a, const RowSet *b) {
  assert_int_equal(a->count, b->count);
  for (int64_t r = 0; r < a->count; r++) {
    assert_int_equal(a->rows[r].count, b->rows[r].count);
    assert_int_equal(a->rows[r].trained, b->rows[r].trained);
    assert_memory_equal(a->rows[r].ids, b->rows[r].ids, (size_t)a->rows[r].count * sizeof(int32_t));
    assert_memory_equal(a->rows[r].labels, b->rows[r].labels, (size_t)a->rows[r].count * sizeof(int32_t));
    assert_string_equal(a->rows[r].source, b->rows[r].source);
  }
  Buffer one = {0}, other = {0};
  row_set_describe(&one, a, -1);
  row_set_describe(&other, b, -1);
  assert_string_equal(one.data, other.data);
  buffer_release(&one), buffer_release(&other);
}

static void rows_from_the_cache_are_those_that_were_prepared(void **state) {
  (void)state;
  DataTest test;
  RowSet train, evaluation;
  start(&test, "sequence_len: 100\nmin_sample_len: 92\nval_set_size: 0.3\n");
  assert_ok(dataset_prepare(&train, &evaluation, &test.recipe, test.tokenizer, NULL));
  assert_true(train.report.event_count > 0 && train.count > 0 && evaluation.count > 0);
  for (int pass = 0; pass < 2; pass++) {
    assert_ok(load(&test, NULL));
    assert_true(test.train.map.size > 0);  // the first time, too: what has been written is taken up
    assert_same_set(&test.train, &train);
    assert_same_set(&test.evaluation, &evaluation);
    assert_int_equal(files_in(test.recipe.dataset_prepared_path), 1);  // nothing half-written is left either
  }
  row_set_release(&train), row_set_release(&evaluation);
  stop(&test);
}

static void key_of(char key[65], const char *dataset, const char *top) {
  DataTest test;
  data_test_start(&test, rows_text, dataset, top);
  // The folder's name is new each time and part of the recipe: sources are named by it.
  char *path = path_join(test.folder, "rows.jsonl");
  test.recipe.tree = NULL;
  RecipeOverride here = {"datasets.0.path", "rows.jsonl"};
  Recipe fixed;
  assert_ok(recipe_parse(&fixed, path, test.text, strlen(test.text), &here, 1));
  Buffer settings = {0};
  recipe_write_row_settings(&settings, &fixed);
  sha256_bytes(key, settings.data, settings.length);
  buffer_release(&settings);
  recipe_release(&fixed);
  free(path);
  data_test_end(&test);
}

static void every_setting_that_shapes_rows_and_no_other_is_part_of_the_key(void **state) {
  (void)state;
  static const struct {
    const char *dataset, *top;
    bool same;
  } cases[] = {
      {"    type: alpaca\n", "", true},
      {"    type: alpaca\n", "num_epochs: 3\nlora_dropout: 0.1\noutput_dir: ./x\nsample_packing: true\nbf16: true\nsave_steps: 5\n", true},
      {"    type: alpaca\n", "dataset_prepared_path: elsewhere\nwandb_project: x\n", true},
      {"    type: alpaca\n", "rl_beta: 0.3\nkto_desirable_weight: 2\n", true},
      {"    type: alpaca\n", "rl: kto\n", false},
      {"    type: alpaca\n", "max_prompt_len: 30\n", false},
      {"    type: completion\n", "", false},
      {"    type: alpaca\n    split: train[:50%]\n", "", false},
      {"    type: alpaca\n    shards: 2\n", "", false},
      {"    type: alpaca\n", "sequence_len: 100\n", false},
      {"    type: alpaca\n", "seed: 1\n", false},
      {"    type: alpaca\n", "train_on_inputs: true\n", false},
      {"    type: alpaca\n", "val_set_size: 0.5\n", false},
      {"    type: alpaca\n", "special_tokens: {eos_token: \"<|im_end|>\"}\n", false},
      {"    type: alpaca\n", "chat_template: chatml\n", false},
      {"    type: alpaca\n", "default_system_message: hello\n", false},
      {"    type: alpaca\n", "excess_length_strategy: truncate\n", false},
      {"    type: alpaca\n", "dataset_exact_deduplication: true\n", false},
      {"    type: alpaca\n", "shuffle_merged_datasets: false\n", false},
  };
  char first[65], key[65];
  key_of(first, "    type: alpaca\n", "");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    key_of(key, cases[i].dataset, cases[i].top);
    if ((strcmp(first, key) == 0) != cases[i].same)
      fail_msg("%s%s: the key is %s", cases[i].dataset, cases[i].top, cases[i].same ? "another" : "the same");
  }
}

static void other_contents_are_prepared_anew(void **state) {
  (void)state;
  DataTest test;
  char first[65], key[65], *template;
  start(&test, "");
  assert_ok(cache_key(first, &test.recipe, false));
  assert_ok(cache_key(key, &test.recipe, true));
  assert_string_not_equal(first, key);
  data_test_write(&test, "rows.jsonl", "{\"instruction\": \"e\", \"output\": \"five\"}\n");
  assert_ok(cache_key(key, &test.recipe, false));
  assert_string_not_equal(first, key);
  data_test_write(&test, "t.jinja", "{{ messages }}");
  template = path_join(test.folder, "t.jinja");
  test.recipe.chat_template_jinja = template;
  assert_ok(cache_key(first, &test.recipe, false));
  data_test_write(&test, "t.jinja", "{{ messages[0] }}");
  assert_ok(cache_key(key, &test.recipe, false));
  assert_string_not_equal(first, key);
  free(template);
  stop(&test);
}

static void another_vocabulary_is_another_key(void **state) {
  (void)state;
  char *folder = temporary_folder(), one[65], other[65];
  static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"};
  char *path = path_join(folder, "tokenizer.json");
  assert_ok(file_write_whole(path, "{}", 2));
  free(path);
  assert_ok(tokenizer_fingerprint(one, folder));
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    path = path_join(folder, names[i]);
    assert_ok(file_write_whole(path, names[i], 3));
    assert_ok(tokenizer_fingerprint(other, folder));
    assert_string_not_equal(one, other);
    strcpy(one, other);
    free(path);
  }
  assert_ok(tokenizer_fingerprint(one, TESTS_DIR "/data/tiny.gguf"));
  assert_ok(directory_remove(folder));
  free(folder);
}

static char *only_file(const DataTest *test) {
  char key[65];
  assert_ok(cache_key(key, &test->recipe, false));
  return cache_path(test->recipe.dataset_prepared_path, key);
}

static void a_damaged_cache_is_made_again(void **state) {
  (void)state;
  DataTest test;
  RowSet train, evaluation;
  start(&test, "");
  assert_ok(dataset_prepare(&train, &evaluation, &test.recipe, test.tokenizer, NULL));
  assert_ok(load(&test, NULL));
  char *path = only_file(&test);
  Buffer whole = {0};
  assert_ok(file_read(&whole, path, 1 << 24));
  Rng rng = rng_new(3, 0);
  for (int pass = 0; pass < 60; pass++) {
    Buffer damaged = {0};
    buffer_append(&damaged, whole.data, whole.length);
    if (pass % 3 == 0) damaged.length = rng_next(&rng) % whole.length;  // cut short
    for (int i = 0; pass % 3 && i < 40; i++) damaged.data[rng_next(&rng) % whole.length] = (char)rng_next(&rng);
    row_set_release(&test.train), row_set_release(&test.evaluation);
    assert_ok(file_write_whole(path, damaged.data, damaged.length));
    assert_ok(load(&test, NULL));
    assert_int_equal(test.train.count, train.count);  // tokens themselves are not guarded, their places are
    for (int64_t r = 0; r < train.count; r++) assert_int_equal(test.train.rows[r].count, train.rows[r].count);
    buffer_release(&damaged);
  }
  free(path);
  buffer_release(&whole);
  row_set_release(&train), row_set_release(&evaluation);
  stop(&test);
}

static void a_file_of_another_key_or_form_is_not_taken(void **state) {
  (void)state;
  DataTest test;
  start(&test, "");
  assert_ok(load(&test, NULL));
  char *path = only_file(&test);
  bool found = true;
  RowSet train = {0}, evaluation = {0};
  char other[65] = "0123456789";
  assert_ok(cache_read(&train, &evaluation, &found, path, other));
  assert_false(found);
  Hdf5File file;
  assert_ok(hdf5_create(&file, path));
  hdf5_write_text(&file, "format", "something else");
  assert_ok(hdf5_close(&file));
  assert_ok(cache_read(&train, &evaluation, &found, path, other));
  assert_false(found);
  free(path);
  stop(&test);
}

static void a_cache_that_cannot_be_written_stops_only_who_needs_it(void **state) {
  (void)state;
  DataTest test;
  start(&test, "");
  data_test_write(&test, "prepared", "a file where the folder should be");
  assert_ok(load(&test, NULL));
  assert_int_equal(test.train.count, 4);
  assert_fails(STATUS_FAILED, load(&test, &(DatasetOptions){.must_cache = true}), "prepared");
  stop(&test);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_from_the_cache_are_those_that_were_prepared),
      cmocka_unit_test(every_setting_that_shapes_rows_and_no_other_is_part_of_the_key),
      cmocka_unit_test(other_contents_are_prepared_anew),
      cmocka_unit_test(another_vocabulary_is_another_key),
      cmocka_unit_test(a_damaged_cache_is_made_again),
      cmocka_unit_test(a_file_of_another_key_or_form_is_not_taken),
      cmocka_unit_test(a_cache_that_cannot_be_written_stops_only_who_needs_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
