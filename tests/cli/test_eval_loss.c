// `lora eval-loss` on the tiny_gguf model: the figures that training's own evaluation has, for SFT and for pairs.
#include <jansson.h>
#include <math.h>

#include "core/file.h"
#include "tests/support/training.h"

static json_t *measured(const char *format, const char *recipe, const char *more) {
  Buffer output = {0};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  int code = run_program(&output, format, recipe, more);
#pragma GCC diagnostic pop
  const char *object = output.data ? strchr(output.data, '{') : NULL;
  json_t *result = object ? json_loads(object, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
  if (code != 0 || !result) fail_msg("exit code %d: %s", code, output.data ? output.data : "");
  buffer_release(&output);
  return result;
}

static double number(const json_t *object, const char *name) {
  const json_t *value = json_object_get(object, name);
  if (!json_is_number(value)) fail_msg("%s is missing", name);
  return json_number_value(value);
}

// The last line of metrics.jsonl.
static json_t *last_line(const char *relative) {
  Buffer text = {0};
  read_whole(&text, relative);
  text.data[text.length - 1] = 0;
  const char *line = strrchr(text.data, '\n');
  json_t *object = json_loads(line + 1, 0, NULL);
  assert_non_null(object);
  buffer_release(&text);
  return object;
}

static void the_loss_is_that_of_the_runs_own_evaluation(void **state) {
  (void)state;
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", "lora_dropout: 0.3\n");
  assert_runs("train %s %s", recipe, "");
  char *adapter = memory_format("--adapter %s/out", test_folder), *off = memory_format("--adapter %s/out:0", test_folder);
  json_t *trained = measured("eval-loss %s %s --json", recipe, adapter), *last = last_line("out/metrics.jsonl");
  json_t *base = measured("eval-loss %s %s --json", recipe, ""), *zero = measured("eval-loss %s %s --json", recipe, off);
  assert_true(number(trained, "loss") == number(last, "eval_loss"));
  assert_true(number(trained, "perplexity") == exp(number(trained, "loss")));
  assert_true(number(base, "loss") == number(zero, "loss") && number(base, "loss") != number(trained, "loss"));
  assert_int_equal(number(trained, "rows"), 2);
  json_t *rows = measured("eval-loss %s %s --json --training-rows", recipe, adapter);
  assert_int_equal(number(rows, "rows"), 10);
  assert_true(number(rows, "loss") < number(base, "loss"));
  json_decref(rows);
  json_decref(trained);
  json_decref(last);
  json_decref(base);
  json_decref(zero);
  free(adapter);
  free(off);
  free(recipe);
}

// Pairs of random replies, as ids.
static void write_pairs(void) {
  Buffer rows = {0};
  static const char *const names[] = {"prompt_input_ids", "chosen_input_ids", "rejected_input_ids"};
  for (int i = 0; i < 12; i++) {
    for (int part = 0; part < 3; part++) {
      buffer_format(&rows, "%s\"%s\": [", part ? ", " : "{", names[part]);
      for (int j = 0; j < 4 + (i + part) % 5; j++) buffer_format(&rows, "%s%d", j ? ", " : "", 260 + (i * 37 + j * 11 + part * 53) % 200);
      buffer_append_string(&rows, "]");
    }
    buffer_append_string(&rows, "}\n");
  }
  free(write_file("pairs.jsonl", rows.data));
  buffer_release(&rows);
}

static const char preference[] = "rl: dpo\nmetric_for_best_model: rewards/margins\nload_best_model_at_end: true\n";

static void pairs_are_measured_by_their_rewards(void **state) {
  (void)state;
  write_pairs();
  char *recipe = training_recipe("recipe.yml", tiny_gguf, "out", preference);
  char *more = memory_format("--datasets.0.path %s/pairs.jsonl", test_folder),
       *adapter = memory_format("%s --adapter %s/out", more, test_folder);
  assert_runs("train %s %s", recipe, more);
  json_t *last = last_line("out/metrics.jsonl"), *result = measured("eval-loss %s %s --json", recipe, adapter);
  assert_true(number(result, "rewards/margins") >= number(last, "eval_rewards/margins"));  // of the best step
  assert_true(json_is_null(json_object_get(result, "perplexity")));
  assert_true(number(result, "loss") > 0 && number(result, "rewards/accuracies") <= 1);
  Buffer output = {0};
  assert_int_equal(run_program(&output, "eval-loss %s %s", recipe, more), 2);
  assert_non_null(strstr(output.data, "--adapter"));
  buffer_release(&output);
  json_decref(last);
  json_decref(result);
  free(adapter);
  free(more);
  free(recipe);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(the_loss_is_that_of_the_runs_own_evaluation),
      unit_test_in_folder(pairs_are_measured_by_their_rewards),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
