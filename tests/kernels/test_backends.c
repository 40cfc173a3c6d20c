// Every entry of every compiled table of kernels against float64, on random and edge shapes and all weight types.
// Activations are float32, then bfloat16. An output may be off by at most twice what a plain float32 version is off, whose
// output is rounded to its type (both in the max norm), and never less
// is asked than four units in the last place. Outputs are guarded on both sides, hold NaN before where they are set,
// and inputs must come back unchanged. A table of another device joins by an entry in `tables`.
#include <float.h>
#include <math.h>

#include "tests/support/kernel_cases.h"

enum { GUARD = 32, SEED = 1, MAX_TABLES = 8 };
static const uint32_t GUARD_BITS = 0x7fc0dead;  // a NaN, so that reading a guard shows, too

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

// The output's place in its guarded block is moved by a float in every other case: no kernel may rely on alignment.
static int64_t guard_before(const KernelCase *c) { return c->n % 2 ? GUARD : GUARD - 1; }

// What the kernel reads or writes for `count` values of the case, in a block of its own.
static void *to_own_type(const void *values, int64_t count, FloatType type) {
  const float *from = values;
  uint16_t *rounded = memory_new((size_t)count + 1, sizeof(float));
  if (type == FLOAT_32) return memcpy(rounded, values, (size_t)count * sizeof(float));
  for (int64_t i = 0; i < count; i++) rounded[i] = bfloat16_from_float(from[i]);
  return rounded;
}

static void *guarded_new(const KernelCase *c, int output, Backend *backend) {
  FloatType type = case_type(c, output, true);
  int64_t size = float_bytes(type), total = c->counts[output] + 2 * GUARD;
  char *host = memory_new((size_t)total, (size_t)size);
  for (int64_t i = 0; i < total; i++) memcpy(host + i * size, (const char *)&GUARD_BITS + 4 - size, (size_t)size);
  if (c->initial[output]) {
    void *own = to_own_type(c->initial[output], c->counts[output], type);
    memcpy(host + guard_before(c) * size, own, (size_t)(c->counts[output] * size));
    free(own);
  }
  void *device;
  assert_ok(backend->allocate(&device, total * size, "a test", backend));
  backend->upload(device, host, total * size, backend);
  free(host);
  return device;
}

static void guarded_read(float *out, const void *device, const KernelCase *c, int output, Backend *backend) {
  FloatType type = case_type(c, output, true);
  int64_t size = float_bytes(type), total = c->counts[output] + 2 * GUARD, before = guard_before(c);
  char *host = memory_new((size_t)total, (size_t)size);
  backend->download(host, device, total * size, backend);
  for (int64_t i = 0; i < total; i++) {
    if (i >= before && i < before + c->counts[output]) continue;
    if (memcmp(host + i * size, (const char *)&GUARD_BITS + 4 - size, (size_t)size) == 0) continue;
    fail_msg("%s: output %d: written outside, at %lld of %lld: %s", kernel_ops[c->op].name, output, (long long)(i - before),
             (long long)c->counts[output], c->description);
  }
  for (int64_t i = 0; i < c->counts[output]; i++) {
    if (type == FLOAT_32) memcpy(&out[i], host + (before + i) * size, sizeof *out);
    else out[i] = bfloat16_to_float(((const uint16_t *)(const void *)host)[before + i]);
  }
  free(host);
}

static int64_t own_bytes(const KernelCase *c, int input) {
  return case_type(c, input, false) == FLOAT_BF16 ? c->input_bytes[input] / 2 : c->input_bytes[input];
}

static void *input_new(const KernelCase *c, int input) {
  if (case_type(c, input, false) == FLOAT_BF16) return to_own_type(c->inputs[input], c->input_bytes[input] / 4, FLOAT_BF16);
  return memcpy(memory_new((size_t)c->input_bytes[input] + 1, 1), c->inputs[input], (size_t)c->input_bytes[input]);
}

static void check_input(const void *device, const KernelCase *c, int input, Backend *backend) {
  void *host = memory_new((size_t)own_bytes(c, input) + 1, 1), *before = input_new(c, input);
  backend->download(host, device, own_bytes(c, input), backend);
  if (memcmp(host, before, (size_t)own_bytes(c, input)) != 0)
    fail_msg("%s: input %d was written to: %s", kernel_ops[c->op].name, input, c->description);
  free(host);
  free(before);
}

static void run_case(float *out[CASE_OUTPUTS], const KernelCase *c, Backend *backend) {
  void *in[CASE_INPUTS] = {0};
  char *blocks[CASE_OUTPUTS] = {0};
  float *places[CASE_OUTPUTS] = {0};
  for (int i = 0; i < CASE_INPUTS; i++) {
    if (!c->inputs[i]) continue;
    void *own = input_new(c, i);
    assert_ok(backend->allocate(&in[i], own_bytes(c, i), "a test", backend));
    backend->upload(in[i], own, own_bytes(c, i), backend);
    free(own);
  }
  for (int i = 0; i < CASE_OUTPUTS; i++) {
    if (c->counts[i] == 0) continue;
    blocks[i] = guarded_new(c, i, backend);
    places[i] = (float *)(void *)(blocks[i] + guard_before(c) * float_bytes(case_type(c, i, true)));
  }
  kernel_ops[c->op].run(c, backend->kernels, backend, (const void *const *)in, places);
  for (int i = 0; i < CASE_OUTPUTS; i++) {
    if (blocks[i]) guarded_read(out[i], blocks[i], c, i, backend);
    if (blocks[i]) backend->release(blocks[i], backend);
  }
  for (int i = 0; i < CASE_INPUTS; i++) {
    if (in[i]) check_input(in[i], c, i, backend);
    if (in[i]) backend->release(in[i], backend);
  }
}

