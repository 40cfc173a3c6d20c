// Runs the cases of kernel_cases.h on a device, and compares with float64. An output may be off by at most twice what a plain float32
// version is off, whose output is rounded to its type (both in the max norm), and never less is asked than four units in the last place.
// Outputs are guarded on both sides, hold NaN before where they are set, and inputs must come back unchanged.
#include "tests/support/kernel_compare.h"

#include <float.h>
#include <math.h>

enum { GUARD = 32 };
static const uint32_t GUARD_BITS = 0x7fc0dead;  // a NaN, so that reading a guard shows, too

// The output's place in its guarded block is moved by a float in every other case: no kernel may rely on alignment.
static int64_t guard_before(const KernelCase *c) { return c->n % 2 ? GUARD : GUARD - 1; }

// What the kernel reads or writes for `count` values of the case, in a block of its own.
static void *to_own_type(const void *values, int64_t count, FloatType type) {
  const float *from = values;
  uint16_t *rounded = memory_new((size_t)count + 1, sizeof(float));
  if (type == FLOAT_32) return memcpy(rounded, values, (size_t)count * sizeof(float));
  for (int64_t i = 0; i < count; i++) rounded[i] = type == FLOAT_BF16 ? bfloat16_from_float(from[i]) : half_from_float(from[i]);
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
    else if (type == FLOAT_BF16) out[i] = bfloat16_to_float(((const uint16_t *)(const void *)host)[before + i]);
    else out[i] = half_to_float(((const uint16_t *)(const void *)host)[before + i]);
  }
  free(host);
}

static int64_t own_bytes(const KernelCase *c, int input) {
  return case_type(c, input, false) == FLOAT_32 ? c->input_bytes[input] : c->input_bytes[input] / 2;
}

static void *input_new(const KernelCase *c, int input) {
  FloatType type = case_type(c, input, false);
  if (type != FLOAT_32) return to_own_type(c->inputs[input], c->input_bytes[input] / 4, type);
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

void case_run(float *out[CASE_OUTPUTS], const KernelCase *c, Backend *backend) {
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
  assert_ok(backend->check(backend));
  case_release_matrices(backend);
  for (int i = 0; i < CASE_OUTPUTS; i++) {
    if (blocks[i]) guarded_read(out[i], blocks[i], c, i, backend);
    if (blocks[i]) backend->release(blocks[i], backend);
  }
  for (int i = 0; i < CASE_INPUTS; i++) {
    if (in[i]) check_input(in[i], c, i, backend);
    if (in[i]) backend->release(in[i], backend);
  }
}

void case_outputs_new(float *out[CASE_OUTPUTS], Arena *arena, const KernelCase *c) {
  for (int i = 0; i < CASE_OUTPUTS; i++) {
    out[i] = arena_new(arena, (size_t)c->counts[i], sizeof **out);
    if (c->initial[i]) memcpy(out[i], c->initial[i], (size_t)c->counts[i] * sizeof **out);
  }
}

// The larger of the errors of the plain float32 versions, by output.
static void plain_errors(double errors[CASE_OUTPUTS], double *const *truth, const KernelCase *exact, Arena *arena) {
  KernelCase rounded = *exact, *c = &rounded;
  if (c->type != FLOAT_32 && c->weights) {  // weights may be rounded, too
    c->weights = memcpy(arena_new(arena, (size_t)(c->rows * c->columns), sizeof *c->weights), exact->weights,
                        (size_t)(c->rows * c->columns) * sizeof *c->weights);
    for (int64_t i = 0; i < c->rows * c->columns; i++) c->weights[i] = float_rounded(c->alpha * c->weights[i], c->type) / c->alpha;
  }
  for (int order = 0; order < PLAIN_ORDERS; order++) {
    float *plain[CASE_OUTPUTS];
    case_outputs_new(plain, arena, c);
    kernel_ops[c->op].plain_float[order](plain, c);
    for (int i = 0; i < CASE_OUTPUTS; i++) {
      round_to_type(plain[i], c->counts[i], case_type(c, i, true));
      double error = relative_error(plain[i], truth[i], c->counts[i], c->scale[i]);
      assert_true(isfinite(error));
      errors[i] = order == 0 ? error : fmax(errors[i], error);
    }
  }
}

void case_compare(const KernelCase *c, Backend *backend, Arena *arena) {
  double *truth[CASE_OUTPUTS], expected[CASE_OUTPUTS];
  float *actual[CASE_OUTPUTS];
  case_evaluate(truth, arena, c);
  plain_errors(expected, truth, c, arena);
  case_outputs_new(actual, arena, c);
  case_run(actual, c, backend);
  for (int i = 0; i < CASE_OUTPUTS; i++) {
    double error = relative_error(actual[i], truth[i], c->counts[i], c->scale[i]);
    // One unit of 16 bits where values are rounded to it, on their way through an expert, too: few of them may be lucky in the plain version.
    static const double least_of[] = {[FLOAT_32] = 4 * FLT_EPSILON, [FLOAT_BF16] = 0x1p-7, [FLOAT_F16] = 0x1p-10};
    bool is_of_experts = c->op == OP_experts_forward || c->op == OP_experts_backward;
    double least = least_of[is_of_experts ? c->type : case_type(c, i, true)];
    if (!(error <= fmax(2 * expected[i], least)))
      fail_msg("%s %s: output %d is off by %.3g, plain float32 by %.3g: %s (seed %d)", backend->kernels->name, kernel_ops[c->op].name, i,
               error, expected[i], c->description, CASES_SEED);
  }
}

void cases_compare(KernelOp op, FloatType type, int64_t most_flop, Backend *backend) {
  Rng rng = rng_new(CASES_SEED, RNG_STREAM_TEST);
  int compared = 0;
  for (int index = 0;; index++) {
    Arena arena = {0};
    KernelCase *c = kernel_ops[op].make(&arena, &rng, index);
    bool is_small = c && (most_flop == 0 || case_flop(c) <= (double)most_flop);
    if (is_small && (type == FLOAT_32 || case_round(c, type))) {
      case_compare(c, backend, &arena);
      compared++;
    }
    arena_release(&arena);
    if (!c) break;
  }
  assert_true(compared > 0 || type != FLOAT_32);
}

void cases_of_nothing_write_nothing(Backend *backend) {
  for (int op = 0; op < OP_COUNT; op++) {
    if (op == OP_sum_of_squares) continue;
    Arena arena = {0};
    Rng rng = rng_new(CASES_SEED, RNG_STREAM_TEST);
    KernelCase *c = kernel_ops[op].make(&arena, &rng, 1);
    float *out[CASE_OUTPUTS];
    c->n = 0, c->span_count = 0;
    for (int i = 0; i < CASE_OUTPUTS; i++)
      if (c->counts[i] > 0 && !c->initial[i]) c->initial[i] = arena_new(&arena, (size_t)c->counts[i], sizeof(float));
    case_outputs_new(out, &arena, c);
    case_run(out, c, backend);
    for (int i = 0; i < CASE_OUTPUTS; i++)
      if (c->counts[i] > 0) assert_memory_equal(out[i], c->initial[i], (size_t)c->counts[i] * sizeof(float));
    arena_release(&arena);
  }
  assert_true(backend->kernels->sum_of_squares(NULL, 0, backend) == 0);
}
