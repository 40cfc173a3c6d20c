// The sampler's filters against plain definitions over unsorted arrays, and the draw.
#include <math.h>

#include "runtime/sampler.h"
#include "tests/support/test.h"

enum { VOCABULARY = 97, CASES = 40 };

static SamplerSettings no_filters(void) {
  return (SamplerSettings){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .repetition_window = -1};
}

static void softmax(double *p, const double *logits, const bool *kept, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; i++) total += kept[i] ? exp(logits[i]) : 0;
  for (int64_t i = 0; i < n; i++) p[i] = kept[i] ? exp(logits[i]) / total : 0;
}

// How many kept tokens come before token i: larger logit, or the same and a lower id.
static int64_t rank_of(int64_t i, const double *logits, const bool *kept) {
  int64_t rank = 0;
  for (int64_t j = 0; j < VOCABULARY; j++) rank += kept[j] && (logits[j] > logits[i] || (logits[j] == logits[i] && j < i));
  return rank;
}

// The header's steps 1 to 4, each from its definition.
static void plain_filter(double p[VOCABULARY], const float *given, SamplerSettings settings, const int32_t *tokens, int64_t count) {
  double logits[VOCABULARY], before[VOCABULARY];
  bool kept[VOCABULARY], seen[VOCABULARY] = {false};
  for (int64_t t = 0; t < count; t++)
    if (settings.repetition_window < 0 || t >= count - settings.repetition_window) seen[tokens[t]] = true;
  for (int64_t i = 0; i < VOCABULARY; i++) {
    kept[i] = true;
    logits[i] = given[i];
    if (seen[i]) logits[i] = given[i] > 0 ? given[i] / settings.repetition_penalty : given[i] * settings.repetition_penalty;
  }
  bool all[VOCABULARY];
  memcpy(all, kept, sizeof all);
  for (int64_t i = 0; i < VOCABULARY; i++) kept[i] = settings.top_k == 0 || rank_of(i, logits, all) < settings.top_k;
  softmax(p, logits, kept, VOCABULARY);
  memcpy(all, kept, sizeof all);
  memcpy(before, p, sizeof before);
  for (int64_t i = 0; i < VOCABULARY && settings.top_p < 1; i++) {
    double sum = 0;  // of those that come before i
    for (int64_t j = 0; j < VOCABULARY; j++)
      if (all[j] && (logits[j] > logits[i] || (logits[j] == logits[i] && j < i))) sum += before[j];
    kept[i] = all[i] && sum < settings.top_p;
  }
  softmax(p, logits, kept, VOCABULARY);
  double largest = 0;
  for (int64_t i = 0; i < VOCABULARY; i++) largest = fmax(largest, p[i]);
  for (int64_t i = 0; i < VOCABULARY; i++) kept[i] = kept[i] && p[i] >= settings.min_p * largest;
  softmax(p, logits, kept, VOCABULARY);
}

static void assert_filters_as_defined(SamplerSettings settings) {
  Rng rng = rng_new(7, RNG_STREAM_TEST);
  Sampler sampler;
  sampler_new(&sampler, settings, VOCABULARY);
  for (int round = 0; round < CASES; round++) {
    float logits[VOCABULARY];
    int32_t tokens[12];
    fill_normal(logits, VOCABULARY, 2, &rng);
    logits[5] = logits[40] = logits[7];  // ties
    for (int i = 0; i < 12; i++) tokens[i] = (int32_t)rng_below(&rng, VOCABULARY);
    double expected[VOCABULARY], sum = 0;
    plain_filter(expected, logits, settings, tokens, 12);
    assert_ok(sampler_filter(&sampler, logits, VOCABULARY, tokens, 12));
    int64_t left = 0;
    for (int64_t i = 0; i < VOCABULARY; i++) left += expected[i] > 0;
    assert_int_equal(sampler.count, left);
    for (int64_t i = 0; i < sampler.count; i++) {
      const Candidate *candidate = &sampler.candidates[i];
      assert_true(fabs(candidate->probability - expected[candidate->id]) <= 1e-12);
      if (i) assert_true(candidate->logit <= sampler.candidates[i - 1].logit);
      sum += candidate->probability;
    }
    assert_true(fabs(sum - 1) <= 1e-12);
  }
  sampler_free(&sampler);
}

static void without_filters_every_token_keeps_its_softmax(void **state) {
  (void)state;
  assert_filters_as_defined(no_filters());
}

static void top_k_keeps_the_k_largest_and_the_lower_id_of_equals(void **state) {
  (void)state;
  SamplerSettings settings = no_filters();
  for (settings.top_k = 1; settings.top_k <= VOCABULARY + 1; settings.top_k += 8) assert_filters_as_defined(settings);
}

static void top_p_keeps_the_fewest_that_reach_p(void **state) {
  (void)state;
  SamplerSettings settings = no_filters();
  for (settings.top_p = 0.01; settings.top_p < 1; settings.top_p += 0.09) assert_filters_as_defined(settings);
}

