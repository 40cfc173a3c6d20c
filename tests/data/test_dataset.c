// From files to rows: places of rows, splits, shards, order, lengths, duplicates, evaluation rows, and the messages of
// datasets that cannot be used; whole files where the reference data is there.
#include "data/dataset.h"

#include <zlib.h>

#include "core/file.h"
#include "data/batch.h"
#include "tests/support/data.h"
#include "tests/support/test.h"

// `count` rows without a type; row r has r + 2 tokens, which are all r + 5.
static char *numbered_rows(int count) {
  Buffer text = {0};
  for (int r = 0; r < count; r++) {
    buffer_append_string(&text, "{\"input_ids\": [");
    for (int i = 0; i < r + 2; i++) buffer_format(&text, "%s%d", i ? ", " : "", r + 5);
    buffer_append_string(&text, "], \"labels\": [-100");
    for (int i = 1; i < r + 2; i++) buffer_format(&text, ", %d", r + 5);
    buffer_append_string(&text, "]}\n");
  }
  return text.data;
}

static void start_numbered(DataTest *test, int count, const char *dataset, const char *top) {
  char *rows = numbered_rows(count);
  data_test_start(test, rows, dataset, top);
  free(rows);
}

static void assert_row_numbers(const RowSet *set, const int *expected, int count) {
  assert_int_equal(set->count, count);
  for (int i = 0; i < count; i++) assert_int_equal(set->rows[i].ids[0] - 5, expected[i]);
}
#define assert_rows(set, ...) assert_row_numbers((set), (const int[]){__VA_ARGS__}, sizeof(const int[]){__VA_ARGS__} / sizeof(int))

#define IN_ORDER "curriculum_sampling: true\n"

static void split_and_shards_choose_rows(void **state) {
  (void)state;
  DataTest test;
  start_numbered(&test, 9, "    split: train[3:6]\n", IN_ORDER);
  assert_ok(data_test_prepare(&test));
  assert_rows(&test.train, 3, 4, 5);
  data_test_end(&test);
  bool seen[9] = {false};
  for (int shard = 0; shard < 2; shard++) {
    char *keys = memory_format("    shards: 2\n    shards_idx: %d\n", shard);
    start_numbered(&test, 9, keys, IN_ORDER);
    assert_ok(data_test_prepare(&test));
    assert_int_equal(test.train.count, shard ? 4 : 5);
    for (int64_t i = 0; i < test.train.count; i++) {
      int row = test.train.rows[i].ids[0] - 5;
      assert_false(seen[row]);
      seen[row] = true;
    }
    data_test_end(&test);
    free(keys);
  }
}

static void the_merged_shuffle_depends_on_the_seed_alone(void **state) {
  (void)state;
  int first[20] = {0};
  for (int run = 0; run < 3; run++) {
    DataTest test;
    start_numbered(&test, 20, "", run < 2 ? "seed: 7\n" : "seed: 8\n");
    assert_ok(data_test_prepare(&test));
    int same = 0, in_place = 0;
    for (int i = 0; i < 20; i++) {
      int row = test.train.rows[i].ids[0];
      same += run && first[i] == row;
      in_place += row == i + 5;
      if (!run) first[i] = row;
    }
    assert_true(in_place < 20);
    if (run == 1) assert_int_equal(same, 20);
    if (run == 2) assert_true(same < 20);
    data_test_end(&test);
  }
}

static void the_tail_of_the_rows_is_held_out(void **state) {
  (void)state;
  DataTest test;
  start_numbered(&test, 9, "", IN_ORDER "val_set_size: 0.25\n");  // 2.25, rounded up
  assert_ok(data_test_prepare(&test));
  assert_rows(&test.train, 0, 1, 2, 3, 4, 5);
  assert_rows(&test.evaluation, 6, 7, 8);
  data_test_end(&test);
  start_numbered(&test, 9, "", IN_ORDER "val_set_size: 2\n");
  assert_ok(data_test_prepare(&test));
  assert_rows(&test.evaluation, 7, 8);
  data_test_end(&test);
  start_numbered(&test, 9, "", "val_set_size: 1.0\n");
  assert_fails(STATUS_BAD_INPUT, data_test_prepare(&test), "val_set_size", "leaves none");
  data_test_end(&test);
}

