// Products and attention by themselves. Each kernel is called in one place, a function of a few lines.
#include <float.h>
#include <stdlib.h>

#include "cli/bench.h"
#include "core/log.h"
#include "kernels/loss.h"

double bench_seconds(BenchFunction function, void *argument, Backend *backend) {
  const double wanted = 0.025, sample = 1e-3;
  function(argument);  // pages and caches are warm after this one
  backend->check(backend);
  double begin = time_seconds();
  function(argument);
  backend->check(backend);
  double best = time_seconds() - begin, total = best;
  int64_t repeats = best < sample ? (int64_t)(sample / (best + 1e-9)) + 1 : 1;
  for (int samples = 1; (total < wanted || samples < 3) && total < 1; samples++) {
    double start = time_seconds();
    for (int64_t i = 0; i < repeats; i++) function(argument);
    backend->check(backend);
    double seconds = time_seconds() - start;
    total += seconds;
    if (seconds / (double)repeats < best) best = seconds / (double)repeats;
  }
  return best > 0 ? best : DBL_MIN;
}

BenchPeak bench_peak(Backend *backend) {
  const Kernels *kernels = backend->kernels;
  BenchPeak peak = {
      .float32 = kernels->peak_flops(FLOAT_32, backend), .half = kernels->peak_flops(FLOAT_BF16, backend), .half_type = FLOAT_BF16};
  if (peak.half == 0) peak = (BenchPeak){peak.float32, kernels->peak_flops(FLOAT_F16, backend), FLOAT_F16};
  return peak;
}

// Activations of each kind are measured: is_half = 0 .. has_half(peak).
static int has_half(BenchPeak peak) { return peak.half > 0; }
static FloatType type_of(BenchPeak peak, int is_half) { return is_half ? peak.half_type : FLOAT_32; }
static double peak_of(BenchPeak peak, FloatType type) { return type == FLOAT_32 ? peak.float32 : peak.half; }

// Small numbers that are neither denormal nor all alike.
static float *host_floats(Arena *arena, int64_t count) {
  float *values = arena_new(arena, (size_t)count, sizeof *values);
  uint32_t state = 1;
  for (int64_t i = 0; i < count; i++) {
    state = state * 1664525u + 1013904223u;
    values[i] = (float)((int32_t)(state >> 8) - (1 << 23)) * 0x1p-27f;
  }
  return values;
}

void *bench_activations(BenchMemory *memory, int64_t count, FloatType type) {
  float *values = host_floats(&memory->arena, count);
  uint16_t *halves = (uint16_t *)(void *)values;  // each is written behind what is read
  for (int64_t i = 0; type != FLOAT_32 && i < count; i++)
    halves[i] = type == FLOAT_BF16 ? bfloat16_from_float(values[i]) : half_from_float(values[i]);
  return bench_place(memory, values, count * float_bytes(type));
}

static float *floats(BenchMemory *memory, int64_t count) { return bench_activations(memory, count, FLOAT_32); }

static Matrix host_matrix(Arena *arena, BlockType type, int64_t rows, int64_t columns) {
  Matrix w = {.type = type, .rows = rows, .columns = columns};
  int64_t count = rows * columns;
  if (type == BLOCK_NF4) {
    Arena scratch = {0};
    nf4_quantize(&w.nf4, arena_new(arena, (size_t)nf4_bytes(count), 1), host_floats(&scratch, count), count);
    arena_release(&scratch);
    return w;
  }
  const BlockTraits *traits = block_traits(type);
  int64_t bytes = rows * block_row_bytes(type, columns);
  uint8_t *blocks = arena_new(arena, (size_t)bytes, 1);
  w.data = blocks;
  if (traits->elements == 1) {  // plain floats
    Arena scratch = {0};
    traits->quantize(blocks, host_floats(&scratch, count), NULL, count);
    arena_release(&scratch);
    return w;
  }
  uint32_t state = 1;
  for (int64_t i = 0; i < bytes; i++) {
    state = state * 1664525u + 1013904223u;
    blocks[i] = state >> 24 & 0x3f;  // where two of them are a scale, it is a half below 2
  }
  // Scales in other forms would be too small for float32, and their products slow.
  for (int64_t i = 0; i < bytes; i += traits->bytes) {
    if (type == BLOCK_MXFP4) blocks[i] = 120;
    if (type == BLOCK_Q8_K) memcpy(blocks + i, &(float){0.01f}, sizeof(float));
  }
  return w;
}

Matrix bench_matrix(BenchMemory *memory, BlockType type, int64_t rows, int64_t columns) {
  Matrix w = host_matrix(&memory->arena, type, rows, columns);
  bench_place_matrix(memory, &w);
  return w;
}

