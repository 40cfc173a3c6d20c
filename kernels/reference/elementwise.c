// Moves and sums: rows gathered and scattered by index, fill, copy, y += alpha x, and the sum of squares.
#include <string.h>

#include "kernels/reference/reference.h"

void reference_gather_rows(float *y, const float *x, const int32_t *rows, int64_t n, int64_t columns, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++) memcpy(y + i * columns, x + rows[i] * columns, (size_t)columns * sizeof *y);
}

void reference_scatter_rows(float *y, const float *x, const int32_t *rows, int64_t n, int64_t columns, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++)
    for (int64_t c = 0; c < columns; c++) y[rows[i] * columns + c] += x[i * columns + c];
}

void reference_fill(float *y, float value, int64_t count, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < count; i++) y[i] = value;
}

void reference_copy(float *y, const float *x, int64_t count, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < count; i++) y[i] = x[i];
}

void reference_add(float *y, const float *x, float alpha, int64_t count, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < count; i++) y[i] = (float)(y[i] + (double)alpha * x[i]);
}

double reference_sum_of_squares(const float *x, int64_t count, Backend *backend) {
  (void)backend;
  return reference_dot(x, x, count);
}
