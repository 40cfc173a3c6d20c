// Generation's kernels of kernels/pages.h: rows of keys and values go into pages, attention reads them there, and adapters of a batch's rows.
//   o_i = sum_t softmax_t(s_it) v_t,  s_it = cap(scale q_i . k_t),  over the tokens t of i's text that it sees, in order, in double
//   y_i += scale (x_i a^T) b^T, for each group's rows i
// A task is a token, a query, or a row of a group.
#include <assert.h>
#include <math.h>

#include "kernels/reference/reference.h"

typedef struct PagedRun {
  const Pages *pages;
  const float *k, *v;
  const int32_t *slots;
  float *o;
  const float *q;
  const int32_t *tables;
  const PagedSpan *span;
  AttentionShape shape;
  Backend *backend;
} PagedRun;

// Where one head's PAGE_TOKENS rows of a page begin.
static char *page_head(void *data, const Pages *pages, int64_t page, int64_t g, int64_t kv_heads, int64_t size) {
  return (char *)data + (page * kv_heads + g) * page_head_bytes(pages->type, size);
}

static uint16_t *page_scales(char *head, int64_t place, int64_t size) {
  return (uint16_t *)(void *)(head + PAGE_TOKENS * size) + place * (size / PAGES_BLOCK);
}

static double load_page(char *head, PagesType type, int64_t place, int64_t size, int64_t c) {
  int64_t at = place * size + c;
  if (type == PAGES_F32) return ((const float *)(void *)head)[at];
  if (type == PAGES_F16) return half_to_float(((const uint16_t *)(void *)head)[at]);
  return (double)half_to_float(page_scales(head, place, size)[c / PAGES_BLOCK]) * ((const int8_t *)head)[at];
}

static void store_block(int8_t *levels, uint16_t *scale, const float *x) {
  float largest = 0;
  bool is_finite = true;
  for (int j = 0; j < PAGES_BLOCK; j++) {
    is_finite = is_finite && isfinite(x[j]);
    largest = fmaxf(largest, fabsf(x[j]));
  }
  *scale = half_from_float(is_finite ? largest / 127 : NAN);
  float d = half_to_float(*scale);
  for (int j = 0; j < PAGES_BLOCK; j++)  // a tiny d may have been rounded to much less
    levels[j] = (int8_t)(is_finite && d > 0 ? fmaxf(-127, fminf(127, rintf(x[j] / d))) : 0);
}

static void store_row(char *head, PagesType type, int64_t place, int64_t size, const float *x) {
  for (int64_t c = 0; c < size; c++) {
    if (type == PAGES_F32) ((float *)(void *)head)[place * size + c] = x[c];
    if (type == PAGES_F16) ((uint16_t *)(void *)head)[place * size + c] = half_from_float(x[c]);
    if (type == PAGES_Q8_0 && c % PAGES_BLOCK == 0)
      store_block((int8_t *)head + place * size + c, page_scales(head, place, size) + c / PAGES_BLOCK, x + c);
  }
}

static void store_task(void *argument, int64_t i, int thread) {
  (void)thread;
  const PagedRun *run = argument;
  const AttentionShape *shape = &run->shape;
  int64_t page = run->slots[i] / PAGE_TOKENS, place = run->slots[i] % PAGE_TOKENS, key_size = shape->head_size, size = shape->value_size;
  for (int64_t g = 0; g < shape->kv_heads; g++) {
    int64_t row = i * shape->kv_heads + g;
    char *keys = page_head(run->pages->keys, run->pages, page, g, shape->kv_heads, key_size);
    char *values = page_head(run->pages->values, run->pages, page, g, shape->kv_heads, size);
    store_row(keys, run->pages->type, place, key_size, run->k + row * key_size);
    store_row(values, run->pages->type, place, size, run->v + row * size);
  }
}

void reference_store_pages(const Pages *pages, const float *k, const float *v, const int32_t *slots, int64_t n, AttentionShape shape,
                           Backend *backend) {
  PagedRun run = {.pages = pages, .k = k, .v = v, .slots = slots, .shape = shape};
  pool_run(backend->pool, n, store_task, &run);
}