static void add_rate(KernelRates *rates, KernelRate rate, double flop, double bytes, double seconds, double peak) {
  rate.flops = flop / seconds;
  rate.bytes = bytes / seconds;
  rate.share = peak > 0 ? rate.flops / peak : 0;
  ARRAY_PUSH(rates->items, rates->count, rates->capacity) = rate;
}

typedef struct LinearCall {
  const Matrix *w;
  BlockType type;  // what w was before the device had it
  Rows x, y;  // [rows, w.columns] and [rows, w.rows]
  int64_t rows;
  Backend *backend;
} LinearCall;

static void call_linear_forward(void *argument) {
  const LinearCall *call = argument;
  Projection p = {.w = call->w, .alpha = 1, .y = call->y};
  call->backend->kernels->linear_forward(&p, 1, call->x, call->rows, call->backend);
}

static void call_linear_forward_int8(void *argument) {
  const LinearCall *call = argument;
  Projection p = {.w = call->w, .alpha = 1, .y = call->y};
  call->backend->kernels->linear_forward_int8(&p, 1, call->x, call->rows, call->backend);
}

static void call_linear_backward(void *argument) {
  const LinearCall *call = argument;
  Projection p = {.w = call->w, .alpha = 1, .y = call->y};
  call->backend->kernels->linear_backward(call->x, &p, 1, call->rows, false, call->backend);
}

// One product with each number of rows; what the one before foretells to be slow is left out, and said to be.
static void bench_product(KernelRates *rates, BenchFunction function, const char *kernel, LinearCall *call, const int64_t *rows, int count,
                          int64_t first, double peak) {
  double slowest = 0;  // seconds a row
  for (int i = 0; i < count; i++) {
    if (rows[i] < first) continue;
    const Matrix *w = call->w;
    KernelRate rate = {.instructions = call->backend->kernels->name,
                       .kernel = kernel,
                       .activations = call->x.type,
                       .weights = call->type == BLOCK_DEVICE ? "device" : block_traits(call->type)->name,
                       .out = w->rows,
                       .in = w->columns,
                       .rows = rows[i],
                       .is_slow = slowest * (double)rows[i] > BENCH_SLOW_SECONDS};
    if (rate.is_slow) {
      ARRAY_PUSH(rates->items, rates->count, rates->capacity) = rate;
      continue;
    }
    call->rows = rows[i];
    double seconds = bench_seconds(function, call, call->backend);
    slowest = seconds / (double)rows[i];
    add_rate(rates, rate, 2.0 * (double)rows[i] * (double)w->rows * (double)w->columns, 0, seconds, peak);
  }
}

void bench_linear(KernelRates *rates, const Matrix *w, BlockType weights, const int64_t *rows, int count, int64_t first_backward,
                  BenchPeak peak, Backend *backend) {
  int64_t most = rows[count - 1];
  Matrix before = {.type = weights};
  for (int is_half = 0; is_half <= has_half(peak); is_half++) {
    FloatType type = type_of(peak, is_half);
    BenchMemory memory = {.backend = backend};
    Rows x = {bench_activations(&memory, most * w->columns, type), w->columns, type},
         y = {bench_activations(&memory, most * w->rows, type), w->rows, type};
    LinearCall call = {.w = w, .type = weights, .x = x, .y = y, .backend = backend};
    bench_product(rates, call_linear_forward, "linear_forward", &call, rows, count, 0, peak_of(peak, type));
    bench_product(rates, call_linear_backward, "linear_backward", &call, rows, count, first_backward, peak_of(peak, type));
    if (type == FLOAT_32 && matrix_has_integer_levels(&before))  // of generation
      bench_product(rates, call_linear_forward_int8, "linear_forward_int8", &call, rows, rows[0] == 1, 0, peak_of(peak, type));
    bench_release(&memory);
  }
}

typedef struct LossCall {
  const Matrix *head;
  Rows x, dx;
  int32_t *targets;
  float *nll, *scale, *scratch;
  int64_t rows;
  Backend *backend;
} LossCall;

static void call_linear_cross_entropy(void *argument) {
  const LossCall *c = argument;
  c->backend->kernels->linear_cross_entropy(c->nll, c->dx, c->x, c->head, c->targets, c->scale, c->rows, c->scratch, 0, c->backend);
}

