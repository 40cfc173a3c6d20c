// The operations of a decoder, each a thin node over the backend's kernels. rows = tokens of the micro-batch.
// "saves" names what is kept for the backward pass.
#ifndef AUTOGRAD_OPS_H
#define AUTOGRAD_OPS_H

#include "autograd/tape.h"

// A trainable matrix; its values and gradients lie in the adapter set's flat buffers on the device.
typedef struct Parameter {
  float *data, *gradient;  // [rows, columns]
  int64_t rows, columns;
} Parameter;

// A LoRA pair (Hu et al. 2021): y += scale * dropout(x) A^T B^T. With a magnitude m (DoRA, kernels/magnitude.h) all of it is scaled:
// y = m / ||W + scale B A||_row (W x + scale B A dropout(x)) (+ bias), the norm being a constant to gradients.
typedef struct LowRank {
  Parameter a;  // [rank, in]
  Parameter b;  // [out, rank]
  Parameter magnitude;  // [out, 1]; data NULL: none
  const float *squares;  // [out]: ||w_i||^2 of a pair with a magnitude, on the device
  const float *norms;  // [out]: of W + scale B A, where the pair does not change any more; NULL: each pass computes them
  float scale;  // alpha / rank, or alpha / sqrt(rank)
  float dropout;  // probability; 0 outside training
  int index;  // its number in the set: the dropout stream
  bool enabled;  // off: as if it were not there, bit for bit
} LowRank;

// Rows of some tokens, trained beside an embedding whose own rows of them they replace; where the head is tied, its rows as well.
typedef struct TokenRows {
  Parameter rows;  // [count, hidden]
  const int32_t *ids;  // [count], distinct; the host's
  const int32_t *numbers;  // [vocabulary], the device's: the row of an id, -1: none
  bool enabled;  // off: as if they were not there
} TokenRows;

typedef struct EmbeddingPart {
  const Matrix *weight;  // [vocabulary, hidden]
  float *weight_gradient;  // [vocabulary, hidden], added to by the backward pass; NULL: frozen
  const LowRank *adapter;  // y += scale * adapter->scale * a[ids] b^T of a[vocabulary, rank], b[hidden, rank]; no dropout; NULL: none
  const TokenRows *tokens;  // NULL: none
} EmbeddingPart;

// y[n, hidden] = scale * w[ids], float32. ids: int32 input tensor [n, 1], whose values are known when the node is made if anything is trained.
Tensor *op_embedding_part(Tape *tape, Tensor *ids, const EmbeddingPart *part, float scale);
static inline Tensor *op_embedding(Tape *tape, Tensor *ids, const Matrix *w, float scale) {
  return op_embedding_part(tape, ids, &(EmbeddingPart){.weight = w}, scale);
}

// In training, noise of NEFTune (Jain et al. 2023, arXiv 2310.05914) in x's place, which nothing else may read: rows begin .. end-1 of each
// span, float32, get magnitude / sqrt(their number * columns) times uniform numbers in [-1, 1) by the tape's dropout seed and stream.
Tensor *op_noise(Tape *tape, Tensor *x, const AttentionSpan *spans, int64_t span_count, float magnitude);

// y = norm(x) + residual (NULL: none; else a float32 tensor, and y is float32, too). x->columns is a multiple of norm->columns: each group
// of them (a head) is normalised apart. Saves x. `norm` is copied; its gradients are added to.
Tensor *op_norm(Tape *tape, Tensor *x, const NormSettings *norm, Tensor *residual);
// y[n, norm->columns] = norm of x's columns begin ..
Tensor *op_norm_columns(Tape *tape, Tensor *x, int64_t begin, const NormSettings *norm);

// One projection of x; `bias` and `adapter` may be NULL.
typedef struct LinearPart {
  const Matrix *weight;  // [out, in]
  const float *bias;  // [out]
  const LowRank *adapter;
  float *weight_gradient, *bias_gradient;  // [out, in], [out]: added to by the backward pass; NULL: frozen
  const LowRank *const *bank;  // [bank_count]: of adapters that some rows go by (Tape.row_kinds); an entry is NULL where it has none here
  int bank_count;
} LinearPart;

