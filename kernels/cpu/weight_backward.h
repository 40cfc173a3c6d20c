// The product of weight_backward.c, in float32 there and by tiles in weight_backward_bf16.c:
//   dw_i += alpha_i narrow_i^T wide, or its transpose, for several narrow operands to one wide one,
// and by tiles what else low_rank_backward wants of a dy, so that its rows are read once.
#ifndef KERNELS_CPU_WEIGHT_BACKWARD_H
#define KERNELS_CPU_WEIGHT_BACKWARD_H

#include "kernels/cpu/typed.h"

typedef struct NarrowOperand {
  Rows rows;  // [n, m]
  int64_t m;
  float *dw;
  int64_t dw_step;  // from a row of dw to the next
  float alpha;
} NarrowOperand;

typedef struct WeightProduct {
  Rows wide;  // [n, width]
  NarrowOperand narrow[LINEAR_PROJECTIONS];
  int narrow_count;
  int64_t n, width, task_columns, row_tasks;
  bool is_turned;  // wide is dy: the product is dw^T
  const LowRankGradient *low;  // then dh and the rounded dy as well, from the same rows; NULL: only the product
  Backend *backend;
} WeightProduct;

#ifdef __AMX_BF16__
#define weight_product_tiles ISA_NAME(weight_product_tiles)
void weight_product_tiles(const WeightProduct *p);
#endif

#endif