void bench_loss(KernelRates *rates, const Matrix *head, int64_t rows, BenchPeak peak, Backend *backend) {
  for (int is_half = 0; is_half <= has_half(peak); is_half++) {
    FloatType type = type_of(peak, is_half);
    BenchMemory memory = {.backend = backend};
    LossCall call = {.head = head, .rows = rows, .backend = backend};
    call.x = (Rows){bench_activations(&memory, rows * head->columns, type), head->columns, type};
    call.dx = (Rows){bench_activations(&memory, rows * head->columns, type), head->columns, type};
    call.targets = arena_new(&memory.arena, (size_t)rows, sizeof *call.targets);
    call.targets = bench_place(&memory, call.targets, rows * (int64_t)sizeof *call.targets);
    call.nll = floats(&memory, rows);
    call.scale = floats(&memory, rows);
    call.scratch = floats(&memory, linear_cross_entropy_floats(rows, head->rows, head->columns));
    KernelRate rate = {.instructions = backend->kernels->name, .kernel = "linear_cross_entropy", .activations = type};
    rate.out = head->rows, rate.in = head->columns, rate.rows = rows;
    double flop = 4.0 * (double)rows * (double)head->rows * (double)head->columns;
    add_rate(rates, rate, flop, 0, bench_seconds(call_linear_cross_entropy, &call, backend), peak_of(peak, type));
    bench_release(&memory);
  }
}

// Every row goes through two of the experts.
typedef struct ExpertCall {
  ExpertMatrices experts;
  Rows x, y;
  int32_t *chosen;
  float *weights, *dweights, *scratch;
  int64_t rows;
  Backend *backend;
} ExpertCall;

static void call_experts_forward(void *argument) {
  const ExpertCall *c = argument;
  c->backend->kernels->experts_forward(c->y, c->x, &c->experts, c->chosen, c->weights, c->rows, false, c->scratch, c->backend);
}

static void call_experts_backward(void *argument) {
  const ExpertCall *c = argument;
  c->backend->kernels->experts_backward(c->y, c->dweights, c->x, c->x, &c->experts, c->chosen, c->weights, c->rows, false, c->scratch,
                                        c->backend);
}

void bench_experts(KernelRates *rates, int64_t rows, BenchPeak peak, Backend *backend) {
  enum { EXPERTS = 8, USED = 2, HIDDEN = 512, WIDTH = 256 };
  for (int is_half = 0; is_half <= has_half(peak); is_half++) {
    FloatType type = type_of(peak, is_half);
    BenchMemory memory = {.backend = backend};
    Matrix matrices[3][EXPERTS];
    for (int e = 0; e < EXPERTS; e++)
      for (int i = 0; i < 3; i++) matrices[i][e] = bench_matrix(&memory, BLOCK_Q8_0, i == 2 ? HIDDEN : WIDTH, i == 2 ? WIDTH : HIDDEN);
    ExpertCall call = {.rows = rows, .backend = backend};
    call.experts = (ExpertMatrices){matrices[0], matrices[1], matrices[2], EXPERTS, USED, HIDDEN, WIDTH, ACTIVATION_SILU};
    call.x = (Rows){bench_activations(&memory, rows * HIDDEN, type), HIDDEN, type};
    call.y = rows_f32(floats(&memory, rows * HIDDEN), HIDDEN);
    call.chosen = arena_new(&memory.arena, (size_t)(rows * USED), sizeof *call.chosen);
    for (int64_t p = 0; p < rows * USED; p++) call.chosen[p] = (int32_t)((p + p / EXPERTS) % EXPERTS);
    call.chosen = bench_place(&memory, call.chosen, rows * USED * (int64_t)sizeof *call.chosen);
    call.weights = floats(&memory, rows * USED);
    call.dweights = floats(&memory, rows * USED);
    int64_t forward = backend->kernels->experts_scratch_floats(rows, &call.experts, type, false, backend);
    int64_t backward = backend->kernels->experts_scratch_floats(rows, &call.experts, type, true, backend);
    call.scratch = floats(&memory, forward > backward ? forward : backward);
    KernelRate rate = {.instructions = backend->kernels->name, .activations = type, .rows = rows};
    rate.out = WIDTH, rate.in = HIDDEN;
    // Three products of a row and an expert; backward two of these again, and three more.
    double product = 2.0 * (double)(rows * USED) * HIDDEN * WIDTH;
    rate.kernel = "experts_forward";
    add_rate(rates, rate, 3 * product, 0, bench_seconds(call_experts_forward, &call, backend), peak_of(peak, type));
    rate.kernel = "experts_backward";
    add_rate(rates, rate, 5 * product, 0, bench_seconds(call_experts_backward, &call, backend), peak_of(peak, type));
    bench_release(&memory);
  }
}

// LoRA's factors: a of [rank, width] with its x, and b of [width, rank] with its dy.
typedef struct LowRankCall {
  float *gradient, *b;
  Rows wide, h, dh;
  int64_t rank, width, rows;
  Backend *backend;
} LowRankCall;

static void call_weight_backward(void *argument) {
  const LowRankCall *call = argument;
  WeightGradient gradient = {.dw = call->gradient, .dy = call->dh, .rows = call->rank, .alpha = 1};
  call->backend->kernels->weight_backward(&gradient, 1, call->wide, call->width, call->rows, call->backend);
}

