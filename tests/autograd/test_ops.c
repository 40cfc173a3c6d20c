// Ops on a small tape that begins with an adapted projection: the gradient of the adapter's factors, which comes through the op under test,
// against finite differences of the loss along a direction; the same bits with recomputation and with any number of threads; and nearly the
// same gradient with activations in bfloat16.
#include <math.h>

#include "autograd/ops.h"
#include "tests/support/test.h"

enum { TOKENS = 13, HIDDEN = 24, VOCABULARY = 11, RANK = 3, EXPERTS = 8, USED = 2, WIDTH = 16 };

typedef struct Fixture {
  Backend *backend;
  Arena arena;
  LowRank adapter;
  Matrix embedding, projection, head;
  ExpertLayer experts;
  float *norm_weight, *norm_bias;
  int32_t ids[TOKENS], targets[TOKENS];
  float softcap;
} Fixture;

// From x[TOKENS, HIDDEN], the adapted projection, and the residual stream h[TOKENS, HIDDEN] to the loss's hidden state.
typedef Tensor *(*Body)(Tape *tape, Tensor *x, Tensor *h, const Fixture *f);

static float *normals(Fixture *f, int64_t count, double deviation, Rng *rng) {
  float *values = arena_new(&f->arena, (size_t)count, sizeof *values);
  fill_normal(values, count, deviation, rng);
  return values;
}

static Matrix random_matrix(Fixture *f, int64_t rows, int64_t columns, double deviation, Rng *rng) {
  return matrix_f32(normals(f, rows * columns, deviation, rng), rows, columns);
}

static Parameter random_parameter(Fixture *f, int64_t rows, int64_t columns, Rng *rng) {
  float *gradient = arena_new(&f->arena, (size_t)(rows * columns), sizeof *gradient);
  return (Parameter){normals(f, rows * columns, 0.3, rng), gradient, rows, columns};
}

static void add_experts(Fixture *f, Rng *rng) {
  Matrix *matrices[3];
  for (int i = 0; i < 3; i++) {
    matrices[i] = arena_new(&f->arena, EXPERTS, sizeof(Matrix));
    for (int e = 0; e < EXPERTS; e++) matrices[i][e] = random_matrix(f, i == 2 ? HIDDEN : WIDTH, i == 2 ? WIDTH : HIDDEN, 0.3, rng);
  }
  f->experts = (ExpertLayer){.router = random_matrix(f, EXPERTS, HIDDEN, 0.5, rng)};
  f->experts.settings = (RouterSettings){.experts = EXPERTS, .used = USED, .is_normalized = true, .scale = 1};
  f->experts.matrices = (ExpertMatrices){matrices[0], matrices[1], matrices[2], EXPERTS, USED, HIDDEN, WIDTH, ACTIVATION_SILU};
}

static void open_fixture(Fixture *f, int threads) {
  *f = (Fixture){0};
  assert_ok(backend_new(&f->backend, "cpu", threads));
  Rng rng = rng_new(17, RNG_STREAM_TEST);
  f->adapter = (LowRank){.scale = 0.7f, .enabled = true};
  f->adapter.a = random_parameter(f, RANK, HIDDEN, &rng);
  f->adapter.b = random_parameter(f, HIDDEN, RANK, &rng);
  f->embedding = random_matrix(f, VOCABULARY, HIDDEN, 1, &rng);
  f->projection = random_matrix(f, HIDDEN, HIDDEN, 0.2, &rng);
  f->head = random_matrix(f, VOCABULARY, HIDDEN, 0.4, &rng);
  f->norm_weight = normals(f, HIDDEN, 1, &rng);
  f->norm_bias = normals(f, HIDDEN, 1, &rng);
  add_experts(f, &rng);
  for (int i = 0; i < TOKENS; i++) {
    f->ids[i] = (int32_t)rng_below(&rng, VOCABULARY);
    f->targets[i] = (int32_t)rng_below(&rng, VOCABULARY);
  }
}

static void close_fixture(Fixture *f) {
  arena_release(&f->arena);
  backend_free(f->backend);
}

