// RMSNorm (Zhang and Sennrich 2019), each row x[columns] apart, with m = offset + w:
//   r = 1 / sqrt(mean(x^2) + epsilon),  y = r x m
//   dx (+)= r (g - x r^2 mean(g x)),    g = dy m
// The weight is frozen: it has no gradient.
#include <math.h>

#include "kernels/reference/reference.h"

static double inverse_root_mean_square(const float *x, int64_t columns, float epsilon) {
  return 1 / sqrt(reference_dot(x, x, columns) / (double)columns + epsilon);
}

void reference_rmsnorm_forward(void *y, FloatType type, const float *x, const float *w, int64_t n, int64_t columns, float epsilon,
                               float offset, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++, x += columns) {
    double r = inverse_root_mean_square(x, columns, epsilon);
    for (int64_t c = 0; c < columns; c++) reference_store(y, type, i * columns + c, r * x[c] * ((double)offset + w[c]));
  }
}

void reference_rmsnorm_backward(float *dx, const void *dy, FloatType type, const float *x, const float *w, int64_t n, int64_t columns,
                                float epsilon, float offset, bool accumulate, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++, x += columns, dx += columns) {
    double r = inverse_root_mean_square(x, columns, epsilon), mean = 0;
    for (int64_t c = 0; c < columns; c++) mean += reference_load(dy, type, i * columns + c) * ((double)offset + w[c]) * x[c];
    mean /= (double)columns;
    for (int64_t c = 0; c < columns; c++) {
      double value = r * (reference_load(dy, type, i * columns + c) * ((double)offset + w[c]) - x[c] * r * r * mean);
      dx[c] = (float)(accumulate ? dx[c] + value : value);
    }
  }
}