static void call_low_rank_backward(void *argument) {
  const LowRankCall *call = argument;
  LowRankGradient gradient = {.dy = call->wide, .b = call->b, .db = call->gradient, .out = call->width, .rank = call->rank, .scale = 1};
  gradient.h = call->h;
  gradient.dh = call->dh;
  call->backend->kernels->low_rank_backward(&gradient, 1, call->rows, call->backend);
}

void bench_low_rank(KernelRates *rates, int64_t rank, int64_t width, int64_t rows, BenchPeak peak, Backend *backend) {
  for (int is_half = 0; is_half <= has_half(peak); is_half++) {
    FloatType type = type_of(peak, is_half);
    BenchMemory memory = {.backend = backend};
    LowRankCall call = {.rank = rank, .width = width, .rows = rows, .backend = backend};
    call.gradient = floats(&memory, rank * width);
    call.b = floats(&memory, rank * width);
    call.wide = (Rows){bench_activations(&memory, rows * width, type), width, type};
    call.h = (Rows){bench_activations(&memory, rows * rank, type), rank, type};
    call.dh = (Rows){bench_activations(&memory, rows * rank, type), rank, type};
    double product = 2.0 * (double)rows * (double)rank * (double)width;
    KernelRate rate = {.instructions = backend->kernels->name, .activations = type, .out = rank, .in = width, .rows = rows};
    rate.kernel = "weight_backward";
    add_rate(rates, rate, product, 0, bench_seconds(call_weight_backward, &call, backend), peak_of(peak, type));
    rate.kernel = "low_rank_backward";
    add_rate(rates, rate, 2 * product, 0, bench_seconds(call_low_rank_backward, &call, backend), peak_of(peak, type));
    bench_release(&memory);
  }
}

typedef struct AttentionCall {
  void *o, *q, *k, *v, *dq, *dk, *dv, *go;
  float *lse, *scratch;
  FloatType type;
  AttentionSpan *spans;
  int64_t documents;
  AttentionShape shape;
  Backend *backend;
} AttentionCall;

static void call_attention_forward(void *argument) {
  const AttentionCall *c = argument;
  c->backend->kernels->attention_forward(c->o, c->lse, c->q, c->k, c->v, c->type, c->spans, c->documents, NULL, c->shape, c->backend);
}

static void call_attention_backward(void *argument) {
  const AttentionCall *c = argument;
  c->backend->kernels->attention_backward(c->dq, c->dk, c->dv, c->scratch, c->go, c->o, c->lse, c->q, c->k, c->v, c->type, c->spans,
                                          c->documents, NULL, c->shape, c->backend);
}

static AttentionCall attention_call(BenchMemory *memory, const BenchShape *s, int64_t documents, int64_t length, FloatType type,
                                    Backend *backend) {
  int64_t n = documents * length, heads = n * s->heads, queries = heads * s->head_size, keys = n * s->kv_heads * s->head_size;
  AttentionCall call = {
      .spans = arena_new(&memory->arena, (size_t)documents, sizeof *call.spans), .documents = documents, .type = type, .backend = backend};
  void **query_like[] = {&call.o, &call.q, &call.dq, &call.go}, **key_like[] = {&call.k, &call.v, &call.dk, &call.dv};
  for (int i = 0; i < 4; i++)
    *query_like[i] = bench_activations(memory, queries, type), *key_like[i] = bench_activations(memory, keys, type);
  call.lse = floats(memory, heads);
  for (int64_t d = 0; d < documents; d++) call.spans[d] = (AttentionSpan){d * length, (d + 1) * length, d * length, (d + 1) * length};
  call.shape =
      (AttentionShape){.heads = s->heads, .kv_heads = s->kv_heads, .head_size = s->head_size, .value_size = s->head_size, .scale = 0.125f};
  call.scratch = floats(memory, attention_scratch_floats(n, &call.shape, type));
  return call;
}

void bench_attention(KernelRates *rates, const BenchShape *shape, int64_t documents, int64_t length, BenchPeak peak, Backend *backend) {
  // Half of the T x T scores are there; forward computes q k^T and p v, backward these scores again and four products more.
  double product = (double)documents * (double)(length * (length + 1)) * (double)(shape->heads * shape->head_size);
  for (int is_half = 0; is_half <= has_half(peak); is_half++) {
    FloatType type = type_of(peak, is_half);
    BenchMemory memory = {.backend = backend};
    AttentionCall call = attention_call(&memory, shape, documents, length, type, backend);
    KernelRate rate = {
        .instructions = backend->kernels->name, .activations = type, .out = documents, .in = length, .rows = documents * length};
    rate.kernel = "attention_forward";
    add_rate(rates, rate, 2 * product, 0, bench_seconds(call_attention_forward, &call, backend), peak_of(peak, type));
    rate.kernel = "attention_backward";
    add_rate(rates, rate, 5 * product, 0, bench_seconds(call_attention_backward, &call, backend), peak_of(peak, type));
    bench_release(&memory);
  }
}
