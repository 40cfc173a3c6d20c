// Optimisers, groups of rates and schedules through `lora train` on the tiny model: each learns, and goes on from a checkpoint to the same bits.
#include "tests/support/training.h"

#include <math.h>
#include <sys/wait.h>

#include "core/file.h"

static char *recipe_path;

// Eight rows of tokens that repeat, in a recipe of eight steps.
static void write_recipe(void) {
  Buffer rows = {0};
  for (int i = 0; i < 8; i++) {
    buffer_append_string(&rows, "{\"input_ids\": [");
    for (int j = 0; j < 12; j++) buffer_format(&rows, "%s%d", j ? ", " : "", 260 + (i * 37 + j * 11) % 50);
    buffer_append_string(&rows, "], \"labels\": [");
    for (int j = 0; j < 12; j++) buffer_format(&rows, "%s%d", j ? ", " : "", 260 + (i * 37 + j * 11) % 50);
    buffer_append_string(&rows, "]}\n");
  }
  char *data = path_join(test_folder, "rows.jsonl");
  recipe_path = path_join(test_folder, "recipe.yml");
  assert_ok(file_write_whole(data, rows.data, rows.length));
  char *text = memory_format(
      "base_model: %s/data/tiny.gguf\nadapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\ndatasets:\n  - path: %s\n"
      "sequence_len: 64\nmicro_batch_size: 4\ngradient_accumulation_steps: 2\nmax_steps: 8\nsave_steps: 4\nlearning_rate: 1e-2\n"
      "warmup_steps: 2\nbf16: false\nval_set_size: 0\ndataset_prepared_path: %s/prepared\noutput_dir: %s/out\n",
      TESTS_DIR, data, test_folder, test_folder);
  assert_ok(file_write_whole(recipe_path, text, strlen(text)));
  buffer_release(&rows);
  free(data);
  free(text);
}

// The first and the last loss of the log.
static void read_losses(double losses[2]) {
  Buffer metrics = {0};
  read_whole(&metrics, "out/metrics.jsonl");
  losses[0] = losses[1] = NAN;
  for (const char *found = metrics.data; (found = strstr(found, "\"loss\": ")); found++) {
    losses[1] = strtod(found + 8, NULL);
    if (isnan(losses[0])) losses[0] = losses[1];
  }
  buffer_release(&metrics);
}

static void run(const char *options) {
  Buffer output = {0};
  int status = run_program(&output, "train %s %s 2>&1", recipe_path, options);
  if (status != 0) fail_msg("%s: %d: %s", options, status, output.data);
  buffer_release(&output);
}

static void learns_and_resumes(const char *options) {
  Buffer whole = {0}, again = {0}, averaged = {0}, kept = {0};
  double losses[2];
  char *folder = path_join(test_folder, "out");
  (void)directory_remove(folder);
  run(options);
  read_losses(losses);
  if (!(losses[1] < losses[0])) fail_msg("%s: the loss went from %g to %g", options, losses[0], losses[1]);
  read_whole(&whole, "out/adapter_model.safetensors");
  // The last checkpoint's adapter is the run's.
  read_whole(&averaged, "out/checkpoint-8/adapter_model.safetensors");
  assert_int_equal(whole.length, averaged.length);
  assert_memory_equal(whole.data, averaged.data, whole.length);
  read_whole(&kept, "out/checkpoint-4/adapter_model.safetensors");
  assert_true(memcmp(whole.data, kept.data, whole.length) != 0);
  char *resumed = memory_format("%s --resume %s/out/checkpoint-4", options, test_folder);
  run(resumed);
  read_whole(&again, "out/adapter_model.safetensors");
  if (again.length != whole.length || memcmp(again.data, whole.data, whole.length) != 0) fail_msg("%s: other bits when resumed", options);
  buffer_release(&whole), buffer_release(&again), buffer_release(&averaged), buffer_release(&kept);
  free(resumed);
  free(folder);
}

