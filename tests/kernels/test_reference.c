// The reference kernels against their definitions: each forward pass is float64 rounded once; each backward pass is
// the central finite difference, in float64, of the forward pass; and properties that no evaluator states.
#include <float.h>
#include <math.h>

#include "tests/support/kernel_cases.h"

enum { SEED = 11 };

typedef struct Fixture {
  Arena arena;
  Rng rng;
  Backend *backend;
} Fixture;

static int set_up(void **state) {
  Fixture *fixture = memory_new(1, sizeof *fixture);
  fixture->rng = rng_new(SEED, RNG_STREAM_TEST);
  *state = fixture;
  assert_ok(backend_new(&fixture->backend, "cpu", 2));
  fixture->backend->kernels = &kernels_scalar;
  return 0;
}

static int tear_down(void **state) {
  Fixture *fixture = *state;
  backend_free(fixture->backend);
  arena_release(&fixture->arena);
  free(fixture);
  return 0;
}

// Runs a case of the reference table on the process's own memory.
static void run_case(float *out[CASE_OUTPUTS], const KernelCase *c, Fixture *fixture) {
  for (int i = 0; i < CASE_OUTPUTS; i++) {
    out[i] = arena_new(&fixture->arena, (size_t)c->counts[i], sizeof **out);
    if (c->initial[i]) memcpy(out[i], c->initial[i], (size_t)c->counts[i] * sizeof **out);
  }
  kernel_ops[c->op].run(c, &kernels_scalar, fixture->backend, c->inputs, out);
}

// Half a unit in the last place of the largest value. The backward pass of attention reads lse and delta as float32
// holds them: exp(s - lse) is then off by |lse| 2^-24 of itself.
static double rounding_tolerance(const KernelCase *c) {
  if (c->op != OP_attention_backward) return 0.501 * FLT_EPSILON;
  const float *lse = c->inputs[2];
  float largest = 0;
  for (int64_t i = 0; i < c->queries * c->shape.heads; i++) largest = fmaxf(largest, fabsf(lse[i]));
  return (2 + 0.5 * largest) * FLT_EPSILON;
}

static void every_reference_kernel_rounds_float64_once(void **state) {
  Fixture *fixture = *state;
  for (int op = 0; op < OP_COUNT; op++) {
    for (int index = 0;; index++) {
      KernelCase *c = kernel_ops[op].make(&fixture->arena, &fixture->rng, index);
      if (!c) break;
      double *truth[CASE_OUTPUTS];
      float *out[CASE_OUTPUTS];
      case_evaluate(truth, &fixture->arena, c);
      run_case(out, c, fixture);
      for (int i = 0; i < CASE_OUTPUTS; i++) {
        double error = relative_error(out[i], truth[i], c->counts[i], c->scale[i]);
        if (!(error <= rounding_tolerance(c)))
          fail_msg("%s: output %d is off by %.3g: %s (seed %d)", kernel_ops[op].name, i, error, c->description, SEED);
      }
      arena_release(&fixture->arena);
    }
  }
}

// d (sum of weights * output 0 of `forward`) / d values, by central differences. `values` is an input, an initial
// output or the weights of the case, which is evaluated in float64: with a step of 2^-11 the difference is exact to
// h^2/6 times the third derivative, about 4e-8 of it.
static double *finite_difference(Fixture *fixture, const KernelCase *forward, float *values, int64_t n, const float *weights) {
  double *gradient = arena_new(&fixture->arena, (size_t)n, sizeof *gradient);
  for (int64_t i = 0; i < n; i++) {
    float saved = values[i];
    volatile float place[2] = {saved + 0x1p-11f, saved - 0x1p-11f};  // as float32 holds them
    double loss[2] = {0, 0};
    for (int side = 0; side < 2; side++) {
      Arena arena = {0};
      double *out[CASE_OUTPUTS];
      values[i] = place[side];
      case_evaluate(out, &arena, forward);
      for (int64_t j = 0; j < forward->counts[0]; j++) loss[side] += weights[j] * out[0][j];
      arena_release(&arena);
    }
    values[i] = saved;
    gradient[i] = (loss[0] - loss[1]) / ((double)place[0] - place[1]);
  }
  return gradient;
}

// The step's error above, with third derivatives of a few units, and the rounding to float32.
static const double TOLERANCE = 2e-6;

