// Attention of single queries over a long cache (generation): nothing is worth packing for one row. A task has KEYS keys of a span, whose
// rows lie together, and all heads; it leaves for each head the largest score m, l = sum of exp(s - m) and sum of exp(s - m) v. These are
// put together in the order of the keys: o = sum of exp(m_t - M) o_t / sum of exp(m_t - M) l_t, lse = M + log of the latter.
#include <math.h>
#include <string.h>

#include "kernels/cpu/attention.h"

enum { HEAD_VECS = 4 };  // of values are summed at once

typedef struct Single {
  AttentionInputs in;
  void *o;
  float *lse;
  const AttentionSpan *spans;
  const int64_t *first_task;  // [spans + 1]
  int64_t span_count;
  float *parts;  // [tasks][heads][part_floats]
} Single;

// m, l, then the sum of the values.
static int64_t part_floats(const AttentionShape *shape) { return round_up(2 + shape->value_size, VL); }

static float *part_of(const Single *s, int64_t task, int64_t head) {
  return s->parts + (task * s->in.shape.heads + head) * part_floats(&s->in.shape);
}

ALWAYS_INLINE void score_keys(float *scores, const float *q, Rows k, int64_t first, int64_t count, int64_t size, int type) {
  for (int64_t j = 0; j < count; j++) {
    Vec sum = vec_zero();
    for (int64_t c = 0; c < size; c += VL)
      sum = vec_fma(vec_load(q + c), typed_load(k.data, (first + j) * k.step + c, size - c, type), sum);
    scores[j] = vec_sum(sum);
  }
}

ALWAYS_INLINE void sum_values(float *sums, const float *p, Rows v, int64_t first, int64_t count, int64_t size, int type) {
  int64_t c = 0;
  for (; c + HEAD_VECS * VL <= size; c += HEAD_VECS * VL) {
    Vec sum[HEAD_VECS];
    for (int i = 0; i < HEAD_VECS; i++) sum[i] = vec_zero();
    for (int64_t j = 0; j < count; j++)
      for (int i = 0; i < HEAD_VECS; i++)
        sum[i] = vec_fma(vec_set(p[j]), typed_load(v.data, (first + j) * v.step + c + i * VL, VL, type), sum[i]);
    for (int i = 0; i < HEAD_VECS; i++) vec_store(sums + c + i * VL, sum[i]);
  }
  for (; c < size; c += VL) {
    Vec sum = vec_zero();
    for (int64_t j = 0; j < count; j++) sum = vec_fma(vec_set(p[j]), typed_load(v.data, (first + j) * v.step + c, size - c, type), sum);
    vec_store_first(sums + c, sum, size - c);
  }
}

// Scores become exp(s - m); the lanes up to a multiple of VL are written, too.
static void exponentiate(float *scores, int64_t count, float *maximum, float *total, const AttentionShape *shape) {
  Vec largest = vec_set(-INFINITY), sum = vec_zero();
  for (int64_t j = 0; j < count; j += VL) {
    Vec scaled = softcap(vec_set(shape->scale) * vec_load(scores + j), shape->softcap);
    Vec s = vec_select(lanes_between(j, 0, count), scaled, vec_set(-INFINITY));
    vec_store(scores + j, s);
    largest = vec_max(largest, s);
  }
  *maximum = vec_largest(largest);
  for (int64_t j = 0; j < count; j += VL) {
    Vec p = vec_exp(vec_load(scores + j) - vec_set(*maximum));
    vec_store(scores + j, p);
    sum += p;
  }
  *total = vec_sum(sum);
}

// The rows of a head that a task reads: where they are, or, out of pages, in the buffer.
typedef struct TaskRows {
  Rows k, v;
  int64_t first;  // the row of the task's first key
  FloatType type;
} TaskRows;

static TaskRows task_rows(const Single *s, int64_t span, int64_t kv_head, int64_t first, int64_t count, float *buffer) {
  const AttentionShape *shape = &s->in.shape;
  if (!s->in.paged)
    return (TaskRows){rows_from(s->in.k, kv_head * shape->head_size), rows_from(s->in.v, kv_head * shape->value_size), first, s->in.type};
  float *values = buffer + KEYS * shape->head_size;
  paged_rows(buffer, s->in.paged, span, true, kv_head, first, count);
  paged_rows(values, s->in.paged, span, false, kv_head, first, count);
  return (TaskRows){rows_f32(buffer, shape->head_size), rows_f32(values, shape->value_size), 0, FLOAT_32};
}

