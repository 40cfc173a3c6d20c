#include "tests/support/test.h"

#include "core/thread.h"

// Known answers of the Random123 distribution (kat_vectors): philox4x32 10.
static void philox_matches_known_answers(void **state) {
  (void)state;
  uint32_t out[4];
  philox(out, 0, 0, 0);
  const uint32_t zeros[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  assert_memory_equal(out, zeros, sizeof zeros);
  philox(out, UINT64_MAX, UINT64_MAX, UINT64_MAX);
  const uint32_t ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
  assert_memory_equal(out, ones, sizeof ones);
}

static void rng_below_is_in_range_and_uniform(void **state) {
  (void)state;
  Rng rng = rng_new(1, RNG_STREAM_TEST);
  int counts[7] = {0};
  for (int i = 0; i < 70000; i++) {
    uint64_t value = rng_below(&rng, 7);
    assert_true(value < 7);
    counts[value]++;
  }
  for (int i = 0; i < 7; i++) assert_in_range(counts[i], 9500, 10500);
}

static void rng_normal_has_mean_zero_and_deviation_one(void **state) {
  (void)state;
  Rng rng = rng_new(2, RNG_STREAM_TEST);
  double sum = 0, squares = 0;
  for (int i = 0; i < 100000; i++) {
    double x = rng_normal(&rng);
    sum += x, squares += x * x;
  }
  assert_true(sum / 1e5 < 0.01 && sum / 1e5 > -0.01);
  assert_true(squares / 1e5 < 1.02 && squares / 1e5 > 0.98);
}

static void count_task(void *argument, int64_t task, int thread) {
  (void)thread;
  ((int *)argument)[task]++;
}

static void pool_runs_each_task_once(void **state) {
  (void)state;
  for (int threads = 1; threads <= 5; threads++) {
    ThreadPool *pool = pool_new(threads);
    for (int round = 0; round < 200; round++) {
      int counts[37] = {0};
      pool_run(pool, 37, count_task, counts);
      for (int i = 0; i < 37; i++) assert_int_equal(counts[i], 1);
    }
    pool_free(pool);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(philox_matches_known_answers),
      cmocka_unit_test(rng_below_is_in_range_and_uniform),
      cmocka_unit_test(rng_normal_has_mean_zero_and_deviation_one),
      cmocka_unit_test(pool_runs_each_task_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