static void check_gradient(Fixture *fixture, const KernelCase *forward, float *values, int64_t n, const float *weights, const float *actual,
                           const char *what) {
  double error = relative_error(actual, finite_difference(fixture, forward, values, n, weights), n, 0);
  if (!(error <= TOLERANCE)) fail_msg("%s is off by %.3g: %s", what, error, forward->description);
}

// The float array that a case keeps as constant.
static float *writable(const void *data) { return (float *)(uintptr_t)data; }

static void linear_backward_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  const int64_t shapes[][3] = {{1, 1, 1}, {1, 7, 3}, {3, 17, 5}, {2, 3, 33}, {7, 1, 9}, {1, 2, 300}};
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
    const int64_t n = shapes[s][0], rows = shapes[s][1], columns = shapes[s][2];
    KernelCase *forward = case_linear(&fixture->arena, &fixture->rng, OP_linear_forward, BLOCK_F32, n, rows, columns, 0.5f, false);
    KernelCase *backward = case_linear(&fixture->arena, &fixture->rng, OP_linear_backward, BLOCK_F32, n, rows, columns, 0.5f, false);
    backward->inputs[1] = forward->inputs[1];
    float *out[CASE_OUTPUTS];
    run_case(out, backward, fixture);
    check_gradient(fixture, forward, writable(forward->inputs[0]), n * columns, backward->inputs[0], out[0], "dx");
  }
}

static void weight_backward_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  KernelCase *forward = case_linear(&fixture->arena, &fixture->rng, OP_linear_forward, BLOCK_F32, 9, 3, 17, -0.5f, false);
  KernelCase *backward = case_weight(&fixture->arena, &fixture->rng, 9, 3, 17, -0.5f);
  backward->inputs[1] = forward->inputs[0];
  memset(backward->initial[0], 0, 3 * 17 * sizeof(float));
  float *out[CASE_OUTPUTS];
  run_case(out, backward, fixture);
  check_gradient(fixture, forward, forward->weights, 3 * 17, backward->inputs[0], out[0], "dw");
}

static void norm_backward_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  for (int64_t columns = 1; columns <= 65; columns += 8) {
    for (int kind = 0; kind < 4; kind++) {
      // A large epsilon: a lone column would else have no gradient to speak of.
      NormSettings norm = {.columns = columns, .epsilon = 1, .offset = (float)(kind / 2), .is_centered = kind % 2};
      if (norm.is_centered && columns == 1) continue;  // nothing is left of a lone column without its mean
      KernelCase *forward = case_norm(&fixture->arena, &fixture->rng, OP_norm_forward, 2, norm, kind == 1, kind > 1, 1, false);
      KernelCase *backward = case_norm(&fixture->arena, &fixture->rng, OP_norm_backward, 2, norm, false, false, 1, false);
      backward->inputs[1] = forward->inputs[0], backward->inputs[2] = forward->inputs[1];
      // What lies between rows is no part of them.
      float *dy = writable(backward->inputs[0]);
      for (int64_t i = 0; i < 2; i++) dy[i * (columns + 1) + columns] = 0, backward->initial[0][i * (columns + 1) + columns] = 0;
      float *out[CASE_OUTPUTS];
      run_case(out, backward, fixture);
      check_gradient(fixture, forward, writable(forward->inputs[0]), 2 * (columns + 1), dy, out[0], "dx");
    }
  }
}

static void norm_weight_backward_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  for (int64_t columns = 2; columns <= 66; columns += 16)
    for (int kind = 0; kind < 4; kind++) {
      NormSettings norm = {.columns = columns, .epsilon = 1e-2f, .offset = (float)(kind / 2), .is_centered = kind % 2};
      KernelCase *forward = case_norm(&fixture->arena, &fixture->rng, OP_norm_forward, 3, norm, false, false, 0, false);
      KernelCase *backward = case_norm_weight(&fixture->arena, &fixture->rng, 3, norm, 0);
      backward->inputs[1] = forward->inputs[0];
      memset(backward->initial[0], 0, (size_t)columns * sizeof(float));
      float *out[CASE_OUTPUTS];
      run_case(out, backward, fixture);
      check_gradient(fixture, forward, writable(forward->inputs[1]), columns, backward->inputs[0], out[0], "dw");
    }
}

