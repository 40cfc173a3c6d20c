// The products of kernels/linear.h with all their terms: several projections at once, low-rank terms, bias and residual, rows that are
// columns of wider rows; every table beside plain C.
#include <float.h>
#include <math.h>

#include "tests/support/kernel_cases.h"

#include "formats/block.h"

// A product in bfloat16 rounds both operands to 8 bits and its result once more: an error of a few times 2^-9 of what adds up without
// order. Float32 differs by the order of the sums.
static double tolerance(FloatType type, int64_t k) { return type == FLOAT_BF16 ? 0x1p-6 : 8 * FLT_EPSILON * sqrt((double)k + 16); }

typedef struct Case {
  FloatType type;
  int count;
  int64_t n, in, out[LINEAR_PROJECTIONS], rank[LINEAR_PROJECTIONS];
  BlockType weights;
  bool has_bias, has_residual, is_residual_float, accumulate;
} Case;

// One side's operands: the same values on both sides.
typedef struct Side {
  Arena arena;
  Rows x, y[LINEAR_PROJECTIONS], h, dh, residual[LINEAR_PROJECTIONS];
  Matrix w[LINEAR_PROJECTIONS];
  float *low[LINEAR_PROJECTIONS], *bias[LINEAR_PROJECTIONS], *gradient[LINEAR_PROJECTIONS], *low_gradient[LINEAR_PROJECTIONS];
  int64_t ranks;
} Side;

static float *values(Arena *arena, Rng *rng, int64_t count, double deviation) {
  float *out = arena_new(arena, (size_t)count + 1, sizeof *out);
  fill_normal(out, count, deviation, rng);
  return out;
}

static Matrix matrix_new(Arena *arena, Rng *rng, BlockType type, int64_t rows, int64_t columns) {
  float *from = values(arena, rng, rows * columns, 1);
  if (type == BLOCK_F32) return matrix_f32(from, rows, columns);
  uint8_t *blocks = arena_new(arena, (size_t)(rows * block_row_bytes(type, columns)) + 1, 1);
  const BlockTraits *traits = block_traits(type);
  if (traits->elements == 1) traits->quantize(blocks, from, NULL, rows * columns);
  else randomize_blocks(blocks, type, rows * columns / traits->elements, rng);
  return (Matrix){.type = type, .rows = rows, .columns = columns, .data = blocks};
}

static void side_new(Side *s, const Case *c, bool backward, uint64_t seed) {
  Rng rng = rng_new(seed, RNG_STREAM_TEST);
  *s = (Side){0};
  s->x = random_rows(&s->arena, &rng, c->n, c->in + 32, c->type);
  for (int i = 0; i < c->count; i++) s->ranks += c->rank[i];
  s->h = random_rows(&s->arena, &rng, c->n, s->ranks + 3, c->type);
  s->dh = random_rows(&s->arena, &rng, c->n, s->ranks + 5, c->type);
  for (int i = 0; i < c->count; i++) {
    s->y[i] = random_rows(&s->arena, &rng, c->n, c->out[i] + 16 * i, c->type);
    s->residual[i] = random_rows(&s->arena, &rng, c->n, c->out[i], c->is_residual_float ? FLOAT_32 : c->type);
    s->w[i] = matrix_new(&s->arena, &rng, c->weights, c->out[i], c->in);
    s->low[i] = values(&s->arena, &rng, c->rank[i] * (backward ? c->in : c->out[i]), 1);
    s->bias[i] = values(&s->arena, &rng, c->out[i], 1);
    s->low_gradient[i] = values(&s->arena, &rng, c->rank[i] * c->out[i], 1);
    s->gradient[i] = values(&s->arena, &rng, c->rank[i] * c->in, 1);
  }
}

