// The products of kernels/linear.h on the CUDA table with all their terms against float64: several projections at once, low-rank terms, bias
// and residual, rows that are columns of wider rows and begin anywhere; by cuBLASLt and by the backend's own kernels, in panels of few rows,
// and within the kernels for few rows. On the simulated device, as tests/kernels/test_cuda.c.
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/cuda_library.h"
#include "tests/support/kernel_cases.h"

enum { BLOCKS = 64 };

// What Backend.tuning of a CUDA device holds, in its order; panels are of one size forward and backward.
typedef struct Tuning {
  const char *name;
  int64_t fused_rows, gemv_rows, panel_bytes, own_products;
} Tuning;

static const Tuning tunings[] = {
    {"cuBLASLt, panels of few rows", 0, 0, 8192, 0},
    {"own products, panels of few rows", 0, 0, 8192, 1},
    {"own products of whole matrices", 0, 0, 1 << 24, 1},
    {"as the device wants it", 64, 4, 0, 0},
};
enum { TUNINGS = sizeof tunings / sizeof *tunings };

typedef enum Residual { NO_RESIDUAL, OTHER_ROWS, Y_ITSELF, RESIDUALS } Residual;

typedef struct Case {
  FloatType type, y_type;
  int count;
  int64_t n, in, out[LINEAR_PROJECTIONS], rank[LINEAR_PROJECTIONS], shift;  // elements before the first of every row's array
  BlockType weights;
  Residual residual;
  bool has_bias, accumulate, is_rounded;
} Case;

typedef struct Operands {
  Arena arena;
  Backend *backend;
  void *blocks[BLOCKS];
  int block_count;
  Matrix matrices[LINEAR_PROJECTIONS];  // on the device
  int matrix_count;
} Operands;

static void *send(Operands *o, const void *host, int64_t bytes, int64_t before) {
  void *block;
  assert_ok(o->backend->allocate(&block, bytes + before + 16, "a test", o->backend));
  o->backend->upload((char *)block + before, host, bytes, o->backend);
  o->blocks[o->block_count++] = block;
  return (char *)block + before;
}

static Rows send_rows(Operands *o, Rows host, int64_t n, const Case *c) {
  int64_t size = float_bytes(host.type);
  return (Rows){send(o, host.data, n * host.step * size, c->shift * size), host.step, host.type};
}

static Rows receive(Operands *o, Rows device, int64_t n) {
  int64_t bytes = n * device.step * float_bytes(device.type);
  void *host = arena_new(&o->arena, (size_t)bytes, 1);
  o->backend->download(host, device.data, bytes, o->backend);
  return (Rows){host, device.step, device.type};
}

static void operands_release(Operands *o) {
  for (int i = 0; i < o->matrix_count; i++) o->backend->release_matrix(&o->matrices[i], o->backend);
  for (int i = 0; i < o->block_count; i++) o->backend->release(o->blocks[i], o->backend);
  arena_release(&o->arena);
}

static float *floats(Operands *o, Rng *rng, int64_t count) { return random_rows(&o->arena, rng, 1, count, FLOAT_32).data; }

// A random matrix: its values, and the matrix on the device.
static float *matrix_new(Operands *o, Rng *rng, BlockType type, int64_t rows, int64_t columns) {
  const BlockTraits *traits = block_traits(type);
  void *data = floats(o, rng, rows * columns);
  if (type != BLOCK_F32) {
    uint8_t *blocks = arena_new(&o->arena, (size_t)(rows * block_row_bytes(type, columns)), 1);
    if (traits->elements == 1) traits->quantize(blocks, data, NULL, rows * columns);
    else randomize_blocks(blocks, type, rows * columns / traits->elements, rng);
    data = blocks;
  }
  Matrix *w = &o->matrices[o->matrix_count++];
  *w = (Matrix){.type = type, .rows = rows, .columns = columns, .data = data};
  float *values = arena_new(&o->arena, (size_t)(rows * columns), sizeof *values);
  for (int64_t r = 0; r < rows; r++) matrix_dequantize(values + r * columns, w, r, 0, columns);
  assert_ok(o->backend->upload_matrix(w, NULL, o->backend));
  return values;
}

