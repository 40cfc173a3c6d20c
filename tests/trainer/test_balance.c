// What a run reports of its model's routers: the number of transformers (tests/tools/make_balance_reference.py) for a mixture of experts,
// over a step of two micro-batches and with every layer recomputed; nothing for a dense model.
#include <jansson.h>

#include "core/file.h"
#include "tests/support/golden.h"

// The reference's rows of token ids, a line each.
static void write_rows(const char *path, const Safetensors *golden) {
  int32_t *ids = golden_ids(golden, "input_ids"), *labels = golden_ids(golden, "labels");
  int64_t documents = golden_tensor(golden, "input_ids")->shape[0], length = golden_tensor(golden, "input_ids")->shape[1];
  Buffer rows = {0};
  for (int64_t d = 0; d < documents; d++) {
    buffer_append_string(&rows, "{\"input_ids\": [");
    for (int64_t i = 0; i < length; i++) buffer_format(&rows, "%s%d", i ? ", " : "", ids[d * length + i]);
    buffer_append_string(&rows, "], \"labels\": [");
    for (int64_t i = 0; i < length; i++) buffer_format(&rows, "%s%d", i ? ", " : "", labels[d * length + i]);
    buffer_append_string(&rows, "]}\n");
  }
  assert_ok(file_write_whole(path, rows.data, rows.length));
  buffer_release(&rows);
  free(ids);
  free(labels);
}

// Two steps of `accumulation` rows each, in the file's order, with an adapter that changes next to nothing. Returns the lines of metrics.jsonl.
static json_t *train(const char *base, const char *rows, int accumulation, const char *folder, Buffer *log) {
  char *recipe = path_join(folder, "recipe.yml"), *path = path_join(folder, "out/metrics.jsonl"), *rest = NULL;
  char *text = memory_format(
      "base_model: %s\nadapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\ndatasets: [{path: %s}]\nval_set_size: 0\n"
      "dataset_prepared_path: %s/prepared\nsequence_len: 64\nsample_packing: false\nmicro_batch_size: 1\ngradient_accumulation_steps: %d\n"
      "curriculum_sampling: true\ngradient_checkpointing: true\nbf16: false\nmax_steps: 2\nlearning_rate: 1e-9\noptimizer: "
      "adamw_torch\nlr_scheduler: constant\n"
      "save_strategy: 'no'\noutput_dir: %s/out\n",
      base, rows, folder, accumulation, folder);
  assert_ok(file_write_whole(recipe, text, strlen(text)));
  if (run_program(log, "train %s", recipe) != 0) fail_msg("%s", log->data);
  Buffer lines = {0};
  assert_ok(file_read(&lines, path, 1 << 20));
  json_t *steps = json_array();
  for (char *line = strtok_r(lines.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
    json_array_append_new(steps, json_loads(line, 0, NULL));
  assert_int_equal(json_array_size(steps), 2);
  buffer_release(&lines);
  free(recipe);
  free(path);
  free(text);
  return steps;
}

static void check_loss(const json_t *steps, size_t step, const json_t *expected) {
  float actual = (float)json_number_value(json_object_get(json_array_get(steps, step), "load_balancing_loss"));
  float wanted = (float)json_real_value(expected);
  assert_close(&actual, &wanted, 1, 1e-6);
}

static void check_family(const char *family, const json_t *expected) {
  char *relative = memory_format("golden/families/%s", family), *base = shared_path(relative), *folder = temporary_folder();
  char *golden_path = path_join(base, "golden.safetensors"), *rows = path_join(folder, "rows.jsonl");
  Safetensors golden;
  Buffer log = {0};
  assert_ok(safetensors_open(&golden, golden_path));
  write_rows(rows, &golden);
  json_t *steps = train(base, rows, 2, folder, &log);  // a step has both documents
  for (size_t i = 0; i < 2; i++) check_loss(steps, i, json_object_get(expected, "trained"));
  assert_non_null(strstr(log.data, "  load balance "));
  json_decref(steps);
  steps = train(base, rows, 1, folder, &log);  // a step has one, and begins anew
  for (size_t i = 0; i < 2; i++) check_loss(steps, i, json_array_get(json_object_get(expected, "documents"), i));
  json_decref(steps);
  safetensors_close(&golden);
  assert_ok(directory_remove(folder));
  buffer_release(&log);
  char *strings[] = {relative, base, folder, golden_path, rows};
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free(strings[i]);
}

static void a_mixture_reports_the_load_balancing_loss_of_each_step(void **state) {
  (void)state;
  json_t *reference = json_load_file(TESTS_DIR "/models/data/balance.json", 0, NULL);
  const char *family;
  json_t *values;
  assert_true(json_object_size(reference) > 0);
  char *there = shared_path("golden/families/mixtral");
  if (there) json_object_foreach(reference, family, values) check_family(family, values);
  json_decref(reference);
  if (!there) skip_test("no reference models");
  free(there);
}

static void a_dense_model_reports_none(void **state) {
  (void)state;
  static const char text[] =
      "{\"input_ids\": [260, 300, 17, 402], \"labels\": [260, 300, 17, 402]}\n"
      "{\"input_ids\": [99, 45, 511, 260], \"labels\": [99, 45, 511, 260]}\n";
  char *folder = temporary_folder(), *rows = path_join(folder, "rows.jsonl");
  Buffer log = {0};
  assert_ok(file_write_whole(rows, text, strlen(text)));
  json_t *steps = train(TESTS_DIR "/data/tiny.gguf", rows, 1, folder, &log);
  for (size_t i = 0; i < 2; i++) {
    assert_non_null(json_object_get(json_array_get(steps, i), "loss"));
    assert_null(json_object_get(json_array_get(steps, i), "load_balancing_loss"));
  }
  assert_null(strstr(log.data, "load balance"));
  json_decref(steps);
  assert_ok(directory_remove(folder));
  buffer_release(&log);
  free(folder);
  free(rows);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_mixture_reports_the_load_balancing_loss_of_each_step),
      cmocka_unit_test(a_dense_model_reports_none),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
