// Keys and values in pages (kernels/pages.h) for the attention of attention_single.c and attention_forward.c: rows of one head, some tiles' worth at a
// time, become float32 rows next to each other, which those read as they read any. Spans whose queries are alone become one span a query.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/dequantize.h"

// Level rows of a page and head, and their scales.
static const int8_t *page_levels(const void *head, int64_t place, int64_t size) { return (const int8_t *)head + place * size; }
static const uint16_t *page_scales(const void *head, int64_t place, int64_t size) {
  const char *scales = (const char *)head + PAGE_TOKENS * size;
  return (const uint16_t *)(const void *)scales + place * (size / PAGES_BLOCK);
}

static void load_halves(float *out, const uint16_t *half, int64_t count) {
  int64_t i = 0;
  for (; i + VL <= count; i += VL) vec_store(out + i, vec_load_half(half + i));
  for (; i < count; i++) out[i] = half_to_float(half[i]);
}

static void load_levels(float *out, const int8_t *levels, const uint16_t *scales, int64_t count) {
  for (int64_t block = 0; block < count / PAGES_BLOCK; block++) {
    float d = half_to_float(scales[block]);
    const int8_t *from = levels + block * PAGES_BLOCK;
    float *to = out + block * PAGES_BLOCK;
    for (int i = 0; i < PAGES_BLOCK; i++) to[i] = d * (float)from[i];
  }
}

// `count` rows from place `place` on of a page and head.
static void load_rows(float *out, const void *head, PagesType type, int64_t place, int64_t count, int64_t size) {
  if (type == PAGES_F32) {
    memcpy(out, (const float *)head + place * size, (size_t)(count * size) * sizeof *out);
  } else if (type == PAGES_F16) {
    load_halves(out, (const uint16_t *)head + place * size, count * size);
  } else {
    for (int64_t r = 0; r < count; r++)
      load_levels(out + r * size, page_levels(head, place + r, size), page_scales(head, place + r, size), size);
  }
}

void paged_rows(float *out, const PagedRows *paged, int64_t span, bool are_keys, int64_t kv_head, int64_t first, int64_t count) {
  int64_t size = are_keys ? paged->shape.head_size : paged->shape.value_size, bytes = page_head_bytes(paged->pages->type, size);
  const char *block = are_keys ? paged->pages->keys : paged->pages->values;
  const int32_t *table = paged->tables + paged->first_entries[span];
  for (int64_t done = 0; done < count;) {
    int64_t token = first + done, place = token % PAGE_TOKENS, rows = smaller(PAGE_TOKENS - place, count - done);
    const char *head = block + (table[token / PAGE_TOKENS] * paged->shape.kv_heads + kv_head) * bytes;
    load_rows(out + done * size, head, paged->pages->type, place, rows, size);
    done += rows;
  }
}

typedef struct Store {
  const Pages *pages;
  const float *k, *v;
  const int32_t *slots;
  int64_t kv_heads, head_size, value_size;
} Store;

static void store_levels(int8_t *levels, uint16_t *scales, const float *x, int64_t count) {
  for (int64_t block = 0; block < count / PAGES_BLOCK; block++, x += PAGES_BLOCK, levels += PAGES_BLOCK) {
    float largest = 0;
    bool is_finite = true;
    for (int i = 0; i < PAGES_BLOCK; i++) {
      largest = fmaxf(largest, fabsf(x[i]));
      is_finite = is_finite && isfinite(x[i]);
    }
    scales[block] = half_from_float(is_finite ? largest / 127 : NAN);
    float d = half_to_float(scales[block]);
    for (int i = 0; i < PAGES_BLOCK; i++) levels[i] = is_finite && d > 0 ? (int8_t)fminf(fmaxf(rintf(x[i] / d), -127), 127) : 0;
  }
}

static void store_halves(uint16_t *out, const float *x, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    __m128i eight = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
    memcpy(out + i, &eight, sizeof eight);
  }
  for (; i < count; i++) out[i] = half_from_float(x[i]);
}

static void store_row(char *head, PagesType type, int64_t place, const float *x, int64_t size) {
  if (type == PAGES_F32) memcpy((float *)(void *)head + place * size, x, (size_t)size * sizeof *x);
  else if (type == PAGES_F16) store_halves((uint16_t *)(void *)head + place * size, x, size);
  else store_levels((int8_t *)head + place * size, (uint16_t *)(void *)(head + PAGE_TOKENS * size) + place * (size / PAGES_BLOCK), x, size);
}

static void store_some(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Store *s = argument;
  int64_t key_bytes = page_head_bytes(s->pages->type, s->head_size), value_bytes = page_head_bytes(s->pages->type, s->value_size);
  for (int64_t i = begin; i < end; i++)
    for (int64_t g = 0; g < s->kv_heads; g++) {
      int64_t head = s->slots[i] / PAGE_TOKENS * s->kv_heads + g, place = s->slots[i] % PAGE_TOKENS;
      store_row((char *)s->pages->keys + head * key_bytes, s->pages->type, place, s->k + (i * s->kv_heads + g) * s->head_size,
                s->head_size);
      store_row((char *)s->pages->values + head * value_bytes, s->pages->type, place, s->v + (i * s->kv_heads + g) * s->value_size,
                s->value_size);
    }
}

void cpu_store_pages(const Pages *pages, const float *k, const float *v, const int32_t *slots, int64_t n, AttentionShape shape,
                     Backend *backend) {
  Store store = {pages, k, v, slots, shape.kv_heads, shape.head_size, shape.value_size};
  run_rows(backend, n, shape.kv_heads * (shape.head_size + shape.value_size), store_some, &store);
}

void cpu_paged_attention(float *o, const float *q, const Pages *pages, const int32_t *tables, const PagedSpan *spans, int64_t span_count,
                         AttentionShape shape, Backend *backend) {
  int64_t most = 0;
  for (int64_t s = 0; s < span_count; s++) most += spans[s].is_alone ? spans[s].query_end - spans[s].query_begin : 1;
  AttentionSpan *own = memory_new((size_t)most, sizeof *own);  // the shared scratch is for the attention itself
  int64_t *entries = memory_new((size_t)most, sizeof *entries);
  PagedRows paged = {.pages = pages, .tables = tables, .shape = shape};
  for (int alone = 0; alone < 2; alone++) {
    int64_t count = 0;
    for (int64_t s = 0; s < span_count; s++) {
      const PagedSpan *span = &spans[s];
      if (span->is_alone != (bool)alone) continue;
      int64_t end = span->query_end, step = alone ? 1 : end - span->query_begin;
      for (int64_t i = span->query_begin; i < end; i += step) {
        entries[count] = span->table;
        own[count++] = (AttentionSpan){i, i + step, 0, span->length - (end - (i + step))};
      }
    }
    if (count == 0) continue;
    AttentionInputs in = attention_inputs(q, NULL, NULL, FLOAT_32, NULL, shape, backend);
    paged.first_entries = entries;
    in.paged = &paged;
    if (alone) attention_single(o, NULL, &in, own, count);
    else attention_tiles(o, NULL, &in, own, count);
  }
  free(own);
  free(entries);
}
