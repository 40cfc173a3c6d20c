#include "tests/support/pages.h"

#include <math.h>

#include "formats/block.h"
#include "tests/support/test.h"

static uint8_t *head_at(const void *pages, PagesType type, int64_t head, int64_t size) {
  return (uint8_t *)(uintptr_t)pages + head * page_head_bytes(type, size);
}

static void encode_block(int8_t *levels, uint8_t *scale, const float *x) {
  float largest = 0;
  for (int j = 0; j < PAGES_BLOCK; j++) largest = isfinite(x[j]) && isfinite(largest) ? fmaxf(largest, fabsf(x[j])) : NAN;
  uint16_t half = half_from_float(largest / 127);
  memcpy(scale, &half, sizeof half);
  for (int j = 0; j < PAGES_BLOCK; j++) {
    float level = half_to_float(half) > 0 ? rintf(x[j] / half_to_float(half)) : 0;
    levels[j] = (int8_t)(level > 127 ? 127 : level < -127 ? -127 : level);
  }
}

void pages_encode(void *pages, PagesType type, const float *values, int64_t heads, int64_t size) {
  for (int64_t i = 0; i < heads * PAGE_TOKENS; i++) {
    uint8_t *head = head_at(pages, type, i / PAGE_TOKENS, size);
    int64_t at = i % PAGE_TOKENS * size, first_scale = PAGE_TOKENS * size;
    for (int64_t c = 0; c < size; c++) {
      const float *x = values + i * size + c;
      uint16_t half = half_from_float(*x);
      if (type == PAGES_F32) memcpy(head + (at + c) * 4, x, 4);
      if (type == PAGES_F16) memcpy(head + (at + c) * 2, &half, 2);
      if (type == PAGES_Q8_0 && c % PAGES_BLOCK == 0)
        encode_block((int8_t *)head + at + c, head + first_scale + (at + c) / PAGES_BLOCK * 2, x);
    }
  }
}

void pages_elements(float *elements, float *scales, const void *pages, PagesType type, int64_t heads, int64_t size) {
  for (int64_t i = 0; i < heads * PAGE_TOKENS * size; i++) {
    const uint8_t *head = head_at(pages, type, i / (PAGE_TOKENS * size), size);
    int64_t at = i % (PAGE_TOKENS * size);
    uint16_t half = 0;
    if (type == PAGES_F32) memcpy(&elements[i], head + 4 * at, 4);
    if (type == PAGES_F16) memcpy(&half, head + 2 * at, 2), elements[i] = half_to_float(half);
    if (type == PAGES_Q8_0) elements[i] = ((const int8_t *)head)[at];
    if (type != PAGES_Q8_0 || at % PAGES_BLOCK > 0) continue;
    memcpy(&half, head + PAGE_TOKENS * size + at / PAGES_BLOCK * 2, 2);
    scales[i / PAGES_BLOCK] = half_to_float(half);
  }
}

void pages_values(float *values, const void *pages, PagesType type, int64_t heads, int64_t size) {
  int64_t count = heads * PAGE_TOKENS * size;
  float *scales = memory_new((size_t)(count / PAGES_BLOCK) + 1, sizeof *scales);
  pages_elements(values, scales, pages, type, heads, size);
  for (int64_t i = 0; i < count && type == PAGES_Q8_0; i++) values[i] *= scales[i / PAGES_BLOCK];
  free(scales);
}

static void *sent(const void *host, int64_t bytes, Backend *backend) {
  void *block;
  assert_ok(backend->allocate(&block, bytes, "a test", backend));
  backend->upload(block, host, bytes, backend);
  return block;
}

static float *random_floats(int64_t count, Rng *rng) {
  float *values = memory_new((size_t)count + 1, sizeof *values);
  fill_normal(values, count, 1, rng);
  return values;
}

static float *sent_floats(int64_t count, Rng *rng, Backend *backend) {
  float *values = random_floats(count, rng), *device = sent(values, count * (int64_t)sizeof *values, backend);
  free(values);
  return device;
}

