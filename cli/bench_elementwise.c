// The kernels whose time is that of their memory, in bytes/s: each array that a kernel reads or writes counts once, one that
// it updates twice, 4 bytes an element.
#include "cli/bench.h"
#include "kernels/adamw_8bit.h"

enum { FLOATS = 5, ROUTED = 64, ROUTED_USED = 8 };

typedef struct Elements {
  float *a, *b, *c, *d, *e;  // [capacity]
  float *w;  // [columns]
  float *frequencies;  // [head_size / 2]
  float *row_values;  // [rows]
  int32_t *ids;  // [rows]: 0, 1, ...
  int32_t *chosen;  // [rows, ROUTED_USED]: experts
  float *routed;  // the same shape
  double *sum;  // the host's
  int64_t rows, columns, count;  // count = rows * columns
  const BenchShape *shape;
  const Kernels *kernels;
  Backend *backend;
} Elements;

static NormSettings norm_settings(const Elements *s) { return (NormSettings){.weight = s->w, .columns = s->columns, .epsilon = 1e-5f}; }

static void run_norm_forward(void *argument) {
  const Elements *s = argument;
  NormSettings norm = norm_settings(s);
  s->kernels->norm_forward(rows_f32(s->a, s->columns), rows_f32(s->b, s->columns), (Rows){0}, &norm, s->rows, s->backend);
}
static void run_norm_backward(void *argument) {
  const Elements *s = argument;
  NormSettings norm = norm_settings(s);
  Rows dx = rows_f32(s->a, s->columns), dy = rows_f32(s->b, s->columns), x = rows_f32(s->c, s->columns);
  s->kernels->norm_backward(dx, dy, x, &norm, s->rows, false, s->backend);
}
static void run_copy_heads(void *argument) {
  const Elements *s = argument;
  int64_t width = s->shape->head_size, heads = s->columns / width;
  s->kernels->copy_heads(rows_f32(s->a, s->columns), width, rows_f32(s->b, s->columns), width, heads, width, s->rows, false, s->backend);
}
static void run_softcap(void *argument) {
  const Elements *s = argument;
  s->kernels->softcap(s->a, s->count, 30, s->backend);
}
// Logits of ROUTED experts, as many rows as they make of all elements.
static const RouterSettings router = {.experts = ROUTED, .used = ROUTED_USED, .is_normalized = true, .scale = 1};
static int64_t routed_rows(const Elements *s) { return s->count / ROUTED < s->rows ? s->count / ROUTED : s->rows; }
static void run_router_forward(void *argument) {
  const Elements *s = argument;
  s->kernels->router_forward(s->chosen, s->routed, NULL, s->a, &router, routed_rows(s), s->backend);
}
static void run_router_backward(void *argument) {
  const Elements *s = argument;
  s->kernels->router_backward(s->a, s->routed, s->b, s->chosen, &router, routed_rows(s), s->backend);
}
static void run_rope(void *argument) {
  const Elements *s = argument;
  int64_t heads = s->columns / s->shape->head_size;
  s->kernels->rope(s->a, FLOAT_32, s->ids, s->frequencies, s->rows, heads, s->shape->head_size, s->shape->head_size, ROPE_HALVES, 1, false,
                   s->backend);
}
static void run_gated_forward(void *argument) {
  const Elements *s = argument;
  s->kernels->gated_forward(s->a, s->b, s->c, FLOAT_32, s->count, ACTIVATION_SILU, s->backend);
}
static void run_gated_backward(void *argument) {
  const Elements *s = argument;
  s->kernels->gated_backward(s->a, s->b, s->c, s->d, s->e, FLOAT_32, s->count, ACTIVATION_SILU, s->backend);
}
static int64_t vocabulary_rows(const Elements *s) {
  int64_t rows = s->count / s->shape->vocabulary, most = s->rows < s->shape->vocabulary ? s->rows : s->shape->vocabulary;
  return rows < 1 ? 1 : rows > most ? most : rows;
}
static void run_cross_entropy(void *argument) {
  const Elements *s = argument;
  s->kernels->cross_entropy(s->row_values, s->a, s->shape->vocabulary, s->ids, s->w, FLOAT_32, vocabulary_rows(s), s->shape->vocabulary, 0,
                            s->backend);
}
static void run_dropout(void *argument) {
  const Elements *s = argument;
  s->kernels->dropout(s->a, s->b, FLOAT_32, s->count, 0.1f, 1, 2, false, s->backend);
}
static void run_add_uniform(void *argument) {
  const Elements *s = argument;
  s->kernels->add_uniform(s->a, s->count, 0.1f, 1, 2, s->backend);
}
static void run_embedding_forward(void *argument) {
  const Elements *s = argument;
  Matrix w = matrix_f32(s->b, s->rows, s->columns);
  s->kernels->embedding_forward(s->a, s->ids, &w, s->rows, 1, s->backend);
}
static void run_column_sums(void *argument) {
  const Elements *s = argument;
  s->kernels->column_sums(s->w, rows_f32(s->a, s->columns), s->columns, s->rows, s->backend);
}
static void run_gather_rows(void *argument) {
  const Elements *s = argument;
  s->kernels->gather_rows(s->a, s->b, FLOAT_32, s->ids, s->rows, s->columns, s->backend);
}
static void run_scatter_rows(void *argument) {
  const Elements *s = argument;
  s->kernels->scatter_rows(s->a, s->b, FLOAT_32, s->ids, s->rows, s->columns, s->backend);
}
static void run_fill(void *argument) {
  const Elements *s = argument;
  s->kernels->fill(s->a, 1, s->count, s->backend);
}
static void run_copy(void *argument) {
  const Elements *s = argument;
  s->kernels->copy(s->a, s->b, s->count, s->backend);
}
static void run_add(void *argument) {
  const Elements *s = argument;
  s->kernels->add(s->a, s->b, 0.5f, s->count, s->backend);
}
static const AdamwSettings adamw_settings = {
    .learning_rate = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01, .step = 10, .gradient_scale = 1};