// The sums are a bias's gradient: that of a norm, say.
static void column_sums_match_finite_difference(void **state) {
  Fixture *fixture = *state;
  for (int64_t columns = 2; columns <= 66; columns += 16) {
    NormSettings norm = {.columns = columns, .epsilon = 1e-2f, .is_centered = true};
    KernelCase *forward = case_norm(&fixture->arena, &fixture->rng, OP_norm_forward, 3, norm, true, false, 0, false);
    KernelCase *backward = case_column_sums(&fixture->arena, &fixture->rng, 3, columns, 0);
    memset(backward->initial[0], 0, (size_t)columns * sizeof(float));
    float *out[CASE_OUTPUTS];
    run_case(out, backward, fixture);
    check_gradient(fixture, forward, writable(forward->inputs[2]), columns, backward->inputs[0], out[0], "dbias");
  }
}

static void embedding_backward_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  const int64_t shapes[][3] = {{1, 1, 1}, {6, 3, 5}, {20, 9, 7}};
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
    const int64_t n = shapes[s][0], rows = shapes[s][1], columns = shapes[s][2];
    KernelCase *forward = case_rows(&fixture->arena, &fixture->rng, OP_embedding_forward, BLOCK_F32, n, rows, columns);
    KernelCase *backward = case_embedding_backward(&fixture->arena, &fixture->rng, n, rows, columns);
    const int32_t *group_rows = backward->inputs[1], *begins = backward->inputs[2], *places = backward->inputs[3];
    int32_t *ids = (int32_t *)(uintptr_t)forward->inputs[0];
    for (int64_t g = 0; g < backward->n; g++)
      for (int32_t j = begins[g]; j < begins[g + 1]; j++) ids[places[j]] = group_rows[g];
    backward->alpha = forward->alpha;
    memset(backward->initial[0], 0, (size_t)(rows * columns) * sizeof(float));
    float *out[CASE_OUTPUTS];
    run_case(out, backward, fixture);
    check_gradient(fixture, forward, forward->weights, rows * columns, backward->inputs[0], out[0], "dw");
  }
}

static const RouterSettings test_routers[] = {
    {.experts = 6, .used = 2, .is_normalized = true, .scale = 1},
    {.experts = 6, .used = 3, .scale = 2},
    {.experts = 8,
     .used = 2,
     .is_sigmoid = true,
     .is_normalized = true,
     .groups = 4,
     .groups_used = 2,
     .groups_by_two = true,
     .scale = 2.5f},
    {.experts = 5, .used = 2, .is_sigmoid = true, .scale = 1},
};

static void router_backward_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  for (size_t r = 0; r < sizeof test_routers / sizeof *test_routers; r++) {
    const RouterSettings *router = &test_routers[r];
    enum { ROWS = 5 };
    KernelCase *forward = case_router(&fixture->arena, &fixture->rng, OP_router_forward, ROWS, *router, false);
    KernelCase *backward = case_router(&fixture->arena, &fixture->rng, OP_router_backward, ROWS, *router, false);
    int32_t chosen[ROWS * 3];
    float weights[ROWS * 3], *out[CASE_OUTPUTS];
    kernels_scalar.router_forward(chosen, weights, NULL, forward->inputs[0], router, ROWS, fixture->backend);
    backward->inputs[1] = forward->inputs[0], backward->inputs[2] = chosen;
    run_case(out, backward, fixture);
    check_gradient(fixture, forward, writable(forward->inputs[0]), ROWS * router->experts, backward->inputs[0], out[0], "dlogits");
  }
}

static void experts_backward_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  for (int f = 0; f < ACTIVATION_COUNT; f++) {
    ExpertMatrices shape = {.experts = 4, .used = 2, .hidden = 9, .width = 7, .activation = (Activation)f};
    KernelCase *forward = case_experts(&fixture->arena, &fixture->rng, OP_experts_forward, BLOCK_F32, 5, shape, false);
    KernelCase *backward = case_experts(&fixture->arena, &fixture->rng, OP_experts_backward, BLOCK_F32, 5, shape, false);
    for (int i = 0; i < 6; i++) backward->inputs[i] = forward->inputs[i];
    float *out[CASE_OUTPUTS];
    run_case(out, backward, fixture);
    check_gradient(fixture, forward, writable(forward->inputs[0]), 5 * 9, backward->inputs[6], out[0], "dx");
    check_gradient(fixture, forward, writable(forward->inputs[5]), 5 * 2, backward->inputs[6], out[1], "dweights");
  }
}

