// The kernels of generation beyond the linear layers that bench_kernels.c measures: some texts at once, whose keys and values are in pages of
// float16. All are bound by memory, and have a rate in bytes/s: of pages, of adapters, of weights, each counted once.
#include "cli/bench.h"

enum { TEXTS = 8, LENGTH = 1024, TEXT_PAGES = LENGTH / PAGE_TOKENS, ADAPTERS = 4, RANK = 16, SIDE = 1024 };

typedef struct Generation {
  Pages pages;
  AttentionShape shape;
  float *o, *q, *k, *v;  // k and v of one text
  int32_t *tables, *slots;
  PagedSpan spans[TEXTS];
  LowRankRows adapters[ADAPTERS];
  Rows x, y;  // [TEXTS, SIDE]
  Matrix w;
  Backend *backend;
} Generation;

static void run_store_pages(void *argument) {
  const Generation *g = argument;
  g->backend->kernels->store_pages(&g->pages, g->k, g->v, g->slots, LENGTH, g->shape, g->backend);
}
static void run_paged_attention(void *argument) {
  const Generation *g = argument;
  g->backend->kernels->paged_attention(g->o, g->q, &g->pages, g->tables, g->spans, TEXTS, g->shape, g->backend);
}
static void run_low_rank_rows(void *argument) {
  const Generation *g = argument;
  g->backend->kernels->low_rank_rows(g->adapters, ADAPTERS, g->x, SIDE, g->backend);
}
static void run_linear_forward_rows(void *argument) {
  const Generation *g = argument;
  Projection p = {.w = &g->w, .alpha = 1, .y = g->y};
  g->backend->kernels->linear_forward_rows(&p, 1, g->x, TEXTS, g->backend);
}

static float *floats(BenchMemory *memory, int64_t count) { return bench_activations(memory, count, FLOAT_32); }

static int32_t *numbers(BenchMemory *memory, int64_t count) {
  int32_t *values = arena_new(&memory->arena, (size_t)count, sizeof *values);
  for (int64_t i = 0; i < count; i++) values[i] = (int32_t)i;
  return bench_place(memory, values, count * (int64_t)sizeof *values);
}

static void place_pages(Generation *g, BenchMemory *memory) {
  int64_t heads = TEXTS * TEXT_PAGES * g->shape.kv_heads, elements = heads * page_head_bytes(PAGES_F16, g->shape.head_size) / 2;
  // What has the bits of small numbers in bfloat16 has those of numbers in float16, too.
  g->pages = (Pages){.type = PAGES_F16};
  g->pages.keys = bench_activations(memory, elements, FLOAT_BF16);
  g->pages.values = bench_activations(memory, elements, FLOAT_BF16);
}

static void place_adapters(Generation *g, BenchMemory *memory) {
  float *y = floats(memory, TEXTS * SIDE);
  for (int i = 0; i < ADAPTERS; i++)
    g->adapters[i] = (LowRankRows){.begin = i * TEXTS / ADAPTERS,
                                   .end = (i + 1) * TEXTS / ADAPTERS,
                                   .y = y,
                                   .a = floats(memory, RANK * SIDE),
                                   .b = floats(memory, SIDE * RANK),
                                   .out = SIDE,
                                   .rank = RANK,
                                   .scale = 1};
}

static void add_rate(KernelRates *rates, const char *kernel, int64_t rows, double bytes, BenchFunction run, Generation *g) {
  KernelRate rate = {.instructions = g->backend->kernels->name, .kernel = kernel, .rows = rows};
  rate.bytes = bytes / bench_seconds(run, g, g->backend);
  ARRAY_PUSH(rates->items, rates->count, rates->capacity) = rate;
}

void bench_pages(KernelRates *rates, const BenchShape *s, Backend *backend) {
  BenchMemory memory = {.backend = backend};
  Generation g = {.backend = backend};
  g.shape =
      (AttentionShape){.heads = s->heads, .kv_heads = s->kv_heads, .head_size = s->head_size, .value_size = s->head_size, .scale = 0.125f};
  int64_t row = s->kv_heads * s->head_size;
  place_pages(&g, &memory);
  g.q = floats(&memory, TEXTS * s->heads * s->head_size), g.o = floats(&memory, TEXTS * s->heads * s->head_size);
  g.k = floats(&memory, LENGTH * row), g.v = floats(&memory, LENGTH * row);
  g.tables = numbers(&memory, TEXTS * TEXT_PAGES), g.slots = numbers(&memory, LENGTH);
  for (int64_t i = 0; i < TEXTS; i++) g.spans[i] = (PagedSpan){i, i + 1, LENGTH, i * TEXT_PAGES, true};
  place_adapters(&g, &memory);
  g.x = rows_f32(floats(&memory, TEXTS * SIDE), SIDE), g.y = rows_f32(floats(&memory, TEXTS * SIDE), SIDE);
  g.w = bench_matrix(&memory, BLOCK_Q8_0, SIDE, SIDE);
  add_rate(rates, "linear_forward_rows", TEXTS, (double)(SIDE * block_row_bytes(BLOCK_Q8_0, SIDE)), run_linear_forward_rows, &g);
  add_rate(rates, "paged_attention", TEXTS, 2.0 * TEXTS * LENGTH * (double)row * 2, run_paged_attention, &g);
  add_rate(rates, "low_rank_rows", TEXTS, 2.0 * ADAPTERS * RANK * SIDE * sizeof(float), run_low_rank_rows, &g);
  add_rate(rates, "store_pages", LENGTH, 2.0 * LENGTH * (double)row * (sizeof(float) + 2), run_store_pages, &g);
  bench_release(&memory);
}