// Two texts in pages of a layer, and rows of queries.
enum { TEXT_PAGES = 12, TEXT_ROWS = 300, FIRST_TABLE = 1, SECOND_TABLE = 1 + TEXT_PAGES, LONG_TABLE = 1 + 2 * TEXT_PAGES };
enum { LONG_PAGES = 300 };  // the same ones again and again
typedef struct Texts {
  AttentionShape shape;
  Pages pages;
  int32_t *tables;
  float *q, *o;  // [TEXT_ROWS, ..]
  int64_t q_row, o_row;
  Backend *backend;
} Texts;

static void *sent_pages(PagesType type, int64_t kv_heads, int64_t size, Rng *rng, Backend *backend) {
  int64_t heads = 2 * TEXT_PAGES * kv_heads, bytes = heads * page_head_bytes(type, size);
  float *values = random_floats(heads * PAGE_TOKENS * size, rng);
  void *pages = memory_new((size_t)bytes, 1);
  pages_encode(pages, type, values, heads, size);
  void *device = sent(pages, bytes, backend);
  free(values);
  free(pages);
  return device;
}

static Texts texts_new(PagesType type, AttentionShape shape, Backend *backend) {
  Rng rng = rng_new(5, RNG_STREAM_TEST);
  Texts t = {.shape = shape, .pages.type = type, .backend = backend};
  t.pages.keys = sent_pages(type, shape.kv_heads, shape.head_size, &rng, backend);
  t.pages.values = sent_pages(type, shape.kv_heads, shape.value_size, &rng, backend);
  int32_t tables[LONG_TABLE + LONG_PAGES] = {INT32_MAX};
  for (int i = 0; i < 2 * TEXT_PAGES + LONG_PAGES; i++) tables[1 + i] = (i * 7 + 3) % (2 * TEXT_PAGES);
  for (int i = 0; i < 2; i++) tables[SECOND_TABLE + i] = tables[FIRST_TABLE + i];  // the texts begin alike
  t.tables = sent(tables, sizeof tables, backend);
  t.q_row = shape.heads * shape.head_size, t.o_row = shape.heads * shape.value_size;
  t.q = sent_floats(TEXT_ROWS * t.q_row, &rng, backend);
  t.o = sent_floats(TEXT_ROWS * t.o_row, &rng, backend);
  return t;
}

static void texts_free(Texts *t) {
  void *blocks[] = {t->pages.keys, t->pages.values, t->tables, t->q, t->o};
  for (int i = 0; i < 5; i++) t->backend->release(blocks[i], t->backend);
}

static void attend(const Texts *t, const PagedSpan *spans, int64_t count) {
  t->backend->kernels->paged_attention(t->o, t->q, &t->pages, t->tables, spans, count, t->shape, t->backend);
}

// The outputs of rows begin .. end - 1, which are cleared. To be freed.
static float *taken(const Texts *t, int64_t begin, int64_t end) {
  int64_t count = (end - begin) * t->o_row;
  float *rows = memory_new((size_t)count, sizeof *rows);
  t->backend->download(rows, t->o + begin * t->o_row, count * (int64_t)sizeof *rows, t->backend);
  t->backend->kernels->fill(t->o + begin * t->o_row, -77, count, t->backend);
  return rows;
}

static void expect_bits(float *rows, float *others, int64_t count, const Texts *t, const char *what) {
  if (memcmp(rows, others, (size_t)count * sizeof *rows) != 0)
    fail_msg("%s, pages of %s, heads %lld/%lld of %lld and %lld, window %lld: other bits %s", t->backend->kernels->name,
             pages_type_name(t->pages.type), (long long)t->shape.heads, (long long)t->shape.kv_heads, (long long)t->shape.head_size,
             (long long)t->shape.value_size, (long long)t->shape.window, what);
  for (int64_t i = 0; i < count; i++) assert_true(isfinite(rows[i]) && rows[i] != -77);
  free(rows);
  free(others);
}

