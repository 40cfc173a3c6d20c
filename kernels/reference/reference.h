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

// Element i of activations, and a value rounded to their type.
static inline double reference_load(const void *data, FloatType type, int64_t i) {
  return type == FLOAT_BF16 ? bfloat16_to_float(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}
static inline void reference_store(void *data, FloatType type, int64_t i, double value) {
  if (type == FLOAT_BF16) ((uint16_t *)data)[i] = bfloat16_from_float((float)value);
  else ((float *)data)[i] = (float)value;
}

void reference_linear_forward(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);
void reference_linear_forward_int8(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);
void reference_linear_backward(Rows dx, const Projection *projections, int count, int64_t n, bool accumulate, Backend *backend);
void reference_weight_backward(const WeightGradient *gradients, int count, Rows x, int64_t columns, int64_t n, Backend *backend);
void reference_low_rank_backward(const LowRankGradient *gradients, int count, int64_t n, Backend *backend);
void reference_column_sums(float *sums, Rows x, int64_t columns, int64_t n, Backend *backend);
void reference_embedding_forward(float *y, const int32_t *ids, const Matrix *w, int64_t n, float scale, Backend *backend);
void reference_embedding_backward(float *dw, const float *dy, const int32_t *rows, const int32_t *begins, const int32_t *places,
                                  int64_t groups, int64_t columns, float scale, Backend *backend);

void reference_norm_forward(Rows y, Rows x, Rows residual, const NormSettings *norm, int64_t n, Backend *backend);
void reference_norm_backward(Rows dx, Rows dy, Rows x, const NormSettings *norm, int64_t n, bool accumulate, Backend *backend);
void reference_norm_weight_backward(float *dw, Rows dy, Rows x, const NormSettings *norm, int64_t n, Backend *backend);

void reference_rope(void *x, FloatType type, const int32_t *positions, const float *frequencies, int64_t n, int64_t heads,
                    int64_t head_size, int64_t rotary, RopeLayout layout, float magnitude, bool inverse, Backend *backend);

void reference_attention_forward(void *o, float *lse, const void *q, const void *k, const void *v, FloatType type,
                                 const AttentionSpan *spans, int64_t span_count, const int32_t *query_ends, AttentionShape shape,
                                 Backend *backend);
void reference_attention_backward(void *dq, void *dk, void *dv, float *scratch, const void *go, const void *o, const float *lse,
                                  const void *q, const void *k, const void *v, FloatType type, const AttentionSpan *spans,
                                  int64_t span_count, const int32_t *query_ends, AttentionShape shape, Backend *backend);

// f and its derivative at x.
typedef struct Slope {
  double value, derivative;
} Slope;
Slope reference_activate(double x, Activation f);

void reference_gated_forward(void *y, const void *gate, const void *up, FloatType type, int64_t count, Activation f, Backend *backend);
void reference_gated_backward(void *dgate, void *dup, const void *dy, const void *gate, const void *up, FloatType type, int64_t count,
                              Activation f, Backend *backend);

void reference_cross_entropy(float *nll, float *logits, int64_t step, const int32_t *targets, const float *gradient_scale, FloatType type,
                             int64_t n, int64_t vocabulary, float softcap, Backend *backend);

void reference_divergence(float *kl, float *base, const float *logits, int64_t step, const float *scale, int64_t n, int64_t vocabulary,
                          float softcap, Backend *backend);
void reference_linear_cross_entropy(float *nll, Rows dx, Rows x, const Matrix *head, const int32_t *targets, const float *gradient_scale,
                                    int64_t n, float *scratch, float softcap, Backend *backend);
void reference_softcap(float *y, int64_t count, float cap, Backend *backend);

void reference_router_forward(int32_t *chosen, float *weights, float *totals, const float *logits, const RouterSettings *router, int64_t n,
                              Backend *backend);
void reference_router_backward(float *dlogits, const float *dweights, const float *logits, const int32_t *chosen,
                               const RouterSettings *router, int64_t n, Backend *backend);
void reference_experts_forward(Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen, const float *weights, int64_t n,
                               bool in_int8, float *scratch, Backend *backend);
void reference_experts_backward(Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                                const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend);

void reference_copy_heads(Rows y, int64_t y_head_step, Rows x, int64_t x_head_step, int64_t heads, int64_t width, int64_t n,
                          bool accumulate, Backend *backend);
void reference_dropout(void *y, const void *x, FloatType type, int64_t count, float p, uint64_t seed, uint64_t stream, bool accumulate,
                       Backend *backend);
void reference_add_uniform(float *y, int64_t count, float magnitude, uint64_t seed, uint64_t stream, Backend *backend);

void reference_gather_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);
void reference_scatter_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);
void reference_fill(float *y, float value, int64_t count, Backend *backend);
void reference_copy(float *y, const float *x, int64_t count, Backend *backend);
void reference_add(float *y, const float *x, float alpha, int64_t count, Backend *backend);

void reference_adamw(float *p, float *m, float *v, const float *g, int64_t count, AdamwSettings settings, Backend *backend);
void reference_adamw_8bit(float *p, uint8_t *m, float *m_scales, uint8_t *v, float *v_scales, const float *g, int64_t count,
                          AdamwSettings settings, Backend *backend);
void reference_update(float *p, float *const *states, const float *g, int64_t count, UpdateSettings settings, Backend *backend);
void reference_update_8bit(float *p, uint8_t *const *codes, float *const *scales, const float *g, int64_t count, UpdateSettings settings,
                           Backend *backend);
void reference_factored_moments(float *r, float *c, const float *g, int64_t rows, int64_t columns, FactoredSettings settings,
                                Backend *backend);
void reference_factored_update(float *u, const float *g, const float *r, const float *c, int64_t rows, int64_t columns,
                               double gradient_scale, Backend *backend);
// A block's codes as numbers; and the codes of numbers, whose scale is returned.
void reference_moments_load(float *x, const uint8_t *codes, float scale, int64_t n, const float *levels);
float reference_moments_store(uint8_t *codes, const float *x, int64_t n, const float *bounds);
void reference_low_rank_norms(float *norms, const float *squares, const float *products, const float *gram, const float *b, int64_t out,
                              int64_t rank, float scale, Backend *backend);
void reference_magnitude_forward(Rows y, Rows z, Rows residual, const Magnitude *magnitude, int64_t n, Backend *backend);
void reference_magnitude_backward(Rows dz, float *dm, Rows dy, Rows z, const Magnitude *magnitude, int64_t n, Backend *backend);
void reference_store_pages(const Pages *pages, const float *k, const float *v, const int32_t *slots, int64_t n, AttentionShape shape,
                           Backend *backend);
void reference_paged_attention(float *o, const float *q, const Pages *pages, const int32_t *tables, const PagedSpan *spans,
                               int64_t span_count, AttentionShape shape, Backend *backend);
void reference_low_rank_rows(const LowRankRows *groups, int count, Rows x, int64_t columns, Backend *backend);
double reference_sum_of_squares(const float *x, int64_t count, Backend *backend);
double reference_peak_flops(FloatType arithmetic, Backend *backend);

#endif
