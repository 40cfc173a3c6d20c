// What the forward and the backward pass of attention share: tiles of queries and keys, who sees whom, tasks.
#ifndef KERNELS_CPU_ATTENTION_H
#define KERNELS_CPU_ATTENTION_H

#include "kernels/cpu/block.h"

// A tile of scores is QUERIES x KEYS; tiles start at multiples of these from the span's first query and key, so that
// no sum depends on how the work was shared out. STEP queries are multiplied at once: later ones see more of the tile's keys.
#ifdef __AMX_BF16__
enum { QUERIES = 128, KEYS = 128, STEP = 32 };
#else
enum { QUERIES = (48 + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS, KEYS = 64, STEP = QUERIES };
#endif

// Some query heads of one KV head, some queries and keys of one span.
typedef struct AttentionTask {
  const AttentionSpan *span;
  int64_t kv_head, first_head, end_head, first_query, end_query, first_key, end_key;
} AttentionTask;

// The keys that query i (a row of q) of a span sees: seen_first .. seen_end - 1. Both grow with i.
typedef struct Sight {
  int64_t window;  // 0: none
  const int32_t *query_ends;  // NULL: the queries are the span's last rows
} Sight;
static inline int64_t seen_end(const AttentionSpan *span, int64_t i, Sight sight) {
  return sight.query_ends ? sight.query_ends[i] : span->key_end - span->query_end + i + 1;
}
static inline int64_t seen_first(const AttentionSpan *span, int64_t i, Sight sight) {
  return sight.window > 0 ? larger(span->key_begin, seen_end(span, i, sight) - sight.window) : span->key_begin;
}

static inline Rows head_rows(const void *data, int64_t heads, int64_t size, FloatType type) {
  return (Rows){(void *)(uintptr_t)data, heads * size, type};
}

// Keys and values in pages.
typedef struct PagedRows {
  const Pages *pages;
  const int32_t *tables;
  const int64_t *first_entries;  // [spans]: where in tables each span's pages begin
  AttentionShape shape;
} PagedRows;

// What all passes read. `shape` and the rest as in kernels/backend.h.
typedef struct AttentionInputs {
  Rows q, k, v;
  const PagedRows *paged;  // k and v are there, and spans' keys begin at 0; NULL: they are rows
  FloatType type;
  AttentionShape shape;
  Sight sight;
  Backend *backend;
} AttentionInputs;
static inline AttentionInputs attention_inputs(const void *q, const void *k, const void *v, FloatType type, const int32_t *query_ends,
                                               AttentionShape shape, Backend *backend) {
  return (AttentionInputs){.q = head_rows(q, shape.heads, shape.head_size, type),
                           .k = head_rows(k, shape.kv_heads, shape.head_size, type),
                           .v = head_rows(v, shape.kv_heads, shape.value_size, type),
                           .type = type,
                           .shape = shape,
                           .sight = {shape.window, query_ends},
                           .backend = backend};
}

// How many of `count` keys from `key` on query i, and so any before it, sees at most; none if it is not positive.
static inline int64_t seen_count(const AttentionSpan *span, int64_t i, int64_t key, int64_t count, Sight sight) {
  return smaller(count, seen_end(span, i, sight) - key);
}

// The first key of the tile that holds the first key that query i sees.
static inline int64_t seen_tile(const AttentionSpan *span, int64_t i, Sight sight) {
  return span->key_begin + (seen_first(span, i, sight) - span->key_begin) / KEYS * KEYS;
}

// All ones in lanes first <= at + lane < end.
static inline VecI lanes_between(int64_t at, int64_t first, int64_t end) {
  VecI lanes = vec_lanes() + (int32_t)at;
  return (lanes >= vec_set_int((int32_t)first)) & (lanes < vec_set_int((int32_t)end));
}

static const float LN_2 = 0.693147181f;

static inline Vec softcap(Vec s, float cap) {
  if (cap > 0) return vec_set(cap) * vec_tanh(s / vec_set(cap));
  return s;
}

// 1 - tanh(s / cap)^2 = 4 e / (1 + e)^2 with e = exp(-2 |s| / cap): precise where tanh is near one, too.
static inline Vec softcap_slope(Vec s, float cap) {
  if (cap <= 0) return vec_set(1);
  Vec e = vec_exp(vec_abs(s) * vec_set(-2 / cap)), sum = vec_set(1) + e;
  return vec_set(4) * e / (sum * sum);
}

// out[count, head_size or value_size] = the rows of a head of tokens first .. first + count - 1 of a span.
#define paged_rows ISA_NAME(paged_rows)
void paged_rows(float *out, const PagedRows *paged, int64_t span, bool are_keys, int64_t kv_head, int64_t first, int64_t count);

// The forward pass where each span has one query, and for any spans. lse may be NULL.
#define attention_single ISA_NAME(attention_single)
void attention_single(void *o, float *lse, const AttentionInputs *in, const AttentionSpan *spans, int64_t span_count);
#define attention_tiles ISA_NAME(attention_tiles)
void attention_tiles(void *o, float *lse, const AttentionInputs *in, const AttentionSpan *spans, int64_t span_count);

#endif