static const AttentionShape text_shapes[] = {{4, 2, 32, 64, 0.2f, 0, 0},  {6, 1, 64, 64, 0.125f, 70, 0}, {3, 3, 40, 24, 0.15f, 0, 8},
                                             {2, 1, 128, 96, 0.1f, 5, 4}, {2, 2, 7, 9, 0.4f, 33, 0},     {10, 1, 32, 32, 0.2f, 0, 0}};

static void for_texts(Backend *backend, bool is_brief, void (*check)(const Texts *t)) {
  for (size_t i = 0; i < sizeof text_shapes / sizeof *text_shapes; i++)
    for (PagesType type = PAGES_F32; type <= PAGES_Q8_0; type++) {
      const AttentionShape *shape = &text_shapes[i];
      if (!pages_type_fits(type, shape->head_size) || !pages_type_fits(type, shape->value_size)) continue;
      if (is_brief && (i + (size_t)type) % 3 > 0) continue;
      Texts t = texts_new(type, *shape, backend);
      check(&t);
      texts_free(&t);
    }
}

static PagedSpan alone_span(int64_t begin, int64_t count, int64_t length, int64_t table) {
  return (PagedSpan){begin, begin + count, length, table, true};
}

// Three rows of a text, as a draft has them, beside a row of another text; as three texts of growing length in another order; one by one.
static void check_alone(const Texts *t) {
  static const int64_t lengths[] = {3, 33, 64, 65, 161, 384};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    int64_t length = lengths[i];
    attend(t, (PagedSpan[]){alone_span(0, 3, length, FIRST_TABLE), alone_span(3, 1, 200, SECOND_TABLE)}, 2);
    float *together = taken(t, 0, 3);
    attend(t,
           (PagedSpan[]){alone_span(2, 1, length, FIRST_TABLE), alone_span(0, 1, length - 2, FIRST_TABLE),
                         alone_span(1, 1, length - 1, FIRST_TABLE)},
           3);
    expect_bits(together, taken(t, 0, 3), 3 * t->o_row, t, "of a row among others of its text");
    for (int64_t row = 0; row < 3; row++) {
      attend(t, (PagedSpan[]){alone_span(row, 1, length - 2 + row, FIRST_TABLE)}, 1);
      float *single = taken(t, row, row + 1);
      attend(t, (PagedSpan[]){alone_span(50, 17, 300, SECOND_TABLE), alone_span(row, 1, length - 2 + row, FIRST_TABLE)}, 2);
      expect_bits(single, taken(t, row, row + 1), t->o_row, t, "of a row among other texts");
    }
  }
}

void pages_rows_are_alone(Backend *backend, bool is_brief) { for_texts(backend, is_brief, check_alone); }

// The rows first .. end - 1 of a text whose row i is token i + before.
static PagedSpan prompt_span(int64_t first, int64_t end, int64_t before) {
  return (PagedSpan){first, end, end + before, FIRST_TABLE, false};
}

static void check_prompts(const Texts *t) {
  enum { ROWS = 131 };
  static const int64_t befores[] = {0, 45, 213}, cuts[][3] = {{1, 1, 1}, {7, 1, 30}, {64, 64, 64}, {50, 100, 2}, {130, 130, 130}};
  for (size_t i = 0; i < sizeof befores / sizeof *befores; i++) {
    PagedSpan whole = prompt_span(0, ROWS, befores[i]);
    attend(t, &whole, 1);
    float *expected = taken(t, 0, ROWS);
    for (size_t cut = 0; cut < sizeof cuts / sizeof *cuts; cut++) {
      bool at_once = (cut + i) % 2;
      PagedSpan spans[ROWS];
      int64_t count = 0;
      for (int64_t first = 0; first < ROWS; count++) {
        int64_t end = first + cuts[cut][count % 3];
        spans[count] = prompt_span(first, end < ROWS ? end : ROWS, befores[i]);
        first = spans[count].query_end;
      }
      for (int64_t s = 0; s < count && !at_once; s++) attend(t, &spans[s], 1);
      if (at_once) attend(t, spans, count);
      float *copy = memory_new(ROWS * (size_t)t->o_row, sizeof *copy);
      memcpy(copy, expected, ROWS * (size_t)t->o_row * sizeof *copy);
      expect_bits(copy, taken(t, 0, ROWS), ROWS * t->o_row, t, at_once ? "of a prompt in spans" : "of a prompt in calls");
    }
    free(expected);
  }
}

