// What the CPU kernels share. The folder is compiled once for each instruction set; ISA (avx2, ...) ends every
// external name, so that the objects live in one program.
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/backend.h"

#define ISA_JOIN_(name, isa) name##_##isa
#define ISA_JOIN(name, isa) ISA_JOIN_(name, isa)
#define ISA_NAME(name) ISA_JOIN(name, ISA)

// For functions whose arguments have to be constants where they are called.
#define ALWAYS_INLINE static inline __attribute__((always_inline))

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

extern const Kernels ISA_NAME(kernels);  // table.c

// Runs function(argument, begin, end, thread) over 0 .. count-1 in pieces of `grain`.
typedef void (*RangeFunction)(void *argument, int64_t begin, int64_t end, int thread);
#define run_ranges ISA_NAME(run_ranges)
void run_ranges(Backend *backend, int64_t count, int64_t grain, RangeFunction function, void *argument);
// The same over rows of `columns` elements; a piece has enough of them to be worth a thread's while.
#define run_rows ISA_NAME(run_rows)
void run_rows(Backend *backend, int64_t rows, int64_t columns, RangeFunction function, void *argument);

#define cpu_linear_forward ISA_NAME(cpu_linear_forward)
#define cpu_linear_forward_rows ISA_NAME(cpu_linear_forward_rows)
#define cpu_linear_forward_int8 ISA_NAME(cpu_linear_forward_int8)
#define cpu_linear_backward ISA_NAME(cpu_linear_backward)
#define cpu_weight_backward ISA_NAME(cpu_weight_backward)
#define cpu_low_rank_backward ISA_NAME(cpu_low_rank_backward)
#define cpu_column_sums ISA_NAME(cpu_column_sums)
#define cpu_embedding_forward ISA_NAME(cpu_embedding_forward)
#define cpu_embedding_backward ISA_NAME(cpu_embedding_backward)
#define cpu_norm_forward ISA_NAME(cpu_norm_forward)
#define cpu_norm_backward ISA_NAME(cpu_norm_backward)
#define cpu_norm_weight_backward ISA_NAME(cpu_norm_weight_backward)
#define cpu_rope ISA_NAME(cpu_rope)
#define cpu_attention_forward ISA_NAME(cpu_attention_forward)
#define cpu_attention_backward ISA_NAME(cpu_attention_backward)
#define cpu_gated_forward ISA_NAME(cpu_gated_forward)
#define cpu_gated_backward ISA_NAME(cpu_gated_backward)
#define cpu_cross_entropy ISA_NAME(cpu_cross_entropy)
#define cpu_divergence ISA_NAME(cpu_divergence)
#define cpu_linear_cross_entropy ISA_NAME(cpu_linear_cross_entropy)
#define cpu_softcap ISA_NAME(cpu_softcap)
#define cpu_router_forward ISA_NAME(cpu_router_forward)
#define cpu_router_backward ISA_NAME(cpu_router_backward)
#define cpu_experts_forward ISA_NAME(cpu_experts_forward)
#define cpu_experts_backward ISA_NAME(cpu_experts_backward)
#define cpu_copy_heads ISA_NAME(cpu_copy_heads)
#define cpu_dropout ISA_NAME(cpu_dropout)
#define cpu_add_uniform ISA_NAME(cpu_add_uniform)
#define cpu_gather_rows ISA_NAME(cpu_gather_rows)
#define cpu_scatter_rows ISA_NAME(cpu_scatter_rows)
#define cpu_fill ISA_NAME(cpu_fill)
#define cpu_copy ISA_NAME(cpu_copy)
#define cpu_add ISA_NAME(cpu_add)
#define cpu_adamw ISA_NAME(cpu_adamw)
#define cpu_adamw_8bit ISA_NAME(cpu_adamw_8bit)
#define cpu_update ISA_NAME(cpu_update)
#define cpu_update_8bit ISA_NAME(cpu_update_8bit)
#define cpu_factored_moments ISA_NAME(cpu_factored_moments)
#define cpu_factored_update ISA_NAME(cpu_factored_update)
#define cpu_low_rank_norms ISA_NAME(cpu_low_rank_norms)
#define cpu_magnitude_forward ISA_NAME(cpu_magnitude_forward)
#define cpu_magnitude_backward ISA_NAME(cpu_magnitude_backward)
#define cpu_sum_of_squares ISA_NAME(cpu_sum_of_squares)
#define cpu_store_pages ISA_NAME(cpu_store_pages)
#define cpu_paged_attention ISA_NAME(cpu_paged_attention)
#define cpu_low_rank_rows ISA_NAME(cpu_low_rank_rows)
#define cpu_peak_flops ISA_NAME(cpu_peak_flops)

void cpu_linear_forward(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);
void cpu_linear_forward_rows(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);
void cpu_linear_forward_int8(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);
void cpu_linear_backward(Rows dx, const Projection *projections, int count, int64_t n, bool accumulate, Backend *backend);
void cpu_weight_backward(const WeightGradient *gradients, int count, Rows x, int64_t columns, int64_t n, Backend *backend);
void cpu_low_rank_backward(const LowRankGradient *gradients, int count, int64_t n, Backend *backend);
void cpu_column_sums(float *sums, Rows x, int64_t columns, int64_t n, Backend *backend);
void cpu_embedding_forward(float *y, const int32_t *ids, const Matrix *w, int64_t n, float scale, Backend *backend);
void cpu_embedding_backward(float *dw, const float *dy, const int32_t *rows, const int32_t *begins, const int32_t *places, int64_t groups,
                            int64_t columns, float scale, Backend *backend);