static double run(Fixture *f, Body body, bool train, FloatType activations, int checkpointed) {
  Tape tape;
  tape_new(&tape, f->backend);
  tape.activations = activations;
  tape_begin(&tape, train ? TAPE_TRAIN : TAPE_FORWARD);
  Tensor *h = op_embedding(&tape, tape_input(&tape, f->ids, TOKENS, 1), &f->embedding, 1);
  tape_segment(&tape);
  LinearPart part = {.weight = &f->projection, .adapter = &f->adapter};
  // A stream with a gradient of its own, as between two layers.
  h = op_linear(&tape, h, part, h);
  tape_segment(&tape);
  Tensor *x = op_norm(&tape, h, &(NormSettings){.weight = f->norm_weight, .columns = HIDDEN, .epsilon = 1e-5f, .offset = 1}, NULL);
  Tensor *y = body(&tape, x, h, f);
  tape_segment(&tape);
  Tensor *loss = op_cross_entropy(&tape, y, &f->head, tape_input(&tape, f->targets, TOKENS, 1), (LossGradient){.scale = 1}, f->softcap);
  tape_plan(&tape, checkpointed);
  assert_ok(tape_reserve(&tape));
  tape_forward(&tape);
  if (train) {
    memset(f->adapter.a.gradient, 0, RANK * HIDDEN * sizeof(float));
    memset(f->adapter.b.gradient, 0, RANK * HIDDEN * sizeof(float));
    tape_backward(&tape);
  }
  float nll[TOKENS];
  tape_read(nll, &tape, loss);
  tape_free(&tape);
  double sum = 0;
  for (int i = 0; i < TOKENS; i++) sum += nll[i];
  return sum;
}

// The loss's change along the gradient itself, where it is largest.
static void check_slope(Fixture *f, Body body, Parameter *parameter, const char *name) {
  int64_t count = parameter->rows * parameter->columns;
  float saved[RANK * HIDDEN], direction[RANK * HIDDEN];
  double norm = 0, measured[2];
  memcpy(saved, parameter->data, sizeof saved);
  for (int64_t i = 0; i < count; i++) norm += (double)parameter->gradient[i] * parameter->gradient[i];
  norm = sqrt(norm);
  assert_true(norm > 0);
  for (int64_t i = 0; i < count; i++) direction[i] = (float)(parameter->gradient[i] / norm);
  const float step = 1e-3f;
  for (int side = 0; side < 2; side++) {
    for (int64_t i = 0; i < count; i++) parameter->data[i] = saved[i] + (side ? -step : step) * direction[i];
    measured[side] = run(f, body, false, FLOAT_32, 0);
  }
  memcpy(parameter->data, saved, sizeof saved);
  double slope = (measured[0] - measured[1]) / (2 * (double)step);
  if (!(fabs(slope - norm) <= 2e-3 * norm + 2e-3)) fail_msg("%s: slope %g, gradient says %g", name, slope, norm);
}

// 1 - the cosine of the angle between gradients.
static double angle(const float *x, const float *y, int64_t count) {
  double xy = 0, xx = 0, yy = 0;
  for (int64_t i = 0; i < count; i++) xy += (double)x[i] * y[i], xx += (double)x[i] * x[i], yy += (double)y[i] * y[i];
  return 1 - xy / sqrt(xx * yy);
}

static void check_body(Body body, float softcap, void (*prepare)(Fixture *f)) {
  float a[RANK * HIDDEN], b[RANK * HIDDEN];
  double loss = 0;
  for (int threads = 1; threads <= 3; threads++) {
    Fixture f;
    open_fixture(&f, threads);
    f.softcap = softcap;
    if (prepare) prepare(&f);
    for (int checkpointed = 0; checkpointed <= 3; checkpointed++) {
      double own = run(&f, body, true, FLOAT_32, checkpointed);
      if (threads == 1 && checkpointed == 0) {
        loss = own;
        memcpy(a, f.adapter.a.gradient, sizeof a);
        memcpy(b, f.adapter.b.gradient, sizeof b);
        check_slope(&f, body, &f.adapter.a, "a");
        check_slope(&f, body, &f.adapter.b, "b");
      }
      assert_true(own == loss);
      assert_memory_equal(a, f.adapter.a.gradient, sizeof a);
      assert_memory_equal(b, f.adapter.b.gradient, sizeof b);
    }
    double rounded = run(&f, body, true, FLOAT_BF16, 1);
    assert_true(fabs(rounded - loss) <= 0.02 * fabs(loss));
    assert_true(angle(a, f.adapter.a.gradient, RANK * HIDDEN) < 1e-2 && angle(b, f.adapter.b.gradient, RANK * HIDDEN) < 1e-2);
    close_fixture(&f);
  }
}

// Norms of heads, of a residual stream's summand, and of some columns beside other readers of the rest.
static Tensor *norm_body(Tape *tape, Tensor *x, Tensor *h, const Fixture *f) {
  NormSettings head = {.weight = f->norm_weight, .columns = 8, .epsilon = 1e-5f};
  NormSettings layer = {.weight = f->norm_weight, .bias = f->norm_bias, .columns = HIDDEN, .epsilon = 1e-3f, .is_centered = true};
  NormSettings some = {.weight = f->norm_weight, .columns = 16, .epsilon = 1e-5f};
  Tensor *heads = op_norm(tape, x, &head, NULL), *columns = op_norm_columns(tape, x, 5, &some);
  const HeadPart parts[2] = {{columns, 0, 0, 16}, {heads, 16, 0, 8}};
  h = op_norm(tape, op_join_heads(tape, parts, 2, 1), &layer, h);
  return op_norm(tape, op_norm(tape, h, &head, h), &layer, NULL);
}