static void rows_outside_the_lengths_are_dropped_or_cut_and_told(void **state) {
  (void)state;
  DataTest test;
  start_numbered(&test, 6, "", IN_ORDER "sequence_len: 5\nmin_sample_len: 4\n");  // rows of 2 to 7 tokens
  assert_ok(data_test_prepare(&test));
  assert_rows(&test.train, 2, 3);
  assert_int_equal(test.train.report.fates[ROW_TOO_SHORT], 2);
  assert_int_equal(test.train.report.fates[ROW_TOO_LONG], 2);
  assert_non_null(strstr(test.train.report.events[2].source, "rows.jsonl:5"));
  assert_string_equal(test.train.report.events[2].reason, "6 tokens, sequence_len is 5");
  data_test_end(&test);
  start_numbered(&test, 6, "", IN_ORDER "sequence_len: 5\nexcess_length_strategy: truncate\n");
  assert_ok(data_test_prepare(&test));
  assert_rows(&test.train, 0, 1, 2, 3, 4, 5);
  assert_int_equal(test.train.rows[5].count, 5);
  assert_int_equal(test.train.rows[5].trained, 4);
  assert_int_equal(test.train.report.fates[ROW_CUT], 2);
  data_test_end(&test);
  start_numbered(&test, 6, "", IN_ORDER "sequence_len: 5\nexcess_length_strategy: raise\n");
  assert_fails(STATUS_BAD_INPUT, data_test_prepare(&test), "rows.jsonl:5", "6 tokens", "raise");
  data_test_end(&test);
}

static void completion_is_cut_into_pieces_that_hold_every_token_once(void **state) {
  (void)state;
  DataTest test;
  data_test_start(&test, "{\"text\": \"aXbXcXdXeXfXgXhXiXjXkXlXm\"}", "    type: completion\n", IN_ORDER "sequence_len: 6\n");
  assert_ok(data_test_prepare(&test));
  TokenList ids = {0}, joined = {0};
  assert_ok(tokenizer_encode(&ids, test.tokenizer, "aXbXcXdXeXfXgXhXiXjXkXlXm", 25, 0));
  token_list_push(&ids, tokenizer_eos(test.tokenizer));
  for (int64_t r = 0; r < test.train.count; r++) {
    assert_true(test.train.rows[r].count <= 6);
    for (int64_t i = 0; i < test.train.rows[r].count; i++) token_list_push(&joined, test.train.rows[r].ids[i]);
  }
  assert_int_equal(joined.count, ids.count - (int64_t)test.train.report.fates[ROW_TOO_SHORT]);
  assert_memory_equal(joined.ids, ids.ids, (size_t)joined.count * sizeof *ids.ids);
  token_list_release(&ids);
  token_list_release(&joined);
  data_test_end(&test);
}

static void duplicates_are_dropped_and_told(void **state) {
  (void)state;
  DataTest test;
  char *rows = numbered_rows(3), *twice = memory_format("%s%s", rows, rows);
  data_test_start(&test, twice, "", IN_ORDER "dataset_exact_deduplication: true\n");
  assert_ok(data_test_prepare(&test));
  assert_rows(&test.train, 0, 1, 2);
  assert_int_equal(test.train.report.fates[ROW_DUPLICATE], 3);
  assert_non_null(strstr(test.train.report.events[0].reason, "rows.jsonl:1"));
  data_test_end(&test);
  free(rows);
  free(twice);
}

static void untrained_rows_are_dropped_and_refused_when_no_other_is_left(void **state) {
  (void)state;
  DataTest test;
  const char *masked = "{\"input_ids\": [1, 2, 3], \"labels\": [1, -100, -100]}\n";  // the first label is nobody's target
  data_test_start(&test, masked, "", "");
  assert_fails(STATUS_BAD_INPUT, data_test_prepare(&test), "no row is left of 1", "no trained token", "rows.jsonl:1");
  char *rows = numbered_rows(2), *mixed = memory_format("%s%s", masked, rows);
  data_test_write(&test, "rows.jsonl", mixed);
  assert_ok(data_test_prepare(&test));
  assert_int_equal(test.train.count, 2);
  assert_int_equal(test.train.report.fates[ROW_UNTRAINED], 1);
  free(rows);
  free(mixed);
  data_test_end(&test);
}

static void padding_that_attention_mask_leaves_out_is_no_part_of_a_row(void **state) {
  (void)state;
  DataTest test;
  data_test_start(&test, "{\"input_ids\": [9, 1, 2, 3, 9], \"labels\": [-100, 1, 2, 3, -100], \"attention_mask\": [0, 1, 1, 1, 0]}", "",
                  "");
  assert_ok(data_test_prepare(&test));
  assert_int_equal(test.train.rows[0].count, 3);
  assert_memory_equal(test.train.rows[0].ids, ((const int32_t[]){1, 2, 3}), 12);
  data_test_end(&test);
}