static void outputs_new(float *out[CASE_OUTPUTS], Arena *arena, const KernelCase *c) {
  for (int i = 0; i < CASE_OUTPUTS; i++) {
    out[i] = arena_new(arena, (size_t)c->counts[i], sizeof **out);
    if (c->initial[i]) memcpy(out[i], c->initial[i], (size_t)c->counts[i] * sizeof **out);
  }
}

// The larger of the errors of the plain float32 versions, by output.
static void plain_errors(double errors[CASE_OUTPUTS], double *const *truth, const KernelCase *exact, Arena *arena) {
  KernelCase rounded = *exact, *c = &rounded;
  if (c->type == FLOAT_BF16 && c->weights) {  // weights may be rounded, too
    c->weights = memcpy(arena_new(arena, (size_t)(c->rows * c->columns), sizeof *c->weights), exact->weights,
                        (size_t)(c->rows * c->columns) * sizeof *c->weights);
    for (int64_t i = 0; i < c->rows * c->columns; i++)
      c->weights[i] = bfloat16_to_float(bfloat16_from_float(c->alpha * c->weights[i])) / c->alpha;
  }
  for (int order = 0; order < PLAIN_ORDERS; order++) {
    float *plain[CASE_OUTPUTS];
    outputs_new(plain, arena, c);
    kernel_ops[c->op].plain_float[order](plain, c);
    for (int i = 0; i < CASE_OUTPUTS; i++) {
      if (case_type(c, i, true) == FLOAT_BF16) round_to_bfloat16(plain[i], c->counts[i]);
      double error = relative_error(plain[i], truth[i], c->counts[i], c->scale[i]);
      assert_true(isfinite(error));
      errors[i] = order == 0 ? error : fmax(errors[i], error);
    }
  }
}

static void compare_case(const KernelCase *c, Backend *backend, Arena *arena) {
  double *truth[CASE_OUTPUTS], expected[CASE_OUTPUTS];
  float *actual[CASE_OUTPUTS];
  case_evaluate(truth, arena, c);
  plain_errors(expected, truth, c, arena);
  outputs_new(actual, arena, c);
  run_case(actual, c, backend);
  for (int i = 0; i < CASE_OUTPUTS; i++) {
    double error = relative_error(actual[i], truth[i], c->counts[i], c->scale[i]);
    // One unit of bfloat16 where values are rounded to it: few of them may be lucky in the plain version.
    double least = case_type(c, i, true) == FLOAT_BF16 ? 0x1p-7 : 4 * FLT_EPSILON;
    if (!(error <= fmax(2 * expected[i], least)))
      fail_msg("%s %s: output %d is off by %.3g, plain float32 by %.3g: %s (seed %d)", backend->kernels->name, kernel_ops[c->op].name, i,
               error, expected[i], c->description, SEED);
  }
}

static void compare_op(KernelOp op) {
  for (int t = 0; t < 2 * table_count; t++) {
    Backend *backend = open_backend(&tables[t / 2], 2);
    Rng rng = rng_new(SEED, RNG_STREAM_TEST);
    for (int index = 0;; index++) {
      Arena arena = {0};
      KernelCase *c = kernel_ops[op].make(&arena, &rng, index);
      if (c && (t % 2 == 0 || case_round(c))) compare_case(c, backend, &arena);
      arena_release(&arena);
      if (c) continue;
      assert_true(index > 0);
      break;
    }
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
  // peak_flops is the one entry that computes nothing; it has a test of its own.
  assert_int_equal((OP_COUNT + 1) * sizeof(AnyFunction), sizeof(Kernels) - sizeof(const char *));
  for (int t = 0; t < table_count; t++) {
    assert_non_null(tables[t].kernels->name);
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
    outputs_new(out[i], arena, c);
    run_case(out[i], c, backends[i]);
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
        if (c && case_round(c)) check_threads(c, backends, &arena);
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
    for (int op = 0; op < OP_COUNT; op++) {
      if (op == OP_sum_of_squares) continue;
      Arena arena = {0};
      Rng rng = rng_new(SEED, RNG_STREAM_TEST);
      KernelCase *c = kernel_ops[op].make(&arena, &rng, 1);
      float *out[CASE_OUTPUTS];
      c->n = 0, c->span_count = 0;
      for (int i = 0; i < CASE_OUTPUTS; i++)
        if (c->counts[i] > 0 && !c->initial[i]) c->initial[i] = arena_new(&arena, (size_t)c->counts[i], sizeof(float));
      outputs_new(out, &arena, c);
      run_case(out, c, backend);
      for (int i = 0; i < CASE_OUTPUTS; i++)
        if (c->counts[i] > 0) assert_memory_equal(out[i], c->initial[i], (size_t)c->counts[i] * sizeof(float));
      arena_release(&arena);
    }
    assert_true(backend->kernels->sum_of_squares(NULL, 0, backend) == 0);
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
      cmocka_unit_test(peak_of_every_table_is_a_rate),
      cmocka_unit_test(sum_of_squares_lets_nan_and_infinity_through),
      cmocka_unit_test(zero_rows_and_zero_counts_write_nothing),
  };
  return cmocka_run_group_tests(tests, find_tables, NULL);
}
