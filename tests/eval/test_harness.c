// Whole tasks on a tiny model beside what lm-evaluation-harness found with it (tests/tools/make_eval_reference.py): each log-probability, and
// the metrics.
#include <math.h>

#include "eval/evaluate.h"
#include "eval/report.h"
#include "tests/support/test.h"

static const char MODEL[] = TESTS_DIR "/data/tiny-hf";

typedef struct HarnessTest {
  Backend *backend;
  Model *model;
  Tokenizer *tokenizer;
  json_t *reference;
} HarnessTest;

static int start(void **state) {
  HarnessTest *test = memory_new(1, sizeof *test);
  assert_ok(backend_new(&test->backend, "cpu", 2));
  assert_ok(model_open(&test->model, MODEL, (ModelOptions){0}, test->backend));
  assert_ok(tokenizer_open(&test->tokenizer, MODEL));
  test->reference = json_load_file(TESTS_DIR "/eval/data/harness.json", 0, NULL);
  assert_non_null(test->reference);
  *state = test;
  return 0;
}

static int end(void **state) {
  HarnessTest *test = *state;
  json_decref(test->reference);
  tokenizer_free(test->tokenizer);
  model_close(test->model);
  backend_free(test->backend);
  free(test);
  return 0;
}

// A scorer that keeps what another one finds.
typedef struct Recorder {
  Scorer scorer;
  Likelihood *found;
  int64_t count;
} Recorder;

static Status record(Likelihood *out, void *context, const LikelihoodRequest *requests, int64_t count, ScorerProgress progress) {
  Recorder *recorder = context;
  Status status = recorder->scorer.log_likelihoods(out, recorder->scorer.context, requests, count, progress);
  recorder->found = memory_grow(recorder->found, (size_t)(recorder->count + count), sizeof *out);
  memcpy(recorder->found + recorder->count, out, (size_t)count * sizeof *out);
  recorder->count += count;
  return status;
}

static void compare_likelihoods(const TaskSet *set, const Recorder *recorder, const json_t *expected) {
  int64_t at = 0;
  assert_int_equal(json_array_size(expected), set->item_count);
  for (int64_t i = 0; i < set->item_count; i++) {
    const json_t *choices = json_array_get(expected, (size_t)i);
    assert_int_equal(json_array_size(choices), set->items[i].choice_count);
    for (size_t c = 0; c < json_array_size(choices); c++, at++) {
      const json_t *pair = json_array_get(choices, c);
      double difference = fabs(recorder->found[at].log_probability - json_number_value(json_array_get(pair, 0)));
      if (!(difference <= 0.002)) fail_msg("item %lld, choice %zu: the log-probability differs by %g", (long long)i, c, difference);
      assert_int_equal(recorder->found[at].is_greedy, json_is_true(json_array_get(pair, 1)));
    }
  }
  assert_int_equal(at, recorder->count);
}

static void compare_metrics(const TaskSet *set, const TaskResult *result, const json_t *expected) {
  ReportEntry entry = {.set = set, .result = *result};
  json_t *report = task_report_json(&entry, 1), *values = json_object_get(report, set->name);
  for (int m = 0; m < task_metric_count(set->task); m++) {
    const char *name = set->task->metrics[m].name;
    double actual = json_real_value(json_object_get(values, name)), harness = json_real_value(json_object_get(expected, name));
    double scale = set->task->metrics[m].is_perplexity ? harness : 1;  // an accuracy to half a point
    if (!(json_is_real(json_object_get(expected, name)) && fabs(actual - harness) <= 0.005 * scale))
      fail_msg("%s: %g, and %g by the harness", name, actual, harness);
  }
  json_decref(report);
}

static void compare_task(const HarnessTest *test, const char *name, const char *path, const char *folder) {
  const json_t *expected = json_object_get(test->reference, name), *likelihoods = json_object_get(expected, "likelihoods");
  TaskSet set;
  TaskResult result;
  Recorder recorder = {0};
  assert_ok(task_set_open(&set, path ? path : name, folder, -1, (int64_t)json_array_size(likelihoods)));
  assert_ok(scorer_open(&recorder.scorer, test->model, test->tokenizer, 0, 8));
  Scorer scorer = {.log_likelihoods = record, .context = &recorder, .most_tokens = recorder.scorer.most_tokens};
  assert_ok(task_evaluate(&result, &set, &scorer, &(EvaluateOptions){.tokenizer = test->tokenizer}));
  compare_likelihoods(&set, &recorder, likelihoods);
  compare_metrics(&set, &result, json_object_get(expected, "metrics"));
  task_result_release(&result);
  task_set_release(&set);
  scorer_close(&recorder.scorer);
  free(recorder.found);
}

static void choices_are_scored_as_by_the_harness(void **state) {
  compare_task(*state, "choices", TESTS_DIR "/eval/data/choices.jsonl", NULL);
}

static void continuations_are_scored_as_by_the_harness(void **state) {
  compare_task(*state, "continuations", TESTS_DIR "/eval/data/continuations.jsonl", NULL);
}

static void arc_easy_is_scored_as_by_the_harness(void **state) {
  char *folder = shared_path("data/eval");
  if (!folder) skip_test("the evaluation data is not beside the checkout");
  compare_task(*state, "arc_easy", NULL, folder);
  free(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(choices_are_scored_as_by_the_harness),
      cmocka_unit_test(continuations_are_scored_as_by_the_harness),
      cmocka_unit_test(arc_easy_is_scored_as_by_the_harness),
  };
  return cmocka_run_group_tests(tests, start, end);
}
