// The judges of texts beside lm-evaluation-harness's own, over random answers (tests/tools/make_eval_reference.py).
#include "eval/generation.h"

#include "eval/ifeval.h"
#include "eval/math_answer.h"
#include "tests/support/test.h"

static json_t *reference;

static int open_reference(void **state) {
  (void)state;
  json_error_t error;
  reference = json_load_file(TESTS_DIR "/eval/data/judges.json", 0, &error);
  if (!reference) print_error("%s\n", error.text);
  return reference ? 0 : 1;
}

static int close_reference(void **state) {
  (void)state;
  json_decref(reference);
  return 0;
}

static Text text_at(const json_t *row, size_t index) {
  const json_t *value = json_array_get(row, index);
  return (Text){json_string_value(value), json_string_length(value)};
}

static bool bool_at(const json_t *row, size_t index) { return json_is_true(json_array_get(row, index)); }

// The cases of one kind; there are both verdicts among them.
static const json_t *cases_of(const char *kind) {
  const json_t *cases = json_object_get(reference, kind);
  assert_true(json_array_size(cases) >= 100);
  return cases;
}

static void answers_of_mathematics_are_compared_as_the_harness_does(void **state) {
  (void)state;
  const json_t *cases = cases_of("math");
  int64_t counts[2] = {0};
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *row = json_array_get(cases, i);
    bool expected = bool_at(row, 2);
    counts[expected]++;
    if (math_answers_equal(text_at(row, 0), text_at(row, 1)) != expected)
      fail_msg("\"%s\" and \"%s\": expected %d", text_at(row, 0).data, text_at(row, 1).data, expected);
  }
  assert_true(counts[0] > 0 && counts[1] > 0);
}

static void the_last_box_is_found_as_the_harness_does(void **state) {
  (void)state;
  const json_t *cases = cases_of("boxed");
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *row = json_array_get(cases, i);
    Text found;
    bool is_there = math_boxed(&found, text_at(row, 0));
    if (is_there == json_is_null(json_array_get(row, 1)) || (is_there && !text_equal(found, text_at(row, 1))))
      fail_msg("\"%s\": %.*s", text_at(row, 0).data, is_there ? (int)found.length : 4, is_there ? found.data : "none");
  }
}

// A judge's details and scores of a text.
static json_t *judge(Score *scores, const TaskItem *item, Text text,
                     Status (*function)(Score *, json_t *, const TaskItem *, const char *, size_t, const JudgeOptions *)) {
  json_t *details = json_object();
  JudgeOptions options = {0};
  assert_ok(function(scores, details, item, text.data, text.length, &options));
  return details;
}

static const char *detail(const json_t *details, const char *name) { return json_string_value(json_object_get(details, name)); }

static void numbers_are_found_by_both_filters_of_the_harness(void **state) {
  (void)state;
  const json_t *cases = cases_of("gsm8k");
  int64_t right[2] = {0};
  TaskItem item = {.answer = "so it is\n#### 18"};
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *row = json_array_get(cases, i);
    Score scores[METRICS_MAX];
    json_t *details = judge(scores, &item, text_at(row, 0), gsm8k_judge);
    assert_string_equal(detail(details, "strict"), text_at(row, 1).data);
    assert_string_equal(detail(details, "flexible"), text_at(row, 2).data);
    for (int k = 0; k < 2; k++) {
      assert_true(scores[k].count == 1 && (scores[k].sum == 1) == (strcmp(text_at(row, (size_t)k + 1).data, "18") == 0));
      right[k] += scores[k].sum == 1;
    }
    json_decref(details);
  }
  assert_true(right[0] > 0 && right[1] > 0);
}

