// The loss watchdog, early stopping and the best model: the rules, and whole runs that end by them.
#include <jansson.h>
#include <math.h>

#include "core/file.h"
#include "tests/support/recipe.h"
#include "tests/support/training.h"
#include "trainer/stopping.h"

static void read_recipe(const char *lines) {
  Buffer text = {0};
  buffer_format(&text,
                "base_model: x\ndatasets: [{path: x, type: alpaca}]\nlearning_rate: 1e-3\nadapter: lora\nlora_r: 2\nlora_alpha: 4\n"
                "micro_batch_size: 1\ngradient_accumulation_steps: 1\nval_set_size: 0.1\nsave_steps: 4\neval_steps: 4\n%s",
                lines);
  assert_ok(parse_recipe("recipe.yml", text.data, NULL));
  buffer_release(&text);
}

static void the_watchdog_bites_after_patience_steps_in_a_row(void **state) {
  (void)state;
  read_recipe("loss_watchdog_threshold: 5\nloss_watchdog_patience: 2\n");
  TrainerState trainer = {0};
  static const double losses[] = {6, 1, 7, 4, 5, 5.5};
  for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) assert_ok(stopping_step(&trainer, &recipe, losses[i]));
  assert_fails(STATUS_GUARD, stopping_step(&trainer, &recipe, 9), "loss_watchdog_threshold", "2 steps in a row");
  read_recipe("");
  for (int i = 0; i < 10; i++) assert_ok(stopping_step(&trainer, &recipe, 1e9));
}

static void an_evaluation_is_best_when_it_beats_all_before_it(void **state) {
  (void)state;
  read_recipe("early_stopping_patience: 2\n");
  TrainerState trainer = {.best_step = -1};
  static const struct {
    double loss;
    bool is_best, stops;
  } evaluations[] = {{3, true, false}, {2, true, false}, {2, false, false}, {1.5, true, false}, {NAN, false, false}, {1.6, false, true}};
  for (size_t i = 0; i < sizeof evaluations / sizeof *evaluations; i++) {
    Verdict verdict;
    trainer.step = (int64_t)i;
    assert_ok(stopping_evaluation(&verdict, &trainer, &recipe, &(Evaluation){.loss = evaluations[i].loss}));
    assert_int_equal(verdict.is_best, evaluations[i].is_best);
    assert_int_equal(verdict.stops, evaluations[i].stops);
  }
  assert_int_equal(trainer.best_step, 3);
  assert_true(trainer.best_metric == 1.5);
}

static void the_metric_is_found_by_its_name_and_its_direction(void **state) {
  (void)state;
  Evaluation evaluation = {.loss = 1, .perplexity = NAN};
  figures_add(&evaluation.figures, "rewards/margins", NULL, 4);
  static const char *const names[] = {"eval_rewards/margins", "rewards/margins"};
  for (int i = 0; i < 2; i++) {
    char lines[96];
    snprintf(lines, sizeof lines, "metric_for_best_model: %s\n", names[i]);
    read_recipe(lines);
    TrainerState trainer = {.best_step = 1, .best_metric = 3};
    Verdict verdict;
    assert_ok(stopping_evaluation(&verdict, &trainer, &recipe, &evaluation));
    assert_true(verdict.is_best && trainer.best_metric == 4);
  }
  read_recipe("metric_for_best_model: rewards/margins\ngreater_is_better: false\n");
  TrainerState trainer = {.best_step = 1, .best_metric = 3};
  Verdict verdict;
  assert_ok(stopping_evaluation(&verdict, &trainer, &recipe, &evaluation));
  assert_false(verdict.is_best);
  read_recipe("metric_for_best_model: accuracy\n");
  assert_fails(STATUS_USAGE, stopping_check(&recipe, &evaluation), "metric_for_best_model", "'accuracy'", "eval_rewards/margins");
}

// ---- Whole runs

static int64_t count_lines(const char *relative, const char *word) {
  Buffer text = {0};
  int64_t count = 0;
  read_whole(&text, relative);
  for (const char *at = text.data; (at = strstr(at, word)); at++) count++;
  buffer_release(&text);
  return count;
}

static double eval_loss_at(const char *relative, int64_t step) {
  Buffer text = {0};
  double loss = NAN;
  read_whole(&text, relative);
  for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n")) {
    json_t *object = json_loads(line, 0, NULL), *value = json_object_get(object, "eval_loss");
    if (value && json_integer_value(json_object_get(object, "step")) == step) loss = json_number_value(value);
    json_decref(object);
  }
  buffer_release(&text);
  return loss;
}

// The tiny_gguf model gets better on rows that it does not see; so that the best of many evaluations is an early one, `best` is the largest loss.
static const char evaluated[] =
    "max_steps: 40\nsave_steps: 2\neval_steps: 2\nsave_total_limit: 2\nlearning_rate: 0.05\nlr_scheduler: constant\n"
    "lora_dropout: 0\nmetric_for_best_model: eval_loss\ngreater_is_better: true\n";