static int side_projections(Projection *p, const Side *s, const Case *c, bool backward) {
  int64_t column = 0;
  for (int i = 0; i < c->count; column += c->rank[i++]) {
    p[i] = (Projection){.w = &s->w[i], .alpha = 1.5f, .y = s->y[i], .h = rows_from(s->h, column), .low = s->low[i], .rank = c->rank[i]};
    if (backward) continue;
    if (c->has_bias) p[i].bias = s->bias[i];
    if (c->has_residual) p[i].residual = i == 1 ? s->y[i] : s->residual[i];  // the second is added to
  }
  return c->count;
}

// Largest difference, by the largest value; columns beyond `columns` must not have been touched.
static void compare(Rows actual, Rows expected, int64_t n, int64_t columns, double limit, const char *what, const char *table,
                    const Case *c) {
  double largest = 0, difference = 0;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < expected.step; j++) {
      double a = rows_element(actual, i, j), e = rows_element(expected, i, j);
      if (j >= columns && a != e) fail_msg("%s of %s: writes beyond its columns", what, table);
      if (j >= columns) continue;
      if (!isfinite(a)) difference = INFINITY;
      largest = fmax(largest, fabs(e));
      difference = fmax(difference, fabs(a - e));
    }
  if (!(difference <= limit * largest))
    fail_msg("%s of %s is off by %g of %g: type %d, n %lld, in %lld, %d of [%lld, %lld, %lld], ranks %lld %lld %lld, weights %d", what,
             table, difference, largest, c->type, (long long)n, (long long)c->in, c->count, (long long)c->out[0], (long long)c->out[1],
             (long long)c->out[2], (long long)c->rank[0], (long long)c->rank[1], (long long)c->rank[2], c->weights);
}

static Case random_case(Rng *rng, int index) {
  static const int64_t n[] = {1, 2, 7, 9, 16, 31, 33, 64, 130, 300}, in[] = {32, 64, 96, 160, 576, 608, 1024}, odd[] = {5, 33, 100};
  static const int64_t out[] = {1, 16, 17, 32, 48, 96, 100, 192, 330}, rank[] = {0, 1, 8, 16, 20, 64, 80};
  static const BlockType types[] = {BLOCK_F32,    BLOCK_BF16,   BLOCK_F16,   BLOCK_Q4_1,  BLOCK_Q8_0, BLOCK_Q4_0, BLOCK_Q5_0,
                                    BLOCK_Q5_1,   BLOCK_Q2_K,   BLOCK_Q3_K,  BLOCK_Q4_K,  BLOCK_Q5_K, BLOCK_Q6_K, BLOCK_Q8_K,
                                    BLOCK_IQ4_NL, BLOCK_IQ4_XS, BLOCK_MXFP4, BLOCK_TQ1_0, BLOCK_TQ2_0};
  enum { TYPES = sizeof types / sizeof *types };
  Case c = {.type = index % 2 ? FLOAT_BF16 : FLOAT_32, .count = 1 + (int)rng_below(rng, LINEAR_PROJECTIONS), .n = n[rng_below(rng, 10)]};
  c.weights = types[index / 2 % TYPES];
  c.in = in[rng_below(rng, 7)];
  if (block_traits(c.weights)->elements == 256) c.in = 256 * (1 + (int64_t)rng_below(rng, 5));
  if (block_traits(c.weights)->elements == 1 && rng_below(rng, 3) == 0) c.in = odd[rng_below(rng, 3)];
  for (int i = 0; i < c.count; i++) c.out[i] = out[rng_below(rng, 9)], c.rank[i] = rank[rng_below(rng, 7)];
  c.has_bias = rng_below(rng, 2), c.has_residual = rng_below(rng, 2), c.is_residual_float = rng_below(rng, 2);
  c.accumulate = rng_below(rng, 2);
  return c;
}

typedef void (*Call)(Side *side, const Case *c, const Kernels *kernels, Backend *backend);

static void call_forward(Side *side, const Case *c, const Kernels *kernels, Backend *backend) {
  Projection p[LINEAR_PROJECTIONS];
  int count = side_projections(p, side, c, false);
  kernels->linear_forward(p, count, side->x, c->n, backend);
}