// Beside the end of a long prompt, and that by itself.
static void check_long_prompts(const Texts *t) {
  enum { LENGTH = LONG_PAGES * PAGE_TOKENS - 5 };
  const PagedSpan spans[] = {{0, 2, LENGTH, LONG_TABLE, false}, {2, 9, 40, FIRST_TABLE, false}, {9, 10, LENGTH, LONG_TABLE, true}};
  attend(t, spans, 3);
  float *together = taken(t, 0, 10);
  for (int i = 0; i < 3; i++) attend(t, &spans[i], 1);
  expect_bits(together, taken(t, 0, 10), 10 * t->o_row, t, "beside a long prompt");
}

void pages_prompts_may_be_cut(Backend *backend, bool is_brief) {
  for_texts(backend, is_brief, check_long_prompts);
  for_texts(backend, is_brief, check_prompts);
}

// Blocks that begin with something of their own.
static void put_extremes(float *x, int64_t blocks) {
  static const float firsts[] = {0,        1e-45f,   1e-8f,   3e-6f,     NAN,   INFINITY, -INFINITY, 1e7f,
                                 -3.2e38f, 65519.0f, 65520.f, -0x1p-24f, 1e-3f, 127,      -127.5f,   0x1p-14f * 127};
  for (int64_t b = 0; b < blocks; b++) {
    float first = firsts[b % 16];
    for (int64_t j = 0; j < PAGES_BLOCK && (b % 16 < 4 || b % 16 == 11 || b % 16 == 15); j++)
      x[b * PAGES_BLOCK + j] = first * (float)(j - 16) / 16;
    if (b % 16 == 13)
      for (int64_t j = 0; j < PAGES_BLOCK; j++) x[b * PAGES_BLOCK + j] = (float)j + 0.5f;  // ties
    x[b * PAGES_BLOCK + b % PAGES_BLOCK] = first;
  }
}

static void *stored(const float *k, const float *v, const int32_t *slots, int64_t n, PagesType type, AttentionShape shape, int64_t bytes,
                    Backend *backend) {
  char *zeros = memory_new((size_t)bytes, 2), *host = memory_new((size_t)bytes, 2);
  void *blocks[] = {
      sent(zeros, bytes, backend), sent(zeros, bytes, backend), sent(k, n * shape.kv_heads * shape.head_size * (int64_t)sizeof *k, backend),
      sent(v, n * shape.kv_heads * shape.value_size * (int64_t)sizeof *v, backend), sent(slots, n * (int64_t)sizeof *slots, backend)};
  backend->kernels->store_pages(&(Pages){blocks[0], blocks[1], type}, blocks[2], blocks[3], blocks[4], n, shape, backend);
  for (int i = 0; i < 2; i++) backend->download(host + i * bytes, blocks[i], bytes, backend);
  for (int i = 0; i < 5; i++) backend->release(blocks[i], backend);
  free(zeros);
  return host;
}

// To the bit, but for which NaN it is.
static void expect_pages(const void *pages, const void *expected, PagesType type, int64_t size, int64_t heads, const char *name) {
  int64_t count = heads * PAGE_TOKENS * size, all = count + count / PAGES_BLOCK;
  float *values[2];
  for (int i = 0; i < 2; i++) {
    values[i] = memory_new((size_t)all, sizeof(float));
    pages_elements(values[i], values[i] + count, i ? expected : pages, type, heads, size);
  }
  for (int64_t at = 0; at < all; at++)
    if (memcmp(&values[0][at], &values[1][at], sizeof(float)) != 0 && !(isnan(values[0][at]) && isnan(values[1][at])))
      fail_msg("%s: pages of %s, rows of %lld: %s %lld is %.9g, not %.9g", name, pages_type_name(type), (long long)size,
               at < count ? "element" : "scale", (long long)(at < count ? at : at - count), (double)values[0][at], (double)values[1][at]);
  free(values[0]);
  free(values[1]);
}