static void inverse_rope_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  for (int layout = ROPE_HALVES; layout <= ROPE_INTERLEAVED; layout++) {
    KernelCase *forward = case_rope(&fixture->arena, &fixture->rng, 3, 2, 12, 8, (RopeLayout)layout, false);
    KernelCase *backward = case_rope(&fixture->arena, &fixture->rng, 3, 2, 12, 8, (RopeLayout)layout, true);
    backward->inputs[0] = forward->inputs[0], backward->inputs[1] = forward->inputs[1], backward->alpha = forward->alpha;
    float *out[CASE_OUTPUTS];
    run_case(out, backward, fixture);
    check_gradient(fixture, forward, forward->initial[0], 3 * 2 * 12, backward->initial[0], out[0], "dx");
  }
}

static void check_attention_gradient(Fixture *fixture, AttentionShape shape, int64_t span_count, const int64_t *queries,
                                     const int64_t *earlier) {
  for (int some = 0; some < 2; some++) {
    KernelCase *backward = case_attention(&fixture->arena, &fixture->rng, OP_attention_backward, shape, span_count, queries, earlier, some);
    KernelCase *forward = case_attention(&fixture->arena, &fixture->rng, OP_attention_forward, shape, span_count, queries, earlier, some);
    for (int i = 0; i < 5; i++) forward->inputs[i] = backward->inputs[3 + i];
    float *out[CASE_OUTPUTS];
    run_case(out, backward, fixture);
    const char *names[] = {"dq", "dk", "dv"};
    for (int i = 0; i < 3; i++)
      check_gradient(fixture, forward, writable(forward->inputs[i]), backward->counts[i], backward->inputs[0], out[i], names[i]);
  }
}

static void attention_backward_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  check_attention_gradient(fixture, (AttentionShape){2, 1, 8, 8, 0.35f, 0, 0}, 1, (int64_t[]){7}, (int64_t[]){0});
  check_attention_gradient(fixture, (AttentionShape){3, 3, 4, 6, 0.5f, 0, 0}, 2, (int64_t[]){5, 2}, (int64_t[]){0, 0});
  check_attention_gradient(fixture, (AttentionShape){4, 2, 5, 3, 0.4f, 0, 0}, 2, (int64_t[]){3, 4}, (int64_t[]){4, 1});
}

static void attention_backward_with_a_window_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  check_attention_gradient(fixture, (AttentionShape){2, 1, 8, 8, 0.35f, 3, 0}, 2, (int64_t[]){7, 3}, (int64_t[]){0, 6});
  check_attention_gradient(fixture, (AttentionShape){1, 1, 4, 4, 0.5f, 2, 0}, 1, (int64_t[]){9}, (int64_t[]){1});
  check_attention_gradient(fixture, (AttentionShape){1, 1, 4, 4, 0.5f, 4, 0}, 2, (int64_t[]){3, 5}, (int64_t[]){0, 0});
}

static void attention_backward_with_softcap_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  check_attention_gradient(fixture, (AttentionShape){2, 1, 8, 8, 0.35f, 0, 2}, 2, (int64_t[]){6, 3}, (int64_t[]){0, 2});
  check_attention_gradient(fixture, (AttentionShape){2, 2, 6, 4, 0.4f, 4, 1}, 1, (int64_t[]){8}, (int64_t[]){0});
}

static void attention_of_a_span_equals_its_queries_one_at_a_time(void **state) {
  Fixture *fixture = *state;
  AttentionShape shape = {4, 2, 16, 24, 0.25f, 5, 3};
  const int64_t queries = 9, wide = shape.heads * shape.value_size;
  KernelCase *c = case_attention(&fixture->arena, &fixture->rng, OP_attention_forward, shape, 1, &queries, (int64_t[]){4}, false);
  float *whole[CASE_OUTPUTS];
  run_case(whole, c, fixture);
  for (int64_t i = 0; i < queries; i++) {  // as generation calls it: one query, and the keys up to its own
    AttentionSpan span = {0, 1, 0, 4 + i + 1};
    float o[96], lse[4];
    kernels_scalar.attention_forward(o, lse, (const float *)c->inputs[0] + i * shape.heads * shape.head_size, c->inputs[1], c->inputs[2],
                                     FLOAT_32, &span, 1, NULL, shape, fixture->backend);
    assert_memory_equal(o, whole[0] + i * wide, sizeof o);
    assert_memory_equal(lse, whole[1] + i * shape.heads, sizeof lse);
  }
}

