// RMSNorm and LayerNorm: the equations of kernels/norm.h.
#include <math.h>

#include "kernels/reference/reference.h"

static double load(Rows rows, int64_t i, int64_t column) { return reference_load(rows.data, rows.type, i * rows.step + column); }

static double mean_of(Rows x, int64_t i, const NormSettings *norm) {
  double sum = 0;
  for (int64_t c = 0; c < norm->columns; c++) sum += load(x, i, c);
  return norm->is_centered ? sum / (double)norm->columns : 0;
}

static double inverse_deviation(Rows x, int64_t i, double mean, const NormSettings *norm) {
  double sum = 0;
  for (int64_t c = 0; c < norm->columns; c++) sum += (load(x, i, c) - mean) * (load(x, i, c) - mean);
  return 1 / sqrt(sum / (double)norm->columns + norm->epsilon);
}

void reference_norm_forward(Rows y, Rows x, Rows residual, const NormSettings *norm, int64_t n, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++) {
    double mean = mean_of(x, i, norm), r = inverse_deviation(x, i, mean, norm);
    for (int64_t c = 0; c < norm->columns; c++) {
      double value = r * (load(x, i, c) - mean) * ((double)norm->offset + norm->weight[c]);
      if (norm->bias) value += norm->bias[c];
      if (residual.data) value += load(residual, i, c);
      reference_store(y.data, y.type, i * y.step + c, value);
    }
  }
}

void reference_norm_backward(Rows dx, Rows dy, Rows x, const NormSettings *norm, int64_t n, bool accumulate, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++) {
    double mean = mean_of(x, i, norm), r = inverse_deviation(x, i, mean, norm), gradient_mean = 0, product_mean = 0;
    for (int64_t c = 0; c < norm->columns; c++) {
      double g = load(dy, i, c) * ((double)norm->offset + norm->weight[c]);
      if (norm->is_centered) gradient_mean += g / (double)norm->columns;
      product_mean += g * (load(x, i, c) - mean) / (double)norm->columns;
    }
    for (int64_t c = 0; c < norm->columns; c++) {
      double g = load(dy, i, c) * ((double)norm->offset + norm->weight[c]);
      double value = r * (g - gradient_mean - (load(x, i, c) - mean) * r * r * product_mean);
      reference_store(dx.data, dx.type, i * dx.step + c, accumulate ? load(dx, i, c) + value : value);
    }
  }
}