static int64_t best_step_of(const char *metrics, int64_t last) {
  int64_t best = 2;
  for (int64_t step = 2; step <= last; step += 2)
    if (eval_loss_at(metrics, step) > eval_loss_at(metrics, best)) best = step;
  return best;
}

static void check_best(const char *lines) {
  Buffer more = {0};
  buffer_format(&more, "%sload_best_model_at_end: true\n%s", evaluated, lines);
  char *path = training_recipe("recipe.yml", tiny_gguf, "out", more.data);
  assert_runs("train %s %s", path, "");
  int64_t best = best_step_of("out/metrics.jsonl", 40);
  assert_true(best < 30);  // else this shows nothing
  char *kept = memory_format("out/checkpoint-%d/adapter_model.safetensors", (int)best);
  assert_same_file("out/adapter_model.safetensors", kept);
  Buffer card = {0};
  read_whole(&card, "out/README.md");
  char *loss = memory_format("%.4f", eval_loss_at("out/metrics.jsonl", best));
  assert_non_null(strstr(card.data, loss));
  free(loss);
  free(kept);
  free(path);
  buffer_release(&card);
  buffer_release(&more);
}

static void the_best_model_is_kept_and_exported(void **state) {
  (void)state;
  check_best("");
}

// Checkpoints of adapters alone, and what is shown in place of the values: nothing but the last of them may be lost.
static void the_best_model_is_taken_without_whole_checkpoints(void **state) {
  (void)state;
  check_best("save_only_model: true\nema_decay: 0.5\n");
}

static void early_stopping_ends_a_run_and_exports(void **state) {
  (void)state;
  Buffer more = {0};
  buffer_format(&more, "%searly_stopping_patience: 3\n", evaluated);
  char *path = training_recipe("recipe.yml", tiny_gguf, "out", more.data);
  assert_runs("train %s %s", path, "");
  int64_t evaluations = count_lines("out/metrics.jsonl", "\"eval_loss\""), best = best_step_of("out/metrics.jsonl", 2 * evaluations);
  assert_true(evaluations < 20);
  assert_int_equal(2 * evaluations, best + 6);
  char *last = memory_format("out/checkpoint-%d/adapter_model.safetensors", (int)(2 * evaluations));
  assert_same_file("out/adapter_model.safetensors", last);
  free(last);
  free(path);
  buffer_release(&more);
}

static void a_save_strategy_of_best_keeps_only_better_checkpoints(void **state) {
  (void)state;
  Buffer more = {0};
  buffer_format(&more, "%ssave_strategy: best\n", evaluated);
  char *path = training_recipe("recipe.yml", tiny_gguf, "out", more.data);
  assert_runs("train %s %s", path, "--save_steps '' --save_total_limit 0");
  int64_t best = best_step_of("out/metrics.jsonl", 40);
  double highest = 0;
  for (int64_t step = 2; step <= 40; step += 2) {
    double loss = eval_loss_at("out/metrics.jsonl", step);
    char *relative = memory_format("out/checkpoint-%d/manifest.json", (int)step), *manifest = path_join(test_folder, relative);
    assert_int_equal(file_exists(manifest), loss > highest);
    highest = fmax(highest, loss);
    free(manifest);
    free(relative);
  }
  assert_true(best < 40);
  free(path);
  buffer_release(&more);
}

static void a_run_that_goes_astray_is_stopped(void **state) {
  (void)state;
  char *path = training_recipe("recipe.yml", tiny_gguf, "out", "");
  assert_refused(5, path, "--loss_watchdog_threshold 0.001 --loss_watchdog_patience 3",
                 "step 3: the loss was above loss_watchdog_threshold", "3 steps in a row");
  assert_int_equal(count_lines("out/metrics.jsonl", "\"grad_norm\""), 3);
  free(path);
}

static void an_unknown_metric_is_told_before_the_first_step(void **state) {
  (void)state;
  char *path = training_recipe("recipe.yml", tiny_gguf, "out", "load_best_model_at_end: true\nmetric_for_best_model: accuracy\n");
  assert_refused(2, path, "", "metric_for_best_model", "use eval_loss, eval_perplexity");
  free(path);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, recipe_set_up, recipe_tear_down)
  const struct CMUnitTest tests[] = {
      TEST(the_watchdog_bites_after_patience_steps_in_a_row),
      TEST(an_evaluation_is_best_when_it_beats_all_before_it),
      TEST(the_metric_is_found_by_its_name_and_its_direction),
      unit_test_in_folder(the_best_model_is_kept_and_exported),
      unit_test_in_folder(the_best_model_is_taken_without_whole_checkpoints),
      unit_test_in_folder(early_stopping_ends_a_run_and_exports),
      unit_test_in_folder(a_save_strategy_of_best_keeps_only_better_checkpoints),
      unit_test_in_folder(a_run_that_goes_astray_is_stopped),
      unit_test_in_folder(an_unknown_metric_is_told_before_the_first_step),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