static void min_p_keeps_what_is_near_the_likeliest(void **state) {
  (void)state;
  SamplerSettings settings = no_filters();
  for (settings.min_p = 0; settings.min_p <= 1; settings.min_p += 0.11) assert_filters_as_defined(settings);
}

static void repetition_penalty_counts_each_token_of_the_window_once(void **state) {
  (void)state;
  SamplerSettings settings = no_filters();
  settings.repetition_penalty = 1.3;
  for (settings.repetition_window = -1; settings.repetition_window <= 14; settings.repetition_window += 5)
    assert_filters_as_defined(settings);
}

static void filters_work_together_in_their_order(void **state) {
  (void)state;
  assert_filters_as_defined(
      (SamplerSettings){.temperature = 0.5, .top_k = 30, .top_p = 0.8, .min_p = 0.1, .repetition_penalty = 1.2, .repetition_window = 6});
}

static void temperature_zero_takes_the_largest_and_the_lowest_id_of_equals(void **state) {
  (void)state;
  SamplerSettings settings = sampler_defaults();
  settings.temperature = 0;
  Sampler sampler;
  sampler_new(&sampler, settings, 5);
  const float logits[] = {-1, 2, 3, 3, -INFINITY};
  int32_t id = -1;
  assert_ok(sampler_next(&id, &sampler, logits, 5, NULL, 0));
  assert_int_equal(id, 2);
  sampler.settings.repetition_penalty = 2;
  assert_ok(sampler_next(&id, &sampler, logits, 5, (const int32_t[]){2}, 1));
  assert_int_equal(id, 3);
  sampler_free(&sampler);
}

static void the_same_seed_draws_the_same_tokens(void **state) {
  (void)state;
  float logits[VOCABULARY];
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  fill_normal(logits, VOCABULARY, 1, &rng);
  SamplerSettings settings = sampler_defaults();
  int32_t drawn[3][50];
  for (int run = 0; run < 3; run++) {
    Sampler sampler;
    settings.seed = run < 2 ? 3 : 4;
    sampler_new(&sampler, settings, VOCABULARY);
    for (int i = 0; i < 50; i++) assert_ok(sampler_next(&drawn[run][i], &sampler, logits, VOCABULARY, NULL, 0));
    sampler_free(&sampler);
  }
  assert_memory_equal(drawn[0], drawn[1], sizeof drawn[0]);
  assert_memory_not_equal(drawn[0], drawn[2], sizeof drawn[0]);
}

static void draws_follow_the_softmax_at_the_temperature(void **state) {
  (void)state;
  enum { DRAWS = 40000 };
  const float logits[] = {0, 1, -1, 0.5f};
  SamplerSettings settings = no_filters();
  settings.temperature = 0.7;
  Sampler sampler;
  sampler_new(&sampler, settings, 4);
  int64_t seen[4] = {0};
  for (int i = 0; i < DRAWS; i++) {
    int32_t id;
    assert_ok(sampler_next(&id, &sampler, logits, 4, NULL, 0));
    seen[id]++;
  }
  double total = 0;
  for (int i = 0; i < 4; i++) total += exp(logits[i] / 0.7);
  for (int i = 0; i < 4; i++) {
    double p = exp(logits[i] / 0.7) / total;
    assert_true(fabs((double)seen[i] / DRAWS - p) <= 4 * sqrt(p * (1 - p) / DRAWS));  // four standard deviations
  }
  sampler_free(&sampler);
}

static void broken_logits_are_an_error_and_no_token(void **state) {
  (void)state;
  for (int greedy = 0; greedy < 2; greedy++) {
    SamplerSettings settings = sampler_defaults();
    if (greedy) settings.temperature = 0;
    Sampler sampler;
    sampler_new(&sampler, settings, 3);
    int32_t id = -7;
    assert_fails(STATUS_FAILED, sampler_next(&id, &sampler, (const float[]){0, NAN, 1}, 3, NULL, 0), "token 1", "damaged");
    assert_fails(STATUS_FAILED, sampler_next(&id, &sampler, (const float[]){0, 1, INFINITY}, 3, NULL, 0), "token 2", "damaged");
    assert_fails(STATUS_FAILED, sampler_next(&id, &sampler, (const float[]){-INFINITY, -INFINITY, -INFINITY}, 3, NULL, 0), "finite");
    assert_int_equal(id, -7);
    sampler_free(&sampler);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(without_filters_every_token_keeps_its_softmax),
      cmocka_unit_test(top_k_keeps_the_k_largest_and_the_lower_id_of_equals),
      cmocka_unit_test(top_p_keeps_the_fewest_that_reach_p),
      cmocka_unit_test(min_p_keeps_what_is_near_the_likeliest),
      cmocka_unit_test(repetition_penalty_counts_each_token_of_the_window_once),
      cmocka_unit_test(filters_work_together_in_their_order),
      cmocka_unit_test(temperature_zero_takes_the_largest_and_the_lowest_id_of_equals),
      cmocka_unit_test(the_same_seed_draws_the_same_tokens),
      cmocka_unit_test(draws_follow_the_softmax_at_the_temperature),
      cmocka_unit_test(broken_logits_are_an_error_and_no_token),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
