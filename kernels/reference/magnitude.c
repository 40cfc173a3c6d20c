// DoRA's norms of rows, and columns scaled by magnitudes (kernels/magnitude.h).
#include <math.h>

#include "kernels/reference/reference.h"

void reference_low_rank_norms(float *norms, const float *squares, const float *products, const float *gram, const float *b, int64_t out,
                              int64_t rank, float scale, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < out; i++) {
    double sum = squares[i];
    for (int64_t r = 0; r < rank; r++) {
      double row = 0;
      for (int64_t q = 0; q < rank; q++) row += (double)gram[r * rank + q] * b[i * rank + q];
      sum += (double)scale * b[i * rank + r] * (2 * (double)products[r * out + i] + (double)scale * row);
    }
    norms[i] = fmaxf((float)sqrt(fmax(sum, 0)), MAGNITUDE_SMALLEST);
  }
}

void reference_magnitude_forward(Rows y, Rows z, Rows residual, const Magnitude *magnitude, int64_t n, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++)
    for (int64_t c = 0; c < magnitude->columns; c++) {
      double value = reference_load(z.data, z.type, i * z.step + c) * magnitude->m[c] / magnitude->norms[c];
      if (magnitude->bias) value += magnitude->bias[c];
      if (residual.data) value += reference_load(residual.data, residual.type, i * residual.step + c);
      reference_store(y.data, y.type, i * y.step + c, value);
    }
}

void reference_magnitude_backward(Rows dz, float *dm, Rows dy, Rows z, const Magnitude *magnitude, int64_t n, Backend *backend) {
  (void)backend;
  for (int64_t c = 0; c < magnitude->columns; c++) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
      double g = reference_load(dy.data, dy.type, i * dy.step + c);
      sum += g * reference_load(z.data, z.type, i * z.step + c);
      reference_store(dz.data, dz.type, i * dz.step + c, g * magnitude->m[c] / magnitude->norms[c]);
    }
    dm[c] = (float)(dm[c] + sum / magnitude->norms[c]);
  }
}
