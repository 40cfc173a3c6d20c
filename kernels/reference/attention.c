// Causal attention of kernels/attention.h, one query and one key at a time, in double.
// forward, by the online softmax (Milakov and Gimelshein 2018; Dao et al. 2022), so that no row of scores is held:
//   maximum, sum and o are rescaled when a larger score comes;  lse = maximum + log sum
// backward, with c = softcap (without it s = r and ds/dr = 1):
//   r_ij = scale q_i . k_j,  s_ij = c tanh(r_ij / c),  p_ij = exp(s_ij - lse_i),  delta_i = go_i . o_i
//   dv_j = sum_i p_ij go_i,  e_ij = p_ij (go_i . v_j - delta_i) ds_ij/dr_ij * scale
//   dq_i = sum_j e_ij k_j,   dk_j = sum_i e_ij q_i
// dq goes by queries, dk and dv by keys (over the heads of their group), so that every output has one writer.
// A task is a span and a KV head. Rows of no span are left alone.
#include <assert.h>
#include <math.h>

#include "kernels/reference/reference.h"

typedef struct Attention {
  void *o, *dq, *dk, *dv;
  float *lse, *delta;
  const void *q, *k, *v, *go, *saved_o;
  const float *saved_lse;
  FloatType type;
  const AttentionSpan *spans;
  const int32_t *query_ends;
  AttentionShape shape;
  Backend *backend;
} Attention;

// sums += factor * the n elements of x from `at` on
static void add_scaled(double *sums, const void *x, FloatType type, int64_t at, double factor, int64_t n) {
  for (int64_t i = 0; i < n; i++) sums[i] += factor * reference_load(x, type, at + i);
}

static void store_sums(void *out, FloatType type, int64_t at, const double *sums, double factor, int64_t n) {
  for (int64_t i = 0; i < n; i++) reference_store(out, type, at + i, factor * sums[i]);
}

static double dot(const void *a, int64_t a_at, const void *b, int64_t b_at, FloatType type, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += reference_load(a, type, a_at + i) * reference_load(b, type, b_at + i);
  return sum;
}

static double *zeroed_sums(double *sums, int64_t n) {
  for (int64_t i = 0; i < n; i++) sums[i] = 0;
  return sums;
}

// Where rows of q, of k, of v and of o begin.
static int64_t query_at(const Attention *a, int64_t i, int64_t h) { return (i * a->shape.heads + h) * a->shape.head_size; }
static int64_t key_at(const Attention *a, int64_t j, int64_t g) { return (j * a->shape.kv_heads + g) * a->shape.head_size; }
static int64_t value_at(const Attention *a, int64_t j, int64_t g) { return (j * a->shape.kv_heads + g) * a->shape.value_size; }
static int64_t output_at(const Attention *a, int64_t i, int64_t h) { return (i * a->shape.heads + h) * a->shape.value_size; }

// The keys first .. last that query i (a row of q) of a span sees.
static int64_t last_key(const Attention *a, const AttentionSpan *span, int64_t i) {
  return a->query_ends ? a->query_ends[i] - 1 : span->key_end - (span->query_end - i);
}

static int64_t first_key(const Attention *a, const AttentionSpan *span, int64_t i) {
  int64_t first = a->shape.window > 0 ? last_key(a, span, i) - a->shape.window + 1 : span->key_begin;
  return first > span->key_begin ? first : span->key_begin;
}

static double score(const Attention *a, int64_t i, int64_t h, int64_t j, int64_t g) {
  double raw = a->shape.scale * dot(a->q, query_at(a, i, h), a->k, key_at(a, j, g), a->type, a->shape.head_size);
  return a->shape.softcap > 0 ? a->shape.softcap * tanh(raw / a->shape.softcap) : raw;
}

static void forward_query(const Attention *a, const AttentionSpan *span, int64_t i, int64_t h, int64_t g, double *scratch) {
  double *sums = zeroed_sums(scratch, a->shape.value_size), maximum = -INFINITY, total = 0;
  for (int64_t j = first_key(a, span, i); j <= last_key(a, span, i); j++) {
    double s = score(a, i, h, j, g);
    if (s > maximum) {
      double factor = exp(maximum - s);
      for (int64_t c = 0; c < a->shape.value_size; c++) sums[c] *= factor;
      total *= factor;
      maximum = s;
    }
    double p = exp(s - maximum);
    total += p;
    add_scaled(sums, a->v, a->type, value_at(a, j, g), p, a->shape.value_size);
  }
  store_sums(a->o, a->type, output_at(a, i, h), sums, 1 / total, a->shape.value_size);
  a->lse[i * a->shape.heads + h] = (float)(maximum + log(total));
}

