#include "adapters/svd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/rng.h"

enum { OVERSAMPLING = 8, SMALL_SIDE = 160, MOST_ITERATIONS = 100, CHECKED_EACH = 4, MOST_SWEEPS = 60 };

static double dot(const float *a, const float *b, int64_t n) {
  double sums[4] = {0};  // of every fourth product, so that additions need not wait for each other
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int j = 0; j < 4; j++) sums[j] += (double)a[i + j] * b[i + j];
  for (; i < n; i++) sums[0] += (double)a[i] * b[i];
  return sums[0] + sums[1] + (sums[2] + sums[3]);
}

void svd_orthonormalize(float *x, int64_t count, int64_t columns) {
  for (int64_t i = 0; i < count; i++) {
    float *row = x + i * columns;
    double before = sqrt(dot(row, row, columns));
    for (int again = 0; again < 2; again++)
      for (int64_t j = 0; j < i; j++) {
        const float *other = x + j * columns;
        double share = dot(row, other, columns);
        for (int64_t c = 0; c < columns; c++) row[c] = (float)(row[c] - share * other[c]);
      }
    double norm = sqrt(dot(row, row, columns));
    double factor = norm > 1e-6 * before && norm > 0 ? 1 / norm : 0;  // less is the rounding of what was taken away
    for (int64_t c = 0; c < columns; c++) row[c] = (float)(factor * row[c]);
  }
}

// Turns rows and columns p and q so that the element between them becomes 0.
static void rotate(double *matrix, double *vectors, int64_t n, int64_t p, int64_t q) {
  double off = matrix[p * n + q], difference = matrix[q * n + q] - matrix[p * n + p];
  double theta = difference / (2 * off), t = (theta < 0 ? -1 : 1) / (fabs(theta) + sqrt(theta * theta + 1));
  double c = 1 / sqrt(t * t + 1), s = t * c;
  for (int64_t i = 0; i < n; i++) {
    double x = matrix[i * n + p], y = matrix[i * n + q];
    matrix[i * n + p] = c * x - s * y;
    matrix[i * n + q] = s * x + c * y;
  }
  for (int64_t i = 0; i < n; i++) {
    double x = matrix[p * n + i], y = matrix[q * n + i];
    matrix[p * n + i] = c * x - s * y;
    matrix[q * n + i] = s * x + c * y;
    x = vectors[p * n + i], y = vectors[q * n + i];
    vectors[p * n + i] = c * x - s * y;
    vectors[q * n + i] = s * x + c * y;
  }
}

void svd_symmetric(double *values, double *vectors, double *matrix, int64_t n) {
  memset(vectors, 0, (size_t)(n * n) * sizeof *vectors);
  double size = 0;
  for (int64_t i = 0; i < n; i++) vectors[i * n + i] = 1;
  for (int64_t i = 0; i < n * n; i++) size += matrix[i] * matrix[i];
  double negligible = 1e-17 * sqrt(size);
  bool is_diagonal = false;
  for (int sweep = 0; sweep < MOST_SWEEPS && !is_diagonal; sweep++) {
    is_diagonal = true;
    for (int64_t p = 0; p < n; p++)
      for (int64_t q = p + 1; q < n; q++)
        if (fabs(matrix[p * n + q]) > negligible) {
          rotate(matrix, vectors, n, p, q);
          is_diagonal = false;
        }
  }
  for (int64_t i = 0; i < n; i++) values[i] = matrix[i * n + i];
  for (int64_t i = 0; i < n; i++) {  // in order
    int64_t best = i;
    for (int64_t j = i + 1; j < n; j++)
      if (values[j] > values[best]) best = j;
    if (best == i) continue;
    double value = values[i];
    values[i] = values[best];
    values[best] = value;
    for (int64_t c = 0; c < n; c++) {
      double x = vectors[i * n + c];
      vectors[i * n + c] = vectors[best * n + c];
      vectors[best * n + c] = x;
    }
  }
}