static void run_adamw(void *argument) {
  const Elements *s = argument;
  s->kernels->adamw(s->a, s->b, s->c, s->d, s->count, adamw_settings, s->backend);
}
static void run_adamw_8bit(void *argument) {  // the codes are any bytes
  const Elements *s = argument;
  float *scales = s->e;
  s->kernels->adamw_8bit(s->a, (uint8_t *)s->b, scales, (uint8_t *)s->c, scales + moment_blocks(s->count), s->d, s->count, adamw_settings,
                         s->backend);
}
static void run_update(void *argument) {
  const Elements *s = argument;
  UpdateSettings lion = {
      .rule = UPDATE_LION, .learning_rate = 1e-4, .weight_decay = 0.01, .gradient_scale = 1, .beta1 = 0.9, .beta2 = 0.99};
  s->kernels->update(s->a, (float *[UPDATE_STATES]){s->b}, s->d, s->count, lion, s->backend);
}
static void run_update_8bit(void *argument) {
  const Elements *s = argument;
  UpdateSettings lion = {
      .rule = UPDATE_LION, .learning_rate = 1e-4, .weight_decay = 0.01, .gradient_scale = 1, .beta1 = 0.9, .beta2 = 0.99};
  s->kernels->update_8bit(s->a, (uint8_t *[UPDATE_STATES]){(uint8_t *)s->b}, (float *[UPDATE_STATES]){s->e}, s->d, s->count, lion,
                          s->backend);
}
static void run_sum_of_squares(void *argument) {
  const Elements *s = argument;
  *s->sum = s->kernels->sum_of_squares(s->a, s->count, s->backend);
}

enum { NORMS_RANK = 16 };
static void run_low_rank_norms(void *argument) {  // all elements are products; the device's work is on NORMS_RANK of them for each row
  const Elements *s = argument;
  s->kernels->low_rank_norms(s->a, s->b, s->c, s->d, s->e, s->count / NORMS_RANK, NORMS_RANK, 1, s->backend);
}
static Magnitude magnitude_of(const Elements *s) { return (Magnitude){.m = s->w, .norms = s->w, .columns = s->columns}; }
static void run_magnitude_forward(void *argument) {
  const Elements *s = argument;
  Magnitude magnitude = magnitude_of(s);
  s->kernels->magnitude_forward(rows_f32(s->a, s->columns), rows_f32(s->b, s->columns), (Rows){0}, &magnitude, s->rows, s->backend);
}
static void run_magnitude_backward(void *argument) {
  const Elements *s = argument;
  Magnitude magnitude = magnitude_of(s);
  Rows dz = rows_f32(s->a, s->columns), dy = rows_f32(s->b, s->columns), z = rows_f32(s->c, s->columns);
  s->kernels->magnitude_backward(dz, s->d, dy, z, &magnitude, s->rows, s->backend);
}

