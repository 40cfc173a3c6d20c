// Cases for tests of the kernel tables: for every entry of Kernels, inputs of random and edge shapes, a way to run
// the entry on any backend, and a plain version of it in float32 and float64 (tests/support/plain_kernels.h).
#ifndef TESTS_SUPPORT_KERNEL_CASES_H
#define TESTS_SUPPORT_KERNEL_CASES_H

#include "kernels/backend.h"
#include "tests/support/test.h"

// Every function of Kernels, in its order; a test fails when one is missing here.
// clang-format off
#define KERNEL_OPS(X) \
  X(linear_forward) X(linear_forward_int8) X(linear_backward) X(weight_backward) X(low_rank_backward) \
  X(embedding_forward) X(norm_forward) X(norm_backward) X(rope) X(attention_forward) X(attention_backward) \
  X(gated_forward) X(gated_backward) X(cross_entropy) X(linear_cross_entropy) X(softcap) X(router_forward) \
  X(router_backward) X(experts_forward) X(experts_backward) X(copy_heads) X(dropout) X(gather_rows) X(scatter_rows) \
  X(fill) X(copy) X(add) X(adamw) X(adamw_8bit) X(update) X(update_8bit) X(factored_moments) X(factored_update) \
  X(sum_of_squares) X(add_uniform) X(column_sums) X(embedding_backward) X(norm_weight_backward) X(low_rank_norms) \
  X(magnitude_forward) X(magnitude_backward) X(divergence) X(linear_forward_rows) X(store_pages) X(paged_attention) \
  X(low_rank_rows)
// clang-format on

#define KERNEL_OP_ENUM(name) OP_##name,
typedef enum KernelOp { KERNEL_OPS(KERNEL_OP_ENUM) OP_COUNT } KernelOp;

enum { CASE_INPUTS = 8, CASE_OUTPUTS = 4 };

typedef struct KernelCase {
  KernelOp op;
  FloatType type;  // of the activations, which stand here as float32 in any case
  const void *inputs[CASE_INPUTS];  // the kernel's read-only arguments, in its order
  int64_t input_bytes[CASE_INPUTS];
  float *initial[CASE_OUTPUTS];  // what an output holds before; NULL: the kernel sets it all
  int64_t counts[CASE_OUTPUTS];  // of the outputs, in the kernel's order; 0: none
  double scale[CASE_OUTPUTS];  // size of the terms whose difference an output is, where it may cancel to nothing
  // Of linear and embedding: a matrix whose arrays are inputs[1 ..], and its values.
  Matrix matrix;
  float *weights;
  int64_t n, rows, columns;  // count: n * columns
  float alpha;  // also epsilon, p, scale, magnitude, value
  float offset;
  bool accumulate, inverse, in_place;
  Activation activation;
  RopeLayout layout;
  int64_t heads, head_size, rotary;
  AttentionShape shape;
  int64_t span_count, queries, keys;
  AdamwSettings adamw;
  UpdateSettings update;
  FactoredSettings factored;
  unsigned exact_inputs, exact_outputs;  // bit i: stays float32 where activations are rounded
  int64_t x_step, y_step, x_head_step, y_head_step;  // of rows and heads of norms and copy_heads
  NormSettings norm;  // its weight and bias are inputs
  RouterSettings router;  // its bias is an input
  ExpertMatrices experts;  // without matrices: case_expert_matrix
  float softcap;
  PagesType pages;
  int64_t page_count;
  char description[160];
} KernelCase;

enum { PLAIN_ORDERS = 2 };

typedef struct KernelOpTraits {
  const char *name;
  size_t member;  // offset in Kernels
  void (*run)(const KernelCase *c, const Kernels *kernels, Backend *backend, const void *const *in, float *const *out);
  void (*plain_float[PLAIN_ORDERS])(float *const *out, const KernelCase *c);  // sums from the first term, and from the last
  void (*plain_double)(double *const *out, const KernelCase *c);
  KernelCase *(*make)(Arena *arena, Rng *rng, int index);  // NULL after the last case
} KernelOpTraits;

extern const KernelOpTraits kernel_ops[OP_COUNT];

