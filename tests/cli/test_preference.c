// `lora train` with rl on the tiny model as a user meets it: references, resuming, what is logged, what is refused.
#include <jansson.h>
#include <math.h>

#include "core/file.h"
#include "tests/support/training.h"

// The line of a step in metrics.jsonl; those of evaluations are passed over.
static json_t *step_line(const char *relative, int64_t step) {
  Buffer text = {0};
  read_whole(&text, relative);
  json_t *found = NULL;
  for (char *line = strtok(text.data, "\n"); line && !found; line = strtok(NULL, "\n")) {
    json_t *object = json_loads(line, 0, NULL);
    bool is_it = json_integer_value(json_object_get(object, "step")) == step && json_object_get(object, "loss");
    if (is_it) found = object;
    else json_decref(object);
  }
  buffer_release(&text);
  assert_non_null(found);
  return found;
}

static double figure_of(const char *relative, int64_t step, const char *name) {
  json_t *line = step_line(relative, step);
  const json_t *value = json_object_get(line, name);
  if (!json_is_number(value)) fail_msg("%s: step %d has no %s", relative, (int)step, name);
  double number = json_number_value(value);
  json_decref(line);
  return number;
}

static void a_policy_begins_at_its_reference(void **state) {
  (void)state;
  char *pairs = write_preference_rows(true), *more = memory_format("--datasets.0.path %s", pairs);
  char *recipe = training_recipe("dpo.yml", tiny_gguf, "dpo", "rl: dpo\n");
  assert_runs("train %s %s", recipe, more);
  assert_true(fabs(figure_of("dpo/metrics.jsonl", 1, "loss") - log(2)) < 1e-9);
  assert_true(figure_of("dpo/metrics.jsonl", 1, "rewards/margins") == 0);
  assert_true(figure_of("dpo/metrics.jsonl", 8, "rewards/margins") > 0);
  assert_true(figure_of("dpo/metrics.jsonl", 8, "logps/chosen") < 0);
  // From an adapter: it is the reference itself, unless the base is asked for.
  char *from = memory_format("%s --lora_model_dir %s/dpo --output_dir %s/next", more, test_folder, test_folder);
  char *base = memory_format("%s --lora_model_dir %s/dpo --output_dir %s/base --rl_reference base", more, test_folder, test_folder);
  assert_runs("train %s %s", recipe, from);
  assert_runs("train %s %s", recipe, base);
  assert_true(fabs(figure_of("next/metrics.jsonl", 1, "loss") - log(2)) < 1e-9);
  assert_true(figure_of("base/metrics.jsonl", 1, "loss") < 0.99 * log(2));
  free(base);
  free(from);
  free(recipe);
  free(more);
  free(pairs);
}

// A model without a tokenizer takes pairs of tokens, and says of texts what is missing.
static void tokens_need_no_vocabulary(void **state) {
  (void)state;
  Buffer rows = {0};
  for (int i = 0; i < 6; i++)
    buffer_format(&rows, "{\"prompt_ids\": [3, %d, 5], \"chosen_ids\": [7, 8, %d], \"rejected_ids\": [%d]}\n", i + 4, i + 9, i + 20);
  free(write_file("pairs.jsonl", rows.data));
  free(write_file("texts.jsonl", "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n"));
  char *recipe = training_recipe("dpo.yml", TESTS_DIR "/adapters/data/families/smollm3_nope", "dpo", "rl: dpo\n");
  char *tokens = memory_format("--datasets.0.path %s/pairs.jsonl", test_folder);
  char *texts = memory_format("--datasets.0.path %s/texts.jsonl --val_set_size 0 --eval_steps ''", test_folder);
  assert_runs("train %s %s", recipe, tokens);
  assert_true(fabs(figure_of("dpo/metrics.jsonl", 1, "loss") - log(2)) < 1e-6);
  assert_refused(3, recipe, texts, "texts.jsonl:1", "texts need a tokenizer");
  free(texts);
  free(tokens);
  free(recipe);
  buffer_release(&rows);
}

