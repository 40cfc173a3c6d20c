// The plain-C definition of every kernel: one output element at a time, dot products and sums in double, rounded
// once to float32. The specification of each is in kernels/backend.h; kernels/reference/table.c collects them.
#ifndef KERNELS_REFERENCE_REFERENCE_H
#define KERNELS_REFERENCE_REFERENCE_H

#include <stddef.h>

#include "kernels/backend.h"

static inline double reference_dot(const float *a, const float *b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
  return sum;
}

void reference_linear_forward(float *y, const float *x, const Matrix *w, int64_t n, float alpha, bool accumulate, Backend *backend);
void reference_linear_backward(float *dx, const float *dy, const Matrix *w, int64_t n, float alpha, bool accumulate, Backend *backend);
void reference_weight_backward(float *dw, const float *dy, const float *x, int64_t n, int64_t rows, int64_t columns, float alpha,
                               Backend *backend);
void reference_bias_forward(float *y, const float *bias, int64_t n, int64_t columns, Backend *backend);
void reference_embedding_forward(float *y, const int32_t *ids, const Matrix *w, int64_t n, float scale, Backend *backend);

void reference_rmsnorm_forward(float *y, const float *x, const float *w, int64_t n, int64_t columns, float epsilon, float offset,
                               Backend *backend);
void reference_rmsnorm_backward(float *dx, const float *dy, const float *x, const float *w, int64_t n, int64_t columns, float epsilon,
                                float offset, bool accumulate, Backend *backend);

void reference_rope(float *x, const int32_t *positions, const float *frequencies, int64_t n, int64_t heads, int64_t head_size,
                    int64_t rotary, RopeLayout layout, float magnitude, bool inverse, Backend *backend);

void reference_attention_forward(float *o, float *lse, const float *q, const float *k, const float *v, const AttentionSpan *spans,
                                 int64_t span_count, AttentionShape shape, Backend *backend);
void reference_attention_backward(float *dq, float *dk, float *dv, float *delta, const float *go, const float *o, const float *lse,
                                  const float *q, const float *k, const float *v, const AttentionSpan *spans, int64_t span_count,
                                  AttentionShape shape, Backend *backend);

void reference_gated_forward(float *y, const float *gate, const float *up, int64_t count, Activation f, Backend *backend);
void reference_gated_backward(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t count, Activation f,
                              Backend *backend);

void reference_cross_entropy(float *nll, float *logits, const int32_t *targets, const float *gradient_scale, int64_t n, int64_t vocabulary,
                             Backend *backend);

void reference_dropout(float *y, const float *x, int64_t count, float p, uint64_t seed, uint64_t stream, bool accumulate, Backend *backend);

void reference_gather_rows(float *y, const float *x, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);
void reference_scatter_rows(float *y, const float *x, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);
void reference_fill(float *y, float value, int64_t count, Backend *backend);
void reference_copy(float *y, const float *x, int64_t count, Backend *backend);
void reference_add(float *y, const float *x, float alpha, int64_t count, Backend *backend);

void reference_adamw(float *p, float *m, float *v, const float *g, int64_t count, AdamwSettings settings, Backend *backend);
double reference_sum_of_squares(const float *x, int64_t count, Backend *backend);
double reference_peak_flops(PeakArithmetic arithmetic, Backend *backend);

#endif
