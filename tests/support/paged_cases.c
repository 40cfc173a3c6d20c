// Cases of the kernels of kernels/pages.h.
#include <math.h>

#include "tests/support/case_parts.h"
#include "tests/support/pages.h"

static int64_t whole_pages(int64_t tokens) { return (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS; }

// Random pages [page_count][kv_heads] as input `index`; their values are returned. Where is_there is given, other places hold NaN.
static float *put_pages(KernelCase *c, int index, Arena *arena, Rng *rng, int64_t size, const bool *is_there) {
  int64_t heads = c->page_count * c->shape.kv_heads, count = heads * PAGE_TOKENS * size, bytes = heads * page_head_bytes(c->pages, size);
  float *values = normals(arena, rng, count, 1);
  for (int64_t i = 0; i < count && is_there; i++) {
    int64_t row = i / size, page = row / PAGE_TOKENS / c->shape.kv_heads;
    if (!is_there[page * PAGE_TOKENS + row % PAGE_TOKENS]) values[i] = NAN;
  }
  void *pages = arena_new(arena, (size_t)bytes, 1);
  pages_encode(pages, c->pages, values, heads, size);
  pages_values(values, pages, c->pages, heads, size);
  put_input(c, index, pages, bytes);
  return values;
}

static void put_page_outputs(KernelCase *c, int output, const void *pages, Arena *arena, int64_t size) {
  int64_t heads = c->page_count * c->shape.kv_heads, count = heads * PAGE_TOKENS * size;
  int64_t scale_count = c->pages == PAGES_Q8_0 ? count / PAGES_BLOCK : 0;
  float *elements = arena_new(arena, (size_t)count, sizeof *elements), *scales = arena_new(arena, (size_t)scale_count, sizeof *scales);
  pages_elements(elements, scales, pages, c->pages, heads, size);
  put_output(c, output, count, elements);
  if (scale_count) put_output(c, output + 2, scale_count, scales);
}

KernelCase *case_store(Arena *arena, Rng *rng, PagesType type, AttentionShape shape, int64_t pages, int64_t n) {
  KernelCase *c = case_new(arena, OP_store_pages);
  c->n = n, c->shape = shape, c->pages = type, c->page_count = pages;
  put_normals(c, 0, arena, rng, n * shape.kv_heads * shape.head_size);
  put_normals(c, 1, arena, rng, n * shape.kv_heads * shape.value_size);
  int64_t *order = arena_new(arena, (size_t)(pages * PAGE_TOKENS), sizeof *order);
  int32_t *slots = arena_new(arena, (size_t)n, sizeof *slots);
  for (int64_t i = 0; i < pages * PAGE_TOKENS; i++) order[i] = i;
  rng_shuffle(rng, order, pages * PAGE_TOKENS);
  for (int64_t i = 0; i < n; i++) slots[i] = (int32_t)order[i];
  put_input(c, 2, slots, n * (int64_t)sizeof *slots);
  (void)put_pages(c, 3, arena, rng, shape.head_size, NULL);
  (void)put_pages(c, 4, arena, rng, shape.value_size, NULL);
  put_page_outputs(c, 0, c->inputs[3], arena, shape.head_size);
  put_page_outputs(c, 1, c->inputs[4], arena, shape.value_size);
  snprintf(c->description, sizeof c->description, "%s n=%lld pages=%lld heads=%lld sizes=%lld,%lld", pages_type_name(type), (long long)n,
           (long long)pages, (long long)shape.kv_heads, (long long)shape.head_size, (long long)shape.value_size);
  return c;
}

// Tables of spans, each behind a page that does not exist; the places that hold tokens.
static bool *put_tables(KernelCase *c, PagedSpan *spans, Arena *arena, Rng *rng, const int64_t *earlier) {
  int64_t entries = c->span_count + 1, first_shared = 0;
  for (int64_t s = 0; s < c->span_count; s++) entries += whole_pages(spans[s].length);
  c->page_count = entries;  // with some that nobody has
  int32_t *tables = arena_new(arena, (size_t)entries, sizeof *tables);
  int64_t *order = arena_new(arena, (size_t)entries, sizeof *order), at = 0;
  bool *is_there = arena_new(arena, (size_t)(entries * PAGE_TOKENS), sizeof *is_there);
  for (int64_t i = 0; i < entries; i++) order[i] = i, tables[i] = INT32_MAX;
  rng_shuffle(rng, order, entries);
  for (int64_t s = 0; s < c->span_count; s++) {
    spans[s].table = ++at;
    int64_t common = s == 0 ? 0 : (earlier[s] < first_shared ? earlier[s] : first_shared) / PAGE_TOKENS;
    for (int64_t t = 0; t < spans[s].length; t++) {
      int64_t place = t / PAGE_TOKENS, entry = spans[s].table + place;
      if (t % PAGE_TOKENS == 0) tables[entry] = place < common ? tables[spans[0].table + place] : (int32_t)order[entry];
      is_there[tables[entry] * PAGE_TOKENS + t % PAGE_TOKENS] = true;
    }
    if (s == 0) first_shared = earlier[0];
    at += whole_pages(spans[s].length);
  }
  put_input(c, 3, tables, entries * (int64_t)sizeof *tables);
  return is_there;
}

KernelCase *case_paged(Arena *arena, Rng *rng, PagesType type, AttentionShape shape, int64_t span_count, const int64_t *queries,
                       const int64_t *earlier, bool is_alone) {
  KernelCase *c = case_new(arena, OP_paged_attention);
  PagedSpan *spans = arena_new(arena, (size_t)span_count, sizeof *spans);
  c->shape = shape, c->span_count = span_count, c->pages = type;
  c->queries = 1;
  for (int64_t s = 0; s < span_count; s++) {
    spans[s] = (PagedSpan){
        .query_begin = c->queries, .query_end = c->queries + queries[s], .length = queries[s] + earlier[s], .is_alone = is_alone};
    c->queries = spans[s].query_end + 1;
    c->keys = spans[s].length > c->keys ? spans[s].length : c->keys;
  }
  c->n = c->queries;
  put_normals(c, 0, arena, rng, c->n * shape.heads * shape.head_size);
  const bool *is_there = put_tables(c, spans, arena, rng, earlier);
  put_input(c, 4, spans, span_count * (int64_t)sizeof *spans);
  int64_t elements = c->page_count * shape.kv_heads * PAGE_TOKENS;
  const float *keys = put_pages(c, 1, arena, rng, shape.head_size, is_there);
  const float *values = put_pages(c, 2, arena, rng, shape.value_size, is_there);
  put_input(c, 5, keys, elements * shape.head_size * (int64_t)sizeof *keys);
  put_input(c, 6, values, elements * shape.value_size * (int64_t)sizeof *values);
  int64_t count = c->queries * shape.heads * shape.value_size;
  put_output(c, 0, count, normals(arena, rng, count, 0.1));
  snprintf(c->description, sizeof c->description,
           "%s alone=%d spans=%lld queries=%lld keys=%lld heads=%lld/%lld sizes=%lld,%lld scale=%g window=%lld softcap=%g",
           pages_type_name(type), is_alone, (long long)span_count, (long long)c->queries, (long long)c->keys, (long long)shape.heads,
           (long long)shape.kv_heads, (long long)shape.head_size, (long long)shape.value_size, (double)shape.scale, (long long)shape.window,
           (double)shape.softcap);
  return c;
}

KernelCase *case_low_rank_rows(Arena *arena, Rng *rng, int64_t n, int64_t columns, int64_t gap, const int64_t *outs, int64_t out_count,
                               const int64_t *ranks, int64_t rank_count) {
  KernelCase *c = case_new(arena, OP_low_rank_rows);
  c->n = n, c->columns = columns, c->x_step = columns + gap;
  RowGroup *groups = arena_new(arena, (size_t)(out_count * rank_count), sizeof *groups);
  int64_t a = 0, b = 0;
  for (int64_t y = 0; y < out_count; y++) {
    int64_t begin = 0;
    put_output(c, (int)y, n * outs[y], normals(arena, rng, n * outs[y], 1));
    for (int64_t j = 0; j < rank_count; j++) {  // of ranks below 0 nobody asks: their rows have no adapter
      int64_t rank = ranks[j] < 0 ? 0 : ranks[j],
              rows = j + 1 < rank_count ? (int64_t)rng_below(rng, (uint64_t)(n - begin) + 1) : n - begin;
      RowGroup group = {begin, begin + rows, a, b, rank, (int)y, j % 2 ? -0.75f : 2};
      if (ranks[j] >= 0) groups[c->span_count++] = group;
      a += rank * columns, b += rank * outs[y], begin += rows;
      c->scale[y] = fmax(c->scale[y], 2 * sqrt((double)(columns * rank)));
    }
  }
  put_normals(c, 0, arena, rng, n * c->x_step);
  put_normals(c, 1, arena, rng, a);
  put_normals(c, 2, arena, rng, b);
  put_input(c, 3, groups, c->span_count * (int64_t)sizeof *groups);
  snprintf(c->description, sizeof c->description, "n=%lld columns=%lld gap=%lld outputs=%lld groups=%lld", (long long)n, (long long)columns,
           (long long)gap, (long long)out_count, (long long)c->span_count);
  return c;
}