static void call_backward(Side *side, const Case *c, const Kernels *kernels, Backend *backend) {
  Projection p[LINEAR_PROJECTIONS];
  int count = side_projections(p, side, c, true);
  kernels->linear_backward(side->x, p, count, c->n, c->accumulate, backend);
}

// dA of all projections at once: h stands for dh.
static void call_weights(Side *side, const Case *c, const Kernels *kernels, Backend *backend) {
  WeightGradient g[LINEAR_PROJECTIONS];
  int64_t column = 0;
  int count = 0;
  for (int p = 0; p < c->count; column += c->rank[p++])
    if (c->rank[p]) g[count++] = (WeightGradient){side->gradient[p], rows_from(side->h, column), c->rank[p], 0.5f};
  if (count) kernels->weight_backward(g, count, side->x, c->in, c->n, backend);
}

// dh and dB of all projections. The residual stands for dy, y for what it is rounded to.
static void call_low_rank(Side *side, const Case *c, const Kernels *kernels, Backend *backend) {
  LowRankGradient g[LINEAR_PROJECTIONS];
  int64_t column = 0;
  int count = 0;
  for (int p = 0; p < c->count; column += c->rank[p++])
    if (c->rank[p])
      g[count++] = (LowRankGradient){.dy = side->residual[p],
                                     .b = side->low[p],
                                     .db = side->low_gradient[p],
                                     .out = c->out[p],
                                     .rank = c->rank[p],
                                     .scale = 0.5f,
                                     .h = rows_from(side->h, column),
                                     .dh = rows_from(side->dh, column),
                                     .rounded = c->has_residual ? side->y[p] : (Rows){0}};
  if (count) kernels->low_rank_backward(g, count, c->n, backend);
}

// `is_rounded`: in other orders of the sums; else their bits.
static void compare_sides(const Side *actual, const Side *expected, Call call, const char *table, const Case *c, bool is_rounded) {
  double limit = is_rounded;
  int64_t k = 0;
  for (int i = 0; i < c->count; i++) k += c->out[i];
  if (call == call_backward) compare(actual->x, expected->x, c->n, c->in, limit * tolerance(c->type, k), "linear_backward", table, c);
  for (int i = 0; i < c->count && call == call_forward; i++)
    compare(actual->y[i], expected->y[i], c->n, c->out[i], limit * tolerance(c->type, c->in), "linear_forward", table, c);
  for (int i = 0; i < c->count && call == call_weights; i++)
    compare(rows_f32(actual->gradient[i], c->in), rows_f32(expected->gradient[i], c->in), c->rank[i], c->in,
            limit * tolerance(c->type, c->n), "weight_backward", table, c);
  if (call != call_low_rank) return;
  compare(actual->dh, expected->dh, c->n, actual->ranks, limit * tolerance(c->type, k), "dh of low_rank_backward", table, c);
  for (int i = 0; i < c->count; i++) {
    compare(rows_f32(actual->low_gradient[i], c->rank[i]), rows_f32(expected->low_gradient[i], c->rank[i]), c->out[i], c->rank[i],
            limit * tolerance(c->type, c->n), "db of low_rank_backward", table, c);
    compare(actual->y[i], expected->y[i], c->n, c->out[i], 0, "dy rounded by low_rank_backward", table, c);
  }
}

static const struct {
  Call call;
  bool is_backward;
} calls[] = {{call_forward, false}, {call_low_rank, false}, {call_backward, true}, {call_weights, true}};
enum { CALLS = sizeof calls / sizeof *calls };

static void check(const Case *c, Backend *backend, uint64_t seed) {
  for (int i = 0; i < CALLS; i++) {
    Side expected;
    side_new(&expected, c, calls[i].is_backward, seed);
    calls[i].call(&expected, c, &kernels_scalar, backend);
    for (int t = 0; backend_cpu_kernels(t) != &kernels_scalar; t++) {
      Side actual;
      side_new(&actual, c, calls[i].is_backward, seed);
      calls[i].call(&actual, c, backend_cpu_kernels(t), backend);
      compare_sides(&actual, &expected, calls[i].call, backend_cpu_kernels(t)->name, c, true);
      arena_release(&actual.arena);
    }
    arena_release(&expected.arena);
  }
}