static const struct {
  const char *kernel;
  BenchFunction run;
  int arrays;  // read and written
} elementwise[] = {
    {"norm_forward", run_norm_forward, 2},
    {"norm_backward", run_norm_backward, 3},
    {"rope", run_rope, 2},
    {"gated_forward", run_gated_forward, 3},
    {"gated_backward", run_gated_backward, 5},
    {"cross_entropy", run_cross_entropy, 2},
    {"softcap", run_softcap, 2},
    {"router_forward", run_router_forward, 1},
    {"router_backward", run_router_backward, 2},
    {"copy_heads", run_copy_heads, 2},
    {"dropout", run_dropout, 2},
    {"add_uniform", run_add_uniform, 2},
    {"embedding_forward", run_embedding_forward, 2},
    {"column_sums", run_column_sums, 1},
    {"gather_rows", run_gather_rows, 2},
    {"scatter_rows", run_scatter_rows, 3},
    {"fill", run_fill, 1},
    {"copy", run_copy, 2},
    {"add", run_add, 3},
    {"adamw", run_adamw, 7},
    {"adamw_8bit", run_adamw_8bit, 4},  // four arrays of bytes are one
    {"update", run_update, 5},
    {"update_8bit", run_update_8bit, 3},
    {"sum_of_squares", run_sum_of_squares, 1},
    {"low_rank_norms", run_low_rank_norms, 2},
    {"magnitude_forward", run_magnitude_forward, 2},
    {"magnitude_backward", run_magnitude_backward, 3},
};

static float *ones(BenchMemory *memory, int64_t count) {
  float *values = arena_new(&memory->arena, (size_t)count, sizeof *values);
  for (int64_t i = 0; i < count; i++) values[i] = 0.5f + (float)(i % 64) / 64;
  return bench_place(memory, values, count * (int64_t)sizeof *values);
}

void bench_elementwise(KernelRates *rates, const BenchShape *shape, int64_t rows, Backend *backend) {
  BenchMemory memory = {.backend = backend};
  Elements s = {.rows = rows,
                .columns = shape->columns,
                .count = rows * shape->columns,
                .shape = shape,
                .sum = &(double){0},
                .kernels = backend->kernels,
                .backend = backend};
  int64_t capacity = s.count > shape->vocabulary ? s.count : shape->vocabulary;
  float **arrays[FLOATS] = {&s.a, &s.b, &s.c, &s.d, &s.e};
  for (int i = 0; i < FLOATS; i++) *arrays[i] = ones(&memory, capacity);
  s.w = ones(&memory, rows > shape->columns ? rows : shape->columns);  // norm weights, and the gradient scales of rows
  s.frequencies = ones(&memory, shape->head_size);
  s.row_values = ones(&memory, rows);
  s.ids = arena_new(&memory.arena, (size_t)rows, sizeof *s.ids);
  for (int64_t i = 0; i < rows; i++) s.ids[i] = (int32_t)i;
  s.ids = bench_place(&memory, s.ids, rows * (int64_t)sizeof *s.ids);
  s.chosen = arena_new(&memory.arena, (size_t)(rows * ROUTED_USED), sizeof *s.chosen);
  for (int64_t i = 0; i < rows * ROUTED_USED; i++) s.chosen[i] = (int32_t)(i % ROUTED_USED);
  s.chosen = bench_place(&memory, s.chosen, rows * ROUTED_USED * (int64_t)sizeof *s.chosen);
  s.routed = ones(&memory, rows * ROUTED_USED);
  for (size_t i = 0; i < sizeof elementwise / sizeof elementwise[0]; i++) {
    KernelRate rate = {.instructions = backend->kernels->name, .kernel = elementwise[i].kernel, .rows = rows};
    int64_t count = s.count;
    if (elementwise[i].run == run_cross_entropy) {
      rate.rows = vocabulary_rows(&s);
      count = rate.rows * shape->vocabulary;
    }
    if (elementwise[i].run == run_router_forward || elementwise[i].run == run_router_backward) {
      rate.rows = routed_rows(&s);
      count = rate.rows * ROUTED;
    }
    rate.bytes = (double)(elementwise[i].arrays * count) * sizeof(float) / bench_seconds(elementwise[i].run, &s, backend);
    ARRAY_PUSH(rates->items, rates->count, rates->capacity) = rate;
  }
  bench_release(&memory);
}
