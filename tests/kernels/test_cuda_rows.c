// With Backend.is_deterministic a row's bits on a CUDA device are its own: products of generation and of prompts, and experts, give a row the
// same bits in calls of any number of rows. Without it they need not, which shows that the comparison sees a difference. On the simulated
// device, as tests/kernels/test_cuda.c.
#include <stdlib.h>

#include "tests/support/kernel_cases.h"

enum { MOST = 140, OUT = 136, RANK = 12 };

static Backend *backend;

static int open_device(void **state) {
  (void)state;
  assert_ok(backend_new(&backend, "cuda", 2));
  return 0;
}

static int close_device(void **state) {
  (void)state;
  backend_free(backend);
  return 0;
}

static void *sent(const void *host, int64_t bytes) {
  void *block;
  assert_ok(backend->allocate(&block, bytes, "a test", backend));
  backend->upload(block, host, bytes, backend);
  return block;
}

static Rows sent_rows(Arena *arena, Rng *rng, int64_t n, int64_t columns, FloatType type) {
  Rows rows = random_rows(arena, rng, n, columns, type);
  rows.data = sent(rows.data, n * columns * float_bytes(type));
  return rows;
}

static Rows rows_after(Rows rows, int64_t first) { return rows_from(rows, first * rows.step); }

// How calls cut the rows; the last number counts until the end.
static const int64_t cuts[][4] = {{1, 2, 1, 30}, {3, 4, 5, 26}, {64, 1, 30, 9}, {17, 128, 5, 1}, {139, 1, 1, 1}};
enum { CUTS = sizeof cuts / sizeof *cuts };

typedef struct Layer {
  Arena arena;
  Matrix w;
  Rows x, y, h, residual;
  float *low, *bias;
  FloatType type;
} Layer;

static Layer layer_new(BlockType weights, FloatType type, FloatType y_type, int64_t columns) {
  Layer layer = {.type = type};
  Rng rng = rng_new(8, RNG_STREAM_TEST);
  layer.w = case_linear(&layer.arena, &rng, OP_linear_forward, weights, 1, OUT, columns, 1, false)->matrix;
  assert_ok(backend->upload_matrix(&layer.w, NULL, backend));
  layer.x = sent_rows(&layer.arena, &rng, MOST, columns, type), layer.y = sent_rows(&layer.arena, &rng, MOST, OUT, y_type);
  layer.h = sent_rows(&layer.arena, &rng, MOST, RANK, type), layer.residual = sent_rows(&layer.arena, &rng, MOST, OUT, FLOAT_32);
  layer.low = sent_rows(&layer.arena, &rng, OUT, RANK, FLOAT_32).data, layer.bias = sent_rows(&layer.arena, &rng, 1, OUT, FLOAT_32).data;
  return layer;
}

static void layer_free(Layer *layer) {
  void *blocks[] = {layer->x.data, layer->y.data, layer->h.data, layer->residual.data, layer->low, layer->bias};
  for (int i = 0; i < 6; i++) backend->release(blocks[i], backend);
  backend->release_matrix(&layer->w, backend);
  arena_release(&layer->arena);
}

typedef void LinearForward(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);

static void forward_some(const Layer *layer, LinearForward *forward, bool has_terms, int64_t first, int64_t n) {
  Projection p = {.w = &layer->w, .alpha = 0.75f, .y = rows_after(layer->y, first)};
  if (has_terms) {
    p.h = rows_after(layer->h, first), p.low = layer->low, p.rank = RANK, p.bias = layer->bias;
    p.residual = rows_after(layer->residual, first);
  }
  forward(&p, 1, rows_after(layer->x, first), n, backend);
}

static void *taken(Rows y) {
  int64_t bytes = MOST * y.step * float_bytes(y.type);
  void *values = memory_new((size_t)bytes, 1);
  backend->download(values, y.data, bytes, backend);
  return values;
}

// Whether any cut gives other bits than all rows at once.
static bool cuts_differ(const Layer *layer, LinearForward *forward, bool has_terms) {
  bool is_different = false;
  forward_some(layer, forward, has_terms, 0, MOST);
  void *expected = taken(layer->y);
  for (int cut = 0; cut < CUTS && !is_different; cut++) {
    int64_t n;
    for (int64_t first = 0, i = 0; first < MOST; first += n, i++) {
      n = cuts[cut][i % 4] < MOST - first ? cuts[cut][i % 4] : MOST - first;
      forward_some(layer, forward, has_terms, first, n);
    }
    void *actual = taken(layer->y);
    is_different = memcmp(actual, expected, (size_t)(MOST * layer->y.step * float_bytes(layer->y.type))) != 0;
    free(actual);
  }
  free(expected);
  return is_different;
}

static const struct {
  BlockType weights;
  FloatType type, y_type;
  int64_t columns;
} layers[] = {{BLOCK_F32, FLOAT_32, FLOAT_32, 320},   {BLOCK_F16, FLOAT_32, FLOAT_32, 160},  {BLOCK_Q4_0, FLOAT_32, FLOAT_32, 192},
              {BLOCK_Q8_0, FLOAT_32, FLOAT_32, 512},  {BLOCK_Q4_K, FLOAT_32, FLOAT_32, 512}, {BLOCK_Q6_K, FLOAT_F16, FLOAT_32, 256},
              {BLOCK_NF4, FLOAT_32, FLOAT_32, 224},   {BLOCK_MXFP4, FLOAT_32, FLOAT_32, 64}, {BLOCK_Q5_K, FLOAT_BF16, FLOAT_BF16, 256},
              {BLOCK_BF16, FLOAT_F16, FLOAT_F16, 160}};
