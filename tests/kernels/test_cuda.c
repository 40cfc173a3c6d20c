// The CUDA table against float64, by the cases and rules of every other table (tests/support/kernel_compare.h), in float32, bfloat16 and
// float16. On the simulated device unless LORA_CUDA_LIBRARY names another library: scripts/gpu-check runs this very program on a card.
//   test_cuda FAMILY    one family of kernels; without it, all
// LORA_TEST_FLOP: the largest case, in multiply-adds and additions; for builds under sanitizers.
#include <math.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cuda_library.h"
#include "kernels/selfcheck.h"
#include "tests/support/kernel_compare.h"
#include "tests/support/pages.h"
#include "tests/support/ranks.h"

static Backend *backend;
static int64_t most_flop;
static bool has_bfloat16;  // instructions for its products
static bool is_alone;  // no other program takes memory of this device: it is the simulated one

static int open_device(void **state) {
  (void)state;
  const char *limit = getenv("LORA_TEST_FLOP");
  most_flop = limit ? atoll(limit) : 0;
  assert_ok(backend_new(&backend, "cuda", 2));
  has_bfloat16 = selfcheck_short_type(backend) == FLOAT_BF16;
  return 0;
}

static int close_device(void **state) {
  (void)state;
  backend_free(backend);
  return 0;
}

static void compare_types(KernelOp op) {
  cases_compare(op, FLOAT_32, most_flop, backend);
  if (has_bfloat16) cases_compare(op, FLOAT_BF16, most_flop, backend);
  cases_compare(op, FLOAT_F16, most_flop, backend);
}

#define KERNEL_OP_TEST(op)                                 \
  static void op##_on_cuda_matches_float64(void **state) { \
    (void)state;                                           \
    compare_types(OP_##op);                                \
  }
KERNEL_OPS(KERNEL_OP_TEST)

static void a_repeated_call_gives_the_same_bits(KernelOp op) {
  Rng rng = rng_new(CASES_SEED + 1, RNG_STREAM_TEST);
  for (int index = 0; index < 40; index++) {
    Arena arena = {0};
    KernelCase *c = kernel_ops[op].make(&arena, &rng, index);
    if (c && index % 2) (void)case_round(c, has_bfloat16 ? FLOAT_BF16 : FLOAT_F16);
    float *out[2][CASE_OUTPUTS];
    for (int i = 0; c && i < 2; i++) {
      case_outputs_new(out[i], &arena, c);
      case_run(out[i], c, backend);
    }
    for (int i = 0; c && i < CASE_OUTPUTS; i++)
      if (memcmp(out[0][i], out[1][i], (size_t)c->counts[i] * sizeof(float)) != 0)
        fail_msg("%s: output %d differs when it is computed again: %s", kernel_ops[op].name, i, c->description);
    arena_release(&arena);
    if (!c) break;
  }
}

static void repeated_products_give_the_same_bits(void **state) {
  (void)state;
  a_repeated_call_gives_the_same_bits(OP_linear_forward);
  a_repeated_call_gives_the_same_bits(OP_linear_backward);
  a_repeated_call_gives_the_same_bits(OP_weight_backward);
  a_repeated_call_gives_the_same_bits(OP_low_rank_backward);
}

// Projections that were one matrix have one A, each of which adds to its gradient. All numbers are whole: sums are exact in any order.
static void a_factor_of_several_parts_gets_the_sums_of_all(void **state) {
  (void)state;
  enum { N = 70, RANK = 8, COLUMNS = 96, PARTS = 4, OWN = 2 };  // part OWN has a factor of its own
  static float x[N * COLUMNS], dy[N * PARTS * RANK], dw[2][RANK * COLUMNS];
  Rng rng = rng_new(CASES_SEED + 2, RNG_STREAM_TEST);
  for (int i = 0; i < N * COLUMNS; i++) x[i] = (float)rng_below(&rng, 9) - 4;
  for (int i = 0; i < N * PARTS * RANK; i++) dy[i] = (float)rng_below(&rng, 9) - 4;
  float *on_device[3];
  const int64_t bytes[] = {sizeof x, sizeof dy, sizeof dw};
  for (int i = 0; i < 3; i++) assert_ok(backend->allocate((void **)&on_device[i], bytes[i], "a test", backend));
  backend->upload(on_device[0], x, sizeof x, backend);
  backend->upload(on_device[1], dy, sizeof dy, backend);
  backend->kernels->fill(on_device[2], 1, 2 * RANK * COLUMNS, backend);
  WeightGradient gradients[PARTS];
  for (int part = 0; part < PARTS; part++)
    gradients[part] = (WeightGradient){.dw = on_device[2] + (part == OWN ? RANK * COLUMNS : 0),
                                       .dy = {on_device[1] + part * RANK, PARTS * RANK, FLOAT_32},
                                       .rows = RANK,
                                       .alpha = 1};
  backend->kernels->weight_backward(gradients, PARTS, rows_f32(on_device[0], COLUMNS), COLUMNS, N, backend);
  backend->download(dw, on_device[2], sizeof dw, backend);
  for (int r = 0; r < RANK; r++)
    for (int c = 0; c < COLUMNS; c++) {
      float sums[2] = {1, 1};
      for (int n = 0; n < N; n++)
        for (int part = 0; part < PARTS; part++) sums[part == OWN] += dy[(n * PARTS + part) * RANK + r] * x[n * COLUMNS + c];
      for (int i = 0; i < 2; i++) assert_true(dw[i][r * COLUMNS + c] == sums[i]);
    }
  for (int i = 0; i < 3; i++) backend->release(on_device[i], backend);
}