static void packed_attention_equals_its_documents(void **state) {
  Fixture *fixture = *state;
  AttentionShape shape = {2, 1, 8, 8, 0.35f, 0, 0};
  KernelCase *c =
      case_attention(&fixture->arena, &fixture->rng, OP_attention_forward, shape, 2, (int64_t[]){6, 11}, (int64_t[]){0, 0}, false);
  float *packed[CASE_OUTPUTS];
  run_case(packed, c, fixture);
  AttentionSpan alone = {0, 11, 0, 11};
  float o[11 * 16], lse[11 * 2];
  kernels_scalar.attention_forward(o, lse, (const float *)c->inputs[0] + 6 * 16, (const float *)c->inputs[1] + 6 * 8,
                                   (const float *)c->inputs[2] + 6 * 8, FLOAT_32, &alone, 1, NULL, shape, fixture->backend);
  assert_memory_equal(o, packed[0] + 6 * 16, sizeof o);
  assert_memory_equal(lse, packed[1] + 6 * 2, sizeof lse);
}

static void gated_backward_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  for (int kind = 0; kind < 2 * ACTIVATION_COUNT; kind++) {
    Activation f = (Activation)(kind / 2);
    bool has_up = kind % 2;
    KernelCase *forward = case_gated(&fixture->arena, &fixture->rng, OP_gated_forward, 200, f, false, has_up);
    KernelCase *backward = case_gated(&fixture->arena, &fixture->rng, OP_gated_backward, 200, f, false, has_up);
    backward->inputs[1] = forward->inputs[0], backward->inputs[2] = forward->inputs[1];
    float *out[CASE_OUTPUTS];
    run_case(out, backward, fixture);
    check_gradient(fixture, forward, writable(forward->inputs[0]), 200, backward->inputs[0], out[0], "dgate");
    if (has_up) check_gradient(fixture, forward, writable(forward->inputs[1]), 200, backward->inputs[0], out[1], "dup");
  }
}

static void gated_forward_is_finite_far_from_zero(void **state) {
  Fixture *fixture = *state;
  const float gate[4] = {-1e4f, -100, 100, 1e4f}, up[4] = {1, 1, 1, 1}, dy[4] = {1, 1, 1, 1};
  for (int f = 0; f < ACTIVATION_COUNT; f++) {
    float y[4], dgate[4], dup[4];
    kernels_scalar.gated_forward(y, gate, up, FLOAT_32, 4, (Activation)f, fixture->backend);
    kernels_scalar.gated_backward(dgate, dup, dy, gate, up, FLOAT_32, 4, (Activation)f, fixture->backend);
    assert_close(y, ((const float[]){0, 0, 100, 1e4f}), 4, FLT_EPSILON);
    assert_close(dgate, ((const float[]){0, 0, 1, 1}), 4, FLT_EPSILON);
    assert_close(dup, y, 4, FLT_EPSILON);
  }
}

static void cross_entropy_gradient_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  for (int64_t vocabulary = 2; vocabulary <= 107; vocabulary += 15) {
    KernelCase *c = case_cross_entropy(&fixture->arena, &fixture->rng, 3, vocabulary, 2, true, vocabulary % 2 ? 3 : 0);
    KernelCase forward = *c;
    forward.inputs[1] = NULL;
    float *out[CASE_OUTPUTS];
    run_case(out, c, fixture);
    check_gradient(fixture, &forward, c->initial[1], 3 * vocabulary, c->inputs[1], out[1], "dlogits");
  }
}

static void divergence_gradient_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  for (int64_t vocabulary = 2; vocabulary <= 107; vocabulary += 15) {
    KernelCase *c = case_divergence(&fixture->arena, &fixture->rng, 3, vocabulary, 2, 1, true, vocabulary % 2 ? 3 : 0);
    KernelCase forward = *c;
    forward.inputs[1] = NULL;
    float *out[CASE_OUTPUTS];
    run_case(out, c, fixture);
    check_gradient(fixture, &forward, writable(c->inputs[0]), 3 * vocabulary, c->inputs[1], out[1], "dlogits");
  }
}