enum { LAYERS = sizeof layers / sizeof *layers };

static int count_differences(LinearForward *forward, bool expects_none) {
  int count = 0;
  for (int i = 0; i < LAYERS; i++) {
    bool has_terms = i % 2;
    Layer layer = layer_new(layers[i].weights, layers[i].type, layers[i].y_type, layers[i].columns);
    bool is_different = cuts_differ(&layer, forward, has_terms);
    layer_free(&layer);
    if (is_different && expects_none)
      fail_msg("%s, %s, terms %d: a row's bits depend on how many there are", block_traits(layers[i].weights)->name,
               float_name(layers[i].type), has_terms);
    count += is_different;
  }
  return count;
}

static void rows_of_prompts_are_by_themselves(void **state) {
  (void)state;
  backend->is_deterministic = true;
  count_differences(backend->kernels->linear_forward, true);
}

static void rows_of_generation_are_by_themselves(void **state) {
  (void)state;
  backend->is_deterministic = true;
  count_differences(backend->kernels->linear_forward_rows, true);
  count_differences(backend->kernels->linear_forward_int8, true);
}

static void rows_need_not_be_by_themselves_otherwise(void **state) {
  (void)state;
  backend->is_deterministic = false;
  assert_true(count_differences(backend->kernels->linear_forward, false) > LAYERS / 2);
  assert_true(count_differences(backend->kernels->linear_forward_int8, false) > LAYERS / 2);
}

// Experts of rows in calls of any number, by 8 bits and without.
static bool experts_differ(BlockType type, bool in_int8) {
  enum { ROWS = 90, HIDDEN = 64, COUNT = 6 };
  Arena arena = {0};
  Rng rng = rng_new(9, RNG_STREAM_TEST);
  ExpertMatrices experts = {.experts = COUNT, .used = 2, .hidden = HIDDEN, .width = 96};
  KernelCase *c = case_experts(&arena, &rng, OP_experts_forward, type, ROWS, experts, false);
  Matrix matrices[3][COUNT];
  for (int which = 0; which < 3; which++)
    for (int e = 0; e < COUNT; e++) {
      matrices[which][e] = case_expert_matrix(c, &c->matrix, which, e);
      assert_ok(backend->upload_matrix(&matrices[which][e], NULL, backend));
    }
  experts.gate = matrices[0], experts.up = matrices[1], experts.down = matrices[2];
  int64_t floats = backend->kernels->experts_scratch_floats(ROWS, &experts, FLOAT_32, false, backend);
  float *x = sent(c->inputs[0], c->input_bytes[0]), *weights = sent(c->inputs[5], c->input_bytes[5]), *values[2];
  int32_t *chosen = sent(c->inputs[4], c->input_bytes[4]);
  void *scratch, *y;
  assert_ok(backend->allocate(&scratch, floats * (int64_t)sizeof(float), "a test", backend));
  assert_ok(backend->allocate(&y, ROWS * HIDDEN * (int64_t)sizeof(float), "a test", backend));
  for (int cut = 0; cut < 2; cut++) {
    backend->kernels->fill(y, 0, ROWS * HIDDEN, backend);
    int64_t n;
    for (int64_t first = 0, i = 0; first < ROWS; first += n, i++) {
      n = cut == 0 ? ROWS : 1 + i * 3 < ROWS - first ? 1 + i * 3 : ROWS - first;
      backend->kernels->experts_forward(rows_f32((float *)y + first * HIDDEN, HIDDEN), rows_f32(x + first * HIDDEN, HIDDEN), &experts,
                                        chosen + 2 * first, weights + 2 * first, n, in_int8, scratch, backend);
    }
    values[cut] = memory_new(ROWS * HIDDEN, sizeof(float));
    backend->download(values[cut], y, ROWS * HIDDEN * (int64_t)sizeof(float), backend);
  }
  bool is_different = memcmp(values[0], values[1], ROWS * HIDDEN * sizeof(float)) != 0;
  free(values[0]), free(values[1]);
  void *blocks[] = {x, weights, chosen, scratch, y};
  for (int i = 0; i < 5; i++) backend->release(blocks[i], backend);
  for (int i = 0; i < 3 * COUNT; i++) backend->release_matrix(&matrices[i / COUNT][i % COUNT], backend);
  arena_release(&arena);
  return is_different;
}

static void experts_of_a_row_are_by_themselves(void **state) {
  (void)state;
  static const BlockType types[] = {BLOCK_Q8_0, BLOCK_Q4_0, BLOCK_BF16};
  for (int i = 0; i < 6; i++) {
    backend->is_deterministic = true;
    assert_false(experts_differ(types[i / 2], i % 2));
  }
  backend->is_deterministic = false;
  assert_true(experts_differ(BLOCK_Q8_0, true) && experts_differ(BLOCK_Q8_0, false));
}

int main(void) {
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_of_prompts_are_by_themselves),
      cmocka_unit_test(rows_of_generation_are_by_themselves),
      cmocka_unit_test(rows_need_not_be_by_themselves_otherwise),
      cmocka_unit_test(experts_of_a_row_are_by_themselves),
  };
  return cmocka_run_group_tests(tests, open_device, close_device);
}