// Experts all at once (TUNING_GROUPED_PAIRS), in panels and pieces of all sizes.
typedef enum Choices { ANY_EXPERTS, ONE_EXPERT, EVEN_EXPERTS } Choices;  // by chance; expert 1 for all rows; some experts have no rows
typedef struct ExpertShape {
  BlockType type;
  int64_t n, experts, used, hidden, width;
  Choices choices;
  int64_t panel_bytes, piece_bytes;
} ExpertShape;

static const ExpertShape expert_shapes[] = {
    {BLOCK_Q8_0, 70, 5, 3, 64, 96, ANY_EXPERTS, 0, 0},
    {BLOCK_Q8_0, 70, 5, 3, 64, 96, ANY_EXPERTS, 64 << 10, 0},  // some experts a panel
    {BLOCK_Q8_0, 70, 5, 3, 64, 96, ANY_EXPERTS, 0, 40 << 10},  // some tokens a piece
    {BLOCK_F16, 33, 3, 2, 40, 72, ANY_EXPERTS, 4 << 10, 0},  // some rows of a matrix a panel
    {BLOCK_F32, 90, 4, 1, 24, 8, ONE_EXPERT, 0, 0},
    {BLOCK_BF16, 40, 9, 4, 8, 40, EVEN_EXPERTS, 3 << 10, 1},  // a token a piece
    {BLOCK_F32, 21, 3, 3, 32, 16, ANY_EXPERTS, 0, 0},  // every expert has every row
    {BLOCK_Q4_0, 1, 64, 8, 32, 32, ANY_EXPERTS, 0, 0},
    {BLOCK_F16, 300, 2, 1, 136, 136, ANY_EXPERTS, 0, 0},  // large tiles, the last of a group not full
};

static void tune_experts(int64_t grouped_pairs, int64_t panel_bytes, int64_t piece_bytes) {
  backend->tuning[TUNING_GROUPED_PAIRS] = grouped_pairs;
  backend->tuning[TUNING_BACKWARD_PANEL] = panel_bytes;
  backend->tuning[TUNING_PIECE_BYTES] = piece_bytes;
}

static KernelCase *expert_case(Arena *arena, Rng *rng, KernelOp op, const ExpertShape *shape, bool accumulate) {
  ExpertMatrices experts = {.experts = shape->experts, .used = shape->used, .hidden = shape->hidden, .width = shape->width};
  KernelCase *c = case_experts(arena, rng, op, shape->type, shape->n, experts, accumulate);
  int32_t *chosen = (int32_t *)(uintptr_t)c->inputs[4];
  for (int64_t p = 0; p < shape->n * shape->used && shape->choices != ANY_EXPERTS; p++) {
    int64_t i = p / shape->used, s = p % shape->used;
    chosen[p] = shape->choices == ONE_EXPERT ? 1 : (int32_t)((i + s) % ((shape->experts - 1) / 2) * 2 + 2);
  }
  return c;
}

// For each shape, both entries and each type; of builds under sanitizers a third of these.
static void for_expert_cases(void (*check)(const KernelCase *c, const ExpertShape *shape, Arena *arena)) {
  Rng rng = rng_new(CASES_SEED + 3, RNG_STREAM_TEST);
  for (size_t i = 0; i < sizeof expert_shapes / sizeof *expert_shapes; i++)
    for (FloatType type = FLOAT_32; type <= FLOAT_F16; type++)
      for (int backward = 0; backward < 2 && (type != FLOAT_BF16 || has_bfloat16); backward++) {
        if (most_flop > 0 && (i + 2 * (size_t)type + (size_t)backward) % 3 > 0) continue;
        Arena arena = {0};
        KernelCase *c =
            expert_case(&arena, &rng, backward ? OP_experts_backward : OP_experts_forward, &expert_shapes[i], backward && i % 2);
        if (type != FLOAT_32) (void)case_round(c, type);
        check(c, &expert_shapes[i], &arena);
        arena_release(&arena);
      }
  tune_experts(0, 0, 0);
}

static void compare_experts(const KernelCase *c, const ExpertShape *shape, Arena *arena) {
  tune_experts(1, shape->panel_bytes, shape->piece_bytes);
  case_compare(c, backend, arena);
}

static void experts_at_once_match_float64(void **state) {
  (void)state;
  for_expert_cases(compare_experts);
  tune_experts(1, 0, 0);
  compare_types(OP_experts_forward);
  compare_types(OP_experts_backward);
  tune_experts(0, 0, 0);
}