static void datasets_that_cannot_be_used_are_named(void **state) {
  (void)state;
  DataTest test;
  data_test_start(&test, "\n", "    type: alpaca\n", "");
  assert_fails(STATUS_BAD_INPUT, data_test_prepare(&test), "rows.jsonl", "the dataset is empty");
  data_test_write(&test, "rows.jsonl", "[]");
  assert_fails(STATUS_BAD_INPUT, data_test_prepare(&test), "rows.jsonl", "the dataset is empty");
  char *path = path_join(test.folder, "rows.jsonl");
  assert_int_equal(remove(path), 0);
  free(path);
  assert_fails(STATUS_BAD_INPUT, data_test_prepare(&test), "rows.jsonl", "no such file");
  data_test_end(&test);
}

static void bad_rows_stop_or_are_skipped_and_counted(void **state) {
  (void)state;
  DataTest test;
  char *rows = numbered_rows(2), *mixed = memory_format("{\"input_ids\n%s7\n", rows);
  data_test_start(&test, mixed, "", IN_ORDER);
  assert_fails(STATUS_BAD_INPUT, data_test_prepare(&test), "rows.jsonl:1: not JSON", "rows.jsonl:4: a row must be an object");
  row_set_release(&test.train);
  DatasetOptions options = {.skip_bad_rows = true};
  assert_ok(dataset_prepare(&test.train, &test.evaluation, &test.recipe, test.tokenizer, &options));
  assert_rows(&test.train, 0, 1);
  assert_int_equal(test.train.report.fates[ROW_BAD], 2);
  assert_int_equal(test.train.report.read, 4);
  data_test_end(&test);
  free(rows);
  free(mixed);
}

static void folders_gzip_and_data_files_are_read(void **state) {
  (void)state;
  DataTest test;
  start_numbered(&test, 3, "    data_files: [b.json, a.jsonl.gz]\n", IN_ORDER);
  char *rows = numbered_rows(2), *path = path_join(test.folder, "a.jsonl.gz");
  gzFile file = gzopen(path, "wb");
  assert_true(gzwrite(file, rows, (unsigned)strlen(rows)) > 0);
  assert_int_equal(gzclose(file), Z_OK);
  data_test_write(&test, "b.json", "[{\"input_ids\": [9, 9], \"labels\": [9, 9]}]");
  DatasetRecipe *dataset = &test.recipe.datasets[0];
  free(path);
  char *of_file = dataset->path;
  dataset->path = test.folder;
  assert_ok(data_test_prepare(&test));
  assert_rows(&test.train, 4, 0, 1);  // data_files, in their order
  dataset->data_files.count = 0;
  assert_ok(data_test_prepare(&test));
  assert_rows(&test.train, 0, 1, 4, 0, 1, 2);  // the whole folder, by name
  dataset->path = of_file;
  free(rows);
  data_test_end(&test);
}

static void test_datasets_are_the_evaluation_rows(void **state) {
  (void)state;
  DataTest test;
  start_numbered(&test, 4, "", IN_ORDER "dataset_exact_deduplication: true\n");
  char *more = numbered_rows(6);
  data_test_write(&test, "more.jsonl", more);
  free(more);
  DatasetRecipe evaluation = test.recipe.datasets[0];
  evaluation.path = path_join(test.folder, "more.jsonl");
  test.recipe.test_datasets = &evaluation;
  test.recipe.test_dataset_count = 1;
  assert_ok(data_test_prepare(&test));
  assert_rows(&test.train, 0, 1, 2, 3);
  assert_rows(&test.evaluation, 4, 5);  // what is trained on is not evaluated
  free(evaluation.path);
  data_test_end(&test);
}

static void threads_give_the_same_rows(void **state) {
  (void)state;
  Buffer rows = {0};
  for (int i = 0; i < 1500; i++) buffer_format(&rows, "{\"instruction\": \"Say %d\", \"output\": \"%d!\"}\n", i, i * i);
  DataTest test;
  data_test_start(&test, rows.data, "    type: alpaca\n", "");
  assert_ok(data_test_prepare(&test));
  RowSet train, evaluation;
  DatasetOptions options = {.pool = pool_new(3)};
  assert_ok(dataset_prepare(&train, &evaluation, &test.recipe, test.tokenizer, &options));
  assert_int_equal(train.count, 1500);
  for (int64_t r = 0; r < train.count; r++) {
    const TokenRow *a = &train.rows[r], *b = &test.train.rows[r];
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->ids, b->ids, (size_t)a->count * sizeof *a->ids);
    assert_string_equal(a->source, b->source);
  }
  row_set_release(&train);
  row_set_release(&evaluation);
  pool_free(options.pool);
  buffer_release(&rows);
  data_test_end(&test);
}