static void every_method_learns_and_resumes_exactly(void **state) {
  (void)state;
  write_recipe();
  static const char *const options[] = {
      "--optimizer lion_8bit --learning_rate 2e-3",
      "--optimizer paged_ademamix_32bit --optim_args alpha=2,t_alpha=6,t_beta3=6",
      "--optimizer ademamix_8bit --learning_rate 3e-3",
      "--optimizer adafactor",
      "--optimizer sgd --learning_rate 0.5",
      "--optimizer sgd --learning_rate 0.2 --optim_args momentum=0.8,nesterov=true",
      "--optimizer rmsprop --learning_rate 3e-3",
      "--optimizer adagrad",
      "--optimizer muon --weight_decay 0.01",
      "--optimizer schedule_free_adamw --lr_scheduler constant --eval_steps 2 --val_set_size 0.25",
      "--loraplus_lr_ratio 4 --weight_decay 0.01",
      "--optimizer adamw_8bit --lr_groups \"[{name: q, modules: [q_proj], lr: 2e-2}]\"",
  };
  for (size_t i = 0; i < sizeof options / sizeof *options; i++) learns_and_resumes(options[i]);
  free(recipe_path);
}

static void every_schedule_trains_and_its_rates_are_in_the_log(void **state) {
  (void)state;
  write_recipe();
  static const struct {
    const char *options, *rate;  // of the last of eight steps
  } cases[] = {
      {"--lr_scheduler one_cycle --optimizer adamw_torch", "4e-08"},
      {"--lr_scheduler rex --cosine_min_lr_ratio 0.1", "0.0069999"},
      {"--lr_scheduler cosine --cosine_min_lr_ratio 0.5 --cosine_constant_lr_ratio 0.5", "0.005"},
      {"--lr_scheduler cosine_with_min_lr --lr_scheduler_kwargs.min_lr 1e-3", "0.00160"},
      {"--lr_scheduler warmup_stable_decay --lr_scheduler_kwargs.num_decay_steps 4 --lr_scheduler_kwargs.decay_type linear", "0.0025"},
      {"--lr_scheduler polynomial --lr_scheduler_kwargs.power 2 --lr_scheduler_kwargs.lr_end 0", "0.000277"},
      {"--lr_scheduler inverse_sqrt", "0.00534"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    learns_and_resumes(cases[i].options);
    Buffer metrics = {0};
    read_whole(&metrics, "out/metrics.jsonl");
    const char *last = NULL;
    for (const char *found = metrics.data; (found = strstr(found, "\"learning_rate\": ")); found++) last = found + 17;
    assert_non_null(last);
    if (strncmp(last, cases[i].rate, strlen(cases[i].rate)) != 0) fail_msg("%s: the last rate is %.30s", cases[i].options, last);
    buffer_release(&metrics);
  }
  free(recipe_path);
}

static void assert_said(const char *options, const char *words, const char *more) {
  Buffer output = {0};
  int status = run_program(&output, "train %s %s 2>&1", recipe_path, options);
  if (status != STATUS_USAGE || !strstr(output.data, words) || !strstr(output.data, more))
    fail_msg("%s: %d, and not \"%s ... %s\": %s", options, status, words, more, output.data);
  buffer_release(&output);
}

static void arguments_that_do_not_fit_are_refused_by_name(void **state) {
  (void)state;
  write_recipe();
  assert_said("--optimizer sgd --optim_args speed=3", "optim_args", "sgd has no argument 'speed'; it has momentum");
  assert_said("--lr_scheduler linear --lr_scheduler_kwargs.num_cycles 2", "lr_scheduler_kwargs", "linear has no argument 'num_cycles'");
  assert_said("--lr_scheduler warmup_stable_decay", "lr_scheduler", "num_decay_steps");
  assert_said("--lr_scheduler reduce_lr_on_plateau", "lr_scheduler", "use cosine");
  assert_said("--lr_scheduler one_cycle --optimizer adafactor", "lr_scheduler", "cycle_momentum: false");
  assert_said("--optimizer galore_adamw", "optimizer", "a method for training weights in full");
  free(recipe_path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(every_method_learns_and_resumes_exactly),
      unit_test_in_folder(every_schedule_trains_and_its_rates_are_in_the_log),
      unit_test_in_folder(arguments_that_do_not_fit_are_refused_by_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
