// linear_forward_int8 of every table beyond what test_backends.c tries: several projections at once with all their terms, levels
// at their ends, values that are not finite. An output may be off by the bound of a float32 sum of its n terms, n epsilon sum |term|.
#include <float.h>
#include <math.h>

#include "tests/support/kernel_cases.h"

enum { ROWS = 37, RANK = 5, BLOCK = 32, MOST_N = 17 };

static const BlockType types[] = {BLOCK_Q4_0, BLOCK_Q4_1, BLOCK_Q5_0, BLOCK_Q5_1,   BLOCK_Q8_0,   BLOCK_Q2_K,  BLOCK_Q3_K,  BLOCK_Q4_K,
                                  BLOCK_Q5_K, BLOCK_Q6_K, BLOCK_Q8_K, BLOCK_IQ4_NL, BLOCK_IQ4_XS, BLOCK_MXFP4, BLOCK_TQ1_0, BLOCK_TQ2_0};
enum { TYPES = sizeof types / sizeof *types };

// The block of x that element j is in, rounded as kernels/backend.h says.
static double rounded_x(Rows x, int64_t i, int64_t j) {
  float largest = 0;
  for (int64_t k = j / BLOCK * BLOCK; k < j / BLOCK * BLOCK + BLOCK; k++) largest = fmaxf(largest, fabsf((float)rows_element(x, i, k)));
  if (!(largest > INT8_SMALLEST)) return 0;
  float scale = largest / 127;
  return (double)scale * rintf((float)rows_element(x, i, j) * (127 / largest));
}

typedef struct Sum {
  double value, size;
  int64_t terms;
} Sum;

static void sum_add(Sum *sum, double term) {
  sum->value += term;
  sum->size += fabs(term);
  sum->terms++;
}

// Element (i, row) of a projection whose residual held `before`.
static Sum expected(const Projection *p, const float *weights, Rows x, int64_t i, int64_t row, double before) {
  Sum sum = {0};
  bool is_rounded = matrix_has_integer_levels(p->w);
  for (int64_t c = 0; c < p->w->columns; c++)
    sum_add(&sum, (double)p->alpha * (is_rounded ? rounded_x(x, i, c) : rows_element(x, i, c)) * weights[row * p->w->columns + c]);
  for (int64_t k = 0; k < p->rank; k++) sum_add(&sum, rows_element(p->h, i, k) * p->low[row * p->rank + k]);
  if (p->bias) sum_add(&sum, p->bias[row]);
  if (p->residual.data) sum_add(&sum, before);
  return sum;
}

typedef struct Layer {
  KernelCase *cases[LINEAR_PROJECTIONS];
  Projection projections[LINEAR_PROJECTIONS];
  double *before[LINEAR_PROJECTIONS];
  int count;
} Layer;

// Projection i has a low-rank term, a bias or a residual by the bits of `terms` + i.
static Layer layer_new(Arena *arena, Rng *rng, const BlockType *layer_types, int count, int64_t n, int64_t columns, unsigned terms,
                       FloatType type) {
  Layer layer = {.count = count};
  for (int i = 0; i < count; i++) {
    KernelCase *c = case_linear(arena, rng, OP_linear_forward_int8, layer_types[i], n, ROWS - i, columns, 1, false);
    Projection *p = &layer.projections[i];
    unsigned has = terms + (unsigned)i;
    layer.cases[i] = c;
    *p = (Projection){.w = &c->matrix, .alpha = i % 2 ? -0.5f : 1, .y = random_rows(arena, rng, n, ROWS - i + 3, type)};
    if (has & 1)
      p->h = random_rows(arena, rng, n, RANK + 2, type), p->low = random_rows(arena, rng, ROWS, RANK, FLOAT_32).data, p->rank = RANK;
    if (has & 2) p->bias = random_rows(arena, rng, 1, ROWS, FLOAT_32).data;
    if (has & 4) p->residual = has & 1 ? p->y : random_rows(arena, rng, n, ROWS, FLOAT_32);
    layer.before[i] = arena_new(arena, (size_t)(n * ROWS), sizeof(double));
    for (int64_t j = 0; j < n * (ROWS - i) && p->residual.data; j++)
      layer.before[i][j] = rows_element(p->residual, j / (ROWS - i), j % (ROWS - i));
  }
  return layer;
}