static int downloads;
static void (*download)(void *host, const void *device, int64_t bytes, Backend *backend);
static void count_download(void *host, const void *device, int64_t bytes, Backend *of) {
  downloads++;
  download(host, device, bytes, of);
}

// Returns how often something was downloaded, by the test itself, too.
static int run_experts(float *out[CASE_OUTPUTS], const KernelCase *c, Arena *arena) {
  download = backend->download;
  backend->download = count_download;
  downloads = 0;
  case_outputs_new(out, arena, c);
  case_run(out, c, backend);
  backend->download = download;
  return downloads;
}

// Whole experts in panels and whole tokens in pieces: no sum is cut.
static void compare_ways(const KernelCase *c, const ExpertShape *shape, Arena *arena) {
  enum { ONE_BY_ONE, AT_ONCE, AGAIN, IN_PIECES, WAYS };
  float *out[WAYS][CASE_OUTPUTS];
  int64_t expert_bytes = 2 * shape->hidden * shape->width * float_bytes(c->type);
  int counts[WAYS];
  for (int way = 0; way < WAYS; way++) {
    bool in_pieces = way == IN_PIECES;
    tune_experts(way == ONE_BY_ONE ? INT64_MAX : 1, in_pieces ? expert_bytes : 0, in_pieces ? 20000 : 0);
    counts[way] = run_experts(out[way], c, arena);
  }
  assert_int_equal(counts[AT_ONCE] + 1, counts[ONE_BY_ONE]);  // which downloads the choice
  assert_int_equal(counts[IN_PIECES], counts[AT_ONCE]);
  for (int i = 0; i < CASE_OUTPUTS; i++) {
    double *expected = arena_new(arena, (size_t)c->counts[i] + 1, sizeof *expected);
    for (int64_t j = 0; j < c->counts[i]; j++) expected[j] = out[ONE_BY_ONE][i][j];
    double error = relative_error(out[AT_ONCE][i], expected, c->counts[i], c->scale[i]);
    if (c->counts[i] > 0 && !(error <= (c->type == FLOAT_32 ? 1e-5 : 0x1p-6)))
      fail_msg("output %d is %.3g from that of one expert after another: %s", i, error, c->description);
    for (int way = AGAIN; way < WAYS; way++)
      if (memcmp(out[way][i], out[AT_ONCE][i], (size_t)c->counts[i] * sizeof(float)) != 0)
        fail_msg("output %d has other bits %s: %s", i, way == AGAIN ? "when it is computed again" : "in pieces", c->description);
  }
}

static void experts_at_once_repeat_bits_and_download_nothing(void **state) {
  (void)state;
  for_expert_cases(compare_ways);
}

static void scratch_of_experts_does_not_grow_without_bound(void **state) {
  (void)state;
  const ExpertMatrices experts = {.experts = 128, .used = 8, .hidden = 2048, .width = 768};
  for (int backward = 0; backward < 2; backward++) {
    int64_t few = backend->kernels->experts_scratch_floats(64, &experts, FLOAT_F16, backward, backend);
    int64_t many = backend->kernels->experts_scratch_floats(1 << 20, &experts, FLOAT_F16, backward, backend);
    assert_true(few < many && many * (int64_t)sizeof(float) < 520 << 20);  // 512 MiB of rows, and their order
  }
}

static void repeated_attention_gives_the_same_bits(void **state) {
  (void)state;
  a_repeated_call_gives_the_same_bits(OP_attention_forward);
  a_repeated_call_gives_the_same_bits(OP_attention_backward);
}

// Documents of so many rows that another engine may be asked for them (kernels/cuda/attention_engine.h): of different lengths, and of one.
static void attention_of_many_rows_matches_float64(void **state) {
  (void)state;
  static const int64_t lengths[][3] = {{391, 1, 207}, {256, 256}}, earlier[3] = {0};
  static const int64_t sizes[] = {64, 128};
  for (int i = 0; i < 4; i++) {
    Arena arena = {0};
    Rng rng = rng_new(CASES_SEED + 3, RNG_STREAM_TEST);
    int which = i / 2;
    AttentionShape shape = {.heads = 2, .kv_heads = 1, .head_size = sizes[which], .value_size = sizes[which]};
    shape.scale = 1 / sqrtf((float)shape.head_size);
    KernelOp op = i % 2 ? OP_attention_backward : OP_attention_forward;
    KernelCase *c = case_attention(&arena, &rng, op, shape, which ? 2 : 3, lengths[which], earlier, false);
    bool is_small = most_flop == 0 || case_flop(c) <= (double)most_flop;
    if (is_small && case_round(c, has_bfloat16 ? FLOAT_BF16 : FLOAT_F16)) case_compare(c, backend, &arena);
    arena_release(&arena);
  }
}

static void repeated_attention_over_pages_gives_the_same_bits(void **state) {
  (void)state;
  a_repeated_call_gives_the_same_bits(OP_paged_attention);
  a_repeated_call_gives_the_same_bits(OP_low_rank_rows);
}

static void bits_of_a_row_do_not_depend_on_others(void **state) {
  (void)state;
  pages_rows_are_alone(backend, most_flop > 0);
  low_rank_rows_are_alone(backend);
}

