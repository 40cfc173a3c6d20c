// Every entry of every compiled table of the CPU's kernels against float64, on random and edge shapes and all weight types
// (tests/support/kernel_compare.c has the rules). Activations are float32, then bfloat16. test_cuda.c does the same on a CUDA device.
#include <float.h>
#include <math.h>

#include "tests/support/kernel_compare.h"

enum { SEED = CASES_SEED, MAX_TABLES = 8 };

typedef struct Table {
  const Kernels *kernels;
  const char *device;
} Table;

static Table tables[MAX_TABLES];
static int table_count;

static int find_tables(void **state) {
  (void)state;
  for (int i = 0; backend_cpu_kernels(i); i++) tables[table_count++] = (Table){backend_cpu_kernels(i), "cpu"};
  for (int i = 0; i < table_count; i++) print_message("table: %s on %s; seed %d\n", tables[i].kernels->name, tables[i].device, SEED);
  return 0;
}

static Backend *open_backend(const Table *table, int threads) {
  Backend *backend;
  assert_ok(backend_new(&backend, table->device, threads));
  backend->kernels = table->kernels;
  return backend;
}

static void compare_op(KernelOp op) {
  for (int t = 0; t < table_count; t++) {
    Backend *backend = open_backend(&tables[t], 2);
    cases_compare(op, FLOAT_32, 0, backend);
    cases_compare(op, FLOAT_BF16, 0, backend);
    backend_free(backend);
  }
}

#define KERNEL_OP_TEST(op)                                        \
  static void op##_of_every_table_matches_float64(void **state) { \
    (void)state;                                                  \
    compare_op(OP_##op);                                          \
  }
KERNEL_OPS(KERNEL_OP_TEST)

typedef void (*AnyFunction)(void);

static void no_table_has_a_hole_and_no_entry_is_untested(void **state) {
  (void)state;
  // peak_flops, which has a test of its own, and experts_scratch_floats, which those of the experts call, compute nothing.
  assert_int_equal((OP_COUNT + 2) * sizeof(AnyFunction), sizeof(Kernels) - sizeof(const char *));
  for (int t = 0; t < table_count; t++) {
    assert_non_null(tables[t].kernels->name);
    assert_non_null(tables[t].kernels->experts_scratch_floats);
    for (int op = 0; op < OP_COUNT; op++) {
      AnyFunction entry;
      memcpy(&entry, (const char *)tables[t].kernels + kernel_ops[op].member, sizeof entry);
      if (!entry) fail_msg("%s: %s is NULL", tables[t].kernels->name, kernel_ops[op].name);
    }
  }
}

enum { THREAD_COUNTS = 4 };
static const int thread_counts[THREAD_COUNTS] = {1, 2, 3, 5};

static void check_threads(const KernelCase *c, Backend *const backends[THREAD_COUNTS], Arena *arena) {
  float *out[THREAD_COUNTS][CASE_OUTPUTS];
  for (int i = 0; i < THREAD_COUNTS; i++) {
    case_outputs_new(out[i], arena, c);
    case_run(out[i], c, backends[i]);
    for (int output = 0; output < CASE_OUTPUTS; output++)
      if (memcmp(out[0][output], out[i][output], (size_t)c->counts[output] * sizeof(float)) != 0)
        fail_msg("%s %s: output %d differs between 1 and %d threads: type %d, %s", backends[i]->kernels->name, kernel_ops[c->op].name,
                 output, thread_counts[i], c->type, c->description);
  }
}

