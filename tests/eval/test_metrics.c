// Metrics, their errors and paired comparisons beside the plain formulas, and what a confidence interval promises.
#include "eval/metrics.h"

#include <math.h>

#include "tests/support/test.h"

static const Metric mean = {"acc", false}, perplexity = {"perplexity", true};

static void assert_near(double actual, double expected) {
  if (!(fabs(actual - expected) <= 1e-12 * fmax(1, fabs(expected)))) fail_msg("%.17g, expected %.17g", actual, expected);
}

static double mean_of(const double *values, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += values[i];
  return sum / n;
}

// The sample's standard deviation by the root of n.
static double error_of(const double *values, int n) {
  double center = mean_of(values, n), squares = 0;
  for (int i = 0; i < n; i++) squares += (values[i] - center) * (values[i] - center);
  return sqrt(squares / (n - 1)) / sqrt(n);
}

static void an_accuracy_has_the_error_of_a_mean(void **state) {
  (void)state;
  const double values[] = {1, 0, 1, 1, 0, 1, 1};
  Score scores[9] = {{0}};  // two that are not scored among them
  for (int i = 0; i < 7; i++) scores[i + (i > 2) + (i > 4)] = (Score){values[i], 1};
  Estimate found = metric_estimate(&mean, scores, 9);
  assert_int_equal(found.count, 7);
  assert_near(found.value, mean_of(values, 7));
  assert_near(found.error, error_of(values, 7));
}

static void a_perplexity_is_exp_of_the_mean_with_the_error_of_its_slope(void **state) {
  (void)state;
  const double values[] = {1.5, 0.25, 3, 2.5};
  Score scores[4];
  for (int i = 0; i < 4; i++) scores[i] = (Score){values[i], 1};
  Estimate found = metric_estimate(&perplexity, scores, 4);
  assert_near(found.value, exp(mean_of(values, 4)));
  assert_near(found.error, exp(mean_of(values, 4)) * error_of(values, 4));
}

static void a_ratio_is_all_sums_by_all_counts(void **state) {
  (void)state;
  const Score scores[] = {{2, 3}, {1, 1}, {0, 2}, {0, 0}};
  Estimate found = metric_estimate(&mean, scores, 4);
  assert_int_equal(found.count, 6);
  assert_near(found.value, 0.5);
  assert_near(found.error, sqrt(3.0 / 2 * (0.25 + 0.25 + 1)) / 6);
}

static void too_few_items_have_no_error(void **state) {
  (void)state;
  const Score one = {1, 1}, none = {0, 0};
  assert_true(isnan(metric_estimate(&mean, &one, 1).error) && metric_estimate(&mean, &one, 1).value == 1);
  assert_true(isnan(metric_estimate(&mean, &none, 1).value));
  assert_true(isnan(metric_estimate(&mean, NULL, 0).value));
}

static void a_comparison_goes_by_the_differences_of_items(void **state) {
  (void)state;
  const double first[] = {1, 0, 0, 1, 0, 1}, second[] = {1, 1, 1, 0, 0, 1};
  double differences[6];
  Score a[7], b[7];
  for (int i = 0; i < 6; i++) {
    a[i] = (Score){first[i], 1}, b[i] = (Score){second[i], 1};
    differences[i] = second[i] - first[i];
  }
  a[6] = (Score){1, 1}, b[6] = (Score){0, 0};  // scored in one only: no pair
  Comparison found = metric_compare(&mean, a, b, 7);
  assert_near(found.difference, mean_of(differences, 6));
  assert_near(found.error, error_of(differences, 6));
  assert_near(found.high - found.difference, found.difference - found.low);
  assert_int_equal(found.better, 2);
  assert_int_equal(found.worse, 1);
  assert_int_equal(found.same, 3);
}

static void a_smaller_perplexity_is_better(void **state) {
  (void)state;
  const Score first[] = {{3, 1}, {2, 1}, {1, 1}}, second[] = {{2, 1}, {2, 1}, {0.5, 1}};
  Comparison found = metric_compare(&perplexity, first, second, 3);
  assert_near(found.difference, exp(1.5) - exp(2));
  assert_int_equal(found.better, 2);
  assert_int_equal(found.worse, 0);
}

static void the_same_answers_differ_by_nothing(void **state) {
  (void)state;
  const Score scores[] = {{1, 1}, {0, 1}, {1, 1}};
  Comparison found = metric_compare(&mean, scores, scores, 3);
  assert_true(found.difference == 0 && found.error == 0 && found.low == 0 && found.high == 0 && found.same == 3);
}

// Two models that agree on most items: the interval holds the true difference in 95 of 100 experiments, and is narrower than one that takes
// the two for independent.
static void the_interval_holds_the_true_difference_as_often_as_it_says(void **state) {
  (void)state;
  enum { ITEMS = 300, ROUNDS = 4000 };
  Rng rng = rng_new(1234, RNG_STREAM_TEST);
  int held = 0, narrower = 0;
  for (int round = 0; round < ROUNDS; round++) {
    Score first[ITEMS], second[ITEMS];
    for (int i = 0; i < ITEMS; i++) {
      bool was_right = rng_uniform(&rng) < 0.6;
      bool is_right = was_right ? rng_uniform(&rng) < 0.95 : rng_uniform(&rng) < 0.2;
      first[i] = (Score){was_right, 1};
      second[i] = (Score){is_right, 1};
    }
    const double truth = 0.6 * 0.95 + 0.4 * 0.2 - 0.6;
    Comparison found = metric_compare(&mean, first, second, ITEMS);
    held += found.low <= truth && truth <= found.high;
    narrower += found.error < hypot(metric_estimate(&mean, first, ITEMS).error, metric_estimate(&mean, second, ITEMS).error);
  }
  assert_in_range(held, ROUNDS * 0.935, ROUNDS * 0.965);
  assert_int_equal(narrower, ROUNDS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_accuracy_has_the_error_of_a_mean),
      cmocka_unit_test(a_perplexity_is_exp_of_the_mean_with_the_error_of_its_slope),
      cmocka_unit_test(a_ratio_is_all_sums_by_all_counts),
      cmocka_unit_test(too_few_items_have_no_error),
      cmocka_unit_test(a_comparison_goes_by_the_differences_of_items),
      cmocka_unit_test(a_smaller_perplexity_is_better),
      cmocka_unit_test(the_same_answers_differ_by_nothing),
      cmocka_unit_test(the_interval_holds_the_true_difference_as_often_as_it_says),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