static void bits_of_a_prompt_do_not_depend_on_how_it_is_cut(void **state) {
  (void)state;
  pages_prompts_may_be_cut(backend, most_flop > 0);
}

static void pages_are_stored_to_the_last_bit(void **state) {
  (void)state;
  Backend *reference;
  assert_ok(backend_new(&reference, "cpu", 1));
  reference->kernels = &kernels_scalar;
  pages_are_stored_exactly(backend, reference);
  backend_free(reference);
}

static void sum_of_squares_lets_nan_and_infinity_through(void **state) {
  (void)state;
  float host[1000] = {0};
  void *device;
  assert_ok(backend->allocate(&device, sizeof host, "a test", backend));
  for (int place = 0; place < 1000; place += 333) {
    memset(host, 0, sizeof host);
    host[place] = NAN;
    backend->upload(device, host, sizeof host, backend);
    assert_true(isnan(backend->kernels->sum_of_squares(device, 1000, backend)));
    host[place] = -INFINITY;
    backend->upload(device, host, sizeof host, backend);
    assert_true(isinf(backend->kernels->sum_of_squares(device, 1000, backend)));
  }
  backend->release(device, backend);
}

static void no_rows_and_no_counts_write_nothing(void **state) {
  (void)state;
  cases_of_nothing_write_nothing(backend);
}

static void peak_is_a_rate(void **state) {
  (void)state;
  double rate = backend->kernels->peak_flops(FLOAT_32, backend), half = backend->kernels->peak_flops(FLOAT_F16, backend);
  assert_true(isfinite(rate) && rate > 1e6);
  assert_true(isfinite(half) && half > 1e6);
}

static void the_table_has_no_hole(void **state) {
  (void)state;
  for (size_t at = offsetof(Kernels, linear_forward); at < sizeof(Kernels); at += sizeof(void (*)(void))) {
    void (*entry)(void);
    memcpy(&entry, (const char *)backend->kernels + at, sizeof entry);
    if (!entry) fail_msg("the entry at byte %zu is NULL", at);
  }
}

static void memory_is_counted_and_its_lack_is_told(void **state) {
  (void)state;
  enum { BYTES = 3 << 20 };
  void *block, *too_much;
  int64_t before = backend->available_bytes(backend);
  assert_ok(backend->allocate(&block, BYTES, "a test", backend));
  if (is_alone) assert_true(before - backend->available_bytes(backend) >= BYTES);
  int64_t peak = backend->peak_bytes(backend);
  assert_true(peak >= BYTES);
  assert_fails(STATUS_NO_SPACE, backend->allocate(&too_much, INT64_C(1) << 50, "the test's wish", backend), "the test's wish", "cuda:0");
  backend->release(block, backend);
  if (is_alone) assert_true(backend->available_bytes(backend) >= before);
  assert_ok(backend->allocate(&block, BYTES, "a test", backend));  // what was given back
  assert_true(backend->peak_bytes(backend) == peak);
  backend->release(block, backend);
}

// As the tape uses them: two buffers that take turns, each written anew once its copy out has been awaited, and copied back one ahead.
static void copies_beside_kernels_keep_their_order(void **state) {
  (void)state;
  enum { COUNT = 1000, STEPS = 40, BYTES = COUNT * sizeof(float) };
  const Kernels *kernels = backend->kernels;
  void *host, *buffers[2], *results;
  int64_t copies[STEPS];
  static float read[STEPS * COUNT];
  assert_ok(backend->allocate_host(&host, STEPS * BYTES, "a test", backend));
  assert_ok(backend->allocate(&results, STEPS * BYTES, "a test", backend));
  for (int i = 0; i < 2; i++) assert_ok(backend->allocate(&buffers[i], BYTES, "a test", backend));
  for (int i = 0; i < STEPS; i++) {
    if (i >= 2) backend->await_copy(copies[i - 2], backend);
    kernels->fill(buffers[i % 2], (float)(i + 1), COUNT, backend);
    copies[i] = backend->offload((char *)host + i * BYTES, buffers[i % 2], BYTES, backend);
  }
  for (int i = STEPS - 2; i < STEPS; i++) backend->await_copy(copies[i], backend);
  for (int i = STEPS - 1; i >= -1; i--) {
    if (i >= 0) kernels->fill(buffers[i % 2], -1, COUNT, backend);
    if (i >= 0) copies[i] = backend->fetch(buffers[i % 2], (char *)host + i * BYTES, BYTES, backend);
    if (i + 1 == STEPS) continue;
    backend->await_copy(copies[i + 1], backend);
    kernels->copy((float *)results + (i + 1) * COUNT, buffers[(i + 1) % 2], COUNT, backend);
  }
  backend->download(read, results, STEPS * BYTES, backend);
  for (int i = 0; i < STEPS * COUNT; i++)
    if (read[i] != (float)(i / COUNT + 1)) fail_msg("step %d came back as %g", i / COUNT + 1, (double)read[i]);
  assert_ok(backend->check(backend));
  backend->release_host(host, backend);
  backend->release(results, backend);
  for (int i = 0; i < 2; i++) backend->release(buffers[i], backend);
}