static void a_formula_or_the_last_box_is_the_answer(void **state) {
  (void)state;
  static const struct {
    const char *text;
    double exact, boxed;
  } cases[] = {
      {"The answer is $\\frac12$.", 1, 1},
      {"\\frac{1}{2}", 1, 1},
      {"First $x = 3$, then $\\frac{1}{2}$", 0, 0},
      {"We get $3$ and so \\boxed{\\dfrac{1}{2}}, that is $0.5$", 0, 1},
      {"It is one half", 0, 0},
      {"", 0, 0},
  };
  TaskItem item = {.answer = "\\frac{1}{2}"};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Score scores[METRICS_MAX];
    json_decref(judge(scores, &item, text_of(cases[i].text), math_judge));
    assert_true(scores[0].sum == cases[i].exact && scores[1].sum == cases[i].boxed);
  }
}

static void instructions_are_judged_as_the_harness_does(void **state) {
  (void)state;
  const json_t *cases = cases_of("ifeval");
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *row = json_array_get(cases, i);
    Following strict, loose;
    Text response = text_at(row, 2);
    assert_ok(ifeval_check(&strict, &loose, text_at(row, 0).data, json_array_get(row, 1), response.data, response.length));
    if ((strict == FOLLOWING_YES) != bool_at(row, 3) || (loose == FOLLOWING_YES) != bool_at(row, 4)) {
      char *arguments = json_dumps(json_array_get(row, 1), 0), *text = json_dumps(json_array_get(row, 2), JSON_ENCODE_ANY);
      print_error("%s %s %s: %d %d\n", text_at(row, 0).data, arguments, text, strict, loose);
      free(arguments);
      free(text);
      fail();
    }
  }
}

// What two instructions of three that are scored come to.
static void a_prompt_counts_when_all_of_its_instructions_are_scored(void **state) {
  (void)state;
  static const char *const rows[] = {
      "{\"instruction_id_list\": [\"punctuation:no_comma\", \"detectable_format:title\"], \"kwargs\": [{}, {}]}",
      "{\"instruction_id_list\": [\"punctuation:no_comma\", \"language:response_language\"], \"kwargs\": [{}, {\"language\": \"kn\"}]}"};
  const Score expected[2][4] = {{{0, 1}, {1, 2}, {0, 1}, {1, 2}}, {{0, 0}, {1, 1}, {0, 0}, {1, 1}}};
  for (int i = 0; i < 2; i++) {
    TaskItem item = {.row = json_loads(rows[i], 0, NULL)};
    Score scores[METRICS_MAX];
    json_t *details = judge(scores, &item, text_of("no title"), ifeval_judge);
    for (int k = 0; k < 4; k++) assert_true(scores[k].sum == expected[i][k].sum && scores[k].count == expected[i][k].count);
    assert_int_equal(json_array_size(json_object_get(details, "instructions")), 2);
    json_decref(details);
    json_decref(item.row);
  }
}

static void code_is_not_run_unless_that_is_allowed(void **state) {
  (void)state;
  TaskItem item = {.question = "def f():\n", .row = json_loads("{\"test\": \"def check(f): pass\", \"entry_point\": \"f\"}", 0, NULL)};
  Score scores[METRICS_MAX];
  JudgeOptions options = {0};
  json_t *details = json_object();
  assert_fails(STATUS_USAGE, humaneval_judge(scores, details, &item, "    pass", 8, &options), "--allow-code-execution");
  json_decref(details);
  json_decref(item.row);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(answers_of_mathematics_are_compared_as_the_harness_does),
      cmocka_unit_test(the_last_box_is_found_as_the_harness_does),
      cmocka_unit_test(numbers_are_found_by_both_filters_of_the_harness),
      cmocka_unit_test(a_formula_or_the_last_box_is_the_answer),
      cmocka_unit_test(instructions_are_judged_as_the_harness_does),
      cmocka_unit_test(a_prompt_counts_when_all_of_its_instructions_are_scored),
      cmocka_unit_test(code_is_not_run_unless_that_is_allowed),
  };
  return cmocka_run_group_tests(tests, open_reference, close_reference);
}
