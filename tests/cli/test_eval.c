// `lora eval` as its user meets it, on the tiny model.
#include <jansson.h>
#include <math.h>

#include "adapters/adapter.h"
#include "core/file.h"
#include "tests/support/test.h"

#define TINY "--model " TESTS_DIR "/data/tiny.gguf"

static const char rows[] =
    "{\"query\": \"What is the capital of France?\\nAnswer:\", \"choices\": [\"Paris\", \"salt\"], \"gold\": 0}\n"
    "{\"query\": \"Why is the sea salty?\\nAnswer:\", \"choices\": [\"Paris\", \"rivers carry salt\"], \"gold\": \"rivers carry salt\"}\n"
    "{\"query\": \"What is the capital of Italy?\\nAnswer:\", \"choices\": [\"Rome\", \"Oslo\", \"Bern\"], \"gold\": [0]}\n";

// Files of the test's folder: rows.jsonl, and an adapter whose B is not zero.
static int make_inputs(void **state) {
  make_test_folder(state);
  char *path = path_join(test_folder, "rows.jsonl"), *adapter_path = path_join(test_folder, "adapter");
  Backend *backend;
  Model *model;
  Adapter *adapter;
  AdapterSettings settings = {.rank = 4, .alpha = 8, .all_linear = true, .seed = 3};
  assert_ok(file_write_whole(path, rows, strlen(rows)));
  assert_ok(backend_new(&backend, "cpu", 1));
  assert_ok(model_open(&model, TESTS_DIR "/data/tiny.gguf", (ModelOptions){0}, backend));
  assert_ok(adapter_create(&adapter, model, &settings));
  Rng rng = rng_new(5, RNG_STREAM_TEST);
  for (int i = 0; i < adapter->count; i++) fill_normal(adapter->pairs[i].b.data, adapter->pairs[i].b.rows * 4, 0.1, &rng);
  assert_ok(adapter_save_peft(adapter, adapter_path, TESTS_DIR "/data/tiny.gguf"));
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
  free(path);
  free(adapter_path);
  return 0;
}

static char *output_of(int expected, const char *arguments) {
  Buffer output = {0};
  char *line = memory_format("eval --quiet %s", arguments);
  int status = run_program(&output, "%s", line);
  buffer_append(&output, "", 1);
  if (status != expected) fail_msg("lora %s: exit code %d, expected %d: %s", line, status, expected, output.data);
  free(line);
  return output.data;
}

static void assert_says(int expected, const char *words, const char *arguments) {
  char *output = output_of(expected, arguments);
  if (!strstr(output, words)) fail_msg("lora eval %s does not say \"%s\": %s", arguments, words, output);
  free(output);
}

static json_t *json_of(const char *text) {
  json_error_t error;
  json_t *value = json_loads(text, 0, &error);
  if (!value) fail_msg("%s: %s", error.text, text);
  return value;
}

static void a_file_of_rows_is_scored(void **state) {
  (void)state;
  char *arguments =
      memory_format(TINY " --tasks %s/rows.jsonl --output %s/o.json --samples %s/s.jsonl", test_folder, test_folder, test_folder);
  assert_says(0, "acc_norm", arguments);
  free(arguments);
  char *path = path_join(test_folder, "o.json"), *name = path_join(test_folder, "rows.jsonl");
  json_t *file = json_load_file(path, 0, NULL), *values = json_object_get(json_object_get(file, "results"), name);
  assert_int_equal(json_integer_value(json_object_get(values, "n")), 3);
  assert_true(json_is_real(json_object_get(values, "acc")) && json_is_real(json_object_get(values, "acc_stderr")));
  assert_string_equal(json_string_value(json_object_get(file, "model")), TESTS_DIR "/data/tiny.gguf");
  assert_true(json_is_object(json_object_get(file, "config")));
  json_decref(file);
  free(path);
  path = path_join(test_folder, "s.jsonl");
  Buffer samples = {0};
  assert_ok(file_read(&samples, path, 1 << 20));
  int lines = 0;
  for (const char *p = samples.data; (p = strchr(p, '\n')); p++) lines++;
  assert_int_equal(lines, 3);
  buffer_release(&samples);
  free(path);
  free(name);
}

