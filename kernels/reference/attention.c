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
  float *o, *lse;  // of the forward pass
  float *dq, *dk, *dv, *delta;  // of the backward pass
  const float *q, *k, *v, *go, *saved_o, *saved_lse;
  const AttentionSpan *spans;
  AttentionShape shape;
  Backend *backend;
} Attention;

static void add_scaled(double *sums, const float *x, double factor, int64_t n) {
  for (int64_t i = 0; i < n; i++) sums[i] += factor * x[i];
}

static void store_sums(float *out, const double *sums, double factor, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = (float)(factor * sums[i]);
}

static double *zeroed_sums(double *sums, int64_t n) {
  for (int64_t i = 0; i < n; i++) sums[i] = 0;
  return sums;
}

static const float *query_row(const Attention *a, int64_t i, int64_t h) { return a->q + (i * a->shape.heads + h) * a->shape.head_size; }
static const float *key_row(const Attention *a, int64_t j, int64_t g) { return a->k + (j * a->shape.kv_heads + g) * a->shape.head_size; }
static const float *value_row(const Attention *a, int64_t j, int64_t g) { return a->v + (j * a->shape.kv_heads + g) * a->shape.value_size; }
static const float *gradient_row(const Attention *a, int64_t i, int64_t h) {
  return a->go + (i * a->shape.heads + h) * a->shape.value_size;
}

// The keys first .. last that query i (a row of q) of a span sees.
static int64_t last_key(const AttentionSpan *span, int64_t i) { return span->key_end - (span->query_end - i); }

static int64_t first_key(const AttentionSpan *span, int64_t i, int64_t window) {
  int64_t first = window > 0 ? last_key(span, i) - window + 1 : span->key_begin;
  return first > span->key_begin ? first : span->key_begin;
}

static double score(const Attention *a, int64_t i, int64_t h, int64_t j, int64_t g) {
  double raw = a->shape.scale * reference_dot(query_row(a, i, h), key_row(a, j, g), a->shape.head_size);
  return a->shape.softcap > 0 ? a->shape.softcap * tanh(raw / a->shape.softcap) : raw;
}

static void forward_query(const Attention *a, const AttentionSpan *span, int64_t i, int64_t h, int64_t g, double *scratch) {
  double *sums = zeroed_sums(scratch, a->shape.value_size), maximum = -INFINITY, total = 0;
  for (int64_t j = first_key(span, i, a->shape.window); j <= last_key(span, i); j++) {
    double s = score(a, i, h, j, g);
    if (s > maximum) {
      double factor = exp(maximum - s);
      for (int64_t c = 0; c < a->shape.value_size; c++) sums[c] *= factor;
      total *= factor;
      maximum = s;
    }
    double p = exp(s - maximum);
    total += p;
    add_scaled(sums, value_row(a, j, g), p, a->shape.value_size);
  }
  store_sums(a->o + (i * a->shape.heads + h) * a->shape.value_size, sums, 1 / total, a->shape.value_size);
  a->lse[i * a->shape.heads + h] = (float)(maximum + log(total));
}

static void forward_task(void *argument, int64_t task, int thread) {
  const Attention *a = argument;
  const AttentionSpan *span = &a->spans[task / a->shape.kv_heads];
  int64_t g = task % a->shape.kv_heads, group = a->shape.heads / a->shape.kv_heads;
  for (int64_t i = span->query_begin; i < span->query_end; i++)
    for (int64_t h = g * group; h < (g + 1) * group; h++) forward_query(a, span, i, h, g, backend_scratch(a->backend, thread));
}

void reference_attention_forward(float *o, float *lse, const float *q, const float *k, const float *v, const AttentionSpan *spans,
                                 int64_t span_count, AttentionShape shape, Backend *backend) {
  assert(shape.value_size <= (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(double)));
  Attention a = {.o = o, .lse = lse, .q = q, .k = k, .v = v, .spans = spans, .shape = shape, .backend = backend};
  pool_run(backend->pool, span_count * shape.kv_heads, forward_task, &a);
}

// p_ij, and in *slope e_ij of the equations above.
static double probability(const Attention *a, int64_t i, int64_t h, int64_t j, int64_t g, double *slope) {
  int64_t row = i * a->shape.heads + h;
  double s = score(a, i, h, j, g), p = exp(s - a->saved_lse[row]);
  double relative = a->shape.softcap > 0 ? s / a->shape.softcap : 0;
  double dp = reference_dot(gradient_row(a, i, h), value_row(a, j, g), a->shape.value_size);
  *slope = p * (dp - a->delta[row]) * (1 - relative * relative) * a->shape.scale;
  return p;
}

static void backward_query(const Attention *a, const AttentionSpan *span, int64_t i, int64_t h, int64_t g, double *scratch) {
  int64_t row = i * a->shape.heads + h;
  a->delta[row] = (float)reference_dot(gradient_row(a, i, h), a->saved_o + row * a->shape.value_size, a->shape.value_size);
  double *sums = zeroed_sums(scratch, a->shape.head_size), slope;
  for (int64_t j = first_key(span, i, a->shape.window); j <= last_key(span, i); j++) {
    probability(a, i, h, j, g, &slope);
    add_scaled(sums, key_row(a, j, g), slope, a->shape.head_size);
  }
  store_sums(a->dq + row * a->shape.head_size, sums, 1, a->shape.head_size);
}

static void backward_key(const Attention *a, const AttentionSpan *span, int64_t j, int64_t g, double *scratch) {
  const AttentionShape *shape = &a->shape;
  int64_t group = shape->heads / shape->kv_heads;
  double *key_sums = zeroed_sums(scratch, shape->head_size + shape->value_size), *value_sums = key_sums + shape->head_size;
  for (int64_t i = span->query_begin; i < span->query_end; i++) {
    if (j > last_key(span, i) || j < first_key(span, i, shape->window)) continue;
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
      double slope, p = probability(a, i, h, j, g, &slope);
      add_scaled(key_sums, query_row(a, i, h), slope, shape->head_size);
      add_scaled(value_sums, gradient_row(a, i, h), p, shape->value_size);
    }
  }
  store_sums(a->dk + (j * shape->kv_heads + g) * shape->head_size, key_sums, 1, shape->head_size);
  store_sums(a->dv + (j * shape->kv_heads + g) * shape->value_size, value_sums, 1, shape->value_size);
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

void reference_attention_backward(float *dq, float *dk, float *dv, float *delta, const float *go, const float *o, const float *lse,
                                  const float *q, const float *k, const float *v, const AttentionSpan *spans, int64_t span_count,
                                  AttentionShape shape, Backend *backend) {
  assert(shape.head_size + shape.value_size <= (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(double)));
  Attention a = {.dq = dq,
                 .dk = dk,
                 .dv = dv,
                 .delta = delta,
                 .go = go,
                 .saved_o = o,
                 .saved_lse = lse,
                 .q = q,
                 .k = k,
                 .v = v,
                 .spans = spans,
                 .shape = shape,
                 .backend = backend};
  pool_run(backend->pool, span_count * shape.kv_heads, backward_task, &a);
}