static void host_memory_that_cannot_be_pinned_is_told(void **state) {
  (void)state;
  void *too_much;
  assert_fails(STATUS_NO_SPACE, backend->allocate_host(&too_much, INT64_C(1) << 50, "the test's wish", backend), "the test's wish",
               "cuda:0");
  assert_ok(backend->check(backend));
}

// What one process does of a run of several, each with a device of its own; step 0 of the board is the id.
static void open_and_join(const Rank *rank) {
  char device[32];
  snprintf(device, sizeof device, "cuda:%d", rank->rank);
  rank_ok(rank, backend_new(&backend, device, 1));
  if (rank->rank == 0) {
    rank_ok(rank, backend->collectives->make_id(rank->board->bytes, backend));
    rank_post(rank, 0);
  }
  rank_await(rank, 0, 1);
  rank_ok(rank, backend->collectives->join(rank->board->bytes, rank->rank, rank->size, backend));
}

static void leave_and_close(const Rank *rank) {
  rank_ok(rank, backend->check(backend));
  backend->collectives->leave(false, backend);
  rank_ok(rank, backend->check(backend));
  backend_free(backend);
}

static void *device_new(const Rank *rank, int64_t bytes) {
  void *block;
  rank_ok(rank, backend->allocate(&block, bytes, "a test", backend));
  return block;
}

static uint64_t sum_of_bits(const float *values, int64_t count) {
  uint64_t sum = 14695981039346656037u;
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, &values[i], sizeof bits);
    sum = (sum ^ bits) * 1099511628211u;
  }
  return sum;
}

static void sums_in_a_process(const Rank *rank) {
  enum { SIZES = 4, MOST = 1000003 };
  static const int64_t counts[SIZES] = {0, 1, MOST, 262145};
  static float own[MOST], expected[MOST], scale[MOST], part[MOST];
  uint64_t *bits = (uint64_t *)(void *)(rank->board->bytes + RANKS_BYTES / 2);
  open_and_join(rank);
  float *values = device_new(rank, MOST * sizeof(float));
  for (int s = 0; s < SIZES; s++) {
    int64_t count = counts[s];
    for (int r = 0; r < rank->size; r++) {
      Rng rng = rng_new((uint64_t)(100 * s + r), RNG_STREAM_TEST);
      for (int64_t i = 0; i < count; i++) part[i] = ldexpf((float)(int32_t)rng_next(&rng), (int)(i % 20) - 40);
      for (int64_t i = 0; i < count; i++) expected[i] = r ? expected[i] + part[i] : part[i];
      for (int64_t i = 0; i < count; i++) scale[i] = (r ? scale[i] : 0) + fabsf(part[i]);
      if (r == rank->rank) memcpy(own, part, (size_t)count * sizeof(float));
    }
    backend->upload(values, own, count * (int64_t)sizeof(float), backend);
    backend->collectives->sum(values, count, backend);
    backend->download(own, values, count * (int64_t)sizeof(float), backend);
    for (int64_t i = 0; i < count; i++) {
      bool is_right = is_alone ? own[i] == expected[i] : fabsf(own[i] - expected[i]) <= 1e-6f * scale[i];
      if (!is_right) rank_fail(rank, "sum %lld of %lld: %g, not %g", (long long)i, (long long)count, (double)own[i], (double)expected[i]);
    }
    bits[s * rank->size + rank->rank] = sum_of_bits(own, count);
  }
  rank_post(rank, 1);
  rank_await(rank, 1, rank->size);
  for (int s = 0; s < SIZES; s++) rank_expect(rank, bits[s * rank->size] == bits[s * rank->size + rank->rank]);
  leave_and_close(rank);
}

typedef struct GatherCase {
  int64_t bytes;
  bool is_in_place;
} GatherCase;

static const GatherCase gather_cases[] = {{1, false},    {400003, false},  {70004, true}, {70001, true}, {0, false},
                                          {12345, true}, {2097155, false}, {3, true},     {4, true}};

static float gathered_value(int step, int rank) { return (float)(10 * step + rank + 1); }

