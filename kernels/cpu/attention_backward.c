// Backward pass of attention by tiles, with P recomputed from lse (Dao et al. 2022). For a head and a tile:
//   S = scale Q K^T,  P = exp(S - lse) by powers of two,  dP = dO V^T,  dS = P (dP - delta) scale,  delta = rowsum(dO o)
//   dV += P^T dO,  dK += dS^T Q,  dQ += dS K        (a softcap multiplies dS by the slope of its tanh)
// Where spans and KV heads are enough for all threads, a task is one of each and computes a tile once. Else two rounds share
// the work more finely, by keys for dK and dV, by queries for dQ. Either way dQ adds key tiles in order, dK and dV
// heads and query tiles in order: the bits are the same.
#include <string.h>

#include "kernels/cpu/attention.h"

typedef enum Wanted { WANTED_QUERIES = 1, WANTED_KEYS = 2 } Wanted;

typedef struct Backward {
  AttentionInputs in;
  void *dq;  // of `type`
  float *sums;  // dq while it is added up: dq itself where that is float32
  float *delta;
  const float *lse;
  Rows dk, dv, go, o;
  AttentionTask *tasks;
  int wanted;  // a set of Wanted
} Backward;

typedef struct Work {
  BlockRight keys_turned, values_turned, keys;  // K^T, V^T and K of a tile of keys
  void *key_turned_block, *value_turned_block, *key_block;  // where they are laid out,
  void *left, *right;  // and what is multiplied at the moment
  float *scores, *slopes;  // S and dP: [QUERIES, KEYS]
  Rows p, ds;  // P and dS, likewise: the places of S and dP where they are float32
  float *dk, *dv;  // [KEYS, head_size], [KEYS, value_size]
  float *floats;  // room for rows as float32
} Work;

static Work divide_scratch(float *scratch, const AttentionShape *shape, FloatType type) {
  int64_t head = round_up(shape->head_size, TILE_COLUMNS) * KEYS;
  int64_t block = block_bytes(larger(KEYS, QUERIES), larger(larger(shape->head_size, shape->value_size), KEYS)) / (int64_t)sizeof(float);
  Work work = {.key_turned_block = scratch,
               .value_turned_block = scratch + block,
               .key_block = scratch + 2 * block,
               .left = scratch + 3 * block,
               .right = scratch + 4 * block,
               .floats = scratch + 5 * block};
  work.scores = scratch + 6 * block;
  work.slopes = work.scores + QUERIES * KEYS;
  bool in_place = block_type(type) == FLOAT_32;
  work.p = (Rows){in_place ? work.scores : work.slopes + QUERIES * KEYS, KEYS, block_type(type)};
  work.ds = (Rows){in_place ? work.slopes : work.slopes + 2 * QUERIES * KEYS, KEYS, block_type(type)};
  work.dk = work.slopes + 3 * QUERIES * KEYS;
  work.dv = work.dk + head;
  return work;
}

// Row i of P and dS from S and dP; zero where the query does not see the key.
ALWAYS_INLINE void slope_row(const Work *work, int64_t i, int64_t first, int64_t end, int64_t count, float lse, float delta,
                             const AttentionShape *shape, bool is_masked, bool is_capped, int type) {
  int64_t columns = smaller(count, end), row = i * KEYS;
  Vec factor = vec_set(is_capped ? LOG2_E : shape->scale * LOG2_E), shift = vec_set(lse * LOG2_E), scale = vec_set(shape->scale);
  for (int64_t j = 0; j < columns; j += VL) {
    Vec raw = vec_load(work->scores + row + j), capped = is_capped ? softcap(scale * raw, shape->softcap) : raw;
    Vec p = vec_exp2(vec_fma(factor, capped, -shift)), slope = p * (vec_load(work->slopes + row + j) - vec_set(delta)) * scale;
    if (is_capped) slope *= softcap_slope(scale * raw, shape->softcap);
    if (is_masked) {
      VecI seen = lanes_between(j, first, end);
      p = vec_select(seen, p, vec_zero());
      slope = vec_select(seen, slope, vec_zero());
    }
    typed_store(work->p.data, row + j, p, VL, type);
    typed_store(work->ds.data, row + j, slope, VL, type);
  }
  for (int64_t j = round_up(larger(columns, 0), VL); j < KEYS; j += VL) {
    typed_store(work->p.data, row + j, vec_zero(), VL, type);
    typed_store(work->ds.data, row + j, vec_zero(), VL, type);
  }
}

