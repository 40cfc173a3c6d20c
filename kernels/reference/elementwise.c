// Moves and sums: rows gathered and scattered by index, fill, copy, y += alpha x, and the sum of squares.
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

void reference_copy_heads(Rows y, int64_t y_step, Rows x, int64_t x_step, int64_t heads, int64_t width, int64_t n, bool accumulate,
                          Backend *backend) {
  (void)backend;
  int64_t outputs = y_step == 0 ? 1 : heads, summed = y_step == 0 ? heads : 1;
  for (int64_t i = 0; i < n; i++)
    for (int64_t h = 0; h < outputs; h++)
      for (int64_t c = 0; c < width; c++) {
        int64_t to = i * y.step + h * y_step + c;
        double sum = accumulate ? reference_load(y.data, y.type, to) : 0;
        for (int64_t g = h; g < h + summed; g++) sum += reference_load(x.data, x.type, i * x.step + g * x_step + c);
        reference_store(y.data, y.type, to, sum);
      }
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