static void linear_cross_entropy_gradient_matches_finite_difference(void **state) {
  Fixture *fixture = *state;
  for (int64_t vocabulary = 1; vocabulary < 100; vocabulary = 3 * vocabulary + 1) {
    float softcap = vocabulary % 2 ? 0 : 4;
    KernelCase *c = case_linear_cross_entropy(&fixture->arena, &fixture->rng, BLOCK_F32, 3, vocabulary, 8, false, true, softcap);
    float *out[CASE_OUTPUTS];
    run_case(out, c, fixture);
    check_gradient(fixture, c, writable(c->inputs[0]), 3 * 8, c->inputs[5], out[1], "dx");
  }
}

static void cross_entropy_of_one_token_vocabulary_is_zero(void **state) {
  Fixture *fixture = *state;
  float nll = NAN, logit = 12345, scale = 7;
  kernels_scalar.cross_entropy(&nll, &logit, 1, (int32_t[]){0}, &scale, FLOAT_32, 1, 1, 0, fixture->backend);
  assert_true(nll == 0 && logit == 0);
}

static void cross_entropy_of_huge_logits_is_finite(void **state) {
  Fixture *fixture = *state;
  float nll[2], logits[2][3] = {{3e38f, -3e38f, 0}, {1e30f, 1e30f, -INFINITY}}, scale[2] = {1, 2};
  kernels_scalar.cross_entropy(nll, logits[0], 3, (int32_t[]){0, 1}, scale, FLOAT_32, 2, 3, 0, fixture->backend);
  assert_true(nll[0] == 0 && logits[0][0] == 0 && logits[0][1] == 0 && logits[0][2] == 0);
  assert_true(logits[1][0] == 1 && logits[1][1] == -1 && logits[1][2] == 0);
}

static void cross_entropy_lets_nan_through(void **state) {
  Fixture *fixture = *state;
  float nll, logits[3] = {1, NAN, 2};
  kernels_scalar.cross_entropy(&nll, logits, 3, (int32_t[]){0}, NULL, FLOAT_32, 1, 3, 0, fixture->backend);
  assert_true(isnan(nll));
}

// Over every table of this processor.
static void router_chooses_within_the_best_groups_and_by_number_among_equals(void **state) {
  Fixture *fixture = *state;
  const RouterSettings plain = {.experts = 8, .used = 3, .scale = 1};
  RouterSettings grouped = {.experts = 8, .used = 3, .groups = 4, .groups_used = 2, .scale = 1}, by_two = grouped, biased = plain;
  by_two.groups_by_two = true;
  const float bias[8] = {0, 0, 0, 0, 0, 0, 1, 0.5f};
  biased.bias = bias;
  const struct {
    RouterSettings router;
    float logits[8];
    int32_t chosen[3];
  } rows[] = {
      {plain, {1, 3, 3, 1, 3, 1, 3, 1}, {1, 2, 4}},
      {plain, {0}, {0, 1, 2}},
      {biased, {3, 2, 1, 0, 0, 0, 0, 0}, {6, 0, 7}},
      {grouped, {5, 0, 4, 4.5f, 0, 0, 4.9f, 0}, {0, 6, 1}},
      {by_two, {5, 0, 4.8f, 4.7f, 4.75f, 4.75f, 4.9f, 0}, {2, 4, 5}},
  };
  for (int t = 0; backend_cpu_kernels(t); t++)
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
      int32_t chosen[3];
      float weights[3];
      backend_cpu_kernels(t)->router_forward(chosen, weights, NULL, rows[r].logits, &rows[r].router, 1, fixture->backend);
      if (memcmp(chosen, rows[r].chosen, sizeof chosen) != 0)
        fail_msg("%s, row %zu: chose %d, %d, %d", backend_cpu_kernels(t)->name, r, chosen[0], chosen[1], chosen[2]);
    }
}

static void router_chooses_no_expert_twice_whatever_the_logits_are(void **state) {
  Fixture *fixture = *state;
  enum { EXPERTS = 12, USED = 4 };
  const float values[] = {NAN, INFINITY, -INFINITY, 0, 3e38f, -3e38f};
  for (int t = 0; backend_cpu_kernels(t); t++)
    for (int trial = 0; trial < 400; trial++) {
      RouterSettings router = {.experts = EXPERTS, .used = USED, .is_sigmoid = trial % 2, .groups_by_two = trial % 4 / 2, .scale = 1};
      router.groups = trial % 3 ? 4 : 0, router.groups_used = 2;
      float logits[EXPERTS], weights[USED];
      for (int e = 0; e < EXPERTS; e++) logits[e] = values[rng_below(&fixture->rng, sizeof values / sizeof *values)];
      int32_t chosen[USED];
      backend_cpu_kernels(t)->router_forward(chosen, weights, NULL, logits, &router, 1, fixture->backend);
      for (int k = 0; k < USED; k++) {
        assert_in_range(chosen[k], 0, EXPERTS - 1);
        for (int j = 0; j < k; j++) assert_int_not_equal(chosen[j], chosen[k]);
      }
    }
}

