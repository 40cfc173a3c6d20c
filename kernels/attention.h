// Causal attention within documents, grouped heads, online softmax (Dao et al. 2022, "FlashAttention"):
// no T x T matrix is held.
//   s_ij = scale * q_i . k_j for every key j that query i sees, o_i = sum_j softmax_j(s_i) v_j,
//   lse_i = log sum_j exp(s_ij).
// A span is a document: query i (counted from query_begin) sees keys key_begin .. key_end - queries + i, so that
// keys of an earlier context (a KV cache) may come first. With window > 0 it sees only the last `window` of them.
// A span has at least as many keys as queries, and shares no row with another span. Rows of no span are not written.
#ifndef KERNELS_ATTENTION_H
#define KERNELS_ATTENTION_H

#include <stdint.h>

#include "kernels/rows.h"

typedef struct AttentionSpan {
  int64_t query_begin, query_end;  // rows of q and o
  int64_t key_begin, key_end;  // rows of k and v
} AttentionSpan;

typedef struct AttentionShape {
  int64_t heads, kv_heads;  // heads is a multiple of kv_heads; query head h reads KV head h / (heads / kv_heads)
  int64_t head_size, value_size;  // of q and k, and of v and o
  float scale;
  int64_t window;  // 0: all earlier keys
  float softcap;  // 0: none; else s <- softcap * tanh(s / softcap)
} AttentionShape;

// Floats of scratch that the backward pass over `queries` rows of q needs.
static inline int64_t attention_scratch_floats(int64_t queries, const AttentionShape *shape, FloatType type) {
  return queries * shape->heads * (1 + (type == FLOAT_32 ? 0 : shape->head_size));
}

#endif