static void check_layer(const Layer *layer, Rows x, int64_t n, const Kernels *kernels) {
  for (int o = 0; o < layer->count; o++) {
    const Projection *p = &layer->projections[o];
    for (int64_t i = 0; i < n; i++)
      for (int64_t row = 0; row < p->w->rows; row++) {
        Sum sum = expected(p, layer->cases[o]->weights, x, i, row, layer->before[o][i * p->w->rows + row]);
        double bound = (double)sum.terms * FLT_EPSILON * sum.size + (p->y.type == FLOAT_BF16 ? 0x1p-8 * fabs(sum.value) : 0);
        double actual = rows_element(p->y, i, row);
        if (!(fabs(actual - sum.value) <= bound))
          fail_msg("%s: projection %d, row %lld of %lld, column %lld: %g, not %g (%g off, %g allowed): %s", kernels->name, o, (long long)i,
                   (long long)n, (long long)row, actual, sum.value, actual - sum.value, bound, layer->cases[o]->description);
      }
  }
}

static Backend *open_backend(const Kernels *kernels) {
  Backend *backend;
  assert_ok(backend_new(&backend, "cpu", 2));
  backend->kernels = kernels;
  return backend;
}

static void several_projections_have_all_their_terms(void **state) {
  (void)state;
  static const int64_t numbers[] = {1, 2, 3, 8, 9, MOST_N};
  for (int t = 0; backend_cpu_kernels(t); t++) {
    Backend *backend = open_backend(backend_cpu_kernels(t));
    Rng rng = rng_new(1, RNG_STREAM_TEST);
    for (int round = 0; round < 2 * TYPES; round++) {
      Arena arena = {0};
      FloatType type = round % 2 ? FLOAT_BF16 : FLOAT_32;
      int64_t n = numbers[round % 6], columns = 256 * (1 + round % 3);
      // With float32, weights that are not rounded stand between those that are.
      BlockType own[LINEAR_PROJECTIONS] = {types[round % TYPES], type == FLOAT_32 ? BLOCK_NF4 : types[(round + 3) % TYPES],
                                           types[(round + 5) % TYPES]};
      Layer layer = layer_new(&arena, &rng, own, 1 + round % LINEAR_PROJECTIONS, n, columns, (unsigned)round, type);
      Rows x = random_rows(&arena, &rng, n, columns + 5, type);
      backend->kernels->linear_forward_int8(layer.projections, layer.count, x, n, backend);
      check_layer(&layer, x, n, backend->kernels);
      arena_release(&arena);
    }
    backend_free(backend);
  }
}

// Whatever other rows there are, and however many: a row's bits are its own. (Writing of several texts at once rests on this.)
static void rows_are_computed_by_themselves(void **state) {
  (void)state;
  enum { MOST = 21 };
  for (int t = 0; backend_cpu_kernels(t); t++) {
    Backend *backend = open_backend(backend_cpu_kernels(t));
    Rng rng = rng_new(7, RNG_STREAM_TEST);
    for (int i = 0; i < 4 * TYPES + 8; i++) {
      Arena arena = {0};
      BlockType type = i < 4 * TYPES ? types[i / 4] : (BlockType[]){BLOCK_NF4, BLOCK_F16, BLOCK_BF16, BLOCK_F32}[i % 4];
      int64_t columns = (block_traits(type)->elements == 256 ? 256 : 96) * (1 + i % 4);
      Layer layer = layer_new(&arena, &rng, &type, 1, MOST, columns, (unsigned)i, FLOAT_32);
      Projection all = layer.projections[0], one = all;
      Rows x = random_rows(&arena, &rng, MOST, columns, FLOAT_32);
      if (all.residual.data == all.y.data) all.residual = random_rows(&arena, &rng, MOST, ROWS, FLOAT_32), one = all;
      for (int by_row = 0; by_row < 2; by_row++) {
        const Kernels *k = backend->kernels;
        void (*forward)(const Projection *, int, Rows, int64_t, Backend *) = by_row ? k->linear_forward_rows : k->linear_forward_int8;
        one.y = random_rows(&arena, &rng, 1, ROWS + 3, FLOAT_32);
        forward(&all, 1, x, 1 + (MOST - 1) * (i % 3 + 1) / 3, backend);
        for (int64_t row = 0; row < 1 + (MOST - 1) * (i % 3 + 1) / 3; row++) {
          if (all.rank) one.h = rows_from(all.h, row * all.h.step);
          if (all.residual.data) one.residual = rows_from(all.residual, row * all.residual.step);
          forward(&one, 1, rows_from(x, row * x.step), 1, backend);
          for (int64_t c = 0; c < all.w->rows; c++) assert_true(rows_element(all.y, row, c) == rows_element(one.y, 0, c));
        }
      }
      arena_release(&arena);
    }
    backend_free(backend);
  }
}