// A subspace of the rows' side and what w makes of it.
typedef struct Subspace {
  int64_t size;
  float *q, *b;  // [size, rows] orthonormal; [size, columns] = q w
  double *values, *vectors, *gram;  // of b b^T: [size], [size, size] twice
} Subspace;

static void project(Subspace *s, const LinearMap *map) {
  map->apply_transposed(s->b, s->q, s->size, map);
  for (int64_t i = 0; i < s->size; i++)
    for (int64_t j = 0; j <= i; j++)
      s->gram[i * s->size + j] = s->gram[j * s->size + i] = dot(s->b + i * map->columns, s->b + j * map->columns, map->columns);
  svd_symmetric(s->values, s->vectors, s->gram, s->size);
}

static void iterate(Subspace *s, const LinearMap *map) {
  map->apply_transposed(s->b, s->q, s->size, map);
  svd_orthonormalize(s->b, s->size, map->columns);
  map->apply(s->q, s->b, s->size, map);
  svd_orthonormalize(s->q, s->size, map->rows);
}

// Whether the leading eigenvalues, which only grow, have stopped growing.
static bool have_settled(double *before, const double *values, int64_t rank) {
  double change = 0;
  for (int64_t i = 0; i < rank; i++) {
    change = fmax(change, fabs(values[i] - before[i]));
    before[i] = values[i];
  }
  return change <= 1e-6 * values[0];
}

static void refine(Subspace *s, int64_t rank, int iterations, const LinearMap *map) {
  int64_t side = map->rows < map->columns ? map->rows : map->columns;
  double *before = memory_new((size_t)rank, sizeof *before);
  for (int i = 0; s->size < side && i < (iterations == SVD_EXACT ? MOST_ITERATIONS : iterations); i++) {
    iterate(s, map);
    if (iterations != SVD_EXACT || (i + 1) % CHECKED_EACH != 0) continue;
    project(s, map);
    if (have_settled(before, s->values, rank)) break;
  }
  project(s, map);
  free(before);
}

// out[columns] = sum_j vector[j] rows[j]
static void combine(float *out, const double *vector, const float *rows, int64_t count, int64_t columns, double factor) {
  for (int64_t c = 0; c < columns; c++) {
    double sum = 0;
    for (int64_t j = 0; j < count; j++) sum += vector[j] * rows[j * columns + c];
    out[c] = (float)(factor * sum);
  }
}

void svd_leading(float *values, float *u, float *v, int64_t rank, int iterations, const LinearMap *map, uint64_t seed) {
  int64_t side = map->rows < map->columns ? map->rows : map->columns;
  Subspace s = {.size = iterations == SVD_EXACT ? 2 * rank + OVERSAMPLING : rank + OVERSAMPLING};
  if (s.size > side || (iterations == SVD_EXACT && side <= SMALL_SIDE)) s.size = side;
  size_t square = (size_t)(s.size * s.size);
  s.q = memory_new((size_t)(s.size * map->rows), sizeof *s.q);
  s.b = memory_new((size_t)(s.size * map->columns), sizeof *s.b);
  s.values = memory_new((size_t)s.size + 2 * square, sizeof *s.values);
  s.vectors = s.values + s.size;
  s.gram = s.vectors + square;
  Rng rng = rng_new(seed, RNG_STREAM_ADAPTER_INIT);
  for (int64_t i = 0; i < s.size * map->columns; i++) s.b[i] = (float)rng_normal(&rng);
  map->apply(s.q, s.b, s.size, map);
  svd_orthonormalize(s.q, s.size, map->rows);
  refine(&s, rank, iterations, map);
  for (int64_t i = 0; i < rank; i++) {
    double value = sqrt(fmax(s.values[i], 0));
    values[i] = (float)value;
    combine(u + i * map->rows, s.vectors + i * s.size, s.q, s.size, map->rows, 1);
    combine(v + i * map->columns, s.vectors + i * s.size, s.b, s.size, map->columns, value > 0 ? 1 / value : 0);
  }
  free(s.q);
  free(s.b);
  free(s.values);
}