static void slope_rows(const Backward *b, const Work *work, const AttentionSpan *span, int64_t head, int64_t query, int64_t queries,
                       int64_t key, int64_t count) {
  const AttentionShape *shape = &b->in.shape;
  for (int64_t i = 0; i < queries; i++) {
    int64_t first = seen_first(span, query + i, b->in.sight) - key, end = seen_end(span, query + i, b->in.sight) - key;
    int64_t row = (query + i) * shape->heads + head;
    float lse = b->lse[row], delta = b->delta[row];
    bool is_masked = first > 0 || end < round_up(count, VL);
    if (shape->softcap > 0) BY_TYPE(work->p.type, slope_row(work, i, first, end, count, lse, delta, shape, true, true, TYPE));
    else if (is_masked) BY_TYPE(work->p.type, slope_row(work, i, first, end, count, lse, delta, shape, true, false, TYPE));
    else BY_TYPE(work->p.type, slope_row(work, i, 0, count, count, lse, delta, shape, false, false, TYPE));
  }
}

static void differentiate_tile(const Backward *b, const Work *work, const AttentionTask *task, int64_t head, int64_t query, int64_t queries,
                               int64_t key, int64_t keys) {
  const AttentionShape *shape = &b->in.shape;
  int64_t count = seen_count(task->span, query + queries - 1, key, keys, b->in.sight);
  if (count <= 0 || seen_first(task->span, query, b->in.sight) >= key + KEYS) return;
  int64_t row = query * shape->heads + head, head_size = shape->head_size, value_size = shape->value_size;
  Rows q = rows_from(b->in.q, head * head_size), go = rows_from(b->go, head * value_size);
  for (int64_t i = 0; i < queries; i += STEP) {
    int64_t rows = smaller(STEP, queries - i), seen = seen_count(task->span, query + i + rows - 1, key, count, b->in.sight);
    if (seen <= 0) continue;
    BlockLeft left = block_left(work->left, q, query + i, rows, head_size);
    block_multiply(work->scores + i * KEYS, KEYS, left, work->keys_turned, rows, seen, head_size, false);
    left = block_left(work->left, go, query + i, rows, value_size);
    block_multiply(work->slopes + i * KEYS, KEYS, left, work->values_turned, rows, seen, value_size, false);
  }
  slope_rows(b, work, task->span, head, query, queries, key, count);
  if (b->wanted & WANTED_KEYS) {
    BlockRight right = block_right(work->right, go, query, queries, value_size, work->floats);
    BlockLeft left = block_left_turned(work->left, work->p, queries, count);
    block_multiply(work->dv, value_size, left, right, count, value_size, queries, true);
    right = block_right(work->right, q, query, queries, head_size, work->floats);
    left = block_left_turned(work->left, work->ds, queries, count);
    block_multiply(work->dk, head_size, left, right, count, head_size, queries, true);
  }
  for (int64_t i = 0; i < queries && b->wanted & WANTED_QUERIES; i += STEP) {
    int64_t rows = smaller(STEP, queries - i), seen = seen_count(task->span, query + i + rows - 1, key, count, b->in.sight);
    if (seen <= 0) continue;
    BlockLeft left = block_left(work->left, work->ds, i, rows, seen);
    float *sums = b->sums + row * head_size + i * shape->heads * head_size;
    block_multiply(sums, shape->heads * head_size, left, work->keys, rows, head_size, seen, true);
  }
}

// sums[count][columns] into rows from `first` on.
static void store_rows(Rows rows, int64_t first, const float *sums, int64_t count, int64_t columns) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t c = 0; c < columns; c += VL) {
      Vec value = vec_load_first(sums + i * columns + c, columns - c);
      BY_TYPE(rows.type, typed_store(rows.data, (first + i) * rows.step + c, value, columns - c, TYPE));
    }
}