// As layers use them: two buffers take turns, one is gathered while kernels read the other; the host waits for nothing.
static void gathers_in_a_process(const Rank *rank) {
  enum { CASES = sizeof gather_cases / sizeof *gather_cases, STEPS = 4 * CASES, MOST = 2097160 };
  char *wholes[2], *parts[2];
  float *results[STEPS];
  int64_t copies[STEPS];
  open_and_join(rank);
  const Kernels *kernels = backend->kernels;
  for (int i = 0; i < 2; i++) wholes[i] = device_new(rank, rank->size * MOST), parts[i] = device_new(rank, MOST);
  static char host[RANKS_MOST * MOST];
  for (int i = 0; i <= STEPS; i++) {
    const GatherCase *c = &gather_cases[i % CASES], *before = &gather_cases[(i + CASES - 1) % CASES];
    if (i < STEPS) {
      float value = gathered_value(i, rank->rank);
      char *part = c->is_in_place ? wholes[i % 2] + rank->rank * c->bytes : parts[i % 2];
      for (int64_t at = 0; at < c->bytes; at++) host[at] = ((const char *)&value)[at % 4];
      bool is_odd = c->is_in_place && c->bytes % 4;  // no kernel writes there
      if (is_odd) backend->upload(part, host, c->bytes, backend);
      else kernels->fill((float *)(void *)part, value, (c->bytes + 3) / 4, backend);
      copies[i] = backend->collectives->gather(wholes[i % 2], part, c->bytes, backend);
    }
    if (i == 0) continue;
    // What was gathered before, with the rest of the last four bytes.
    int64_t floats = (rank->size * before->bytes + 3) / 4;
    results[i - 1] = device_new(rank, floats * 4);
    backend->await_copy(copies[i - 1], backend);
    kernels->copy(results[i - 1], (float *)(void *)wholes[(i - 1) % 2], floats, backend);
    kernels->fill((float *)(void *)wholes[(i - 1) % 2], -1, floats, backend);
    kernels->fill((float *)(void *)parts[(i - 1) % 2], -1, (before->bytes + 3) / 4, backend);
  }
  for (int i = 0; i < STEPS; i++) {
    int64_t bytes = gather_cases[i % CASES].bytes;
    backend->download(host, results[i], rank->size * bytes, backend);
    for (int64_t at = 0; at < rank->size * bytes; at++) {
      float value = gathered_value(i, (int)(at / bytes));
      if (host[at] != ((const char *)&value)[at % bytes % 4])
        rank_fail(rank, "gather %d of %lld bytes: byte %lld of rank %d is wrong", i, (long long)bytes, (long long)(at % bytes),
                  (int)(at / bytes));
    }
  }
  leave_and_close(rank);
}

// Sums in the order of the kernels, gathers and copies to the host beside them; the host waits at the end alone.
static void all_in_a_process(const Rank *rank) {
  enum { STEPS = 20, COUNT = 30001, BYTES = COUNT * sizeof(float) };
  const Kernels *kernels;
  static float read[RANKS_MOST * COUNT];
  float *sums[STEPS], *wholes[STEPS], *host;
  open_and_join(rank);
  kernels = backend->kernels;
  rank_ok(rank, backend->allocate_host((void **)&host, STEPS * BYTES, "a test", backend));
  int64_t last = 0;
  for (int i = 0; i < STEPS; i++) {
    sums[i] = device_new(rank, BYTES), wholes[i] = device_new(rank, rank->size * BYTES);
    kernels->fill(sums[i], (float)(i * (rank->rank + 1)), COUNT, backend);
    if (i % 3 == 1) (void)backend->collectives->gather(wholes[i], sums[i], BYTES, backend);
    if (i % 3 == 1) last = backend->offload(host + i * COUNT, sums[i], BYTES, backend), backend->await_copy(last, backend);
    backend->collectives->sum(sums[i], COUNT, backend);
    kernels->add(sums[i], sums[i > 0 ? i - 1 : i], 0, COUNT, backend);
    if (i % 3 != 1) last = backend->collectives->gather(wholes[i], sums[i], BYTES, backend);
  }
  backend->await_copy(last, backend);
  for (int i = 0; i < STEPS; i++) {
    int total = i * rank->size * (rank->size + 1) / 2;
    backend->download(read, sums[i], BYTES, backend);
    for (int64_t at = 0; at < COUNT; at++) rank_expect(rank, read[at] == (float)total);
    backend->download(read, wholes[i], rank->size * BYTES, backend);
    for (int64_t at = 0; at < rank->size * COUNT; at++)
      rank_expect(rank, read[at] == (float)(i % 3 == 1 ? i * (int)(at / COUNT + 1) : total));
    for (int64_t at = 0; at < COUNT && i % 3 == 1; at++) rank_expect(rank, host[i * COUNT + at] == (float)(i * (rank->rank + 1)));
  }
  backend->release_host(host, backend);
  leave_and_close(rank);
}

static void wait_and_leave(void *context) {
  int *calls = context;
  if (++*calls == 5) backend->collectives->leave(true, backend);
}

static void watch(int *calls) { backend->while_waiting = wait_and_leave, backend->waiting_context = calls; }

static void the_first_waits_in_vain(const Rank *rank) {
  float values[1000] = {0};
  int calls = 0;
  open_and_join(rank);
  watch(&calls);
  void *on_device = device_new(rank, sizeof values), *whole = device_new(rank, 2 * sizeof values);
  if (rank->rank == 0) {
    backend->collectives->sum(on_device, 1000, backend);
    backend->await_copy(backend->collectives->gather(whole, on_device, sizeof values, backend), backend);
    backend->download(values, on_device, sizeof values, backend);
    rank_expect(rank, calls >= 5);
    rank_refused(rank, backend->check(backend), "the other processes were left");
    backend->collectives->leave(true, backend);  // again: nothing
    rank_post(rank, 1);
  }
  rank_await(rank, 1, 1);
  backend_free(backend);
}

