#include "tests/support/test.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "trainer/metrics.h"
#include "trainer/progress.h"

static char *output_dir, *path;

static int make_folder(void **state) {
  (void)state;
  output_dir = temporary_folder();
  path = path_join(output_dir, "metrics.jsonl");
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  directory_remove(output_dir);
  free(output_dir);
  free(path);
  return 0;
}

static StepMetrics step_metrics(int64_t step) {
  return (StepMetrics){.step = step,
                       .epoch = (double)step / 3,
                       .loss = 2.0 / (double)(step + 6),
                       .grad_norm = sqrt((double)step),
                       .learning_rate = 2e-4,
                       .tokens = 2048,
                       .trained_tokens = 700 + step,
                       .tokens_per_second = 123.456,
                       .peak_share = 0.3125,
                       .peak_memory_bytes = 1 << 30};
}

static void write_steps(int64_t first, int64_t last, int64_t cut) {
  MetricsWriter writer;
  assert_ok(metrics_open(&writer, output_dir, cut));
  for (int64_t step = first; step <= last; step++) {
    StepMetrics metrics = step_metrics(step);
    assert_ok(metrics_write_step(&writer, &metrics));
    if (step % 2 == 0) assert_ok(metrics_write_evaluation(&writer, step, &(Evaluation){.loss = 1.25, .perplexity = exp(1.25)}));
  }
  metrics_close(&writer);
}

static Buffer read_lines(void) {
  Buffer text = {0};
  assert_ok(file_read(&text, path, 1 << 20));
  return text;
}

static void append(const char *text) {
  int file = open(path, O_WRONLY | O_APPEND | O_CREAT, 0666);
  assert_int_equal(write(file, text, strlen(text)), strlen(text));
  close(file);
}

static void each_line_is_json_with_the_names_of_the_contract_and_the_same_bits(void **state) {
  (void)state;
  write_steps(1, 3, -1);
  Buffer text = read_lines();
  char *rest, *line = strtok_r(text.data, "\n", &rest);
  int steps = 0, evaluations = 0;
  for (; line; line = strtok_r(NULL, "\n", &rest)) {
    json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(object);
    if (json_object_get(object, "eval_loss")) {
      assert_int_equal(json_object_size(object), 3);
      assert_int_equal(json_integer_value(json_object_get(object, "step")), 2);
      assert_true(json_real_value(json_object_get(object, "eval_loss")) == 1.25);
      assert_true(json_real_value(json_object_get(object, "eval_perplexity")) == exp(1.25));
      evaluations++;
    } else {
      StepMetrics expected = step_metrics(++steps);
      assert_int_equal(json_object_size(object), 10);
      assert_int_equal(json_integer_value(json_object_get(object, "step")), expected.step);
      assert_true(json_number_value(json_object_get(object, "epoch")) == expected.epoch);
      assert_true(json_number_value(json_object_get(object, "loss")) == expected.loss);
      assert_true(json_number_value(json_object_get(object, "grad_norm")) == expected.grad_norm);
      assert_true(json_number_value(json_object_get(object, "learning_rate")) == expected.learning_rate);
      assert_int_equal(json_integer_value(json_object_get(object, "tokens")), expected.tokens);
      assert_int_equal(json_integer_value(json_object_get(object, "trained_tokens")), expected.trained_tokens);
      assert_true(json_number_value(json_object_get(object, "tokens_per_second")) == expected.tokens_per_second);
      assert_true(json_number_value(json_object_get(object, "peak_share")) == expected.peak_share);
      assert_int_equal(json_integer_value(json_object_get(object, "peak_memory_bytes")), expected.peak_memory_bytes);
    }
    json_decref(object);
  }
  assert_int_equal(steps, 3);
  assert_int_equal(evaluations, 1);
  buffer_release(&text);
}