void pages_are_stored_exactly(Backend *backend, Backend *reference) {
  enum { N = 37, SPREAD = 3 };
  const AttentionShape shape = {.heads = 2, .kv_heads = 2, .head_size = 96, .value_size = 32};
  Rng rng = rng_new(6, RNG_STREAM_TEST);
  for (PagesType type = PAGES_F32; type <= PAGES_Q8_0; type++) {
    float *k = random_floats(N * 2 * 96, &rng), *v = random_floats(N * 2 * 32, &rng);
    int32_t slots[N];
    for (int32_t i = 0; i < N; i++) slots[i] = (i * SPREAD + 5) % (4 * PAGE_TOKENS);
    put_extremes(k, N * 2 * 96 / PAGES_BLOCK);
    put_extremes(v, N * 2 * 32 / PAGES_BLOCK);
    int64_t bytes = 4 * 2 * page_head_bytes(type, 96);
    char *pages = stored(k, v, slots, N, type, shape, bytes, backend), *expected = stored(k, v, slots, N, type, shape, bytes, reference);
    for (int i = 0; i < 2; i++) expect_pages(pages + i * bytes, expected + i * bytes, type, i ? 32 : 96, 4 * 2, backend->kernels->name);
    free(k), free(v), free(pages), free(expected);
  }
}

void low_rank_rows_are_alone(Backend *backend) {
  enum { N = 23, COLUMNS = 200, GROUPS = 3, OUT = 75 };
  static const int64_t ranks[GROUPS] = {16, 5, 33}, ends[GROUPS + 1] = {0, 1, 12, N};
  Rng rng = rng_new(7, RNG_STREAM_TEST);
  float *x = sent_floats(N * COLUMNS, &rng, backend), *y = sent_floats(N * OUT, &rng, backend), *rows[2];
  LowRankRows groups[GROUPS];
  for (int g = 0; g < GROUPS; g++) {
    float *a = sent_floats(ranks[g] * COLUMNS, &rng, backend), *b = sent_floats(OUT * ranks[g], &rng, backend);
    groups[g] = (LowRankRows){ends[g], ends[g + 1], y, a, b, OUT, ranks[g], 0.5f};
  }
  for (int by_row = 0; by_row < 2; by_row++) {
    rows[by_row] = memory_new(N * OUT, sizeof(float));
    backend->kernels->fill(y, 1, N * OUT, backend);
    if (!by_row) backend->kernels->low_rank_rows(groups, GROUPS, rows_f32(x, COLUMNS), COLUMNS, backend);
    for (int g = 0; g < GROUPS && by_row; g++)
      for (int64_t i = groups[g].begin; i < groups[g].end; i++) {
        LowRankRows one = groups[g];
        one.begin = i, one.end = i + 1;
        backend->kernels->low_rank_rows(&one, 1, rows_f32(x, COLUMNS), COLUMNS, backend);
      }
    backend->download(rows[by_row], y, N * OUT * (int64_t)sizeof(float), backend);
  }
  if (memcmp(rows[0], rows[1], N * OUT * sizeof(float)) != 0) fail_msg("%s: other bits of a row by itself", backend->kernels->name);
  for (int i = 0; i < N * OUT; i++) assert_true(rows[0][i] != 1);
  for (int i = 0; i < 2 * GROUPS; i++) backend->release((void *)(uintptr_t)(i % 2 ? groups[i / 2].a : groups[i / 2].b), backend);
  backend->release(x, backend);
  backend->release(y, backend);
  free(rows[0]), free(rows[1]);
}