// y[i] = x W_i^T (+ bias_i) (+ the adapter's term) for up to LINEAR_PROJECTIONS parts that read one x. Saves x where an adapter or a weight is
// trained, and the adapters' rank-wide products.
void op_linears(Tape *tape, Tensor **y, Tensor *x, const LinearPart *parts, int count);
// The same for one part, and added to `residual` (NULL: none), a float32 tensor; y is then float32, too.
Tensor *op_linear(Tape *tape, Tensor *x, LinearPart part, Tensor *residual);

// The products of n rows of x, all together, and in generation those alone by themselves; in_int8: the latter see x in 8 bits.
void linear_products(const Projection *projections, int count, Rows x, int64_t n, const RowKinds *kinds, bool in_int8, Backend *backend);

// norms[1, out] of the rows of weight + scale B A (kernels/magnitude.h), without a gradient.
Tensor *op_low_rank_norms(Tape *tape, const Matrix *weight, const LowRank *adapter);
// y = z m / norms (+ bias) (+ residual, then y is float32 as it is). norms NULL: the adapter's own. Saves z and norms.
Tensor *op_magnitude(Tape *tape, Tensor *z, Tensor *norms, const LowRank *adapter, const float *bias, Tensor *residual);

// The same in generation, each row by the magnitude of the bank's adapter that it goes by, or by none.
Tensor *op_bank_magnitude(Tape *tape, Tensor *z, const LinearPart *part, Tensor *residual);

// Rows of x whose heads turn by the same frequencies.
typedef struct RopeRows {
  int64_t first, end;
} RopeRows;

// Rotary positions, in x's place: nothing else may read x. positions: int32 input tensor [n, 1]. Of each head the dimensions
// begin .. begin + rotary - 1 turn. `rows` must stay until the pass has run.
typedef struct RopeSettings {
  Tensor *frequencies;  // input tensor [count, rotary / 2]
  const RopeRows *rows;  // [count]
  int64_t count;
  int64_t head_size, begin, rotary;
  RopeLayout layout;
  float magnitude;
} RopeSettings;
Tensor *op_rope(Tape *tape, Tensor *x, Tensor *positions, RopeSettings settings);

// Attention within spans; `spans` must stay until the pass has run. query_ends (an int32 input tensor [rows of q, 1], or NULL) is for queries
// that are some rows of their spans only.
Tensor *op_attention(Tape *tape, Tensor *q, Tensor *k, Tensor *v, const AttentionSpan *spans, int64_t span_count, Tensor *query_ends,
                     AttentionShape shape);

// Generation: k and v are put into pages, and attention reads them, and all before them, from there. No gradient goes through.
typedef struct PagedRowsInput {
  Tensor *slots, *tables;  // int32 input tensors [n, 1], [entries, 1] (kernels/pages.h)
  const struct PagedBatch *batch;  // read when the graph runs
} PagedRowsInput;
typedef struct PagedBatch {
  const PagedSpan *spans;
  int64_t span_count;
} PagedBatch;
Tensor *op_paged_attention(Tape *tape, Tensor *q, Tensor *k, Tensor *v, const PagedRowsInput *rows, const Pages *pages,
                           AttentionShape shape);

// Heads put together: y[n, heads * sum of widths] has the parts of head 0, then those of head 1, ... Head h of a part is x's columns
// begin + h * head_step .. + width; with head_step 0 all heads have the same. A tensor may be in several parts and nodes.
enum { HEAD_PARTS = 3 };
typedef struct HeadPart {
  Tensor *x;
  int64_t begin, head_step, width;
} HeadPart;
Tensor *op_join_heads(Tape *tape, const HeadPart *parts, int count, int64_t heads);

// y = f(gate) * up; saves both. up NULL: y = f(gate).
Tensor *op_gated(Tape *tape, Tensor *gate, Tensor *up, Activation f);

// y[i] = x[rows[i]]; rows: int32 input tensor [n, 1] of distinct row numbers.
Tensor *op_gather_rows(Tape *tape, Tensor *x, Tensor *rows);

