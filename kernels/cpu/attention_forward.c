// Attention of kernels/attention.h by tiles with the online softmax (Milakov and Gimelshein 2018; Dao et al. 2022).
// A task owns a block of queries of some heads that share a KV head. For each tile of keys it packs K^T and V once, and
// for each of its heads: S = scale log2(e) Q K^T; m' = max(m, rowmax S), P = 2^(S - m'), O <- 2^(m - m') O + P V, and l, the
// sum of P, likewise. At the end o = O / l, lse = ln 2 (m + log2 l). Tiles that no query of a block sees are skipped.
// Any m that is near enough does: it is left as it is while S stays below m + SLACK.
#include <math.h>
#include <string.h>

#include "kernels/cpu/attention.h"

enum { TASK_HEADS = 8, SLACK = 8, SUMS_BYTES = 2 << 20 };

typedef struct Forward {
  AttentionInputs in;
  void *o;
  float *lse;
  const AttentionSpan *spans;
  const AttentionTask *tasks;
} Forward;

typedef struct Work {
  BlockRight keys, values;  // K^T [head_size, KEYS] and V [KEYS, value_size]
  void *key_block, *value_block, *left;  // where they are laid out, and Q or P
  float *scores;  // [QUERIES, KEYS]
  Rows p;  // [QUERIES, KEYS]: the scores' place where it is float32
  float *sums;  // O: [heads of the task, queries of the task, value_size]
  float *maxima, *totals;  // m: [heads, queries]; l, in VL parts: [heads, queries, VL]
  float *floats;  // room for rows of k or v: [KEYS, head_size or value_size]
} Work;

static Work divide_scratch(float *scratch, const AttentionShape *shape, int64_t rows, FloatType type) {
  int64_t block = block_bytes(larger(KEYS, QUERIES), larger(larger(shape->head_size, shape->value_size), KEYS)) / (int64_t)sizeof(float);
  Work work = {.key_block = scratch, .value_block = scratch + block, .left = scratch + 2 * block};
  work.scores = scratch + 3 * block;
  work.maxima = work.scores + QUERIES * KEYS;
  work.totals = work.maxima + round_up(rows, 16);
  work.floats = work.totals + round_up(rows, 16) * VL;
  work.p = (Rows){block_type(type) == FLOAT_32 ? work.scores : work.floats + block, KEYS, block_type(type)};
  work.sums = work.floats + 2 * block;
  return work;
}

// Scores first .. end - 1 of a row stay, softcapped and divided by the scale; the others of 0 .. count - 1 become -infinity.
static void mask_row(float *scores, int64_t first, int64_t end, int64_t count, const AttentionShape *shape) {
  for (int64_t j = 0; j < count; j += VL) {
    Vec s = vec_load(scores + j);
    if (shape->softcap > 0) s = softcap(vec_set(shape->scale) * s, shape->softcap) * vec_set(1 / shape->scale);
    vec_store(scores + j, vec_select(lanes_between(j, first, end), s, vec_set(-INFINITY)));
  }
}

// 2^x ends at 2^-126: what a query does not see would still be heard where all that it sees is zero, and how much of it there is depends on
// the queries beside it.
static void clear_outside(Rows p, int64_t i, int64_t first, int64_t end, int64_t count) {
  int64_t bytes = float_bytes(p.type);
  char *row = (char *)p.data + i * KEYS * bytes;
  if (first > 0) memset(row, 0, (size_t)(first * bytes));
  if (end < count) memset(row + end * bytes, 0, (size_t)((count - end) * bytes));
}

// A larger m for a row, and what has been summed up with the former one.
static void raise_maximum(float *maximum, float *total, float *sums, float larger_one, int64_t value_size) {
  Vec factor = vec_exp2(vec_set(*maximum - larger_one));
  *maximum = larger_one;
  vec_store(total, factor * vec_load(total));
  for (int64_t c = 0; c < value_size; c += VL) vec_store_first(sums + c, factor * vec_load_first(sums + c, value_size - c), value_size - c);
}