// One row, as generation has it: the bits of the products that make it up.
static void experts_in_int8_are_the_products_in_int8(void **state) {
  Fixture *fixture = *state;
  enum { HIDDEN = 64, WIDTH = 96, USED = 2 };
  ExpertMatrices shape = {.experts = 5, .used = USED, .hidden = HIDDEN, .width = WIDTH};
  KernelCase *c = case_experts(&fixture->arena, &fixture->rng, OP_experts_forward, BLOCK_Q8_0, 1, shape, false);
  for (int t = 0; backend_cpu_kernels(t); t++) {
    const Kernels *k = backend_cpu_kernels(t);
    Matrix gate[5], up[5], down[5];
    for (int e = 0; e < 5; e++) {
      gate[e] = case_expert_matrix(c, &c->matrix, 0, e);
      up[e] = case_expert_matrix(c, &c->matrix, 1, e);
      down[e] = case_expert_matrix(c, &c->matrix, 2, e);
    }
    shape.gate = gate, shape.up = up, shape.down = down;
    float y[HIDDEN] = {0}, expected[HIDDEN] = {0}, exact[HIDDEN] = {0}, g[WIDTH], u[WIDTH], h[WIDTH], part[HIDDEN];
    const int32_t *chosen = c->inputs[4];
    const float *weights = c->inputs[5];
    float *scratch =
        arena_new(&fixture->arena, (size_t)k->experts_scratch_floats(1, &shape, FLOAT_32, false, fixture->backend), sizeof *scratch);
    Rows x = rows_f32(c->inputs[0], HIDDEN);
    k->experts_forward(rows_f32(y, HIDDEN), x, &shape, chosen, weights, 1, true, scratch, fixture->backend);
    k->experts_forward(rows_f32(exact, HIDDEN), x, &shape, chosen, weights, 1, false, scratch, fixture->backend);
    for (int i = 0; i < USED; i++) {
      int s = chosen[0] < chosen[1] ? i : 1 - i;  // in the order of experts
      Projection projections[2] = {projection_f32(g, &gate[chosen[s]], 1), projection_f32(u, &up[chosen[s]], 1)};
      k->linear_forward_int8(projections, 2, x, 1, fixture->backend);
      k->gated_forward(h, g, u, FLOAT_32, WIDTH, ACTIVATION_SILU, fixture->backend);
      Projection last = projection_f32(part, &down[chosen[s]], 1);
      k->linear_forward_int8(&last, 1, rows_f32(h, WIDTH), 1, fixture->backend);
      for (int j = 0; j < HIDDEN; j++) expected[j] += weights[s] * part[j];
    }
    assert_memory_equal(y, expected, sizeof y);
    assert_memory_not_equal(y, exact, sizeof y);
    assert_close(y, exact, HIDDEN, 0.05);
  }
}

static void dropout_keeps_by_philox_and_keeps_the_mean(void **state) {
  Fixture *fixture = *state;
  enum { N = 100001 };
  float *x = arena_new(&fixture->arena, N, sizeof *x), *y = arena_new(&fixture->arena, N, sizeof *y);
  for (int64_t i = 0; i < N; i++) x[i] = 1;
  const float p = 0.3f;
  kernels_scalar.dropout(y, x, FLOAT_32, N, p, 5, 77, false, fixture->backend);
  double sum = 0;
  for (int64_t i = 0; i < N; i++) {
    uint32_t words[4];
    philox(words, 5, 77, (uint64_t)i / 4);
    assert_true((y[i] != 0) == (words[i % 4] >= (double)p * 4294967296.0));
    assert_true(y[i] == 0 || y[i] == (float)(1 / (1 - (double)p)));
    sum += y[i];
  }
  // One element has mean 1 and variance p / (1 - p); five deviations of the mean of N.
  assert_true(fabs(sum / N - 1) < 5 * sqrt(p / (1 - p) / N));
}