// The same numbers whatever is worked on at once, and with the adapter beside the base as apart.
static void a_comparison_has_the_numbers_of_its_two_runs(void **state) {
  (void)state;
  const char *forms[] = {TINY " --json --tasks %s/rows.jsonl --parallel 1",
                         TINY " --json --adapter %s/adapter --tasks %s/rows.jsonl --parallel 1",
                         TINY " --json --compare --adapter %s/adapter --tasks %s/rows.jsonl"};
  json_t *results[3];
  char *name = path_join(test_folder, "rows.jsonl");
  for (int i = 0; i < 3; i++) {
    char *arguments = memory_format(forms[i], test_folder, test_folder), *output = output_of(0, arguments);
    results[i] = json_of(output);
    free(arguments);
    free(output);
  }
  json_t *base = json_object_get(json_object_get(results[0], "results"), name),
         *adapter = json_object_get(json_object_get(results[1], "results"), name);
  json_t *both = json_object_get(json_object_get(results[2], "results"), name);
  const char *metrics[] = {"acc", "acc_norm"};
  for (int m = 0; m < 2; m++) {
    double first = json_real_value(json_object_get(base, metrics[m])), second = json_real_value(json_object_get(adapter, metrics[m]));
    json_t *comparison = json_object_get(json_object_get(both, "comparison"), metrics[m]);
    assert_true(json_real_value(json_object_get(both, metrics[m])) == second);
    assert_true(json_real_value(json_object_get(json_object_get(both, "base"), metrics[m])) == first);
    assert_true(fabs(json_real_value(json_object_get(comparison, "difference")) - (second - first)) < 1e-8);
    int64_t items = 0;
    for (int k = 0; k < 3; k++) items += json_integer_value(json_object_get(comparison, (const char *[]){"better", "worse", "same"}[k]));
    assert_int_equal(items, 3);
  }
  for (int i = 0; i < 3; i++) json_decref(results[i]);
  free(name);
}

static void texts_are_written_and_judged(void **state) {
  (void)state;
  char *folder = path_join(test_folder, "ifeval"), *path = path_join(folder, "input_data.jsonl");
  static const char row[] =
      "{\"prompt\": \"What is the capital of France?\", \"instruction_id_list\": [\"startend:end_checker\"], "
      "\"kwargs\": [{\"end_phrase\": \"is Paris.\"}]}\n";
  assert_ok(directory_create(folder));
  assert_ok(file_write_whole(path, row, strlen(row)));
  char *arguments = memory_format(TINY " --json --chat --max-tokens 40 --tasks ifeval --data %s", test_folder),
       *output = output_of(0, arguments);
  json_t *results = json_of(output), *values = json_object_get(json_object_get(results, "results"), "ifeval");
  assert_true(json_real_value(json_object_get(values, "inst_level_strict_acc")) == 1);
  json_decref(results);
  free(arguments);
  free(output);
  free(folder);
  free(path);
}

static void what_cannot_be_done_is_refused(void **state) {
  (void)state;
  char *arguments = memory_format("%s/rows.jsonl", test_folder);
  assert_says(2, "--tasks A,B is missing: arc_easy", TINY);
  assert_says(2, "did you mean mmlu", TINY " --data . --tasks mmul");
  assert_says(2, "--data FOLDER is missing", TINY " --tasks mmlu");
  assert_says(2, "--compare goes with --adapter", TINY " --compare --tasks x.jsonl");
  assert_says(3, "no/such/arc_easy.jsonl: not there, where arc_easy has its rows", TINY " --data no/such --tasks arc_easy");
  assert_says(3, "no_such.jsonl", TINY " --tasks ./no_such.jsonl");
  char *line = memory_format("--tasks %s", arguments);
  assert_says(2, "--model MODEL is missing", line);
  free(line);
  line = memory_format(TINY " --tasks %s,%s", arguments, arguments);
  assert_says(2, "named twice", line);
  free(line);
  line = memory_format("--responses %s --tasks %s", arguments, arguments);
  assert_says(2, "scores choices", line);
  free(line);
  line = memory_format(TINY " --context 100000 --tasks %s", arguments);
  assert_says(2, "--context 100000", line);
  free(line);
  line = memory_format(TINY " --tasks %s --output %s/no/such/o.json", arguments, test_folder);
  char *output = output_of(1, line);
  assert_non_null(strstr(output, "no/such/o.json"));
  assert_null(strstr(output, "acc"));  // before the work, not after it
  free(output);
  free(line);
  free(arguments);
}

static void programs_are_run_only_when_that_is_allowed(void **state) {
  (void)state;
  char *folder = path_join(test_folder, "humaneval"), *path = path_join(folder, "HumanEval.jsonl.gz");
  static const char row[] = "{\"prompt\": \"def f():\\n\", \"entry_point\": \"f\", \"test\": \"def check(f): pass\"}\n";
  assert_ok(directory_create(folder));
  assert_ok(file_write_whole(path, row, strlen(row)));
  char *arguments = memory_format(TINY " --tasks humaneval --data %s", test_folder);
  assert_says(2, "--allow-code-execution", arguments);
  free(arguments);
  free(folder);
  free(path);
}

#define unit_test_with_inputs(test) cmocka_unit_test_setup_teardown(test, make_inputs, remove_test_folder)

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_with_inputs(a_file_of_rows_is_scored),
      unit_test_with_inputs(a_comparison_has_the_numbers_of_its_two_runs),
      unit_test_in_folder(texts_are_written_and_judged),
      unit_test_with_inputs(what_cannot_be_done_is_refused),
      unit_test_in_folder(programs_are_run_only_when_that_is_allowed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
