// The product of weight_backward.c, in float32 there and by tiles in weight_backward_bf16.c: dw += alpha narrow^T wide, or its transpose.
#ifndef KERNELS_CPU_WEIGHT_BACKWARD_H
#define KERNELS_CPU_WEIGHT_BACKWARD_H

#include "kernels/cpu/typed.h"

typedef struct WeightProduct {
  float *dw;
  Rows narrow, wide;  // [n, m] and [n, width]
  int64_t n, m, width, task_columns;
  bool is_turned;  // wide is dy: the product is dw^T
  float alpha;
  Backend *backend;
} WeightProduct;

#ifdef __AMX_BF16__
#define weight_product_tiles ISA_NAME(weight_product_tiles)
void weight_product_tiles(const WeightProduct *p);
#endif

#endif