static double paged_score(const PagedRun *run, const float *q, char *keys, int64_t place) {
  double sum = 0;
  for (int64_t c = 0; c < run->shape.head_size; c++)
    sum += (double)q[c] * load_page(keys, run->pages->type, place, run->shape.head_size, c);
  sum *= run->shape.scale;
  return run->shape.softcap > 0 ? run->shape.softcap * tanh(sum / run->shape.softcap) : sum;
}

// By the online softmax, as attention.c does it. The tokens begin .. end - 1 of the text are seen.
static void paged_head(const PagedRun *run, int64_t i, int64_t h, int64_t begin, int64_t end, double *sums) {
  const AttentionShape *shape = &run->shape;
  int64_t g = h / (shape->heads / shape->kv_heads), size = shape->value_size;
  double maximum = -INFINITY, total = 0;
  for (int64_t c = 0; c < size; c++) sums[c] = 0;
  for (int64_t t = begin; t < end; t++) {
    int64_t page = run->tables[run->span->table + t / PAGE_TOKENS];
    char *keys = page_head(run->pages->keys, run->pages, page, g, shape->kv_heads, shape->head_size);
    char *values = page_head(run->pages->values, run->pages, page, g, shape->kv_heads, size);
    double s = paged_score(run, run->q + (i * shape->heads + h) * shape->head_size, keys, t % PAGE_TOKENS);
    if (s > maximum) {
      double factor = exp(maximum - s);
      for (int64_t c = 0; c < size; c++) sums[c] *= factor;
      total *= factor, maximum = s;
    }
    double p = exp(s - maximum);
    total += p;
    for (int64_t c = 0; c < size; c++) sums[c] += p * load_page(values, run->pages->type, t % PAGE_TOKENS, size, c);
  }
  for (int64_t c = 0; c < size; c++) run->o[(i * shape->heads + h) * size + c] = (float)(sums[c] / total);
}

static void paged_task(void *argument, int64_t task, int thread) {
  const PagedRun *run = argument;
  int64_t i = run->span->query_begin + task, window = run->shape.window;
  int64_t end = run->span->length - (run->span->query_end - 1 - i), begin = window > 0 && end > window ? end - window : 0;
  for (int64_t h = 0; h < run->shape.heads; h++) paged_head(run, i, h, begin, end, backend_scratch(run->backend, thread));
}

void reference_paged_attention(float *o, const float *q, const Pages *pages, const int32_t *tables, const PagedSpan *spans,
                               int64_t span_count, AttentionShape shape, Backend *backend) {
  assert(shape.value_size <= (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(double)));
  PagedRun run = {.pages = pages, .o = o, .q = q, .tables = tables, .shape = shape, .backend = backend};
  for (run.span = spans; run.span < spans + span_count; run.span++)
    pool_run(backend->pool, run.span->query_end - run.span->query_begin, paged_task, &run);
}

typedef struct LowRankRun {
  const LowRankRows *group;
  Rows x;
  int64_t columns;
  Backend *backend;
} LowRankRun;

static void low_rank_task(void *argument, int64_t task, int thread) {
  const LowRankRun *run = argument;
  const LowRankRows *group = run->group;
  int64_t i = group->begin + task;
  double *h = backend_scratch(run->backend, thread);
  for (int64_t r = 0; r < group->rank; r++) {
    h[r] = 0;
    for (int64_t c = 0; c < run->columns; c++)
      h[r] += reference_load(run->x.data, run->x.type, i * run->x.step + c) * group->a[r * run->columns + c];
  }
  for (int64_t j = 0; j < group->out; j++) {
    double sum = 0;
    for (int64_t r = 0; r < group->rank; r++) sum += h[r] * group->b[j * group->rank + r];
    group->y[i * group->out + j] = (float)(group->y[i * group->out + j] + group->scale * sum);
  }
}

void reference_low_rank_rows(const LowRankRows *groups, int count, Rows x, int64_t columns, Backend *backend) {
  LowRankRun run = {.x = x, .columns = columns, .backend = backend};
  for (run.group = groups; run.group < groups + count; run.group++) {
    assert(run.group->rank <= (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(double)));
    pool_run(backend->pool, run.group->end - run.group->begin, low_rank_task, &run);
  }
}
