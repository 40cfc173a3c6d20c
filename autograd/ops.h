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

// y[n, hidden] = scale * w[ids]; frozen. ids: int32 input tensor [n, 1].
Tensor *op_embedding(Tape *tape, Tensor *ids, const Matrix *w, float scale);

// y = norm(x) + residual (NULL: none; else a float32 tensor, and y is float32, too). x->columns is a multiple of norm->columns: each group
// of them (a head) is normalised apart. Saves x. `norm` is copied.
Tensor *op_norm(Tape *tape, Tensor *x, const NormSettings *norm, Tensor *residual);
// y[n, norm->columns] = norm of x's columns begin ..
Tensor *op_norm_columns(Tape *tape, Tensor *x, int64_t begin, const NormSettings *norm);

// One projection of x; `bias` and `adapter` may be NULL.
typedef struct LinearPart {
  const Matrix *weight;  // [out, in]
  const float *bias;  // [out]
  const LowRank *adapter;
} LinearPart;

// y[i] = x W_i^T (+ bias_i) (+ the adapter's term) for up to LINEAR_PROJECTIONS parts that read one x. Saves nothing but the
// adapters' x and their rank-wide products.
void op_linears(Tape *tape, Tensor **y, Tensor *x, const LinearPart *parts, int count);
// The same for one part, and added to `residual` (NULL: none), a float32 tensor; y is then float32, too.
Tensor *op_linear(Tape *tape, Tensor *x, LinearPart part, Tensor *residual);

// norms[1, out] of the rows of weight + scale B A (kernels/magnitude.h), without a gradient.
Tensor *op_low_rank_norms(Tape *tape, const Matrix *weight, const LowRank *adapter);
// y = z m / norms (+ bias) (+ residual, then y is float32 as it is). norms NULL: the adapter's own. Saves z and norms.
Tensor *op_magnitude(Tape *tape, Tensor *z, Tensor *norms, const LowRank *adapter, const float *bias, Tensor *residual);

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

// Attention within spans; `spans` must stay until the pass has run. With a cache (generation) the rows of k and v are
// first appended to the cache's, at the end of each span's keys, and keys are read from there; no backward then.
typedef struct KvLayer {
  float *k, *v;  // [capacity, kv_heads * head_size], [capacity, kv_heads * value_size]
} KvLayer;
// query_ends (an int32 input tensor [rows of q, 1], or NULL) is for queries that are some rows of their spans only.
Tensor *op_attention(Tape *tape, Tensor *q, Tensor *k, Tensor *v, const AttentionSpan *spans, int64_t span_count, Tensor *query_ends,
                     AttentionShape shape, const KvLayer *cache);

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

// The output layer and the loss in one (x has no other reader), by chunks of rows so that logits of all rows are never held: returns
// nll[n, 1], each row's negative log-likelihood of targets (int32 input tensor [n, 1]). When training, the gradient of
// gradient_scale * sum(nll) is computed in the same pass; `gradient_scale` is 1 / the optimiser step's trained tokens. softcap > 0:
// logits are softcap * tanh(x head^T / softcap).
Tensor *op_cross_entropy(Tape *tape, Tensor *x, const Matrix *head, Tensor *targets, float gradient_scale, float softcap);

// For ops that give some of a gradient's elements only, where they are its first: sets them all to zero.
void gradient_clear(const Tensor *tensor, Backend *backend);

#endif