// Products with all their terms are test_linear.c's.
static void number_of_threads_changes_no_bit(void **state) {
  (void)state;
  for (int t = 0; t < table_count; t++) {
    Backend *backends[THREAD_COUNTS];
    for (int i = 0; i < THREAD_COUNTS; i++) backends[i] = open_backend(&tables[t], thread_counts[i]);
    for (int op = 0; op < OP_COUNT; op++) {
      Rng rng = rng_new(SEED + 1, RNG_STREAM_TEST);
      for (int index = 0;; index++) {
        Arena arena = {0};
        KernelCase *c = kernel_ops[op].make(&arena, &rng, index);
        if (c) check_threads(c, backends, &arena);
        if (c && case_round(c, FLOAT_BF16)) check_threads(c, backends, &arena);
        arena_release(&arena);
        if (!c) break;
      }
    }
    for (int i = 0; i < THREAD_COUNTS; i++) backend_free(backends[i]);
  }
}

static void number_of_threads_changes_no_bit_of_a_gradient_in_bfloat16(void **state) {
  (void)state;
  enum { ROWS = 7, VOCABULARY = 10007, COUNT = ROWS * VOCABULARY };
  float *logits = memory_new(COUNT, sizeof *logits), *first = memory_new(COUNT, sizeof *first), *other = memory_new(COUNT, sizeof *other);
  const float scale[ROWS] = {1, 0.25f, 3, 0, 1, 1, 1};
  const int32_t targets[ROWS] = {0, VOCABULARY - 1, 5, 6, 7, 4096, 8};
  Rng rng = rng_new(SEED, RNG_STREAM_TEST);
  fill_normal(logits, COUNT, 3, &rng);
  float nll[2][ROWS];
  for (int t = 0; t < table_count; t++)
    for (int i = 0; i < THREAD_COUNTS; i++) {
      float *out = i ? other : first;
      Backend *backend = open_backend(&tables[t], thread_counts[i]);
      memcpy(out, logits, COUNT * sizeof *out);
      backend->kernels->cross_entropy(nll[i > 0], out, VOCABULARY, targets, scale, FLOAT_BF16, ROWS, VOCABULARY, 0, backend);
      assert_memory_equal(nll[0], nll[i > 0], sizeof nll[0]);
      for (int row = 0; row < ROWS; row++)
        assert_memory_equal(first + row * VOCABULARY, out + row * VOCABULARY, VOCABULARY * sizeof(uint16_t));
      backend_free(backend);
    }
  free(logits);
  free(first);
  free(other);
}

// The same values, each rounded once, in the first half of their row's place.
static void cross_entropy_writes_its_gradient_in_bfloat16(void **state) {
  (void)state;
  enum { ROWS = 3 };
  for (int t = 0; t < 2 * table_count; t++) {
    Backend *backend = open_backend(&tables[t / 2], 2);
    float softcap = t % 2 ? 5 : 0;
    for (int64_t vocabulary = 1; vocabulary < 10000; vocabulary = 3 * vocabulary + 1) {
      Rng rng = rng_new((uint64_t)vocabulary, RNG_STREAM_TEST);
      float nll[2][ROWS], scale[ROWS] = {1, 0.25f, 3}, *logits[2];
      int32_t targets[ROWS] = {0, (int32_t)vocabulary / 2, (int32_t)vocabulary - 1};
      for (int i = 0; i < 2; i++) logits[i] = memory_new((size_t)(ROWS * (vocabulary + 5)), sizeof(float));
      fill_normal(logits[0], ROWS * vocabulary, 3, &rng);
      for (int64_t i = 0; i < ROWS; i++)
        memcpy(logits[1] + i * (vocabulary + 5), logits[0] + i * vocabulary, (size_t)vocabulary * sizeof(float));
      backend->kernels->cross_entropy(nll[0], logits[0], vocabulary, targets, scale, FLOAT_32, ROWS, vocabulary, softcap, backend);
      backend->kernels->cross_entropy(nll[1], logits[1], vocabulary + 5, targets, scale, FLOAT_BF16, ROWS, vocabulary, softcap, backend);
      assert_memory_equal(nll[0], nll[1], sizeof nll[0]);
      for (int64_t i = 0; i < ROWS; i++)
        for (int64_t j = 0; j < vocabulary; j++) {
          float expected = logits[0][i * vocabulary + j],
                actual = bfloat16_to_float(((uint16_t *)(void *)(logits[1] + i * (vocabulary + 5)))[j]);
          if (!(fabsf(actual - expected) <= fabsf(expected) * 0x1p-8f + 0x1p-126f))
            fail_msg("%s: %g is not %g", backend->kernels->name, actual, expected);
        }
      for (int i = 0; i < 2; i++) free(logits[i]);
    }
    backend_free(backend);
  }
}

