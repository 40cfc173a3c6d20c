// Normalisation of rows, each x[columns] apart:
//   y = (x - mean) r (offset + weight) + bias + residual,   r = 1 / sqrt(mean((x - mean)^2) + epsilon)
// LayerNorm (Ba et al. 2016) takes the mean off first; RMSNorm (Zhang and Sennrich 2019) does not: its mean is 0. Backward, with
// g = dy (offset + weight) and z = (x - mean) r:
//   dx (+)= r (g - mean(g) - z mean(g z)),   without mean(g) in RMSNorm;   dweight += sum of dy z, dbias += sum of dy over all rows
#ifndef KERNELS_NORM_H
#define KERNELS_NORM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct NormSettings {
  const float *weight;  // [columns]
  const float *bias;  // [columns] or NULL
  int64_t columns;
  float epsilon, offset;
  bool is_centered;  // LayerNorm; else RMSNorm
  float *weight_gradient, *bias_gradient;  // [columns], added to by the backward pass; NULL: frozen
} NormSettings;

#endif
