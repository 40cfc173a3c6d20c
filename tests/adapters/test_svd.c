// The leading singular vectors of random matrices with known values, on both sides, and those of a low rank.
#include <math.h>

#include "adapters/svd.h"
#include "tests/support/test.h"

typedef struct Dense {
  LinearMap map;
  float *w;  // [rows, columns]
  double *values;  // [side], descending
} Dense;

static void apply(float *y, const float *x, int64_t count, const LinearMap *map) {
  const float *w = map->context;
  for (int64_t i = 0; i < count; i++)
    for (int64_t r = 0; r < map->rows; r++) {
      double sum = 0;
      for (int64_t c = 0; c < map->columns; c++) sum += (double)x[i * map->columns + c] * w[r * map->columns + c];
      y[i * map->rows + r] = (float)sum;
    }
}

static void apply_transposed(float *y, const float *x, int64_t count, const LinearMap *map) {
  const float *w = map->context;
  for (int64_t i = 0; i < count; i++)
    for (int64_t c = 0; c < map->columns; c++) {
      double sum = 0;
      for (int64_t r = 0; r < map->rows; r++) sum += (double)x[i * map->rows + r] * w[r * map->columns + c];
      y[i * map->columns + c] = (float)sum;
    }
}

// w = sum_i values[i] u_i v_i of random orthonormal vectors.
static Dense dense_new(Arena *arena, int64_t rows, int64_t columns, double decay, Rng *rng) {
  int64_t side = rows < columns ? rows : columns;
  float *u = arena_new(arena, (size_t)(side * rows), sizeof *u), *v = arena_new(arena, (size_t)(side * columns), sizeof *v);
  fill_normal(u, side * rows, 1, rng);
  fill_normal(v, side * columns, 1, rng);
  svd_orthonormalize(u, side, rows);
  svd_orthonormalize(v, side, columns);
  Dense dense = {.w = arena_new(arena, (size_t)(rows * columns), sizeof(float)), .values = arena_new(arena, (size_t)side, sizeof(double))};
  for (int64_t i = 0; i < side; i++) dense.values[i] = 3 * pow(decay, (double)i);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) {
      double sum = 0;
      for (int64_t i = 0; i < side; i++) sum += dense.values[i] * u[i * rows + r] * v[i * columns + c];
      dense.w[r * columns + c] = (float)sum;
    }
  dense.map = (LinearMap){rows, columns, apply, apply_transposed, dense.w};
  return dense;
}

static double inner(const float *a, const float *b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
  return sum;
}

static void check(int64_t rows, int64_t columns, int64_t rank, double decay, int iterations, double tolerance) {
  Arena arena = {0};
  Rng rng = rng_new(5, RNG_STREAM_TEST);
  Dense dense = dense_new(&arena, rows, columns, decay, &rng);
  float *values = arena_new(&arena, (size_t)rank, sizeof *values), *u = arena_new(&arena, (size_t)(rank * rows), sizeof *u),
        *v = arena_new(&arena, (size_t)(rank * columns), sizeof *v);
  svd_leading(values, u, v, rank, iterations, &dense.map, 9);
  for (int64_t i = 0; i < rank; i++) {
    if (!(fabs(values[i] - dense.values[i]) <= tolerance * dense.values[0]))
      fail_msg("%dx%d: value %d is %g, not %g", (int)rows, (int)columns, (int)i, (double)values[i], dense.values[i]);
    for (int64_t j = 0; j < rank; j++) {
      assert_true(fabs(inner(u + i * rows, u + j * rows, rows) - (i == j)) < 1e-4);
      assert_true(fabs(inner(v + i * columns, v + j * columns, columns) - (i == j)) < 1e-4);
    }
  }
  // What is left is as small as it can be: the values that were not taken.
  double left = 0, least = 0;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) {
      double rest = dense.w[r * columns + c];
      for (int64_t i = 0; i < rank; i++) rest -= (double)values[i] * u[i * rows + r] * v[i * columns + c];
      left += rest * rest;
    }
  for (int64_t i = rank; i < (rows < columns ? rows : columns); i++) least += dense.values[i] * dense.values[i];
  assert_true(sqrt(left) <= sqrt(least) * (1 + tolerance) + 1e-5 * dense.values[0]);
  arena_release(&arena);
}

static void leading_values_and_vectors_are_found(void **state) {
  (void)state;
  check(1, 1, 1, 0.9, SVD_EXACT, 1e-5);
  check(5, 9, 3, 0.7, SVD_EXACT, 1e-5);
  check(40, 24, 24, 0.8, SVD_EXACT, 1e-5);  // all of them
  check(96, 130, 8, 0.98, SVD_EXACT, 1e-5);  // a subspace as large as the matrix
  check(200, 170, 6, 0.95, SVD_EXACT, 1e-4);  // by iterations
  check(170, 200, 6, 0.99, SVD_EXACT, 1e-3);
  check(200, 170, 6, 0.7, 4, 1e-4);
}

static void a_matrix_of_low_rank_or_zero_gives_no_nan(void **state) {
  (void)state;
  enum { ROWS = 12, COLUMNS = 20, RANK = 4 };
  float w[ROWS * COLUMNS] = {0}, values[RANK], u[RANK * ROWS], v[RANK * COLUMNS];
  LinearMap map = {ROWS, COLUMNS, apply, apply_transposed, w};
  for (int kind = 0; kind < 2; kind++) {
    for (int i = 0; i < ROWS * COLUMNS && kind; i++) w[i] = (float)((i / COLUMNS + 1) * (i % COLUMNS - 3));
    svd_leading(values, u, v, RANK, SVD_EXACT, &map, 1);
    for (int i = 0; i < RANK; i++) assert_true(isfinite(values[i]) && (i < kind ? values[i] > 1 : values[i] < 1e-2));
    for (int i = 0; i < RANK * ROWS; i++) assert_true(isfinite(u[i]));
    for (int i = 0; i < RANK * COLUMNS; i++) assert_true(isfinite(v[i]));
  }
}

static void eigenvalues_of_a_symmetric_matrix_are_in_order(void **state) {
  (void)state;
  double matrix[9] = {2, 1, 0, 1, 2, 0, 0, 0, 5}, values[3], vectors[9];
  svd_symmetric(values, vectors, matrix, 3);
  const double expected[] = {5, 3, 1};
  for (int i = 0; i < 3; i++) assert_true(fabs(values[i] - expected[i]) < 1e-12);
  assert_true(fabs(fabs(vectors[2]) - 1) < 1e-12);
  assert_true(fabs(vectors[3] - vectors[4]) < 1e-12 && fabs(fabs(vectors[3]) - sqrt(0.5)) < 1e-12);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(leading_values_and_vectors_are_found),
      cmocka_unit_test(a_matrix_of_low_rank_or_zero_gives_no_nan),
      cmocka_unit_test(eigenvalues_of_a_symmetric_matrix_are_in_order),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