// Row i of P from scores of which some are no -infinity. `factor`: scale log2(e).
ALWAYS_INLINE void update_row(Rows p, int64_t i, const float *scores, int64_t count, float factor, float *maximum, float *total,
                              float *sums, int64_t value_size, int type) {
  Vec largest = vec_load(scores);
  for (int64_t j = VL; j < count; j += VL) largest = vec_max(largest, vec_load(scores + j));
  if (vec_any_above(vec_set(factor) * largest, vec_set(*maximum + SLACK)))
    raise_maximum(maximum, total, sums, factor * vec_largest(largest), value_size);
  Vec sum = vec_zero(), m = vec_set(*maximum);
  for (int64_t j = 0; j < count; j += VL) {
    Vec value = vec_exp2(vec_set(factor) * vec_load(scores + j) - m);
    typed_store(p.data, i * KEYS + j, value, VL, type);
    sum += value;
  }
  for (int64_t j = round_up(count, VL); j < KEYS; j += VL) typed_store(p.data, i * KEYS + j, vec_zero(), VL, type);
  vec_store(total, vec_load(total) + sum);
}

// Adds what the keys of a tile say to `queries` queries of one head.
static void attend_tile(const Forward *f, const Work *work, const AttentionTask *task, int64_t head, int64_t query, int64_t queries,
                        int64_t key) {
  const AttentionShape *shape = &f->in.shape;
  int64_t count = seen_count(task->span, query + queries - 1, key, KEYS, f->in.sight);  // keys that the last, so any, query sees
  if (count <= 0 || seen_first(task->span, query, f->in.sight) >= key + KEYS) return;
  int64_t task_queries = task->end_query - task->first_query, row = (head - task->first_head) * task_queries + query - task->first_query;
  Rows q = rows_from(f->in.q, head * shape->head_size);
  for (int64_t i = 0; i < queries; i += STEP) {
    int64_t rows = smaller(STEP, queries - i), seen = seen_count(task->span, query + i + rows - 1, key, count, f->in.sight);
    if (seen <= 0) continue;
    BlockLeft left = block_left(work->left, q, query + i, rows, shape->head_size);
    block_multiply(work->scores + i * KEYS, KEYS, left, work->keys, rows, seen, shape->head_size, false);
  }
  for (int64_t i = 0; i < queries; i++) {
    int64_t first = seen_first(task->span, query + i, f->in.sight) - key, end = seen_end(task->span, query + i, f->in.sight) - key;
    float *scores = work->scores + i * KEYS;
    if (first >= KEYS || end <= 0) {
      memset((char *)work->p.data + i * KEYS * float_bytes(work->p.type), 0, (size_t)(KEYS * float_bytes(work->p.type)));
      continue;
    }
    int64_t columns = smaller(round_up(end, VL), round_up(count, VL)), state = row + i;  // what has to be computed of the row
    bool is_masked = first > 0 || end < columns;
    if (is_masked || shape->softcap > 0) mask_row(scores, first, end, columns, shape);
    BY_TYPE(work->p.type, update_row(work->p, i, scores, columns, shape->scale * LOG2_E, &work->maxima[state], work->totals + state * VL,
                                     work->sums + state * shape->value_size, shape->value_size, TYPE));
    if (is_masked) clear_outside(work->p, i, first, end, columns);
  }
  for (int64_t i = 0; i < queries; i += STEP) {
    int64_t rows = smaller(STEP, queries - i), seen = seen_count(task->span, query + i + rows - 1, key, count, f->in.sight);
    if (seen <= 0) continue;
    BlockLeft left = block_left(work->left, work->p, i, rows, seen);
    block_multiply(work->sums + (row + i) * shape->value_size, shape->value_size, left, work->values, rows, shape->value_size, seen, true);
  }
}

static void store_rows(const Forward *f, const Work *work, const AttentionTask *task) {
  const AttentionShape *shape = &f->in.shape;
  int64_t row = 0;
  for (int64_t h = task->first_head; h < task->end_head; h++)
    for (int64_t i = task->first_query; i < task->end_query; i++, row++) {
      const float *sums = work->sums + row * shape->value_size;
      int64_t o = (i * shape->heads + h) * shape->value_size;
      float total = vec_sum(vec_load(work->totals + row * VL));
      Vec factor = vec_set(1 / total);
      for (int64_t c = 0; c < shape->value_size; c += VL) {
        Vec value = factor * vec_load_first(sums + c, shape->value_size - c);
        BY_TYPE(f->in.type, typed_store(f->o, o + c, value, shape->value_size - c, TYPE));
      }
      if (f->lse) f->lse[i * shape->heads + h] = work->maxima[row] * LN_2 + logf(total);
    }
}

