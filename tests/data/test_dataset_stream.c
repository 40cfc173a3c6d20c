// Data that are read while training goes: chunks hold every row once a pass, and are the same whenever they are read.
#include "data/dataset_stream.h"

#include <zlib.h>

#include "core/file.h"
#include "tests/support/data.h"
#include "tests/support/test.h"

// Row r of a file: r + 2 tokens that are all `first` + r.
static void write_rows(const DataTest *test, const char *name, int count, int first) {
  Buffer text = {0};
  for (int r = 0; r < count; r++) {
    buffer_append_string(&text, "{\"input_ids\": [");
    for (int i = 0; i < r + 2; i++) buffer_format(&text, "%s%d", i ? ", " : "", first + r);
    buffer_append_string(&text, "], \"labels\": [0");
    for (int i = 1; i < r + 2; i++) buffer_format(&text, ", %d", first + r);
    buffer_append_string(&text, "]}\n");
  }
  data_test_write(test, name, text.data);
  buffer_release(&text);
}

static DatasetStream *start(DataTest *test, const char *dataset, const char *top) {
  char *keys = memory_format("streaming: true\nmax_steps: 5\n%s", top);
  data_test_start(test, "", dataset, keys);
  free(keys);
  write_rows(test, "rows.jsonl", 7, 10);
  DatasetStream *stream;
  assert_ok(dataset_open_tokenizer(&test->tokenizer, &test->recipe));
  assert_ok(dataset_stream_open(&stream, &test->recipe, test->tokenizer, &(DatasetOptions){0}));
  return stream;
}

static void stop(DataTest *test, DatasetStream *stream) {
  dataset_stream_close(stream);
  data_test_end(test);
}

static void assert_chunk(DataTest *test, DatasetStream *stream, int64_t number, int64_t pass, const char *expected) {
  Buffer found = {0};
  assert_ok(dataset_stream_read(&test->train, stream, number));
  buffer_append_string(&found, "");
  for (int64_t r = 0; r < test->train.count; r++) buffer_format(&found, "%s%d", r ? " " : "", test->train.rows[r].ids[0]);
  assert_string_equal(found.data, expected);
  assert_int_equal(dataset_stream_pass(stream), pass);
  buffer_release(&found);
}

static void chunks_go_through_the_data_again_and_again(void **state) {
  (void)state;
  DataTest test;
  DatasetStream *stream = start(&test, "", "streaming_multipack_buffer_size: 3\n");
  static const char *const chunks[] = {"10 11 12", "13 14 15", "16"};
  for (int64_t n = 0; n < 9; n++) assert_chunk(&test, stream, n, n / 3, chunks[n % 3]);
  static const int64_t any_order[] = {2, 7, 7, 0, 8, 1};
  for (size_t i = 0; i < sizeof any_order / sizeof *any_order; i++)
    assert_chunk(&test, stream, any_order[i], any_order[i] / 3, chunks[any_order[i] % 3]);
  stop(&test, stream);
}

static void datasets_take_turns_until_all_have_ended(void **state) {
  (void)state;
  DataTest test;
  DatasetStream *stream = start(&test, "", "streaming_multipack_buffer_size: 4\n");
  write_rows(&test, "other.jsonl", 3, 50);
  DatasetRecipe both[2] = {test.recipe.datasets[0], test.recipe.datasets[0]};
  both[1].path = path_join(test.folder, "other.jsonl");
  test.recipe.datasets = both;
  test.recipe.dataset_count = 2;
  dataset_stream_close(stream);
  assert_ok(dataset_stream_open(&stream, &test.recipe, test.tokenizer, &(DatasetOptions){0}));
  assert_chunk(&test, stream, 0, 0, "10 11 50 51");
  assert_chunk(&test, stream, 1, 0, "12 13 52 14");
  assert_chunk(&test, stream, 2, 0, "15 16");
  assert_chunk(&test, stream, 3, 1, "10 11 50 51");
  free(both[1].path);
  stop(&test, stream);
}

