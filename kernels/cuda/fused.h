// What the products share that dequantise weights on their way: the terms beside x w^T (kernels/linear.h), which are added in float32 before
// the one rounding to y's type.
#ifndef KERNELS_CUDA_FUSED_H
#define KERNELS_CUDA_FUSED_H

#include "kernels/cuda/weights.h"

struct Terms {
  float alpha;
  Rows y, h, residual;
  const float *low, *bias;
  int rank;
  bool is_packed;  // rows of `low` begin at multiples of 16 bytes, and end there
};

static inline Terms terms_of(const Projection *p) {
  bool is_packed = p->rank % 4 == 0 && is_aligned(p->low);
  return {p->alpha, p->y, p->h, p->residual, p->low, p->bias, static_cast<int>(p->rank), is_packed};
}

__device__ __forceinline__ float load_element(const Rows &rows, int64_t i, int64_t column) {
  int64_t at = i * rows.step + column;
  if (rows.type == FLOAT_32) return static_cast<const float *>(rows.data)[at];
  if (rows.type == FLOAT_BF16) return to_float(static_cast<const bf16 *>(rows.data)[at]);
  return to_float(static_cast<const fp16 *>(rows.data)[at]);
}

__device__ __forceinline__ void store_element(const Rows &rows, int64_t i, int64_t column, float value) {
  int64_t at = i * rows.step + column;
  if (rows.type == FLOAT_32) static_cast<float *>(rows.data)[at] = value;
  else if (rows.type == FLOAT_BF16) static_cast<bf16 *>(rows.data)[at] = from_float<bf16>(value);
  else static_cast<fp16 *>(rows.data)[at] = from_float<fp16>(value);
}

// y[i, row] of the whole sum x_i . w_row and low-rank term.
__device__ __forceinline__ void finish(const Terms &terms, int64_t i, int64_t row, float sum) {
  if (terms.bias) sum += terms.bias[row];
  if (terms.residual.data) sum += load_element(terms.residual, i, row);
  store_element(terms.y, i, row, sum);
}

// h_i . low_row, by one thread.
__device__ __forceinline__ float low_rank_term(const Terms &terms, int64_t i, int64_t row) {
  const float *low = terms.low + row * terms.rank;
  float sum = 0;
  int k = 0;
  for (; terms.is_packed && k < terms.rank; k += 4) {
    float4 four = *reinterpret_cast<const float4 *>(low + k);
    sum = fmaf(load_element(terms.h, i, k), four.x, sum);
    sum = fmaf(load_element(terms.h, i, k + 1), four.y, sum);
    sum = fmaf(load_element(terms.h, i, k + 2), four.z, sum);
    sum = fmaf(load_element(terms.h, i, k + 3), four.w, sum);
  }
  for (; k < terms.rank; k++) sum = fmaf(load_element(terms.h, i, k), low[k], sum);
  return sum;
}

#endif