static void a_line_is_in_the_file_as_soon_as_it_is_written(void **state) {
  (void)state;
  MetricsWriter writer;
  assert_ok(metrics_open(&writer, output_dir, -1));
  StepMetrics metrics = step_metrics(1);
  assert_ok(metrics_write_step(&writer, &metrics));
  Buffer text = read_lines();
  assert_true(text.length > 0 && text.data[text.length - 1] == '\n');
  buffer_release(&text);
  metrics_close(&writer);
}

static void nan_and_infinity_become_null(void **state) {
  (void)state;
  MetricsWriter writer;
  assert_ok(metrics_open(&writer, output_dir, -1));
  StepMetrics metrics = step_metrics(1);
  metrics.loss = NAN, metrics.grad_norm = INFINITY;
  assert_ok(metrics_write_step(&writer, &metrics));
  assert_ok(metrics_write_evaluation(&writer, 1, &(Evaluation){.loss = 1000, .perplexity = exp(1000)}));  // whose perplexity is infinite
  metrics_close(&writer);
  Buffer text = read_lines();
  assert_non_null(strstr(text.data, "\"loss\": null, \"grad_norm\": null,"));
  assert_non_null(strstr(text.data, "\"eval_perplexity\": null"));
  buffer_release(&text);
}

static void a_line_has_what_method_and_model_add_behind_the_loss(void **state) {
  (void)state;
  MetricsWriter writer;
  assert_ok(metrics_open(&writer, output_dir, -1));
  StepMetrics metrics = step_metrics(1);
  figures_add(&metrics.figures, "load_balancing_loss", "load balance", 2.125);
  assert_ok(metrics_write_step(&writer, &metrics));
  metrics.figures.items[0].value = NAN;
  assert_ok(metrics_write_step(&writer, &metrics));
  Evaluation evaluation = {.loss = 1, .perplexity = NAN, .figures = metrics.figures};
  assert_ok(metrics_write_evaluation(&writer, 1, &evaluation));
  metrics_close(&writer);
  Buffer text = read_lines();
  assert_non_null(strstr(text.data, ", \"load_balancing_loss\": 2.125, \"grad_norm\": "));
  assert_non_null(strstr(text.data, ", \"load_balancing_loss\": null, \"grad_norm\": "));
  assert_non_null(strstr(text.data, "{\"step\": 1, \"eval_loss\": 1, \"eval_perplexity\": null, \"eval_load_balancing_loss\": null}"));
  buffer_release(&text);
}

static void resuming_cuts_back_to_the_step_and_gives_the_file_of_one_run(void **state) {
  (void)state;
  write_steps(1, 9, -1);
  Buffer whole = read_lines();
  append("{\"step\": 10, \"loss\": 0.");  // a crash
  write_steps(5, 9, 4);
  Buffer resumed = read_lines();
  assert_int_equal(resumed.length, whole.length);
  assert_memory_equal(resumed.data, whole.data, whole.length);
  buffer_release(&resumed);
  append("{\"step\": 8, \"lo");
  write_steps(10, 9, 9);  // nothing new, nothing to cut but the half line
  resumed = read_lines();
  assert_int_equal(resumed.length, whole.length);
  buffer_release(&resumed);
  append("garbage\n[1]\n{}\n{\"step\": \"x\"}\n{\"step\": -4}\n");
  write_steps(10, 9, 9);
  resumed = read_lines();
  assert_int_equal(resumed.length, whole.length);
  buffer_release(&resumed);
  buffer_release(&whole);
}

static void a_new_run_starts_an_empty_file(void **state) {
  (void)state;
  write_steps(0, 9, -1);
  write_steps(1, 0, -1);
  Buffer text = read_lines();
  assert_int_equal(text.length, 0);
  buffer_release(&text);
  write_steps(0, 0, -1);  // an evaluation before the first step is kept when resuming from it
  write_steps(1, 0, 0);
  text = read_lines();
  assert_true(text.length > 0);
  buffer_release(&text);
}