// Of task `task`, the keys first .. first + count - 1 and all heads of the span's query.
static void attend_keys(const Single *s, int64_t task, int64_t span, int64_t first, int64_t count, float *buffer) {
  const AttentionShape *shape = &s->in.shape;
  int64_t group = shape->heads / shape->kv_heads, query = s->spans[span].query_begin;
  float scores[KEYS] = {0}, *q = buffer;
  TaskRows rows = {0};
  for (int64_t head = 0; head < shape->heads; head++) {
    for (int64_t c = 0; c < shape->head_size; c += VL)
      BY_TYPE(s->in.type,
              vec_store(q + c, typed_load(s->in.q.data, query * s->in.q.step + head * shape->head_size + c, shape->head_size - c, TYPE)));
    if (head % group == 0) rows = task_rows(s, span, head / group, first, count, buffer + round_up(shape->head_size, VL));
    float *part = part_of(s, task, head);
    BY_TYPE(rows.type, score_keys(scores, q, rows.k, rows.first, count, shape->head_size, TYPE));
    exponentiate(scores, count, &part[0], &part[1], shape);
    BY_TYPE(rows.type, sum_values(part + 2, scores, rows.v, rows.first, count, shape->value_size, TYPE));
  }
}

static void attend(void *argument, int64_t task, int thread) {
  const Single *s = argument;
  int64_t index = 0;
  while (task >= s->first_task[index + 1]) index++;
  const AttentionSpan *span = &s->spans[index];
  int64_t query = span->query_begin, tile = seen_tile(span, query, s->in.sight) + (task - s->first_task[index]) * KEYS;
  int64_t first = larger(tile, seen_first(span, query, s->in.sight)), end = smaller(tile + KEYS, seen_end(span, query, s->in.sight));
  attend_keys(s, task, index, first, end - first, backend_scratch(s->in.backend, thread));
}

// The parts of head `head` of a span, put together.
static void join(const Single *s, int64_t index, int64_t head) {
  const AttentionShape *shape = &s->in.shape;
  int64_t begin = s->first_task[index], end = s->first_task[index + 1], query = s->spans[index].query_begin;
  float maximum = -INFINITY, total = 0;
  for (int64_t t = begin; t < end; t++) maximum = fmaxf(maximum, part_of(s, t, head)[0]);
  for (int64_t t = begin; t < end; t++) {
    float *part = part_of(s, t, head);
    part[0] = expf(part[0] - maximum);  // from here on its weight
    total += part[0] * part[1];
  }
  for (int64_t c = 0; c < shape->value_size; c += VL) {
    Vec sum = vec_zero();
    int64_t left = shape->value_size - c;
    for (int64_t t = begin; t < end; t++) {
      const float *part = part_of(s, t, head);
      sum = vec_fma(vec_set(part[0]), vec_load_first(part + 2 + c, left), sum);
    }
    BY_TYPE(s->in.type, typed_store(s->o, (query * shape->heads + head) * shape->value_size + c, sum * vec_set(1 / total), left, TYPE));
  }
  if (s->lse) s->lse[query * shape->heads + head] = maximum + logf(total);
}

static int64_t count_tasks(const AttentionSpan *span, Sight sight) {
  return divide_up(seen_end(span, span->query_begin, sight) - seen_tile(span, span->query_begin, sight), KEYS);
}

void attention_single(void *o, float *lse, const AttentionInputs *in, const AttentionSpan *spans, int64_t span_count) {
  Single single = {.in = *in, .o = o, .lse = lse, .spans = spans, .span_count = span_count};
  int64_t tasks = 0, places = round_up((span_count + 1) * (int64_t)sizeof(int64_t), 64);
  for (int64_t i = 0; i < span_count; i++) tasks += count_tasks(&spans[i], in->sight);
  char *shared = backend_shared_scratch(in->backend, places + tasks * in->shape.heads * part_floats(&in->shape) * (int64_t)sizeof(float));
  int64_t *first_task = (int64_t *)(void *)shared;
  first_task[0] = 0;
  for (int64_t i = 0; i < span_count; i++) first_task[i + 1] = first_task[i] + count_tasks(&spans[i], in->sight);
  single.first_task = first_task;
  single.parts = (float *)(void *)(shared + places);
  pool_run(in->backend->pool, tasks, attend, &single);
  for (int64_t i = 0; i < span_count; i++)
    for (int64_t head = 0; head < in->shape.heads; head++) join(&single, i, head);
}