static void norms_have_the_gradient_of_finite_differences(void **state) {
  (void)state;
  check_body(norm_body, 0, NULL);
}

// Keys of three heads: four columns of each and two that all share, of one tensor; and its other columns.
static Tensor *heads_body(Tape *tape, Tensor *x, Tensor *h, const Fixture *f) {
  (void)h;
  Tensor *shared = op_join_heads(tape, (HeadPart[]){{x, 20, 0, 4}}, 1, 1);
  Tensor *keys = op_join_heads(tape, (HeadPart[]){{x, 0, 6, 4}, {shared, 1, 0, 2}, {x, 18, 0, 2}}, 3, 3);
  Tensor *values = op_join_heads(tape, (HeadPart[]){{x, 4, 6, 2}, {keys, 0, 8, 6}}, 2, 3);
  NormSettings norm = {.weight = f->norm_weight, .columns = HIDDEN, .epsilon = 1e-5f};
  return op_norm(tape, op_gated(tape, keys, values, ACTIVATION_SILU), &norm, NULL);
}

static void joined_heads_have_the_gradient_of_finite_differences(void **state) {
  (void)state;
  check_body(heads_body, 0, NULL);
}

static Tensor *experts_body(Tape *tape, Tensor *x, Tensor *h, const Fixture *f) {
  NormSettings norm = {.weight = f->norm_weight, .columns = HIDDEN, .epsilon = 1e-5f};
  Tensor *alone = op_experts(tape, x, &f->experts, NULL);
  return op_norm(tape, op_experts(tape, x, &f->experts, op_norm(tape, alone, &norm, h)), &norm, NULL);
}

static void experts_have_the_gradient_of_finite_differences(void **state) {
  (void)state;
  check_body(experts_body, 0, NULL);
}

static void route_by_sigmoid(Fixture *f) {
  f->experts.settings.is_sigmoid = f->experts.settings.groups_by_two = true;
  f->experts.settings.groups = 4, f->experts.settings.groups_used = 2;
  f->experts.settings.bias = f->norm_bias;
  f->experts.settings.scale = 2.5f;
}

static void experts_of_groups_have_the_gradient_of_finite_differences(void **state) {
  (void)state;
  check_body(experts_body, 0, route_by_sigmoid);
}

static Tensor *ungated_body(Tape *tape, Tensor *x, Tensor *h, const Fixture *f) {
  NormSettings norm = {.weight = f->norm_weight, .columns = HIDDEN, .epsilon = 1e-5f};
  return op_norm(tape, op_gated(tape, x, NULL, ACTIVATION_GELU_TANH), &norm, h);
}

static void activations_without_a_gate_and_capped_logits_have_the_gradient_of_finite_differences(void **state) {
  (void)state;
  check_body(ungated_body, 0, NULL);
  check_body(ungated_body, 3, NULL);
}

// Rows in another order, some of them twice.
static Tensor *repeated_body(Tape *tape, Tensor *x, Tensor *h, const Fixture *f) {
  static const int32_t order[] = {0, 1, 2, 3, 4, 2, 3, 5, 6, 7, 8, 12, 9, 10, 11, 6, 12};
  static const int32_t kept[TOKENS] = {0, 2, 3, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16};  // without some, with both copies of others
  (void)h;
  NormSettings norm = {.weight = f->norm_weight, .columns = HIDDEN, .epsilon = 1e-5f};
  RepeatedRows rows = repeated_rows(tape, order, sizeof order / sizeof *order, TOKENS);
  Tensor *repeated = op_repeat_rows(tape, op_norm(tape, x, &norm, NULL), &rows);
  return op_norm(tape, op_gather_rows(tape, repeated, tape_input(tape, kept, TOKENS, 1)), &norm, NULL);
}

static void repeated_rows_have_the_gradient_of_finite_differences(void **state) {
  (void)state;
  check_body(repeated_body, 0, NULL);
}

static const AttentionSpan noise_spans[] = {{0, 5, 0, 5}, {5, TOKENS, 5, TOKENS}};

static Tensor *noise_body(Tape *tape, Tensor *x, Tensor *h, const Fixture *f) {
  NormSettings norm = {.weight = f->norm_weight, .columns = HIDDEN, .epsilon = 1e-5f};
  tape->dropout_seed = 3;
  return op_norm(tape, op_noise(tape, op_norm(tape, x, &norm, h), noise_spans, 2, 5), &norm, NULL);
}

static void noise_lets_the_gradient_through(void **state) {
  (void)state;
  check_body(noise_body, 0, NULL);
}