// Of equal rows it is 0, and so is its gradient, to the last bit; tokens that the policy never takes count for nothing; a NaN shows.
static void divergence_of_equal_and_of_impossible_logits(void **state) {
  (void)state;
  enum { N = 77 };
  for (int t = 0; t < 2 * table_count; t++) {
    Backend *backend = open_backend(&tables[t / 2], 2);
    float softcap = t % 2 ? 30 : 0, logits[N], base[N], kl, scale = 2;
    Rng rng = rng_new(SEED, RNG_STREAM_TEST);
    fill_normal(logits, N, 40, &rng);
    memcpy(base, logits, sizeof base);
    backend->kernels->divergence(&kl, base, logits, N, &scale, 1, N, softcap, backend);
    assert_true(kl == 0);
    for (int i = 0; i < N; i++) assert_true(base[i] == 0);
    for (int i = 0; i < N; i++) logits[i] = i == 5 ? 3e38f : -3e38f, base[i] = 0;
    if (!(softcap > 0)) logits[6] = base[6] = -INFINITY;
    backend->kernels->divergence(&kl, base, logits, N, &scale, 1, N, softcap, backend);
    assert_true(fabs(kl - log(softcap > 0 ? N : N - 1)) < 1e-5);
    for (int i = 0; i < N; i++) assert_true(fabsf(base[i]) < 1e-5f);
    logits[70] = NAN;
    backend->kernels->divergence(&kl, base, logits, N, &scale, 1, N, softcap, backend);
    assert_true(isnan(kl) && isnan(base[0]));
    backend_free(backend);
  }
}

// Matrices trained in full are wider on both sides than LoRA's factors.
static void whole_matrices_get_the_gradient_of_float64(void **state) {
  (void)state;
  static const int64_t shapes[][3] = {{33, 400, 700}, {40, 1000, 300}, {600, 300, 310}, {3, 3000, 65}, {70, 65, 2100}};
  for (int t = 0; t < table_count; t++) {
    Backend *backend = open_backend(&tables[t], 2);
    Rng rng = rng_new(SEED + 2, RNG_STREAM_TEST);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
      for (int rounded = 0; rounded < 2; rounded++) {
        Arena arena = {0};
        KernelCase *c = case_weight(&arena, &rng, shapes[s][0], shapes[s][1], shapes[s][2], rounded ? 0.5f : 1);
        if (rounded) assert_true(case_round(c, FLOAT_BF16));
        case_compare(c, backend, &arena);
        arena_release(&arena);
      }
    backend_free(backend);
  }
}

// Rows of ids below 0 are left as they are: those of others are put there before.
static void embeddings_of_negative_ids_stay(void **state) {
  (void)state;
  enum { ROWS = 5, COLUMNS = 37, N = 9 };
  const int32_t ids[N] = {3, -1, 0, -7, 4, -1, -1, 2, -1};
  float values[ROWS * COLUMNS], y[N * COLUMNS];
  Rng rng = rng_new(SEED, RNG_STREAM_TEST);
  fill_normal(values, ROWS * COLUMNS, 1, &rng);
  for (int t = 0; t < table_count; t++) {
    Backend *backend = open_backend(&tables[t], 2);
    Matrix w = matrix_f32(values, ROWS, COLUMNS);
    for (int i = 0; i < N * COLUMNS; i++) y[i] = (float)i;
    backend->kernels->embedding_forward(y, ids, &w, N, 2, backend);
    for (int i = 0; i < N * COLUMNS; i++) {
      int32_t id = ids[i / COLUMNS];
      float expected = id < 0 ? (float)i : 2 * values[id * COLUMNS + i % COLUMNS];
      if (y[i] != expected) fail_msg("%s: %g is not %g", backend->kernels->name, y[i], expected);
    }
    backend_free(backend);
  }
}