// A product in 16 bits rounds both operands to 8 bits at least and its result once or twice more; float32 differs by the order of sums.
static double tolerance(const Case *c, int64_t k) { return c->type != FLOAT_32 ? 0x1p-6 : 8 * FLT_EPSILON * sqrt((double)k + 16); }

static void compare(Rows actual, Rows before, const double *expected, int64_t n, int64_t columns, double limit, const char *what,
                    const Case *c, const Tuning *tuning) {
  double largest = 0, difference = 0;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < actual.step; j++) {
      double a = rows_element(actual, i, j);
      if (j >= columns && a != rows_element(before, i, j)) fail_msg("%s: written beyond its columns: %s", what, tuning->name);
      if (j >= columns) continue;
      largest = fmax(largest, fabs(expected[i * columns + j]));
      difference = isfinite(a) ? fmax(difference, fabs(a - expected[i * columns + j])) : INFINITY;
    }
  if (!(difference <= limit * largest))
    fail_msg("%s is off by %g of %g: types %d and %d, n %lld, in %lld, %d of [%lld, %lld, %lld], ranks %lld %lld %lld, weights %d: %s",
             what, difference, largest, c->type, c->y_type, (long long)c->n, (long long)c->in, c->count, (long long)c->out[0],
             (long long)c->out[1], (long long)c->out[2], (long long)c->rank[0], (long long)c->rank[1], (long long)c->rank[2], c->weights,
             tuning->name);
}

static void check_forward(const Case *c, Rng *rng, Backend *backend, const Tuning *tuning) {
  Operands o = {.backend = backend};
  Rows x = random_rows(&o.arena, rng, c->n, c->in + 24, c->type), y[LINEAR_PROJECTIONS];
  double *expected[LINEAR_PROJECTIONS];
  Projection p[LINEAR_PROJECTIONS];
  for (int i = 0; i < c->count; i++) {
    int64_t out = c->out[i], rank = c->rank[i];
    const float *w = matrix_new(&o, rng, c->weights, out, c->in), *low = floats(&o, rng, out * rank + 1), *bias = floats(&o, rng, out);
    Rows h = random_rows(&o.arena, rng, c->n, rank + 3, c->type), residual = random_rows(&o.arena, rng, c->n, out + i, c->y_type);
    y[i] = random_rows(&o.arena, rng, c->n, out + 8 * i, c->y_type);
    if (c->residual == Y_ITSELF) residual = y[i];
    expected[i] = arena_new(&o.arena, (size_t)(c->n * out), sizeof(double));
    for (int64_t j = 0; j < c->n * out; j++) {
      int64_t row = j / out, column = j % out;
      double sum = 0;
      for (int64_t k = 0; k < c->in; k++) sum += rows_element(x, row, k) * w[column * c->in + k];
      sum *= 1.5;
      for (int64_t k = 0; k < rank; k++) sum += rows_element(h, row, k) * low[column * rank + k];
      expected[i][j] = sum + (c->has_bias ? bias[column] : 0) + (c->residual ? rows_element(residual, row, column) : 0);
    }
    p[i] = (Projection){.w = &o.matrices[i], .alpha = 1.5f, .y = send_rows(&o, y[i], c->n, c), .rank = rank};
    p[i].h = send_rows(&o, h, c->n, c), p[i].low = send(&o, low, out * rank * 4, 0);
    if (c->has_bias) p[i].bias = send(&o, bias, out * 4, 4);
    if (c->residual) p[i].residual = c->residual == Y_ITSELF ? p[i].y : send_rows(&o, residual, c->n, c);
  }
  backend->kernels->linear_forward(p, c->count, send_rows(&o, x, c->n, c), c->n, backend);
  for (int i = 0; i < c->count; i++)
    compare(receive(&o, p[i].y, c->n), y[i], expected[i], c->n, c->out[i], tolerance(c, c->in), "linear_forward", c, tuning);
  operands_release(&o);
}