static void embed_with_noise(float out[TOKENS * HIDDEN], Fixture *f, float magnitude, uint64_t stream) {
  Tape tape;
  tape_new(&tape, f->backend);
  tape_begin(&tape, TAPE_TRAIN);
  tape.dropout_seed = 3;
  tape.dropout_stream = stream;
  Tensor *x = op_embedding(&tape, tape_input(&tape, f->ids, TOKENS, 1), &f->embedding, 1);
  x = op_noise(&tape, x, noise_spans, 2, magnitude);
  tape_keep(x);
  tape_plan(&tape, 0);
  assert_ok(tape_reserve(&tape));
  tape_forward(&tape);
  tape_read(out, &tape, x);
  tape_free(&tape);
}

// As large as alpha / sqrt(length * hidden) allows in each document, and other numbers for each document and micro-batch.
static void noise_is_uniform_within_its_bound(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f, 2);
  float plain[TOKENS * HIDDEN], first[TOKENS * HIDDEN], again[TOKENS * HIDDEN], second[TOKENS * HIDDEN];
  embed_with_noise(plain, &f, 0, 0);
  embed_with_noise(first, &f, 5, 0);
  embed_with_noise(again, &f, 5, 0);
  embed_with_noise(second, &f, 5, 1);
  assert_memory_equal(first, again, sizeof first);
  for (int s = 0; s < 2; s++) {
    double largest = 0, squares = 0, moved = 0, bound = 5 / sqrt((double)(noise_spans[s].query_end - noise_spans[s].query_begin) * HIDDEN);
    int64_t begin = noise_spans[s].query_begin * HIDDEN, end = noise_spans[s].query_end * HIDDEN;
    for (int64_t i = begin; i < end; i++) {
      double noise = (double)first[i] - plain[i];
      largest = fmax(largest, fabs(noise));
      squares += noise * noise / (double)(end - begin);
      moved += first[i] != second[i];
    }
    assert_true(largest <= bound * 1.001 && largest > 0.9 * bound);
    assert_true(fabs(sqrt(squares) - bound / sqrt(3)) < 0.15 * bound);
    assert_true(moved > 0.9 * (double)(end - begin));
  }
  close_fixture(&f);
}

// Every pass forward counts once, and what is recomputed for the backward pass not again.
static void totals_count_every_token_once(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f, 2);
  float totals[2 * EXPERTS] = {0};
  f.experts.totals = totals;
  for (int checkpointed = 0; checkpointed <= 3; checkpointed++) run(&f, experts_body, true, FLOAT_32, checkpointed);
  double chosen = 0, shares = 0;
  for (int e = 0; e < EXPERTS; e++) chosen += totals[e], shares += totals[EXPERTS + e];
  assert_true(chosen == 4 * 2 * TOKENS * USED);  // four passes through two layers
  assert_true(fabs(shares - 4 * 2 * TOKENS) < 1e-3);
  close_fixture(&f);
}

static void softcap_caps_in_place(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f, 2);
  Tape tape;
  tape_new(&tape, f.backend);
  tape_begin(&tape, TAPE_FORWARD);
  Tensor *x = op_embedding(&tape, tape_input(&tape, f.ids, TOKENS, 1), &f.embedding, 10), *y = op_softcap(&tape, x, 5);
  tape_keep(y);
  tape_plan(&tape, 0);
  assert_ok(tape_reserve(&tape));
  tape_forward(&tape);
  assert_ptr_equal(x->data, y->data);
  float capped[TOKENS * HIDDEN], expected[TOKENS * HIDDEN];
  tape_read(capped, &tape, y);
  for (int i = 0; i < TOKENS * HIDDEN; i++) {
    float own = 10 * ((const float *)f.embedding.data)[f.ids[i / HIDDEN] * HIDDEN + i % HIDDEN];
    expected[i] = (float)(5 * tanh((double)own / 5));
  }
  assert_close(capped, expected, TOKENS * HIDDEN, 1e-6);
  tape_free(&tape);
  close_fixture(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(norms_have_the_gradient_of_finite_differences),
      cmocka_unit_test(joined_heads_have_the_gradient_of_finite_differences),
      cmocka_unit_test(experts_have_the_gradient_of_finite_differences),
      cmocka_unit_test(experts_of_groups_have_the_gradient_of_finite_differences),
      cmocka_unit_test(activations_without_a_gate_and_capped_logits_have_the_gradient_of_finite_differences),
      cmocka_unit_test(repeated_rows_have_the_gradient_of_finite_differences),
      cmocka_unit_test(noise_lets_the_gradient_through),
      cmocka_unit_test(noise_is_uniform_within_its_bound),
      cmocka_unit_test(totals_count_every_token_once),
      cmocka_unit_test(softcap_caps_in_place),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