static void peak_of_every_table_is_a_rate(void **state) {
  (void)state;
  for (int t = 0; t < table_count; t++) {
    Backend *backend = open_backend(&tables[t], 2);
    double rate = backend->kernels->peak_flops(FLOAT_32, backend), half = backend->kernels->peak_flops(FLOAT_BF16, backend);
    assert_true(isfinite(rate) && rate > 1e7);
    assert_true(isfinite(half) && half >= 0);
    backend_free(backend);
  }
}

static void sum_of_squares_lets_nan_and_infinity_through(void **state) {
  (void)state;
  for (int t = 0; t < table_count; t++) {
    Backend *backend = open_backend(&tables[t], 2);
    for (int64_t place = 0; place < 1000; place += 111) {
      float host[1000] = {0};
      void *device;
      assert_ok(backend->allocate(&device, sizeof host, "a test", backend));
      host[place] = NAN;
      backend->upload(device, host, sizeof host, backend);
      assert_true(isnan(backend->kernels->sum_of_squares(device, 1000, backend)));
      host[place] = -INFINITY;
      backend->upload(device, host, sizeof host, backend);
      assert_true(isinf(backend->kernels->sum_of_squares(device, 1000, backend)));
      backend->release(device, backend);
    }
    backend_free(backend);
  }
}

static void zero_rows_and_zero_counts_write_nothing(void **state) {
  (void)state;
  for (int t = 0; t < table_count; t++) {
    Backend *backend = open_backend(&tables[t], 2);
    cases_of_nothing_write_nothing(backend);
    backend_free(backend);
  }
}

static void comparison_rejects_nan_and_infinity(void **state) {
  (void)state;
  const double truth[3] = {1, 2, 3}, broken[3] = {1, NAN, 3};
  assert_true(relative_error((float[]){1, 2, 3}, truth, 3, 0) == 0);
  assert_true(fabs(relative_error((float[]){1, 2, 3.3f}, truth, 3, 0) - 0.1) < 1e-6);
  assert_true(fabs(relative_error((float[]){1, 2, 3.3f}, truth, 3, 30) - 0.01) < 1e-6);
  assert_true(isinf(relative_error((float[]){1, NAN, 3}, truth, 3, 0)));
  assert_true(isinf(relative_error((float[]){1, INFINITY, 3}, truth, 3, 0)));
  assert_true(isinf(relative_error((float[]){1, 2, 3}, broken, 3, 0)));
}

#define KERNEL_OP_UNIT_TEST(op) cmocka_unit_test(op##_of_every_table_matches_float64),

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(comparison_rejects_nan_and_infinity),
      cmocka_unit_test(no_table_has_a_hole_and_no_entry_is_untested),
      KERNEL_OPS(KERNEL_OP_UNIT_TEST)  //
      cmocka_unit_test(number_of_threads_changes_no_bit),
      cmocka_unit_test(number_of_threads_changes_no_bit_of_a_gradient_in_bfloat16),
      cmocka_unit_test(cross_entropy_writes_its_gradient_in_bfloat16),
      cmocka_unit_test(divergence_of_equal_and_of_impossible_logits),
      cmocka_unit_test(whole_matrices_get_the_gradient_of_float64),
      cmocka_unit_test(embeddings_of_negative_ids_stay),
      cmocka_unit_test(peak_of_every_table_is_a_rate),
      cmocka_unit_test(sum_of_squares_lets_nan_and_infinity_through),
      cmocka_unit_test(zero_rows_and_zero_counts_write_nothing),
  };
  return cmocka_run_group_tests(tests, find_tables, NULL);
}