static void differentiate_keys(const Backward *b, Work *work, const AttentionTask *task, int64_t key) {
  const AttentionShape *shape = &b->in.shape;
  int64_t keys = smaller(KEYS, task->span->key_end - key), key_head = task->kv_head * shape->head_size;
  int64_t value_head = task->kv_head * shape->value_size;
  work->values_turned =
      block_right_turned(work->value_turned_block, rows_from(b->in.v, value_head), key, keys, shape->value_size, work->floats);
  work->keys_turned = block_right_turned(work->key_turned_block, rows_from(b->in.k, key_head), key, keys, shape->head_size, work->floats);
  work->keys = block_right(work->key_block, rows_from(b->in.k, key_head), key, keys, shape->head_size, work->floats);
  memset(work->dk, 0, (size_t)(keys * shape->head_size) * sizeof(float));
  memset(work->dv, 0, (size_t)(keys * shape->value_size) * sizeof(float));
  for (int64_t head = task->first_head; head < task->end_head; head++)
    for (int64_t query = task->first_query; query < task->end_query; query += QUERIES)
      differentiate_tile(b, work, task, head, query, smaller(QUERIES, task->end_query - query), key, keys);
  if (!(b->wanted & WANTED_KEYS)) return;
  store_rows(rows_from(b->dk, key_head), key, work->dk, keys, shape->head_size);
  store_rows(rows_from(b->dv, value_head), key, work->dv, keys, shape->value_size);
}

static void differentiate(void *argument, int64_t index, int thread) {
  const Backward *b = argument;
  const AttentionTask *task = &b->tasks[index];
  Work work = divide_scratch(backend_scratch(b->in.backend, thread), &b->in.shape, b->in.type);
  blocks_begin(b->in.type);
  for (int64_t key = task->first_key; key < task->end_key; key += KEYS) differentiate_keys(b, &work, task, key);
  blocks_end(b->in.type);
}

// go . o of `count` (up to VL) rows next to each other from element `at` on, a row to a lane, added in the order in which
// tile_multiply adds go . v: where a query sees one key alone, dP - delta is exactly zero.
ALWAYS_INLINE Vec row_products(const void *go, const void *o, int64_t at, int64_t count, int64_t size, int type) {
  Vec sum = vec_zero();
  for (int64_t c = 0; c < size; c += VL) {
    Vec left[VL], right[VL];
    for (int r = 0; r < VL; r++) {
      left[r] = r < count ? typed_load(go, at + r * size + c, size - c, type) : vec_zero();
      right[r] = r < count ? typed_load(o, at + r * size + c, size - c, type) : vec_zero();
    }
    vec_transpose(left);
    vec_transpose(right);
    for (int q = 0; q < VL; q++) sum = vec_fma(left[q], right[q], sum);
  }
  return sum;
}

// delta, and dq at zero, for a block of queries of all heads.
static void prepare_queries(void *argument, int64_t index, int thread) {
  (void)thread;
  const Backward *b = argument;
  const AttentionTask *task = &b->tasks[index];
  int64_t size = b->in.shape.value_size, first = task->first_query * b->in.shape.heads, end = task->end_query * b->in.shape.heads;
  for (int64_t row = first; row < end; row += VL)
    BY_TYPE(b->in.type, vec_store_first(b->delta + row, row_products(b->go.data, b->o.data, row * size, end - row, size, TYPE), end - row));
  memset(b->sums + first * b->in.shape.head_size, 0, (size_t)((end - first) * b->in.shape.head_size) * sizeof(float));
}

// dq of a block of queries of all heads, rounded to its type.
static void finish_queries(void *argument, int64_t index, int thread) {
  (void)thread;
  const Backward *b = argument;
  const AttentionTask *task = &b->tasks[index];
  int64_t width = b->in.shape.heads * b->in.shape.head_size, first = task->first_query * width, end = task->end_query * width;
  for (int64_t i = first; i < end; i += VL) typed_store(b->dq, i, vec_load_first(b->sums + i, end - i), end - i, FLOAT_BF16);
}