// Of two that there shall be.
static void nobody_else_joins(const Rank *rank) {
  int calls = 0;
  rank_ok(rank, backend_new(&backend, "cuda", 1));
  uint8_t *id = rank->board->bytes;
  watch(&calls);
  rank_ok(rank, backend->collectives->make_id(id, backend));
  rank_refused(rank, backend->collectives->join(id, 0, 2, backend), "left before they had come");
  rank_expect(rank, calls == 5);
  rank_ok(rank, backend->check(backend));
  if (is_alone) rank_expect(rank, access((const char *)id, F_OK) != 0);  // nothing is left behind
  float *values = device_new(rank, 4);
  backend->collectives->sum(values, 1, backend);
  rank_refused(rank, backend->check(backend), "has joined no other processes");
  backend_free(backend);
}

static void the_second_leaves(const Rank *rank) {
  float value = 0;
  open_and_join(rank);
  float *values = device_new(rank, sizeof value);
  rank_post(rank, 1);
  rank_await(rank, 1, 2);
  if (rank->rank == 0) {
    backend->collectives->sum(values, 1, backend);
    backend->download(&value, values, sizeof value, backend);
    rank_refused(rank, backend->check(backend), "remote process exited or there was a network error: rank 1 has left");
  }
  backend_free(backend);
}

static void one_is_wrong(const Rank *rank) {
  float value = 0;
  open_and_join(rank);
  backend->collectives->sum(&value, 1, backend);
  rank_refused(rank, backend->check(backend), "NCCL 2.28.9: invalid argument: ncclAllReduce: a buffer is not within device memory");
  backend_free(backend);
}

static void counts_differ(const Rank *rank) {
  open_and_join(rank);
  float *values = device_new(rank, 400);
  backend->collectives->sum(values, rank->rank ? 100 : 99, backend);
  (void)backend->check(backend);
}

static void kinds_differ(const Rank *rank) {
  open_and_join(rank);
  float *values = device_new(rank, 400);
  if (rank->rank) backend->collectives->sum(values, 1, backend);
  else (void)backend->collectives->gather(values, values, 4, backend);
  (void)backend->check(backend);
  backend->collectives->leave(false, backend);
}

static void there_is_a_library(const Rank *rank) {
  rank_ok(rank, backend_new(&backend, "cuda", 1));
  const char *library = backend->collectives->library(backend);
  rank_expect(rank, library && strncmp(library, "NCCL 2.", 7) == 0);
  backend_free(backend);
}

static void there_is_none(const Rank *rank) {
  rank_ok(rank, backend_new(&backend, "cuda", 1));
  uint8_t id[COLLECTIVE_ID_BYTES] = {0};
  rank_expect(rank, !backend->collectives->library(backend));
  rank_refused(rank, backend->collectives->make_id(id, backend), "there is no NCCL");
  rank_refused(rank, backend->collectives->join(id, 0, 1, backend), "there is no NCCL");
  rank_ok(rank, backend->check(backend));
  backend_free(backend);
}

static void there_is_an_old_one(const Rank *rank) {
  setenv("LORA_SIMULATED_NCCL", "21304", 1);
  there_is_none(rank);
}

static void there_shall_be_none(const Rank *rank) {
  setenv("LORA_CUDA_NCCL", "off", 1);
  there_is_none(rank);
}

static void tell_devices(const Rank *rank) {
  Buffer text = {0};
  int count = 0;
  rank_ok(rank, cuda_library_describe(&text, &count));
  rank_ok(rank, backend_new(&backend, "cuda", 1));
  rank->board->bytes[0] = backend->collectives->library(backend) ? (uint8_t)(count < RANKS_MOST ? count : RANKS_MOST) : 0;
  backend_free(backend);
}

// Runs it with so many processes, of real devices with one for each. Where there is no library, or no other device, the test is skipped.
static void run_ranks(int size, RankTest *test) {
  static int most = -1;
  if (most < 0) most = is_alone ? RANKS_MOST : ranks_ask(tell_devices);
  if (most == 0) skip_test("there is no NCCL");
  if (size > 1 && most == 1) skip_test("there is one device");
  ranks_run(size < most ? size : most, test);
}

static void sums_between_processes_are_the_same_everywhere(void **state) {
  (void)state;
  run_ranks(2, sums_in_a_process);
  run_ranks(3, sums_in_a_process);
}

static void gathers_between_processes_keep_their_order(void **state) {
  (void)state;
  run_ranks(2, gathers_in_a_process);
  run_ranks(3, gathers_in_a_process);
}

static void sums_gathers_and_copies_go_together(void **state) {
  (void)state;
  run_ranks(2, all_in_a_process);
  run_ranks(3, all_in_a_process);
}

static void one_process_is_enough(void **state) {
  (void)state;
  run_ranks(1, sums_in_a_process);
  run_ranks(1, gathers_in_a_process);
}

static void who_never_comes_is_not_waited_for(void **state) {
  (void)state;
  run_ranks(1, nobody_else_joins);
  run_ranks(2, the_first_waits_in_vain);
}