void cpu_norm_forward(Rows y, Rows x, Rows residual, const NormSettings *norm, int64_t n, Backend *backend);
void cpu_norm_backward(Rows dx, Rows dy, Rows x, const NormSettings *norm, int64_t n, bool accumulate, Backend *backend);
void cpu_norm_weight_backward(float *dw, Rows dy, Rows x, const NormSettings *norm, int64_t n, Backend *backend);
void cpu_rope(void *x, FloatType type, const int32_t *positions, const float *frequencies, int64_t n, int64_t heads, int64_t head_size,
              int64_t rotary, RopeLayout layout, float magnitude, bool inverse, Backend *backend);
void cpu_attention_forward(void *o, float *lse, const void *q, const void *k, const void *v, FloatType type, const AttentionSpan *spans,
                           int64_t span_count, const int32_t *query_ends, AttentionShape shape, Backend *backend);
void cpu_attention_backward(void *dq, void *dk, void *dv, float *scratch, const void *go, const void *o, const float *lse, const void *q,
                            const void *k, const void *v, FloatType type, const AttentionSpan *spans, int64_t span_count,
                            const int32_t *query_ends, AttentionShape shape, Backend *backend);
void cpu_gated_forward(void *y, const void *gate, const void *up, FloatType type, int64_t count, Activation f, Backend *backend);
void cpu_gated_backward(void *dgate, void *dup, const void *dy, const void *gate, const void *up, FloatType type, int64_t count,
                        Activation f, Backend *backend);
void cpu_cross_entropy(float *nll, float *logits, int64_t step, const int32_t *targets, const float *gradient_scale, FloatType type,
                       int64_t n, int64_t vocabulary, float softcap, Backend *backend);
void cpu_divergence(float *kl, float *base, const float *logits, int64_t step, const float *scale, int64_t n, int64_t vocabulary,
                    float softcap, Backend *backend);
void cpu_linear_cross_entropy(float *nll, Rows dx, Rows x, const Matrix *head, const int32_t *targets, const float *gradient_scale,
                              int64_t n, float *scratch, float softcap, Backend *backend);
void cpu_softcap(float *y, int64_t count, float cap, Backend *backend);
void cpu_router_forward(int32_t *chosen, float *weights, float *totals, const float *logits, const RouterSettings *router, int64_t n,
                        Backend *backend);
void cpu_router_backward(float *dlogits, const float *dweights, const float *logits, const int32_t *chosen, const RouterSettings *router,
                         int64_t n, Backend *backend);
void cpu_experts_forward(Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen, const float *weights, int64_t n,
                         bool in_int8, float *scratch, Backend *backend);
void cpu_experts_backward(Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                          const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend);
void cpu_copy_heads(Rows y, int64_t y_head_step, Rows x, int64_t x_head_step, int64_t heads, int64_t width, int64_t n, bool accumulate,
                    Backend *backend);
void cpu_dropout(void *y, const void *x, FloatType type, int64_t count, float p, uint64_t seed, uint64_t stream, bool accumulate,
                 Backend *backend);
void cpu_add_uniform(float *y, int64_t count, float magnitude, uint64_t seed, uint64_t stream, Backend *backend);
void cpu_gather_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);
void cpu_scatter_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);
void cpu_fill(float *y, float value, int64_t count, Backend *backend);
void cpu_copy(float *y, const float *x, int64_t count, Backend *backend);
void cpu_add(float *y, const float *x, float alpha, int64_t count, Backend *backend);
void cpu_adamw(float *p, float *m, float *v, const float *g, int64_t count, AdamwSettings settings, Backend *backend);
void cpu_adamw_8bit(float *p, uint8_t *m, float *m_scales, uint8_t *v, float *v_scales, const float *g, int64_t count,
                    AdamwSettings settings, Backend *backend);
void cpu_update(float *p, float *const *states, const float *g, int64_t count, UpdateSettings settings, Backend *backend);
void cpu_update_8bit(float *p, uint8_t *const *codes, float *const *scales, const float *g, int64_t count, UpdateSettings settings,
                     Backend *backend);
void cpu_factored_moments(float *r, float *c, const float *g, int64_t rows, int64_t columns, FactoredSettings settings, Backend *backend);
void cpu_factored_update(float *u, const float *g, const float *r, const float *c, int64_t rows, int64_t columns, double gradient_scale,
                         Backend *backend);
void cpu_low_rank_norms(float *norms, const float *squares, const float *products, const float *gram, const float *b, int64_t out,
                        int64_t rank, float scale, Backend *backend);
void cpu_magnitude_forward(Rows y, Rows z, Rows residual, const Magnitude *magnitude, int64_t n, Backend *backend);
void cpu_magnitude_backward(Rows dz, float *dm, Rows dy, Rows z, const Magnitude *magnitude, int64_t n, Backend *backend);
double cpu_sum_of_squares(const float *x, int64_t count, Backend *backend);
void cpu_store_pages(const Pages *pages, const float *k, const float *v, const int32_t *slots, int64_t n, AttentionShape shape,
                     Backend *backend);
void cpu_paged_attention(float *o, const float *q, const Pages *pages, const int32_t *tables, const PagedSpan *spans, int64_t span_count,
                         AttentionShape shape, Backend *backend);
void cpu_low_rank_rows(const LowRankRows *groups, int count, Rows x, int64_t columns, Backend *backend);
double cpu_peak_flops(FloatType arithmetic, Backend *backend);

#endif