static void a_reference_computed_before_gives_the_same_run(void **state) {
  (void)state;
  char *pairs = write_preference_rows(true), *recipe = training_recipe("ipo.yml", tiny_gguf, "beside", "rl: ipo\nrl_beta: 0.2\n");
  char *beside = memory_format("--datasets.0.path %s", pairs);
  char *before = memory_format("%s --precompute_ref_log_probs true --output_dir %s/before", beside, test_folder);
  assert_runs("train %s %s", recipe, beside);
  assert_runs("train %s %s", recipe, before);
  for (int step = 1; step <= 8; step++) {
    double a = figure_of("beside/metrics.jsonl", step, "loss"), b = figure_of("before/metrics.jsonl", step, "loss");
    if (!(fabs(a - b) <= 1e-5 * fabs(a))) fail_msg("step %d: %.9g beside, %.9g before", step, a, b);
  }
  free(before);
  free(beside);
  free(recipe);
  free(pairs);
}

static void check_resumed(const char *name, bool is_paired, const char *lines) {
  char *rows = write_preference_rows(is_paired), *more = memory_format("--datasets.0.path %s", rows);
  char *whole = memory_format("%s-whole", name), *parts = memory_format("%s-parts", name);
  char *recipe = training_recipe("whole.yml", tiny_gguf, whole, lines), *again = training_recipe("parts.yml", tiny_gguf, parts, lines);
  char *resume = memory_format("%s --resume", more), *last = memory_format("%s/%s/checkpoint-8", test_folder, parts);
  assert_runs("train %s %s", recipe, more);
  assert_runs("train %s %s", again, more);
  assert_ok(directory_remove(last));
  assert_runs("train %s %s", again, resume);
  char *a = memory_format("%s/checkpoint-8/state.h5", whole), *b = memory_format("%s/checkpoint-8/state.h5", parts);
  assert_same_file(a, b);
  char *strings[] = {rows, more, whole, parts, recipe, again, resume, last, a, b};
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free(strings[i]);
}

static void resumed_runs_have_the_bits_of_whole_ones(void **state) {
  (void)state;
  check_resumed("dpo", true, "rl: dpo\nrpo_alpha: 0.2\nneftune_noise_alpha: 3\n");
  check_resumed("orpo", true, "rl: orpo\n");
  check_resumed("kto", false, "rl: kto\n");
}

static void kto_logs_its_divergence_and_both_kinds_of_rows(void **state) {
  (void)state;
  char *marks = write_preference_rows(false), *recipe = training_recipe("kto.yml", tiny_gguf, "kto", "rl: kto\n");
  char *more = memory_format("--datasets.0.path %s", marks);
  assert_runs("train %s %s", recipe, more);
  assert_true(figure_of("kto/metrics.jsonl", 1, "kl") == 0);
  json_t *line = step_line("kto/metrics.jsonl", 8);
  assert_true(json_object_get(line, "rewards/chosen") && json_object_get(line, "rewards/rejected"));
  assert_null(json_object_get(line, "rewards/accuracies"));
  json_decref(line);
  assert_refused(2, recipe, "--micro_batch_size 1", "micro_batch_size", "set 2 or more");
  free(more);
  free(recipe);
  free(marks);
}

static void what_does_not_go_with_pairs_is_refused(void **state) {
  (void)state;
  char *recipe = training_recipe("dpo.yml", tiny_gguf, "dpo", "rl: dpo\n");
  assert_refused(2, recipe, "--sample_packing true", "sample_packing", "pairs are not packed");
  assert_refused(2, recipe, "--kl_weight 0.1", "kl_weight", "rl_beta");
  assert_refused(2, recipe, "--rl_beta 0", "rl_beta", "above 0");
  assert_refused(3, recipe, "", "rows.jsonl:1", "chosen");  // rows of supervised training
  free(recipe);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(a_policy_begins_at_its_reference),
      unit_test_in_folder(tokens_need_no_vocabulary),
      unit_test_in_folder(a_reference_computed_before_gives_the_same_run),
      unit_test_in_folder(resumed_runs_have_the_bits_of_whole_ones),
      unit_test_in_folder(kto_logs_its_divergence_and_both_kinds_of_rows),
      unit_test_in_folder(what_does_not_go_with_pairs_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
