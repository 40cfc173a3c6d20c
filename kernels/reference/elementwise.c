// Moves and sums: rows gathered and scattered by index, columns of heads, fill, copy, y += alpha x, and the sum of squares.
#include <string.h>

#include "kernels/reference/reference.h"

void reference_gather_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend) {
  (void)backend;
  size_t bytes = (size_t)(columns * float_bytes(type));
  for (int64_t i = 0; i < n; i++) memcpy((char *)y + (size_t)i * bytes, (const char *)x + (size_t)rows[i] * bytes, bytes);
}

void reference_scatter_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++)
    for (int64_t c = 0; c < columns; c++) {
      int64_t to = rows[i] * columns + c;
      reference_store(y, type, to, reference_load(y, type, to) + reference_load(x, type, i * columns + c));
    }
}

static void copy_head_column(Rows y, int64_t y_at, int64_t y_step, Rows x, int64_t x_at, int64_t x_step, int64_t heads, bool accumulate) {
  double sum = 0;
  for (int64_t h = 0; h < heads; h++) {
    double value = reference_load(x.data, x.type, x_at + h * x_step);
    sum += value;
    int64_t to = y_at + h * y_step;
    if (y_step != 0) reference_store(y.data, y.type, to, value + (accumulate ? reference_load(y.data, y.type, to) : 0));
  }
  if (y_step == 0) reference_store(y.data, y.type, y_at, sum + (accumulate ? reference_load(y.data, y.type, y_at) : 0));
}

void reference_copy_heads(Rows y, int64_t y_head_step, Rows x, int64_t x_head_step, int64_t heads, int64_t width, int64_t n,
                          bool accumulate, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++)
    for (int64_t c = 0; c < width; c++) copy_head_column(y, i * y.step + c, y_head_step, x, i * x.step + c, x_head_step, heads, accumulate);
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
