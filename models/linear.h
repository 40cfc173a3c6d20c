// A linear layer of a model, with the slots that adapters/ fills. The embedding is one as well, with x one-hot.
#ifndef MODELS_LINEAR_H
#define MODELS_LINEAR_H

#include "autograd/ops.h"

typedef struct Linear {
  Matrix weight;  // [out, in], rows in the order of the file they came from
  const float *bias;  // [out] or NULL
  LowRank *adapter;  // NULL: none. Of the embedding: A is [in, rank], a row for each token
  float *weight_gradient, *bias_gradient;  // while trained in full: weight and bias are float32 parameters; NULL: frozen
  const Matrix *base;  // while the weight is trained in full: what the model's file has; NULL: weight
  const TokenRows *tokens;  // of the embedding, and of a head that is tied to it: rows that are trained apart; NULL: none
  const LowRank **bank;  // [bank_count]: of adapters that some rows go by (adapters/bank.h); NULL: this one has none here
  int bank_count;
  const char *name;  // Hugging Face's module path: "model.layers.0.self_attn.q_proj"
  const char *gguf_name;  // "blk.0.attn_q"
  // Heads whose rows GGUF stores with the two halves of a rotary pair side by side (q and k of the llama
  // architecture); 0: rows are in the same order in both formats.
  int64_t interleaved_heads;
} Linear;

// The row in a GGUF file of Hugging Face's row `row`, of a matrix of `rows` rows in `heads` interleaved heads.
static inline int64_t linear_gguf_row(int64_t row, int64_t rows, int64_t heads) {
  if (heads == 0) return row;
  int64_t size = rows / heads, head = row / size, within = row % size;
  return head * size + within % (size / 2) * 2 + within / (size / 2);
}

static inline bool linear_is_there(const Linear *linear) { return linear->weight.rows > 0; }

static inline LinearPart linear_part(const Linear *linear) {
  return (LinearPart){.weight = &linear->weight,
                      .bias = linear->bias,
                      .adapter = linear->adapter,
                      .weight_gradient = linear->weight_gradient,
                      .bias_gradient = linear->bias_gradient,
                      .bank = linear->bank,
                      .bank_count = linear->bank_count};
}

static inline bool linear_is_changed(const Linear *linear) {
  return linear->adapter || linear->base || linear->bias_gradient || linear->tokens;
}
static inline const Matrix *linear_base(const Linear *linear) { return linear->base ? linear->base : &linear->weight; }

// Rows first .. first + rows - 1 of a fused projection as one of their own. Its adapter shares A, and dA adds up over the parts.
LinearPart linear_part_rows(Tape *tape, const Linear *linear, int64_t first, int64_t rows);

static inline Tensor *linear_apply(Tape *tape, const Linear *linear, Tensor *x, Tensor *residual) {
  return op_linear(tape, x, linear_part(linear), residual);
}

#endif