static void mistakes_are_told_in_the_words_of_the_library(void **state) {
  (void)state;
  if (!is_alone) skip_test("on the simulated device alone");
  ranks_run(2, the_second_leaves);
  ranks_run(1, one_is_wrong);
  ranks_run_fatal(2, counts_differ, "rank 0 calls a sum of 396 bytes, but rank 1 a sum of 400");
  ranks_run_fatal(2, kinds_differ, "rank 1 calls a sum of 4 bytes, but rank 0 a gather of 4");
}

static void the_library_says_what_it_is(void **state) {
  (void)state;
  run_ranks(1, there_is_a_library);
  if (is_alone) ranks_run(1, there_is_an_old_one);
  ranks_run(1, there_shall_be_none);
}

#define OP(op) \
  { #op, op##_on_cuda_matches_float64, NULL, NULL, NULL }
typedef struct Family {
  const char *name;
  struct CMUnitTest tests[12];
  bool is_of_processes;  // which open the backend, and the parent does not
} Family;

static const Family families[] = {
    {"collectives",  // first: processes are forked before this one opens the library
     {cmocka_unit_test(the_library_says_what_it_is), cmocka_unit_test(one_process_is_enough),
      cmocka_unit_test(sums_between_processes_are_the_same_everywhere), cmocka_unit_test(gathers_between_processes_keep_their_order),
      cmocka_unit_test(sums_gathers_and_copies_go_together), cmocka_unit_test(who_never_comes_is_not_waited_for),
      cmocka_unit_test(mistakes_are_told_in_the_words_of_the_library)},
     true},
    {"linear", {OP(linear_forward), OP(linear_forward_rows), OP(linear_forward_int8), OP(linear_backward)}},
    {"low_rank",
     {OP(weight_backward), OP(low_rank_backward), cmocka_unit_test(repeated_products_give_the_same_bits),
      cmocka_unit_test(a_factor_of_several_parts_gets_the_sums_of_all)}},
    {"rows", {OP(embedding_forward), OP(gather_rows), OP(scatter_rows), OP(copy_heads), OP(embedding_backward)}},
    {"norm", {OP(norm_forward), OP(norm_backward), OP(norm_weight_backward), OP(column_sums)}},
    {"magnitude", {OP(low_rank_norms), OP(magnitude_forward), OP(magnitude_backward)}},
    {"attention",
     {OP(attention_forward), OP(attention_backward), cmocka_unit_test(repeated_attention_gives_the_same_bits),
      cmocka_unit_test(attention_of_many_rows_matches_float64)}},
    {"paged",
     {OP(store_pages), OP(paged_attention), OP(low_rank_rows), cmocka_unit_test(repeated_attention_over_pages_gives_the_same_bits),
      cmocka_unit_test(bits_of_a_row_do_not_depend_on_others), cmocka_unit_test(bits_of_a_prompt_do_not_depend_on_how_it_is_cut),
      cmocka_unit_test(pages_are_stored_to_the_last_bit)}},
    {"elementwise",
     {OP(rope), OP(gated_forward), OP(gated_backward), OP(softcap), OP(dropout), OP(add_uniform), OP(fill), OP(copy), OP(add)}},
    {"loss", {OP(cross_entropy), OP(linear_cross_entropy), OP(divergence)}},
    {"experts",
     {OP(router_forward), OP(router_backward), OP(experts_forward), OP(experts_backward), cmocka_unit_test(experts_at_once_match_float64),
      cmocka_unit_test(experts_at_once_repeat_bits_and_download_nothing),
      cmocka_unit_test(scratch_of_experts_does_not_grow_without_bound)}},
    {"optimizer",
     {OP(adamw), OP(adamw_8bit), OP(update), OP(update_8bit), OP(factored_moments), OP(factored_update), OP(sum_of_squares),
      cmocka_unit_test(sum_of_squares_lets_nan_and_infinity_through)}},
    {"device",
     {cmocka_unit_test(the_table_has_no_hole), cmocka_unit_test(memory_is_counted_and_its_lack_is_told),
      cmocka_unit_test(no_rows_and_no_counts_write_nothing), cmocka_unit_test(peak_is_a_rate),
      cmocka_unit_test(copies_beside_kernels_keep_their_order), cmocka_unit_test(host_memory_that_cannot_be_pinned_is_told)}},
};

static int run_family(const Family *family) {
  size_t count = 0;
  while (count < sizeof family->tests / sizeof *family->tests && family->tests[count].test_func) count++;
  bool is_opened = !family->is_of_processes;
  return _cmocka_run_group_tests(family->name, family->tests, count, is_opened ? open_device : NULL, is_opened ? close_device : NULL);
}

int main(int argc, char **argv) {
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  setenv("LORA_CUDA_ATTENTION", "own", 0);
  setenv("LORA_SIMULATED_DEVICES", "3", 0);
  is_alone = strstr(getenv("LORA_CUDA_LIBRARY"), "simulated") != NULL;
  int failed = 0, ran = 0;
  for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
    if (argc > 1 && strcmp(argv[1], families[i].name) != 0) continue;
    failed += run_family(&families[i]);
    ran++;
  }
  if (!ran) fprintf(stderr, "test_cuda: no family is called %s\n", argv[1]);
  return failed || !ran;
}