typedef enum Cut { CUT_SPANS, CUT_HEADS, CUT_QUERIES, CUT_KEYS } Cut;

// Shares the work out by spans and blocks of queries, or by spans, KV heads and, further, blocks of queries or keys.
static int64_t make_tasks(Backward *b, const AttentionSpan *spans, int64_t span_count, Cut cut) {
  int64_t count = 0, group = b->in.shape.heads / b->in.shape.kv_heads, kv_heads = cut == CUT_SPANS ? 1 : b->in.shape.kv_heads;
  for (int64_t s = 0; s < span_count; s++) {
    const AttentionSpan *span = &spans[s];
    for (int64_t g = 0; g < kv_heads; g++) {
      AttentionTask task = {span, g, g * group, (g + 1) * group, span->query_begin, span->query_end, span->key_begin, span->key_end};
      if (cut == CUT_HEADS) {
        b->tasks[count++] = task;
      } else if (cut == CUT_KEYS) {
        for (; task.first_key < span->key_end; task.first_key += KEYS) {
          task.end_key = smaller(task.first_key + KEYS, span->key_end);
          b->tasks[count++] = task;
        }
      } else {
        for (; task.first_query < span->query_end; task.first_query += 2 * QUERIES) {
          task.end_query = smaller(task.first_query + 2 * QUERIES, span->query_end);
          task.first_key = seen_tile(span, task.first_query, b->in.sight);
          task.end_key = seen_end(span, task.end_query - 1, b->in.sight);
          b->tasks[count++] = task;
        }
      }
    }
  }
  return count;
}

static int64_t largest_task_count(const AttentionSpan *spans, int64_t span_count, int64_t kv_heads) {
  int64_t count = 0;
  for (int64_t s = 0; s < span_count; s++)
    count += 1 + divide_up(larger(spans[s].query_end - spans[s].query_begin, spans[s].key_end - spans[s].key_begin), KEYS);
  return count * kv_heads;
}

static void differentiate_all(Backward *b, const AttentionSpan *spans, int64_t span_count) {
  ThreadPool *pool = b->in.backend->pool;
  int64_t count = make_tasks(b, spans, span_count, CUT_HEADS), threads = pool_threads(pool);
  if (threads == 1 || count >= 4 * threads) {
    b->wanted = WANTED_QUERIES | WANTED_KEYS;
    pool_run(pool, count, differentiate, b);
    return;
  }
  b->wanted = WANTED_KEYS;
  pool_run(pool, make_tasks(b, spans, span_count, CUT_KEYS), differentiate, b);
  b->wanted = WANTED_QUERIES;
  pool_run(pool, make_tasks(b, spans, span_count, CUT_QUERIES), differentiate, b);
}

void cpu_attention_backward(void *dq, void *dk, void *dv, float *scratch, const void *go, const void *o, const float *lse, const void *q,
                            const void *k, const void *v, FloatType type, const AttentionSpan *spans, int64_t span_count,
                            const int32_t *query_ends, AttentionShape shape, Backend *backend) {
  int64_t queries = 0;
  for (int64_t s = 0; s < span_count; s++) queries = larger(queries, spans[s].query_end);
  Backward b = {.in = attention_inputs(q, k, v, type, query_ends, shape, backend),
                .dq = dq,
                .sums = type == FLOAT_32 ? dq : scratch + queries * shape.heads,
                .delta = scratch,
                .lse = lse,
                .dk = head_rows(dk, shape.kv_heads, shape.head_size, type),
                .dv = head_rows(dv, shape.kv_heads, shape.value_size, type),
                .go = head_rows(go, shape.heads, shape.value_size, type),
                .o = head_rows(o, shape.heads, shape.value_size, type)};
  b.tasks = backend_shared_scratch(backend, (largest_task_count(spans, span_count, shape.kv_heads) + 1) * (int64_t)sizeof *b.tasks);
  pool_run(backend->pool, make_tasks(&b, spans, span_count, CUT_SPANS), prepare_queries, &b);
  differentiate_all(&b, spans, span_count);
  if (type != FLOAT_32) pool_run(backend->pool, make_tasks(&b, spans, span_count, CUT_SPANS), finish_queries, &b);
}