static void check_backward(const Case *c, Rng *rng, Backend *backend, const Tuning *tuning) {
  Operands o = {.backend = backend};
  Rows dx = random_rows(&o.arena, rng, c->n, c->in + 24, c->type);
  double *expected = arena_new(&o.arena, (size_t)(c->n * c->in), sizeof *expected);
  Projection p[LINEAR_PROJECTIONS];
  int64_t terms = 0;
  for (int64_t j = 0; j < c->n * c->in; j++) expected[j] = c->accumulate ? rows_element(dx, j / c->in, j % c->in) : 0;
  for (int i = 0; i < c->count; i++) {
    int64_t out = c->out[i], rank = c->rank[i];
    const float *w = matrix_new(&o, rng, c->weights, out, c->in), *low = floats(&o, rng, c->in * rank + 1);
    Rows dy = random_rows(&o.arena, rng, c->n, out + 8 * i, i == 1 ? c->y_type : c->type),
         dh = random_rows(&o.arena, rng, c->n, rank + 5, c->type);
    for (int64_t j = 0; j < c->n * c->in; j++) {
      int64_t row = j / c->in, column = j % c->in;
      for (int64_t k = 0; k < out; k++) expected[j] += 1.5 * rows_element(dy, row, k) * w[k * c->in + column];
      for (int64_t k = 0; k < rank; k++) expected[j] += rows_element(dh, row, k) * low[k * c->in + column];
    }
    p[i] = (Projection){.w = &o.matrices[i], .alpha = 1.5f, .y = send_rows(&o, dy, c->n, c), .rank = rank};
    p[i].h = send_rows(&o, dh, c->n, c), p[i].low = send(&o, low, c->in * rank * 4, 0);
    terms += out + rank;
  }
  Rows device = send_rows(&o, dx, c->n, c);
  backend->kernels->linear_backward(device, p, c->count, c->n, c->accumulate, backend);
  compare(receive(&o, device, c->n), dx, expected, c->n, c->in, tolerance(c, terms), "linear_backward", c, tuning);
  operands_release(&o);
}

// dw[rows, columns] += 0.5 dy^T x in float64.
static double *weight_gradient(Operands *o, const float *before, Rows dy, int64_t rows, Rows x, int64_t columns, int64_t n, double alpha) {
  double *out = arena_new(&o->arena, (size_t)(rows * columns), sizeof *out);
  for (int64_t j = 0; j < rows * columns; j++) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += rows_element(dy, i, j / columns) * rows_element(x, i, j % columns);
    out[j] = before[j] + alpha * sum;
  }
  return out;
}

static void check_factors(const Case *c, Rng *rng, Backend *backend, const Tuning *tuning) {
  Operands o = {.backend = backend};
  Rows x = random_rows(&o.arena, rng, c->n, c->in + 24, c->type), before[LINEAR_PROJECTIONS], rounded = {0};
  double *expected[LINEAR_PROJECTIONS];
  WeightGradient g[LINEAR_PROJECTIONS];
  for (int i = 0; i < c->count; i++) {
    Rows dy = random_rows(&o.arena, rng, c->n, c->rank[i] + 7, c->type);
    before[i] = rows_f32(floats(&o, rng, c->rank[i] * c->in + 1), c->in);
    expected[i] = weight_gradient(&o, before[i].data, dy, c->rank[i], x, c->in, c->n, 0.5);
    g[i] = (WeightGradient){send(&o, before[i].data, c->rank[i] * c->in * 4, 4 * c->shift), send_rows(&o, dy, c->n, c), c->rank[i], 0.5f};
  }
  backend->kernels->weight_backward(g, c->count, send_rows(&o, x, c->n, c), c->in, c->n, backend);
  for (int i = 0; i < c->count; i++)
    compare(receive(&o, rows_f32(g[i].dw, c->in), c->rank[i]), before[i], expected[i], c->rank[i], c->in, tolerance(c, c->n),
            "weight_backward", c, tuning);

  int64_t out = c->out[0], rank = c->rank[0];
  Rows dy = random_rows(&o.arena, rng, c->n, out + 8, c->y_type), h = random_rows(&o.arena, rng, c->n, rank + 3, c->type);
  Rows dh = random_rows(&o.arena, rng, c->n, rank + 8, c->type), db = rows_f32(floats(&o, rng, out * rank + 1), rank);
  const float *b = floats(&o, rng, out * rank + 1);
  double *db_expected = weight_gradient(&o, db.data, dy, out, h, rank, c->n, 1),
         *dh_expected = arena_new(&o.arena, (size_t)(c->n * rank), sizeof(double));
  for (int64_t j = 0; j < c->n * rank; j++)
    for (int64_t k = 0; k < out; k++) dh_expected[j] += 0.5 * rows_element(dy, j / rank, k) * b[k * rank + j % rank];
  if (c->is_rounded) rounded = random_rows(&o.arena, rng, c->n, out, c->type);
  LowRankGradient l = {.dy = send_rows(&o, dy, c->n, c), .b = send(&o, b, out * rank * 4, 0), .db = send(&o, db.data, out * rank * 4, 4)};
  l.out = out, l.rank = rank, l.scale = 0.5f, l.h = send_rows(&o, h, c->n, c), l.dh = send_rows(&o, dh, c->n, c);
  if (c->is_rounded) l.rounded = send_rows(&o, rounded, c->n, c);
  backend->kernels->low_rank_backward(&l, 1, c->n, backend);
  compare(receive(&o, l.dh, c->n), dh, dh_expected, c->n, rank, tolerance(c, out), "dh", c, tuning);
  compare(receive(&o, rows_f32(l.db, rank), out), db, db_expected, out, rank, tolerance(c, c->n), "db", c, tuning);
  if (c->is_rounded) {
    double *copy = arena_new(&o.arena, (size_t)(c->n * out), sizeof *copy);
    for (int64_t j = 0; j < c->n * out; j++) copy[j] = rows_element(dy, j / out, j % out);
    compare(receive(&o, l.rounded, c->n), rounded, copy, c->n, out, c->type == FLOAT_32 ? 0 : 0x1p-8, "dy rounded", c, tuning);
  }
  operands_release(&o);
}

