// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019), each row x[columns] apart, with m = offset + weight:
//   r = 1 / sqrt(mean((x - mean)^2) + epsilon),  z = (x - mean) r,  y = z m + bias + residual
//   dx (+)= r (g - mean(g) - z mean(g z)),       g = dy m
// without either mean of a row in RMSNorm;  dw += sum of dy z over rows.
#include <math.h>
#include <stdlib.h>

#include "kernels/reference/reference.h"

static double load(Rows rows, int64_t i, int64_t c) { return reference_load(rows.data, rows.type, i * rows.step + c); }

typedef struct Moments {
  double mean, r;
} Moments;

static Moments row_moments(Rows x, int64_t i, const NormSettings *norm) {
  double mean = 0, squares = 0, columns = (double)norm->columns;
  for (int64_t c = 0; norm->is_centered && c < norm->columns; c++) mean += load(x, i, c) / columns;
  for (int64_t c = 0; c < norm->columns; c++) squares += (load(x, i, c) - mean) * (load(x, i, c) - mean);
  return (Moments){mean, 1 / sqrt(squares / columns + norm->epsilon)};
}

void reference_norm_forward(Rows y, Rows x, Rows residual, const NormSettings *norm, int64_t n, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++) {
    Moments moments = row_moments(x, i, norm);
    for (int64_t c = 0; c < norm->columns; c++) {
      double value = (load(x, i, c) - moments.mean) * moments.r * ((double)norm->offset + norm->weight[c]);
      if (norm->bias) value += norm->bias[c];
      if (residual.data) value += load(residual, i, c);
      reference_store(y.data, y.type, i * y.step + c, value);
    }
  }
}

void reference_norm_backward(Rows dx, Rows dy, Rows x, const NormSettings *norm, int64_t n, bool accumulate, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++) {
    Moments moments = row_moments(x, i, norm);
    double mean_g = 0, mean_gz = 0;
    for (int64_t c = 0; c < norm->columns; c++) {
      double g = load(dy, i, c) * ((double)norm->offset + norm->weight[c]);
      mean_g += norm->is_centered ? g / (double)norm->columns : 0;
      mean_gz += g * (load(x, i, c) - moments.mean) * moments.r / (double)norm->columns;
    }
    for (int64_t c = 0; c < norm->columns; c++) {
      double g = load(dy, i, c) * ((double)norm->offset + norm->weight[c]);
      double value = moments.r * (g - mean_g - (load(x, i, c) - moments.mean) * moments.r * mean_gz);
      reference_store(dx.data, dx.type, i * dx.step + c, value + (accumulate ? load(dx, i, c) : 0));
    }
  }
}

void reference_norm_weight_backward(float *dw, Rows dy, Rows x, const NormSettings *norm, int64_t n, Backend *backend) {
  (void)backend;
  Moments *moments = memory_new((size_t)n + 1, sizeof *moments);
  for (int64_t i = 0; i < n; i++) moments[i] = row_moments(x, i, norm);
  for (int64_t c = 0; c < norm->columns; c++) {
    double sum = dw[c];
    for (int64_t i = 0; i < n; i++) sum += load(dy, i, c) * (load(x, i, c) - moments[i].mean) * moments[i].r;
    dw[c] = (float)sum;
  }
  free(moments);
}
