// DoRA's norms of rows, and columns scaled by magnitudes (kernels/magnitude.h). A thread has some columns of all rows where sums over rows
// are made: so their order is one whatever the number of threads.
#include <math.h>
#include <string.h>

#include "kernels/cpu/typed.h"

enum { NORM_ROWS = 64, COLUMNS = 64, SUM_ROWS = 64 };

typedef struct Norms {
  float *norms;
  const float *squares, *products, *gram, *b;
  int64_t out, rank;
  float scale;
  Backend *backend;
} Norms;

static float norm_of_row(const Norms *t, int64_t i, float *row) {
  const float *b = t->b + i * t->rank;
  memset(row, 0, (size_t)t->rank * sizeof *row);
  double linear = 0, square = 0;
  for (int64_t r = 0; r < t->rank; r++) {
    const float *gram = t->gram + r * t->rank;
    linear += (double)b[r] * t->products[r * t->out + i];
    for (int64_t q = 0; q < t->rank; q++) row[q] += b[r] * gram[q];
  }
  for (int64_t q = 0; q < t->rank; q++) square += (double)row[q] * b[q];
  double sum = t->squares[i] + (double)t->scale * (2 * linear + (double)t->scale * square);
  return fmaxf((float)sqrt(fmax(sum, 0)), MAGNITUDE_SMALLEST);
}

static void norm_rows(void *argument, int64_t begin, int64_t end, int thread) {
  const Norms *t = argument;
  float *row = backend_scratch(t->backend, thread);  // [rank]
  for (int64_t i = begin; i < end; i++) t->norms[i] = norm_of_row(t, i, row);
}

void cpu_low_rank_norms(float *norms, const float *squares, const float *products, const float *gram, const float *b, int64_t out,
                        int64_t rank, float scale, Backend *backend) {
  run_ranges(backend, out, NORM_ROWS, norm_rows, &(Norms){norms, squares, products, gram, b, out, rank, scale, backend});
}

typedef struct Scaled {
  Rows y, z, residual;
  float *dm;
  const Magnitude *magnitude;
  int64_t n;
} Scaled;

ALWAYS_INLINE Vec factor_of(const Magnitude *magnitude, int64_t c, int64_t left) {
  if (left >= VL) return vec_load(magnitude->m + c) / vec_load(magnitude->norms + c);
  float norms[VL];
  for (int j = 0; j < VL; j++) norms[j] = j < left ? magnitude->norms[c + j] : 1;
  return vec_load_first(magnitude->m + c, left) / vec_load(norms);
}

ALWAYS_INLINE void scale_row(const Scaled *t, int64_t i, int z_type, int y_type) {
  for (int64_t c = 0; c < t->magnitude->columns; c += VL) {
    int64_t left = t->magnitude->columns - c;
    Vec value = typed_load(t->z.data, i * t->z.step + c, left, z_type) * factor_of(t->magnitude, c, left);
    if (t->magnitude->bias) value += vec_load_first(t->magnitude->bias + c, left);
    if (t->residual.data) value += typed_load(t->residual.data, i * t->residual.step + c, left, FLOAT_32);
    typed_store(t->y.data, i * t->y.step + c, value, left, y_type);
  }
}

static void scale_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Scaled *t = argument;
  BY_TYPES(t->z.type, t->y.type, for (int64_t i = begin; i < end; i++) scale_row(t, i, X_TYPE, Y_TYPE));
}

void cpu_magnitude_forward(Rows y, Rows z, Rows residual, const Magnitude *magnitude, int64_t n, Backend *backend) {
  run_rows(backend, n, magnitude->columns, scale_rows, &(Scaled){y, z, residual, NULL, magnitude, n});
}

// Columns begin .. end - 1, at most COLUMNS: y is dy, residual is dz. Sums of SUM_ROWS rows each are added up.
ALWAYS_INLINE void scale_back(const Scaled *t, int64_t begin, int64_t end, int z_type, int y_type) {
  float sums[COLUMNS] = {0}, parts[COLUMNS] = {0};
  for (int64_t i = 0; i < t->n; i++) {
    for (int64_t c = begin; c < end; c += VL) {
      int64_t left = end - c;
      Vec dy = typed_load(t->y.data, i * t->y.step + c, left, y_type), z = typed_load(t->z.data, i * t->z.step + c, left, z_type);
      vec_store(parts + (c - begin), vec_fma(dy, z, vec_load(parts + (c - begin))));
      typed_store(t->residual.data, i * t->residual.step + c, dy * factor_of(t->magnitude, c, left), left, z_type);
    }
    if ((i + 1) % SUM_ROWS != 0 && i + 1 < t->n) continue;
    for (int64_t c = 0; c < end - begin; c++) sums[c] += parts[c], parts[c] = 0;
  }
  for (int64_t c = begin; c < end; c++) t->dm[c] += sums[c - begin] / t->magnitude->norms[c];
}

static void scale_back_columns(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Scaled *t = argument;
  BY_TYPES(t->z.type, t->y.type, scale_back(t, begin, end, X_TYPE, Y_TYPE));
}

void cpu_magnitude_backward(Rows dz, float *dm, Rows dy, Rows z, const Magnitude *magnitude, int64_t n, Backend *backend) {
  run_ranges(backend, magnitude->columns, COLUMNS, scale_back_columns, &(Scaled){dy, z, dz, dm, magnitude, n});
}
