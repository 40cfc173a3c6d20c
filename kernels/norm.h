// RMSNorm (Zhang and Sennrich 2019) and LayerNorm (Ba et al. 2016), each row x[columns] apart:
//   y = r (x - mean) (offset + weight) + bias + residual,   r = 1 / sqrt(mean((x - mean)^2) + epsilon)
//   dx (+)= r (g - mean(g) - (x - mean) r^2 mean(g (x - mean))),   g = dy (offset + weight)
// where the means of x and g are taken off only if is_centered. The weight is frozen: it has no gradient.
#ifndef KERNELS_NORM_H
#define KERNELS_NORM_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/rows.h"

typedef struct NormSettings {
  const float *weight;  // [columns]
  const float *bias;  // [columns] or NULL
  int64_t columns;
  float epsilon, offset;
  bool is_centered;
} NormSettings;

#endif