// Rows of x in another order, each at least once and at most twice: y[i] = x[rows[i]].
typedef struct RepeatedRows {
  Tensor *rows;  // int32 input tensor [rows of y, 1]
  Tensor *places;  // [rows of x, 1]: where in y each row of x is first
  Tensor *again, *repeated;  // [repetitions, 1]: where in y a row is for the second time, and which of x it is; NULL without any
} RepeatedRows;
// From the rows, a host's array [count] that must stay, of an x of x_rows rows.
RepeatedRows repeated_rows(Tape *tape, const int32_t *rows, int64_t count, int64_t x_rows);
// x has no other reader.
Tensor *op_repeat_rows(Tape *tape, Tensor *x, const RepeatedRows *rows);

// A mixture of experts, all of it frozen: y[n, hidden] float32 = residual (NULL: 0; else float32) + the sum of the experts chosen for each
// row. Saves x and the router's results. `layer` is copied; its arrays must stay.
typedef struct ExpertLayer {
  Matrix router;  // [experts, hidden]
  RouterSettings settings;
  ExpertMatrices matrices;
  float *totals;  // [2][experts] on the device, added to by every forward pass (Kernels.router_forward); NULL: none
} ExpertLayer;
Tensor *op_experts(Tape *tape, Tensor *x, const ExpertLayer *layer, Tensor *residual);

// x <- cap * tanh(x / cap), in x's place: nothing else may read x, which is float32. For logits of generation: no gradient goes through.
Tensor *op_softcap(Tape *tape, Tensor *x, float cap);

// The loss as a function of nll, whose gradient the backward pass is that of.
typedef struct LossGradient {
  float scale;  // scale * sum(nll): scale is 1 / the optimiser step's trained tokens
  const float *
      slopes;  // or, not NULL, any function: its derivatives by nll [n], the host's, written when nll has been read, before the backward pass
} LossGradient;

// The output layer and the loss in one (x has no other reader), by chunks of rows so that logits of all rows are never held: returns
// nll[n, 1], each row's negative log-likelihood of targets (int32 input tensor [n, 1]). By a scale, which is known before, the gradient is
// computed in the forward pass; by slopes in the backward pass, which computes logits once more. softcap > 0: logits are
// softcap * tanh(x head^T / softcap).
Tensor *op_cross_entropy(Tape *tape, Tensor *x, const Matrix *head, Tensor *targets, LossGradient gradient, float softcap);
// The same with a head of which something is trained: its weight, an adapter, rows of tokens (NULL: none). By logits in float32, fewer rows
// at once; its gradients are added to where the logits are at hand.
Tensor *op_head_cross_entropy(Tape *tape, Tensor *x, LinearPart head, const TokenRows *tokens, Tensor *targets, LossGradient gradient,
                              float softcap);

// A base whose distribution at each row the policy's is held near to.
typedef struct Teacher {
  const void *hidden;  // [n, columns] of x's type: what the base's output layer reads; the device's, and stays until the pass has run
  Matrix head;  // the base's output layer
  const float *bias;  // [vocabulary] or NULL
  float weight;  // the loss has weight * sum(kl) more, as if gradient.scale were multiplied
} Teacher;

// The same beside a teacher: *kl[n, 1] is each row's divergence of the policy from the base over the whole vocabulary (Kernels.divergence),
// and the gradient is that of gradient.scale * (sum(nll) + weight * sum(kl)), by a scale alone. Logits of both meet in each chunk.
Tensor *op_taught_cross_entropy(Tape *tape, Tensor **kl, Tensor *x, LinearPart head, const TokenRows *tokens, Tensor *targets,
                                const Teacher *teacher, LossGradient gradient, float softcap);

// logits[n, vocabulary]'s columns of the tokens become x . their rows, in the logits' place. For generation: no gradient goes through.
Tensor *op_token_logits(Tape *tape, Tensor *logits, Tensor *x, const TokenRows *tokens);

// Inverted dropout of an adapter's input: y (+)= x as the adapter sees it in training; like: x's shape and type.
void adapter_dropout(void *y, const void *x, const LowRank *adapter, const Tensor *like, bool accumulate, const Tape *tape);

// For ops that give some of a gradient's elements only, where they are its first: sets them all to zero.
void gradient_clear(const Tensor *tensor, Backend *backend);

#endif