static void forward_task(void *argument, int64_t task, int thread) {
  const Attention *a = argument;
  const AttentionSpan *span = &a->spans[task / a->shape.kv_heads];
  int64_t g = task % a->shape.kv_heads, group = a->shape.heads / a->shape.kv_heads;
  for (int64_t i = span->query_begin; i < span->query_end; i++)
    for (int64_t h = g * group; h < (g + 1) * group; h++) forward_query(a, span, i, h, g, backend_scratch(a->backend, thread));
}

void reference_attention_forward(void *o, float *lse, const void *q, const void *k, const void *v, FloatType type,
                                 const AttentionSpan *spans, int64_t span_count, const int32_t *query_ends, AttentionShape shape,
                                 Backend *backend) {
  assert(shape.value_size <= (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(double)));
  Attention a = {.o = o,
                 .lse = lse,
                 .q = q,
                 .k = k,
                 .v = v,
                 .type = type,
                 .query_ends = query_ends,
                 .spans = spans,
                 .shape = shape,
                 .backend = backend};
  pool_run(backend->pool, span_count * shape.kv_heads, forward_task, &a);
}

// p_ij, and in *slope e_ij of the equations above.
static double probability(const Attention *a, int64_t i, int64_t h, int64_t j, int64_t g, double *slope) {
  int64_t row = i * a->shape.heads + h;
  double s = score(a, i, h, j, g), p = exp(s - a->saved_lse[row]);
  double relative = a->shape.softcap > 0 ? s / a->shape.softcap : 0;
  double dp = dot(a->go, output_at(a, i, h), a->v, value_at(a, j, g), a->type, a->shape.value_size);
  *slope = p * (dp - a->delta[row]) * (1 - relative * relative) * a->shape.scale;
  return p;
}

static void backward_query(const Attention *a, const AttentionSpan *span, int64_t i, int64_t h, int64_t g, double *scratch) {
  int64_t row = i * a->shape.heads + h;
  a->delta[row] = (float)dot(a->go, output_at(a, i, h), a->saved_o, output_at(a, i, h), a->type, a->shape.value_size);
  double *sums = zeroed_sums(scratch, a->shape.head_size), slope;
  for (int64_t j = first_key(a, span, i); j <= last_key(a, span, i); j++) {
    probability(a, i, h, j, g, &slope);
    add_scaled(sums, a->k, a->type, key_at(a, j, g), slope, a->shape.head_size);
  }
  store_sums(a->dq, a->type, query_at(a, i, h), sums, 1, a->shape.head_size);
}

static void backward_key(const Attention *a, const AttentionSpan *span, int64_t j, int64_t g, double *scratch) {
  const AttentionShape *shape = &a->shape;
  int64_t group = shape->heads / shape->kv_heads;
  double *key_sums = zeroed_sums(scratch, shape->head_size + shape->value_size), *value_sums = key_sums + shape->head_size;
  for (int64_t i = span->query_begin; i < span->query_end; i++) {
    if (j > last_key(a, span, i) || j < first_key(a, span, i)) continue;
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
      double slope, p = probability(a, i, h, j, g, &slope);
      add_scaled(key_sums, a->q, a->type, query_at(a, i, h), slope, shape->head_size);
      add_scaled(value_sums, a->go, a->type, output_at(a, i, h), p, shape->value_size);
    }
  }
  store_sums(a->dk, a->type, key_at(a, j, g), key_sums, 1, shape->head_size);
  store_sums(a->dv, a->type, value_at(a, j, g), value_sums, 1, shape->value_size);
}

static void backward_task(void *argument, int64_t task, int thread) {
  const Attention *a = argument;
  const AttentionSpan *span = &a->spans[task / a->shape.kv_heads];
  int64_t g = task % a->shape.kv_heads, group = a->shape.heads / a->shape.kv_heads;
  double *scratch = backend_scratch(a->backend, thread);
  for (int64_t i = span->query_begin; i < span->query_end; i++)
    for (int64_t h = g * group; h < (g + 1) * group; h++) backward_query(a, span, i, h, g, scratch);
  for (int64_t j = span->key_begin; j < span->key_end; j++) backward_key(a, span, j, g, scratch);
}

void reference_attention_backward(void *dq, void *dk, void *dv, float *scratch, const void *go, const void *o, const float *lse,
                                  const void *q, const void *k, const void *v, FloatType type, const AttentionSpan *spans,
                                  int64_t span_count, const int32_t *query_ends, AttentionShape shape, Backend *backend) {
  assert(shape.head_size + shape.value_size <= (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(double)));
  Attention a = {.dq = dq,
                 .dk = dk,
                 .dv = dv,
                 .delta = scratch,
                 .go = go,
                 .saved_o = o,
                 .saved_lse = lse,
                 .q = q,
                 .k = k,
                 .v = v,
                 .type = type,
                 .query_ends = query_ends,
                 .spans = spans,
                 .shape = shape,
                 .backend = backend};
  pool_run(backend->pool, span_count * shape.kv_heads, backward_task, &a);
}