// Single cases, for tests that choose their own shapes. Normal inputs.
// The scale of a whole block, and its shift where the type has one.
void block_set_scales(uint8_t *block, BlockType type, float scale, float shift);
void randomize_blocks(uint8_t *data, BlockType type, int64_t blocks, Rng *rng);  // any levels, scales of some hundredths

KernelCase *case_linear(Arena *arena, Rng *rng, KernelOp op, BlockType type, int64_t n, int64_t rows, int64_t columns, float alpha,
                        bool accumulate);  // OP_linear_...
KernelCase *case_weight(Arena *arena, Rng *rng, int64_t n, int64_t rows, int64_t columns, float alpha);
KernelCase *case_low_rank(Arena *arena, Rng *rng, int64_t n, int64_t out, int64_t rank, float scale);
// Rows of x and y (dy and dx) are `gap` elements apart. norm: epsilon, offset, columns and is_centered count.
KernelCase *case_norm(Arena *arena, Rng *rng, KernelOp op, int64_t n, NormSettings norm, bool has_bias, bool has_residual, int64_t gap,
                      bool accumulate);
KernelCase *case_rope(Arena *arena, Rng *rng, int64_t n, int64_t heads, int64_t head_size, int64_t rotary, RopeLayout layout, bool inverse);
// Span s has queries[s] queries and as many keys plus earlier[s]. are_some: the queries are random rows of their span, by query_ends. The
// backward case holds the o and lse of its inputs.
KernelCase *case_attention(Arena *arena, Rng *rng, KernelOp op, AttentionShape shape, int64_t span_count, const int64_t *queries,
                           const int64_t *earlier, bool are_some);
KernelCase *case_gated(Arena *arena, Rng *rng, KernelOp op, int64_t count, Activation f, bool in_place, bool has_up);
KernelCase *case_cross_entropy(Arena *arena, Rng *rng, int64_t n, int64_t vocabulary, float deviation, bool gradient, float softcap);
// Logits of a policy with this deviation, and of a base that differ from them by normal numbers times `distance`.
KernelCase *case_divergence(Arena *arena, Rng *rng, int64_t n, int64_t vocabulary, float deviation, float distance, bool gradient,
                            float softcap);
// Logits of a few units; or so large that exponentials of their differences overflow.
KernelCase *case_linear_cross_entropy(Arena *arena, Rng *rng, BlockType type, int64_t n, int64_t vocabulary, int64_t columns, bool is_large,
                                      bool gradient, float softcap);
KernelCase *case_heads(Arena *arena, Rng *rng, int64_t n, int64_t heads, int64_t width, int64_t x_head_step, int64_t y_head_step,
                       bool accumulate);
KernelCase *case_router(Arena *arena, Rng *rng, KernelOp op, int64_t n, RouterSettings router, bool has_bias);
// The matrices of all experts are one: gate, then up, then down of each.
KernelCase *case_experts(Arena *arena, Rng *rng, KernelOp op, BlockType type, int64_t n, ExpertMatrices shape, bool accumulate);
// Matrix 0 (gate), 1 (up) or 2 (down) of an expert in the matrix of all, and where it begins in it.
Matrix case_expert_matrix(const KernelCase *c, const Matrix *all, int which, int64_t expert);
int64_t case_expert_offset(const KernelCase *c, int which, int64_t expert);
KernelCase *case_rows(Arena *arena, Rng *rng, KernelOp op, BlockType type, int64_t n, int64_t rows,
                      int64_t columns);  // embedding (of `type`), gather and scatter (n <= rows)