// The bits of a table with one thread, and with more.
static void check_threads(const Case *c, Backend *const *backends, int count, uint64_t seed) {
  for (int i = 0; i < CALLS; i++)
    for (int t = 0; backend_cpu_kernels(t); t++) {
      Side sides[2];
      for (int b = 0; b < count; b++) {
        side_new(&sides[b > 0], c, calls[i].is_backward, seed);
        calls[i].call(&sides[b > 0], c, backend_cpu_kernels(t), backends[b]);
        if (b > 0) compare_sides(&sides[1], &sides[0], calls[i].call, backend_cpu_kernels(t)->name, c, false);
        if (b > 0) arena_release(&sides[1].arena);
      }
      arena_release(&sides[0].arena);
    }
}

static void random_products_match_plain_c(void **state) {
  (void)state;
  Backend *backend;
  assert_ok(backend_new(&backend, "cpu", 2));
  Rng rng = rng_new(3, RNG_STREAM_TEST);
  for (int index = 0; index < 100; index++) {
    Case c = random_case(&rng, index);
    check(&c, backend, (uint64_t)index);
  }
  backend_free(backend);
}

// Long sums (parts and slices of k), and outputs that are stored around the caches.
static void large_products_match_plain_c(void **state) {
  (void)state;
  static const Case cases[] = {
      {.count = 2, .n = 70, .in = 5056, .out = {40, 17}, .rank = {16, 8}, .weights = BLOCK_Q8_0, .has_residual = true},
      {.count = 3, .n = 40, .in = 64, .out = {2000, 1100, 900}, .rank = {16, 16, 16}, .weights = BLOCK_F32, .accumulate = true},
      {.count = 1,
       .n = 1100,
       .in = 32,
       .out = {1024},
       .rank = {16},
       .weights = BLOCK_BF16,
       .has_residual = true,
       .is_residual_float = true},
  };
  Backend *backend;
  assert_ok(backend_new(&backend, "cpu", 2));
  for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
    Case c = cases[i / 2];
    c.type = i % 2 ? FLOAT_BF16 : FLOAT_32;
    check(&c, backend, i);
  }
  backend_free(backend);
}

// Short sums of many columns, as dropout's share of dx: one thread has to take them in several tasks, for its scratch holds their sums.
static void wide_products_of_one_thread_match_plain_c(void **state) {
  (void)state;
  Backend *backend;
  assert_ok(backend_new(&backend, "cpu", 1));
  for (int i = 0; i < 4; i++) {
    Case c = {.type = i % 2 ? FLOAT_BF16 : FLOAT_32, .count = 1, .n = 112, .in = 4000, .out = {8}, .rank = {i / 2 ? 4 : 0}};
    check(&c, backend, (uint64_t)i);
  }
  backend_free(backend);
}

static void number_of_threads_changes_no_bit(void **state) {
  (void)state;
  static const int threads[] = {1, 2, 3, 5};
  enum { COUNT = sizeof threads / sizeof *threads };
  Backend *backends[COUNT];
  for (int i = 0; i < COUNT; i++) assert_ok(backend_new(&backends[i], "cpu", threads[i]));
  Rng rng = rng_new(4, RNG_STREAM_TEST);
  for (int index = 0; index < 24; index++) {
    Case c = random_case(&rng, index);
    check_threads(&c, backends, COUNT, (uint64_t)index);
  }
  for (int i = 0; i < COUNT; i++) backend_free(backends[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(random_products_match_plain_c),
      cmocka_unit_test(large_products_match_plain_c),
      cmocka_unit_test(wide_products_of_one_thread_match_plain_c),
      cmocka_unit_test(number_of_threads_changes_no_bit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
