// The first candidates of rows of logits on a CUDA device (kernels/cuda/sampling.h) beside a sort by the host: vocabularies around the sizes
// of pieces, equal logits, zeros of both signs, NaN and infinities. On the simulated device unless LORA_CUDA_LIBRARY names another library.
#include <dlfcn.h>
#include <math.h>

#include "kernels/backend.h"
#include "kernels/cuda/sampling.h"
#include "tests/support/test.h"

typedef void TopCandidates(float *values, int32_t *ids, const float *logits, int64_t rows, int64_t vocabulary, int64_t k, Backend *backend);
typedef void ArgMax(float *values, int32_t *ids, const float *logits, int64_t rows, int64_t vocabulary, Backend *backend);

static Backend *backend;
static TopCandidates *top_candidates;
static ArgMax *arg_max;

static int open_device(void **state) {
  (void)state;
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  assert_ok(backend_new(&backend, "cuda", 1));
  void *library = dlopen(getenv("LORA_CUDA_LIBRARY"), RTLD_NOW | RTLD_NOLOAD);
  void *symbols[] = {library ? dlsym(library, "cuda_top_candidates") : NULL, library ? dlsym(library, "cuda_arg_max") : NULL};
  assert_non_null(symbols[0]);
  assert_non_null(symbols[1]);
  memcpy(&top_candidates, &symbols[0], sizeof symbols[0]);
  memcpy(&arg_max, &symbols[1], sizeof symbols[1]);
  return 0;
}

static int close_device(void **state) {
  (void)state;
  backend_free(backend);
  return 0;
}

static const float *sorted_row;

// NaN, then the higher, then the lower id.
static int compare_ids(const void *a, const void *b) {
  int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
  float x = sorted_row[i], y = sorted_row[j];
  if (isnan(x) != isnan(y)) return isnan(x) ? -1 : 1;
  if (x > y || x < y) return x > y ? -1 : 1;
  return i < j ? -1 : 1;
}

// `shift`: the logits begin so many floats behind a boundary of 16 bytes.
static void check_rows(const float *logits, int64_t rows, int64_t vocabulary, int64_t k, bool by_arg_max, int64_t shift) {
  int64_t count = rows * vocabulary;
  void *device, *values_there, *ids_there;
  float *values = memory_new((size_t)(rows * k), sizeof *values);
  int32_t *ids = memory_new((size_t)(rows * k), sizeof *ids), *order = memory_new((size_t)vocabulary, sizeof *order);
  assert_ok(backend->allocate(&device, (count + shift) * (int64_t)sizeof(float), "a test", backend));
  assert_ok(backend->allocate(&values_there, rows * k * (int64_t)sizeof(float), "a test", backend));
  assert_ok(backend->allocate(&ids_there, rows * k * (int64_t)sizeof(int32_t), "a test", backend));
  backend->upload((float *)device + shift, logits, count * (int64_t)sizeof(float), backend);
  if (by_arg_max) arg_max(values_there, ids_there, (float *)device + shift, rows, vocabulary, backend);
  else top_candidates(values_there, ids_there, (float *)device + shift, rows, vocabulary, k, backend);
  backend->download(values, values_there, rows * k * (int64_t)sizeof(float), backend);
  backend->download(ids, ids_there, rows * k * (int64_t)sizeof(int32_t), backend);
  for (int64_t i = 0; i < rows; i++) {
    sorted_row = logits + i * vocabulary;
    for (int64_t j = 0; j < vocabulary; j++) order[j] = (int32_t)j;
    qsort(order, (size_t)vocabulary, sizeof *order, compare_ids);
    for (int64_t j = 0; j < k; j++) {
      assert_int_equal(ids[i * k + j], order[j]);
      assert_memory_equal(&values[i * k + j], &sorted_row[order[j]], sizeof(float));
    }
  }
  backend->release(device, backend);
  backend->release(values_there, backend);
  backend->release(ids_there, backend);
  free(values);
  free(ids);
  free(order);
}

static float *random_logits(int64_t count, bool has_ties, Rng *rng) {
  float *logits = memory_new((size_t)count, sizeof *logits);
  fill_normal(logits, count, 3, rng);
  for (int64_t i = 0; has_ties && i < count; i++) logits[i] = rintf(logits[i]) * (rng_below(rng, 2) ? 1 : -1);  // -0, too
  return logits;
}

static void candidates_are_those_of_a_sort(void **state) {
  (void)state;
  static const int64_t shapes[][3] = {{1, 1, 1},     {3, 2, 2},       {2, 7, 3},       {1, 100, 100}, {5, 4096, 40},
                                      {2, 4097, 40}, {1, 8193, 1024}, {2, 13000, 300}, {1, 32003, 64}};
  Rng rng = rng_new(1, RNG_STREAM_TEST);
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    for (int has_ties = 0; has_ties < 2; has_ties++) {
      float *logits = random_logits(shapes[i][0] * shapes[i][1], has_ties, &rng);
      check_rows(logits, shapes[i][0], shapes[i][1], shapes[i][2], false, has_ties);
      check_rows(logits, shapes[i][0], shapes[i][1], 1, true, has_ties);
      free(logits);
    }
}

static void what_is_not_finite_comes_where_it_shows(void **state) {
  (void)state;
  enum { VOCABULARY = 9000 };
  Rng rng = rng_new(2, RNG_STREAM_TEST);
  float *logits = random_logits(VOCABULARY, false, &rng);
  logits[17] = INFINITY, logits[8999] = INFINITY, logits[3] = -INFINITY;
  check_rows(logits, 1, VOCABULARY, 5, false, 0);
  check_rows(logits, 1, VOCABULARY, 1, true, 0);
  logits[5000] = NAN, logits[8500] = -NAN;
  check_rows(logits, 1, VOCABULARY, 5, false, 0);
  check_rows(logits, 1, VOCABULARY, 1, true, 0);
  for (int64_t i = 0; i < VOCABULARY; i++) logits[i] = -INFINITY;
  check_rows(logits, 1, VOCABULARY, 5, false, 0);
  check_rows(logits, 1, VOCABULARY, 1, true, 0);
  free(logits);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(candidates_are_those_of_a_sort),
      cmocka_unit_test(what_is_not_finite_comes_where_it_shows),
  };
  return cmocka_run_group_tests(tests, open_device, close_device);
}