KernelCase *case_elementwise(Arena *arena, Rng *rng, KernelOp op, int64_t count);  // fill, copy, add, softcap, sum_of_squares
KernelCase *case_adamw(Arena *arena, Rng *rng, int64_t count, int64_t step);
KernelCase *case_column_sums(Arena *arena, Rng *rng, int64_t n, int64_t columns, int64_t gap);
KernelCase *case_norm_weight(Arena *arena, Rng *rng, int64_t n, NormSettings norm, int64_t gap);
// `n` places with ids of `rows`, in groups.
KernelCase *case_embedding_backward(Arena *arena, Rng *rng, int64_t n, int64_t rows, int64_t columns);
// Inputs are g, the codes of m, those of v, and the scales of m and then of v. Outputs: p, for m and for v where the true value lies on the
// ruler of codes, moved into the cell of the code that was taken, and each scale in terms of the true one. So a code may be another than
// that of float64 where the value lies between the two, and no further from it than any other output may be from the truth.
KernelCase *case_adamw_8bit(Arena *arena, Rng *rng, int64_t count, int64_t step);
KernelCase *case_update(Arena *arena, Rng *rng, UpdateRule rule, int64_t count, bool is_first);
// Inputs are g, the codes of all states and their scales. Outputs: p, and as of case_adamw_8bit the places and the scales of all states.
KernelCase *case_update_8bit(Arena *arena, Rng *rng, UpdateRule rule, int64_t count, bool is_first);
KernelCase *case_factored(Arena *arena, Rng *rng, KernelOp op, int64_t rows, int64_t columns);
// Inputs are squares, products, gram and b, of a random w and a.
KernelCase *case_norms(Arena *arena, Rng *rng, int64_t out, int64_t rank, int64_t in);
// Forward: z, m, norms, bias and residual. Backward: dy, z, m and norms. Rows of y (dz) and z (dy) are `gap` elements apart.
KernelCase *case_magnitude(Arena *arena, Rng *rng, KernelOp op, int64_t n, int64_t columns, bool has_bias, bool has_residual, int64_t gap);
KernelCase *case_dropout(Arena *arena, Rng *rng, int64_t count, float p, bool accumulate);

// Slots of tokens in some pages. Inputs are k, v, slots, and what keys' and values' pages hold before; outputs are the elements of both (of
// PAGES_Q8_0 levels), and its scales.
KernelCase *case_store(Arena *arena, Rng *rng, PagesType type, AttentionShape shape, int64_t pages, int64_t n);
// Span s is the last queries[s] rows of a text that has so many tokens plus earlier[s]; before and behind each span is a row of none. Pages
// lie in any order, texts share those of their common beginning, places behind a text hold NaN, and between tables are pages that do not
// exist. Inputs are q, the pages of keys and of values, tables, spans, and the values of both pages' elements.
KernelCase *case_paged(Arena *arena, Rng *rng, PagesType type, AttentionShape shape, int64_t span_count, const int64_t *queries,
                       const int64_t *earlier, bool is_alone);
// Inputs are x, whose rows are `gap` elements apart, the a of all adapters, their b, and groups; outputs are y.
KernelCase *case_low_rank_rows(Arena *arena, Rng *rng, int64_t n, int64_t columns, int64_t gap, const int64_t *outs, int64_t out_count,
                               const int64_t *ranks, int64_t rank_count);
// A group of case_low_rank_rows: rows begin .. end - 1 of output y, by the adapter whose a and b begin there.
typedef struct RowGroup {
  int64_t begin, end, a, b, rank;
  int y;
  float scale;
} RowGroup;

bool case_is_activation(const KernelCase *c, int index, bool is_output);
FloatType case_type(const KernelCase *c, int index, bool is_output);
// Turns a case into one of activations of 16 bits: their values are rounded. False for an op that has none.
bool case_round(KernelCase *c, FloatType type);
float float_rounded(float value, FloatType type);
void round_to_type(float *values, int64_t count, FloatType type);
double case_flop(const KernelCase *c);  // about
// After `run`: gives back the matrices that it sent to a device with a memory of its own.
void case_release_matrices(Backend *backend);

// Rows of normal values, `step` apart and whole; and one of their elements.
Rows random_rows(Arena *arena, Rng *rng, int64_t n, int64_t step, FloatType type);
double rows_element(Rows rows, int64_t i, int64_t column);

// The float64 result of a case, from the arena.
void case_evaluate(double *out[CASE_OUTPUTS], Arena *arena, const KernelCase *c);

// max |actual - expected| / max(scale, max |expected|); infinity when either holds a NaN or an Inf.
double relative_error(const float *actual, const double *expected, int64_t n, double scale);

#endif