// All bytes of all blocks alike, but for the scales of whole blocks.
static void fill_blocks(KernelCase *c, uint8_t byte) {
  const BlockTraits *traits = block_traits(c->matrix.type);
  int64_t blocks = c->rows * c->columns / traits->elements;
  uint8_t *data = (uint8_t *)(uintptr_t)c->matrix.data;
  memset(data, byte, (size_t)(blocks * traits->bytes));
  for (int64_t b = 0; b < blocks; b++) block_set_scales(data + b * traits->bytes, c->matrix.type, 0.25f, -0.5f);
  for (int64_t r = 0; r < c->rows; r++) matrix_dequantize(c->weights + r * c->columns, &c->matrix, r, 0, c->columns);
}

static void levels_at_their_ends_do_not_saturate(void **state) {
  (void)state;
  static const uint8_t bytes[] = {0x00, 0x7f, 0x80, 0x81, 0xff};
  for (int t = 0; backend_cpu_kernels(t); t++) {
    Backend *backend = open_backend(backend_cpu_kernels(t));
    Rng rng = rng_new(2, RNG_STREAM_TEST);
    for (int i = 0; i < 3 * 5 * TYPES; i++) {
      Arena arena = {0};
      BlockType type = types[i / 15];
      Layer layer = layer_new(&arena, &rng, &type, 1, 1, 512, 0, FLOAT_32);
      fill_blocks(layer.cases[0], bytes[i % 5]);
      Rows x = random_rows(&arena, &rng, 1, 512, FLOAT_32);
      for (int j = 0; j < 512; j++) ((float *)x.data)[j] = i / 5 % 3 == 0 ? 3 : i / 5 % 3 == 1 ? -3 : j % 2 ? 3 : -3;
      backend->kernels->linear_forward_int8(layer.projections, 1, x, 1, backend);
      check_layer(&layer, x, 1, backend->kernels);
      arena_release(&arena);
    }
    backend_free(backend);
  }
}

static void what_is_not_finite_comes_through_in_its_row_alone(void **state) {
  (void)state;
  static const float broken[] = {NAN, INFINITY, -INFINITY};
  for (int t = 0; backend_cpu_kernels(t); t++) {
    Backend *backend = open_backend(backend_cpu_kernels(t));
    Rng rng = rng_new(3, RNG_STREAM_TEST);
    for (int i = 0; i < 3 * TYPES; i++) {
      Arena arena = {0};
      BlockType type = types[i / 3];
      Layer layer = layer_new(&arena, &rng, &type, 1, 2, 256, 0, FLOAT_32);
      Rows x = random_rows(&arena, &rng, 2, 256, FLOAT_32);
      ((float *)x.data)[256 + 77] = broken[i % 3];
      backend->kernels->linear_forward_int8(layer.projections, 1, x, 2, backend);
      check_layer(&layer, x, 1, backend->kernels);
      for (int64_t row = 0; row < ROWS; row++) assert_false(isfinite(rows_element(layer.projections[0].y, 1, row)));
      arena_release(&arena);
    }
    backend_free(backend);
  }
}

static void blocks_of_nearly_nothing_are_zeros(void **state) {
  (void)state;
  static const float sizes[] = {0, 1e-45f, 1e-39f, 0x1p-100f, 0x1p-99f, 1e-20f, 1e30f};
  for (int t = 0; backend_cpu_kernels(t); t++) {
    Backend *backend = open_backend(backend_cpu_kernels(t));
    Rng rng = rng_new(4, RNG_STREAM_TEST);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
      Arena arena = {0};
      BlockType type = BLOCK_Q4_1;
      Layer layer = layer_new(&arena, &rng, &type, 1, 1, 64, 0, FLOAT_32);
      Rows x = random_rows(&arena, &rng, 1, 64, FLOAT_32);
      for (int j = 0; j < 32; j++) ((float *)x.data)[j] = j % 2 ? sizes[i] : -sizes[i];
      backend->kernels->linear_forward_int8(layer.projections, 1, x, 1, backend);
      check_layer(&layer, x, 1, backend->kernels);
      arena_release(&arena);
    }
    backend_free(backend);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(several_projections_have_all_their_terms), cmocka_unit_test(levels_at_their_ends_do_not_saturate),
      cmocka_unit_test(rows_are_computed_by_themselves),          cmocka_unit_test(what_is_not_finite_comes_through_in_its_row_alone),
      cmocka_unit_test(blocks_of_nearly_nothing_are_zeros),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