static void pack_tile(const Forward *f, Work *work, const AttentionTask *task, int64_t key, int64_t keys) {
  const AttentionShape *shape = &f->in.shape;
  const PagedRows *paged = f->in.paged;
  Rows k = rows_from(f->in.k, task->kv_head * shape->head_size), v = rows_from(f->in.v, task->kv_head * shape->value_size);
  int64_t first = key, span = task->span - f->spans;
  if (paged) {
    paged_rows(work->floats, paged, span, true, task->kv_head, key, keys);
    k = rows_f32(work->floats, shape->head_size), v = rows_f32(work->floats, shape->value_size), first = 0;
  }
  work->keys = block_right_turned(work->key_block, k, first, keys, shape->head_size, work->floats);
  if (paged) paged_rows(work->floats, paged, span, false, task->kv_head, key, keys);
  work->values = block_right(work->value_block, v, first, keys, shape->value_size, work->floats);
}

static void attend(void *argument, int64_t index, int thread) {
  const Forward *f = argument;
  const AttentionTask *task = &f->tasks[index];
  const AttentionShape *shape = &f->in.shape;
  int64_t rows = (task->end_head - task->first_head) * (task->end_query - task->first_query);
  Work work = divide_scratch(backend_scratch(f->in.backend, thread), shape, rows, f->in.type);
  memset(work.sums, 0, (size_t)(rows * shape->value_size) * sizeof(float));
  memset(work.totals, 0, (size_t)(rows * VL) * sizeof(float));
  for (int64_t row = 0; row < rows; row++) work.maxima[row] = -INFINITY;
  blocks_begin(f->in.type);
  for (int64_t key = task->first_key; key < task->end_key; key += KEYS) {
    pack_tile(f, &work, task, key, smaller(KEYS, task->span->key_end - key));
    for (int64_t head = task->first_head; head < task->end_head; head++)
      for (int64_t query = task->first_query; query < task->end_query; query += QUERIES)
        attend_tile(f, &work, task, head, query, smaller(QUERIES, task->end_query - query), key);
  }
  blocks_end(f->in.type);
  store_rows(f, &work, task);
}

void attention_tiles(void *o, float *lse, const AttentionInputs *in, const AttentionSpan *spans, int64_t span_count) {
  const AttentionShape *shape = &in->shape;
  int64_t group = shape->heads / shape->kv_heads, queries = group == 1 ? 2 * QUERIES : QUERIES, count = 0;
  int64_t fitting = SUMS_BYTES / (queries * shape->value_size * (int64_t)sizeof(float)), heads = smaller(group, TASK_HEADS);
  heads = larger(1, smaller(heads, fitting));
  for (int64_t s = 0; s < span_count; s++)
    count += divide_up(spans[s].query_end - spans[s].query_begin, queries) * shape->kv_heads * divide_up(group, heads);
  AttentionTask *tasks = backend_shared_scratch(in->backend, (count + 1) * (int64_t)sizeof *tasks), *task = tasks;
  for (int64_t s = 0; s < span_count; s++) {
    const AttentionSpan *span = &spans[s];
    int64_t blocks = divide_up(span->query_end - span->query_begin, queries);
    for (int64_t block = blocks - 1; block >= 0; block--)  // those that see most first
      for (int64_t g = 0; g < shape->kv_heads; g++)
        for (int64_t h = 0; h < group; h += heads) {
          int64_t first = span->query_begin + block * queries, end = smaller(first + queries, span->query_end);
          *task++ = (AttentionTask){span,
                                    g,
                                    g * group + h,
                                    g * group + smaller(h + heads, group),
                                    first,
                                    end,
                                    seen_tile(span, first, in->sight),
                                    seen_end(span, end - 1, in->sight)};
        }
  }
  Forward forward = {*in, o, lse, spans, tasks};
  pool_run(in->backend->pool, count, attend, &forward);
}

static bool are_single(const AttentionSpan *spans, int64_t span_count) {
  for (int64_t i = 0; i < span_count; i++)
    if (spans[i].query_end - spans[i].query_begin != 1) return false;
  return span_count > 0;
}

void cpu_attention_forward(void *o, float *lse, const void *q, const void *k, const void *v, FloatType type, const AttentionSpan *spans,
                           int64_t span_count, const int32_t *query_ends, AttentionShape shape, Backend *backend) {
  AttentionInputs in = attention_inputs(q, k, v, type, query_ends, shape, backend);
  (are_single(spans, span_count) ? attention_single : attention_tiles)(o, lse, &in, spans, span_count);
}