// ---- whole files of the reference data

static void prepare_shared(DataTest *test, const char *file, const char *dataset, const char *top) {
  char *path = shared_path(file);
  if (!path) skip_test("%s is not here", file);
  data_test_start(test, "", dataset, top);
  char *of_file = test->recipe.datasets[0].path;
  test->recipe.datasets[0].path = path;
  Status status = data_test_prepare(test);
  test->recipe.datasets[0].path = of_file;
  free(path);
  assert_ok(status);
}

static void special_tokens_must_be_in_the_vocabulary(void **state) {
  (void)state;
  static const char *const wrong[] = {"special_tokens: {pad_token: <|nowhere|>}\n",
                                      "special_tokens: {additional_special_tokens: [<|nowhere|>]}\n"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    DataTest test;
    data_test_start(&test, "{\"text\": \"a\"}", "    type: completion\n", wrong[i]);
    assert_fails(STATUS_USAGE, dataset_open_tokenizer(&test.tokenizer, &test.recipe), "special_tokens", "<|nowhere|>");
    data_test_end(&test);
  }
}

static void alpaca_demo_is_read_whole_and_packs_well(void **state) {
  (void)state;
  DataTest test;
  prepare_shared(&test, "data/llama-factory/alpaca_en_demo.json", "    type: alpaca\n", "sequence_len: 2048\nsample_packing: true\n");
  assert_int_equal(test.train.report.read, 999);
  assert_int_equal(test.train.count + test.train.report.fates[ROW_TOO_LONG], 999);
  BatchOptions options = batch_options_from_recipe(&test.recipe, false);
  BatchPlan plan;
  assert_ok(batch_plan_create(&plan, &test.train, &options, 0));
  assert_true(plan.efficiency >= 0.97);
  batch_plan_release(&plan);
  data_test_end(&test);
}

static void other_demos_are_read_whole(void **state) {
  (void)state;
  DataTest test;
  prepare_shared(&test, "data/llama-factory/identity.json", "    type: alpaca:chat\n", "");
  assert_int_equal(test.train.count, 91);
  data_test_end(&test);
  prepare_shared(&test, "data/llama-factory/c4_demo.jsonl", "    type: completion\n", "sequence_len: 1024\n");
  assert_int_equal(test.train.report.read, 300);
  assert_true(test.train.count >= 300 && test.train.report.fates[ROW_TOO_LONG] == 0);
  data_test_end(&test);
  prepare_shared(
      &test, "data/llama-factory/glaive_toolcall_en_demo.json",
      "    type: chat_template\n    field_messages: conversations\n    message_property_mappings: {role: from, content: value}\n",
      "sequence_len: 100000\n");
  assert_int_equal(test.train.count, 300);
  data_test_end(&test);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(split_and_shards_choose_rows),
      cmocka_unit_test(the_merged_shuffle_depends_on_the_seed_alone),
      cmocka_unit_test(the_tail_of_the_rows_is_held_out),
      cmocka_unit_test(rows_outside_the_lengths_are_dropped_or_cut_and_told),
      cmocka_unit_test(completion_is_cut_into_pieces_that_hold_every_token_once),
      cmocka_unit_test(duplicates_are_dropped_and_told),
      cmocka_unit_test(untrained_rows_are_dropped_and_refused_when_no_other_is_left),
      cmocka_unit_test(padding_that_attention_mask_leaves_out_is_no_part_of_a_row),
      cmocka_unit_test(datasets_that_cannot_be_used_are_named),
      cmocka_unit_test(bad_rows_stop_or_are_skipped_and_counted),
      cmocka_unit_test(folders_gzip_and_data_files_are_read),
      cmocka_unit_test(test_datasets_are_the_evaluation_rows),
      cmocka_unit_test(threads_give_the_same_rows),
      cmocka_unit_test(special_tokens_must_be_in_the_vocabulary),
      cmocka_unit_test(alpaca_demo_is_read_whole_and_packs_well),
      cmocka_unit_test(other_demos_are_read_whole),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