static Case random_case(Rng *rng, int index) {
  static const int64_t n[] = {1, 3, 9, 33, 65, 130}, in[] = {32, 96, 160, 256}, odd[] = {5, 33, 100}, out[] = {1, 17, 32, 100, 136};
  static const int64_t rank[] = {0, 1, 8, 20, 64};
  static const BlockType types[] = {BLOCK_F32, BLOCK_BF16, BLOCK_F16, BLOCK_Q4_1, BLOCK_Q8_0};
  Case c = {.type = (FloatType)(index % 3), .count = 1 + (int)rng_below(rng, LINEAR_PROJECTIONS), .n = n[rng_below(rng, 6)]};
  c.y_type = rng_below(rng, 2) ? c.type : FLOAT_32;
  c.weights = types[index / 3 % 5];
  c.in = in[rng_below(rng, 4)];
  if (block_traits(c.weights)->elements == 1 && rng_below(rng, 3) == 0) c.in = odd[rng_below(rng, 3)];
  for (int i = 0; i < c.count; i++) c.out[i] = out[rng_below(rng, 5)], c.rank[i] = rank[rng_below(rng, 5)];
  c.residual = (Residual)rng_below(rng, RESIDUALS);
  c.has_bias = rng_below(rng, 2), c.accumulate = rng_below(rng, 2), c.is_rounded = rng_below(rng, 2);
  c.shift = rng_below(rng, 2) ? 0 : 1 + (int64_t)rng_below(rng, 3);
  return c;
}

static Backend *backend;

static void products_with_all_terms_match_float64(void **state) {
  (void)state;
  assert_true(backend->tuning_count == TUNING_COUNT);
  for (int t = 0; t < TUNINGS; t++) {
    const Tuning *tuning = &tunings[t];
    const int64_t values[] = {tuning->fused_rows, tuning->gemv_rows, tuning->panel_bytes, tuning->panel_bytes, tuning->own_products};
    memcpy(backend->tuning, values, sizeof values);
    Rng rng = rng_new(11, RNG_STREAM_TEST);
    for (int index = 0; index < 45; index++) {
      Case c = random_case(&rng, index);
      check_forward(&c, &rng, backend, tuning);
      check_backward(&c, &rng, backend, tuning);
      check_factors(&c, &rng, backend, tuning);
      assert_ok(backend->check(backend));
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(products_with_all_terms_match_float64)};
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  assert_ok(backend_new(&backend, "cuda", 2));
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  backend_free(backend);
  return failed;
}
