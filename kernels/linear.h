// The products of a linear layer with a low-rank adapter, as one kernel each, so that rows are read and written once:
//   forward   y_i = alpha_i x w_i^T + h_i b_i^T + bias_i + residual_i     for each projection i of the same rows x
//   backward  dx (+)= sum_i alpha_i dy_i w_i + dh_i a_i
// h and dh are rank-wide and computed before, by the same kernels (w = a, alpha = the adapter's scale).
// Where one of x, h, y is bfloat16, the operands may be rounded to bfloat16 (weights, too); sums are float32.
#ifndef KERNELS_LINEAR_H
#define KERNELS_LINEAR_H

#include "kernels/matrix.h"
#include "kernels/rows.h"

// Rounding to 8 bits: the values of x that share a scale. A block whose largest value is not above this is rounded to zeros: 127 over it
// would not be finite.
#define INT8_SMALLEST 0x1p-100f
enum { INT8_BLOCK = 32 };

enum { LINEAR_PROJECTIONS = 3 };  // at most so many at once: q, k and v

typedef struct Projection {
  const Matrix *w;  // [out, in]
  float alpha;
  Rows y;  // [n, out]; in the backward pass dy, which is read
  Rows h;  // [n, rank]; in the backward pass dh
  const float *low;  // forward: b[out, rank]; backward: a[rank, in]
  int64_t rank;  // 0: no low-rank term
  const float *bias;  // [out] or NULL; forward only
  Rows residual;  // [n, out], data NULL: none; may be y itself, which is then added to; forward only
} Projection;

// The same for the rows from `row` on.
static inline Projection projection_from(Projection p, int64_t row) {
  p.y = rows_from(p.y, row * p.y.step);
  if (p.rank) p.h = rows_from(p.h, row * p.h.step);
  if (p.residual.data) p.residual = rows_from(p.residual, row * p.residual.step);
  return p;
}

// y = alpha x w^T, or dx = alpha dy w, in float32 without anything else.
static inline Projection projection_f32(const float *y, const Matrix *w, float alpha) {
  return (Projection){.w = w, .alpha = alpha, .y = rows_f32(y, w->rows)};
}

// dw += alpha dy^T x, a LoRA factor's gradient. Several in one call may have the same dw, which gets the sum of all.
typedef struct WeightGradient {
  float *dw;  // [rows, columns of x]
  Rows dy;  // [n, rows]
  int64_t rows;
  float alpha;
} WeightGradient;

// Backward pass of y += h b^T, h = scale x a^T (LoRA's, up to a): dh = scale dy b, db += dy^T h.
typedef struct LowRankGradient {
  Rows dy;  // [n, out]
  const float *b;  // [out, rank]
  float *db;  // [out, rank]
  int64_t out, rank;
  float scale;
  Rows h, dh;  // [n, rank]; dh is written
  Rows rounded;  // [n, out]: dy, rounded to this type; data NULL: not wanted
} LowRankGradient;

#endif