static void dropout_of_zero_is_the_identity(void **state) {
  Fixture *fixture = *state;
  KernelCase *c = case_dropout(&fixture->arena, &fixture->rng, 999, 0, false);
  float *out[CASE_OUTPUTS];
  run_case(out, c, fixture);
  assert_memory_equal(out[0], c->inputs[0], 999 * sizeof(float));
}

static void adamw_moves_by_the_learning_rate_at_first(void **state) {
  Fixture *fixture = *state;
  float p[2] = {1, -1}, m[2] = {0}, v[2] = {0}, g[2] = {0.25f, -4};
  AdamwSettings settings = {.learning_rate = 0.125f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 0, .step = 1, .gradient_scale = 1};
  kernels_scalar.adamw(p, m, v, g, 2, settings, fixture->backend);
  assert_close(p, ((const float[]){0.875f, -0.875f}), 2, FLT_EPSILON);
}

static void backend_refuses_devices_and_instruction_sets_that_are_not_there(void **state) {
  (void)state;
  Backend *backend;
  setenv("LORA_CUDA_LIBRARY", "/nowhere/liblora_cuda.so", 1);
  assert_fails(STATUS_USAGE, backend_new(&backend, "cuda:0", 1), "cuda:0", "CUDA backend cannot be opened");
  assert_fails(STATUS_USAGE, backend_new(&backend, "cuda:x", 1), "cuda:x", "no device is called that");
  assert_fails(STATUS_USAGE, backend_new(&backend, "tpu", 1), "tpu", "cpu");
  setenv("LORA_CPU", "mmx", 1);
  assert_fails(STATUS_USAGE, backend_new(&backend, NULL, 1), "LORA_CPU=mmx", "scalar");
  setenv("LORA_CPU", "scalar", 1);
  assert_ok(backend_new(&backend, NULL, 1));
  assert_string_equal(backend->kernels->name, "scalar");
  backend_free(backend);
  unsetenv("LORA_CPU");
  assert_ok(backend_new(&backend, NULL, 1));
  assert_ptr_equal(backend->kernels, backend_cpu_kernels(0));
  backend_free(backend);
}

static void shared_scratch_grows_and_is_aligned(void **state) {
  Fixture *fixture = *state;
  for (int64_t bytes = 1; bytes < 1 << 24; bytes *= 7) {
    char *block = backend_shared_scratch(fixture->backend, bytes);
    assert_true((uintptr_t)block % 64 == 0);
    memset(block, 1, (size_t)bytes);
    assert_ptr_equal(block, backend_shared_scratch(fixture->backend, bytes / 2));
  }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(every_reference_kernel_rounds_float64_once),
      TEST(linear_backward_matches_finite_difference),
      TEST(weight_backward_matches_finite_difference),
      TEST(norm_backward_matches_finite_difference),
      TEST(router_backward_matches_finite_difference),
      TEST(experts_backward_matches_finite_difference),
      TEST(router_chooses_within_the_best_groups_and_by_number_among_equals),
      TEST(router_chooses_no_expert_twice_whatever_the_logits_are),
      TEST(experts_in_int8_are_the_products_in_int8),
      TEST(inverse_rope_matches_finite_difference),
      TEST(attention_backward_matches_finite_difference),
      TEST(attention_backward_with_a_window_matches_finite_difference),
      TEST(attention_backward_with_softcap_matches_finite_difference),
      TEST(attention_of_a_span_equals_its_queries_one_at_a_time),
      TEST(packed_attention_equals_its_documents),
      TEST(gated_backward_matches_finite_difference),
      TEST(gated_forward_is_finite_far_from_zero),
      TEST(cross_entropy_gradient_matches_finite_difference),
      TEST(divergence_gradient_matches_finite_difference),
      TEST(linear_cross_entropy_gradient_matches_finite_difference),
      TEST(cross_entropy_of_one_token_vocabulary_is_zero),
      TEST(cross_entropy_of_huge_logits_is_finite),
      TEST(cross_entropy_lets_nan_through),
      TEST(dropout_keeps_by_philox_and_keeps_the_mean),
      TEST(dropout_of_zero_is_the_identity),
      TEST(adamw_moves_by_the_learning_rate_at_first),
      TEST(backend_refuses_devices_and_instruction_sets_that_are_not_there),
      TEST(shared_scratch_grows_and_is_aligned),
      TEST(norm_weight_backward_matches_finite_difference),
      TEST(column_sums_match_finite_difference),
      TEST(embedding_backward_matches_finite_difference),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