static void a_line_that_does_not_fit_on_the_disk_is_taken_back(void **state) {
  (void)state;
  MetricsWriter writer;
  assert_ok(metrics_open(&writer, output_dir, -1));
  StepMetrics metrics = step_metrics(1);
  assert_ok(metrics_write_step(&writer, &metrics));
  Buffer before = read_lines();
  struct rlimit old, small;
  getrlimit(RLIMIT_FSIZE, &old);
  small = old;
  small.rlim_cur = before.length + 10;  // the write falls short, as at the end of a disk
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  Status status = metrics_write_step(&writer, &metrics);
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, handler);
  assert_fails(STATUS_NO_SPACE, status, "metrics.jsonl");
  Buffer after = read_lines();
  assert_int_equal(after.length, before.length);
  assert_ok(metrics_write_step(&writer, &metrics));
  buffer_release(&before);
  buffer_release(&after);
  metrics_close(&writer);
  assert_fails(STATUS_FAILED, metrics_open(&writer, "/nowhere", -1), "/nowhere/metrics.jsonl");
}

// What `first` .. `last` of ten steps print to a stderr that is no terminal.
static Buffer progress_lines(int64_t first, int64_t last, int64_t logging_steps) {
  char *log = path_join(output_dir, "log");
  int kept = dup(STDERR_FILENO), file = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
  dup2(file, STDERR_FILENO);
  TrainProgress progress;
  train_progress_start(&progress, first - 1, 10, logging_steps);
  for (int64_t step = first; step <= last; step++) {
    StepMetrics metrics = step_metrics(step);
    train_progress_step(&progress, &metrics);
  }
  train_progress_evaluation(&progress, last, &(Evaluation){.loss = 1.25, .perplexity = exp(1.25)});
  train_progress_finish(&progress, last);
  dup2(kept, STDERR_FILENO);
  close(kept);
  close(file);
  Buffer text = {0};
  assert_ok(file_read(&text, log, 1 << 20));
  free(log);
  return text;
}

static int count_of(const char *text, const char *part) {
  int count = 0;
  for (; (text = strstr(text, part)); text++) count++;
  return count;
}

static void progress_without_a_terminal_is_a_line_every_logging_steps(void **state) {
  (void)state;
  Buffer text = progress_lines(1, 10, 4);
  assert_int_equal(count_of(text.data, "\n"), 4 + 1 + 1);  // steps 1, 4, 8, 10; the evaluation; the end
  assert_non_null(strstr(text.data, "step 8/10  epoch 2.67  loss 0.1429  grad_norm 2.828  lr 0.0002  123 tok/s (31% of peak)  1.00 GiB"));
  assert_non_null(strstr(text.data, "step 10/10  eval_loss 1.2500  eval_perplexity 3.490"));
  assert_int_equal(count_of(text.data, " left"), 4);
  buffer_release(&text);
  text = progress_lines(6, 7, 1);
  assert_int_equal(count_of(text.data, "tok/s"), 2);
  assert_non_null(strstr(text.data, "2 steps in "));
  buffer_release(&text);
  log_set_quiet(true);
  text = progress_lines(1, 10, 1);
  log_set_quiet(false);
  assert_int_equal(text.length, 0);
  buffer_release(&text);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
  const struct CMUnitTest tests[] = {
      TEST(each_line_is_json_with_the_names_of_the_contract_and_the_same_bits),
      TEST(a_line_is_in_the_file_as_soon_as_it_is_written),
      TEST(nan_and_infinity_become_null),
      TEST(a_line_has_what_method_and_model_add_behind_the_loss),
      TEST(resuming_cuts_back_to_the_step_and_gives_the_file_of_one_run),
      TEST(a_new_run_starts_an_empty_file),
      TEST(a_line_that_does_not_fit_on_the_disk_is_taken_back),
      TEST(progress_without_a_terminal_is_a_line_every_logging_steps),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