static void skip_shards_and_filters_choose_rows(void **state) {
  (void)state;
  DataTest test;
  DatasetStream *stream = start(&test, "    shards: 2\n    shards_idx: 1\n", "sequence_len: 6\n");
  assert_chunk(&test, stream, 0, 0, "11 13");  // 15 has 7 tokens
  assert_int_equal(test.train.report.fates[ROW_TOO_LONG], 1);
  assert_chunk(&test, stream, 1, 1, "11 13");
  stop(&test, stream);
  stream = start(&test, "", "");
  test.recipe.datasets[0].skip = 5;
  dataset_stream_close(stream);
  assert_ok(dataset_stream_open(&stream, &test.recipe, test.tokenizer, &(DatasetOptions){0}));
  assert_chunk(&test, stream, 0, 0, "15 16");
  stop(&test, stream);
}

static void what_needs_all_rows_at_once_and_empty_data_are_refused(void **state) {
  (void)state;
  DataTest test;
  DatasetStream *stream = start(&test, "", ""), *other;
  test.recipe.dataset_exact_deduplication = true;
  assert_fails(STATUS_USAGE, dataset_stream_open(&other, &test.recipe, test.tokenizer, &(DatasetOptions){0}),
               "dataset_exact_deduplication");
  test.recipe.dataset_exact_deduplication = false;
  static char slice[] = "train[:5%]";
  test.recipe.datasets[0].split = slice;
  assert_fails(STATUS_USAGE, dataset_stream_open(&other, &test.recipe, test.tokenizer, &(DatasetOptions){0}), "train[:5%]", "shards");
  test.recipe.datasets[0].split = NULL;
  data_test_write(&test, "rows.jsonl", "\n");
  assert_ok(dataset_stream_read(&test.train, stream, 0));
  assert_fails(STATUS_BAD_INPUT, dataset_stream_read(&test.train, stream, 1), "empty");
  stop(&test, stream);
}

// 48 MB of rows, packed to little, pass through a few megabytes of memory.
static void a_file_is_never_held_whole(void **state) {
  (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  skip_test("a sanitizer holds memory back that has been given up");
#endif
  enum { ROWS = 48000, CHUNK = 100 };
  DataTest test;
  data_test_start(&test, "", "    type: completion\n",
                  "streaming: true\nmax_steps: 5\nstreaming_multipack_buffer_size: 100\nsequence_len: 4096\n");
  char *path = path_join(test.folder, "rows.jsonl"), *row = memory_format("{\"text\": \"%0*d\"}\n", 1000, 7);
  gzFile file = gzopen(path, "wb1");
  for (int r = 0; r < ROWS; r++) gzwrite(file, row, (unsigned)strlen(row));
  gzclose(file);
  DatasetStream *stream;
  assert_ok(dataset_open_tokenizer(&test.tokenizer, &test.recipe));
  assert_ok(dataset_stream_open(&stream, &test.recipe, test.tokenizer, &(DatasetOptions){0}));
  assert_ok(dataset_stream_read(&test.train, stream, 0));
  int64_t before = memory_peak_bytes(), rows = test.train.count;
  for (int64_t chunk = 1; chunk < ROWS / CHUNK; chunk++) {
    assert_ok(dataset_stream_read(&test.train, stream, chunk));
    rows += test.train.count;
  }
  assert_int_equal(rows, ROWS);
  int64_t grown = memory_peak_bytes() - before;
  if (grown > 8 << 20) fail_msg("%lld bytes more than after the first chunk", (long long)grown);
  free(path), free(row);
  stop(&test, stream);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(chunks_go_through_the_data_again_and_again),
      cmocka_unit_test(datasets_take_turns_until_all_have_ended),
      cmocka_unit_test(skip_shards_and_filters_choose_rows),
      cmocka_unit_test(a_file_is_never_held_whole),
      cmocka_unit_test(what_needs_all_rows_at_once_and_empty_data_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
