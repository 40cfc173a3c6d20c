// The cases of the self-check, kernel by kernel. Each runs as it stands on both sides: see kernels/selfcheck_side.h.
#include <math.h>
#include <stdio.h>

#include "kernels/adamw_8bit.h"
#include "kernels/cuda_library.h"
#include "kernels/loss.h"
#include "kernels/selfcheck_side.h"

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof *(array)))
#define SAY(...) snprintf(side->what, sizeof side->what, __VA_ARGS__)

static const int weight_types[] = {BLOCK_F32,   BLOCK_F16,  BLOCK_BF16,     BLOCK_Q4_0,    BLOCK_Q4_1,  BLOCK_Q5_0,
                                   BLOCK_Q5_1,  BLOCK_Q8_0, BLOCK_Q2_K,     BLOCK_Q3_K,    BLOCK_Q4_K,  BLOCK_Q5_K,
                                   BLOCK_Q6_K,  BLOCK_Q8_K, BLOCK_IQ4_NL,   BLOCK_IQ4_XS,  BLOCK_MXFP4, BLOCK_TQ1_0,
                                   BLOCK_TQ2_0, BLOCK_NF4,  SIDE_GROUPED_4, SIDE_GROUPED_8};
enum { WEIGHT_TYPES = sizeof weight_types / sizeof *weight_types };

static const char *weight_name(int type) {
  if (type < 0) return type == SIDE_GROUPED_4 ? "groups of 4 bits" : "groups of 8 bits";
  return block_traits((BlockType)type)->name;
}

// Each way that a device has to multiply: the fewest rows, few (dequantised within the product), many (by panels, also by its own products).
typedef struct LinearShape {
  int64_t n, rows, columns;
  bool by_panels, is_own;
} LinearShape;
static const LinearShape linear_shapes[] = {
    {1, 40, 256, false, false}, {7, 33, 512, false, false}, {70, 48, 256, true, false}, {35, 67, 256, true, true}};
enum { LINEAR_SHAPES = sizeof linear_shapes / sizeof *linear_shapes };

// A device's own choice of a way is put aside for the case; returns what it was.
typedef struct Choice {
  int64_t tuning[BACKEND_TUNINGS];
} Choice;
static Choice choice_of(const Side *side) {
  Choice choice = {{0}};
  for (int i = 0; i < side->backend->tuning_count; i++) choice.tuning[i] = side->backend->tuning[i];
  return choice;
}
static Choice choose(Side *side, const LinearShape *shape) {
  Choice before = choice_of(side);
  int64_t *tuning = side->backend->tuning;
  if (side->backend->tuning_count < TUNING_COUNT) return before;
  if (shape->by_panels) tuning[TUNING_FUSED_ROWS] = tuning[TUNING_GEMV_ROWS] = 0;
  tuning[TUNING_OWN_PRODUCTS] = shape->is_own;
  return before;
}
static void choose_again(Side *side, const Choice *before) {
  for (int i = 0; i < side->backend->tuning_count; i++) side->backend->tuning[i] = before->tuning[i];
}

static const LinearShape *linear_case(Side *side, Matrix *w) {
  if (side->index >= WEIGHT_TYPES * LINEAR_SHAPES) return NULL;
  int type = weight_types[side->index / LINEAR_SHAPES];
  const LinearShape *shape = &linear_shapes[side->index % LINEAR_SHAPES];
  SAY("%s [%d, %d], %d rows", weight_name(type), (int)shape->rows, (int)shape->columns, (int)shape->n);
  side_matrix(side, w, type, shape->rows, shape->columns);
  return shape;
}

// One projection of two has all terms: low rank, bias, residual.
static bool linear_forward(Side *side) {
  enum { RANK = 8 };
  Matrix w = {0};
  const LinearShape *s = linear_case(side, &w);
  if (!s) return false;
  Rows x = side_rows(side, s->n, s->columns, 1), y[2];
  for (int i = 0; i < 2; i++) y[i] = side_output_rows(side, s->n, s->rows);
  Projection p[2] = {{.w = &w, .alpha = 1, .y = y[0]}, {.w = &w, .alpha = 0.5f, .y = y[1], .rank = RANK}};
  p[1].h = side_rows(side, s->n, RANK, 1);
  p[1].low = side_floats(side, s->rows * RANK, 0.1);
  p[1].bias = side_floats(side, s->rows, 1);
  p[1].residual = y[1];
  if (side->status != STATUS_OK) return true;
  Choice before = choose(side, s);
  side->kernels->linear_forward(p, 2, x, s->n, side->backend);
  choose_again(side, &before);
  return true;
}

static bool linear_forward_int8(Side *side) {
  if (side->index >= WEIGHT_TYPES) return false;
  int type = weight_types[side->index];
  Matrix w = {0};
  SAY("%s [40, 512], 3 rows", weight_name(type));
  side_matrix(side, &w, type, 40, 512);
  Rows x = side_rows(side, 3, 512, 1);
  Projection p = {.w = &w, .alpha = 1, .y = side_output_rows(side, 3, 40)};
  if (side->status == STATUS_OK) side->kernels->linear_forward_int8(&p, 1, x, 3, side->backend);
  return true;
}

static bool linear_forward_rows(Side *side) {
  if (side->index >= 2 * WEIGHT_TYPES) return false;
  int type = weight_types[side->index / 2];
  int64_t n = side->index % 2 ? 11 : 2;
  Matrix w = {0};
  SAY("%s [40, 512], %d rows", weight_name(type), (int)n);
  side_matrix(side, &w, type, 40, 512);
  Rows x = side_rows(side, n, 512, 1);
  Projection p = {.w = &w, .alpha = 0.5f, .y = side_output_rows(side, n, 40), .bias = side_floats(side, 40, 1)};
  if (side->status == STATUS_OK) side->kernels->linear_forward_rows(&p, 1, x, n, side->backend);
  return true;
}

static bool linear_backward(Side *side) {
  enum { RANK = 8 };
  Matrix w = {0};
  const LinearShape *s = linear_case(side, &w);
  if (!s) return false;
  Rows dx = side_output_rows(side, s->n, s->columns);
  Projection p = {.w = &w, .alpha = 0.5f, .y = side_rows(side, s->n, s->rows, 1), .rank = RANK};
  p.h = side_rows(side, s->n, RANK, 1);
  p.low = side_floats(side, s->columns * RANK, 0.1);
  if (side->status != STATUS_OK) return true;
  Choice before = choose(side, s);
  side->kernels->linear_backward(dx, &p, 1, s->n, side->index % 3 == 0, side->backend);
  choose_again(side, &before);
  return true;
}

static const int64_t low_rank_shapes[][3] = {{33, 96, 16}, {1, 64, 8}, {130, 77, 5}};  // rows, width, rank

static bool weight_backward(Side *side) {
  if (side->index >= COUNT_OF(low_rank_shapes)) return false;
  const int64_t *s = low_rank_shapes[side->index];
  SAY("%d rows, width %d, rank %d", (int)s[0], (int)s[1], (int)s[2]);
  Rows dy = side_rows(side, s[0], s[2], 1), x = side_rows(side, s[0], s[1], 1);
  WeightGradient gradient = {.dw = side_output(side, OUTPUT_FLOATS, s[2] * s[1], 0), .dy = dy, .rows = s[2], .alpha = 0.5f};
  side->kernels->weight_backward(&gradient, 1, x, s[1], s[0], side->backend);
  return true;
}

static bool low_rank_backward(Side *side) {
  if (side->index >= COUNT_OF(low_rank_shapes)) return false;
  const int64_t *s = low_rank_shapes[side->index];
  SAY("%d rows, width %d, rank %d", (int)s[0], (int)s[1], (int)s[2]);
  LowRankGradient g = {.dy = side_rows(side, s[0], s[1], 1), .out = s[1], .rank = s[2], .scale = 2};
  g.b = side_floats(side, s[1] * s[2], 0.1);
  g.h = side_rows(side, s[0], s[2], 1);
  g.db = side_output(side, OUTPUT_FLOATS, s[1] * s[2], 0);
  g.dh = side_output_rows(side, s[0], s[2]);
  side->kernels->low_rank_backward(&g, 1, s[0], side->backend);
  return true;
}

static bool embedding_forward(Side *side) {
  if (side->index >= WEIGHT_TYPES) return false;
  Matrix w = {0};
  SAY("%s", weight_name(weight_types[side->index]));
  side_matrix(side, &w, weight_types[side->index], 32, 256);
  int32_t *ids = side_indices(side, 9, 32);
  float *y = side_output(side, OUTPUT_FLOATS, 9 * 256, 0);
  if (side->status == STATUS_OK) side->kernels->embedding_forward(y, ids, &w, 9, 1.5f, side->backend);
  return true;
}

static const int64_t norm_shapes[][2] = {{5, 256}, {3, 4099}, {1, 8192}, {7, 64}};

static NormSettings norm_settings(Side *side, int64_t columns, bool has_bias) {
  NormSettings norm = {
      .columns = columns, .epsilon = 1e-5f, .offset = side->index % 2 ? 1 : 0, .is_centered = side->index >= COUNT_OF(norm_shapes)};
  norm.weight = side_floats(side, columns, 1);
  if (has_bias && norm.is_centered) norm.bias = side_floats(side, columns, 1);
  SAY("%s of %d columns", norm.is_centered ? "LayerNorm" : "RMSNorm", (int)columns);
  return norm;
}

static bool norm_forward(Side *side) {
  if (side->index >= 2 * COUNT_OF(norm_shapes)) return false;
  const int64_t *s = norm_shapes[side->index % COUNT_OF(norm_shapes)];
  NormSettings norm = norm_settings(side, s[1], true);
  Rows x = side_rows(side, s[0], s[1], 1), residual = {0};
  if (side->index % 2) residual = rows_f32(side_floats(side, s[0] * s[1], 1), s[1]);
  side->kernels->norm_forward(side_output_rows(side, s[0], s[1]), x, residual, &norm, s[0], side->backend);
  return true;
}

static bool norm_backward(Side *side) {
  if (side->index >= 2 * COUNT_OF(norm_shapes)) return false;
  const int64_t *s = norm_shapes[side->index % COUNT_OF(norm_shapes)];
  NormSettings norm = norm_settings(side, s[1], false);
  Rows x = side_rows(side, s[0], s[1], 1), dy = side_rows(side, s[0], s[1], 1);
  side->kernels->norm_backward(side_output_rows(side, s[0], s[1]), dy, x, &norm, s[0], side->index % 2, side->backend);
  return true;
}

static bool rope(Side *side) {
  static const int64_t shapes[][4] = {{9, 4, 64, 64}, {3, 3, 80, 32}, {17, 2, 128, 128}};  // rows, heads, size, rotary
  if (side->index >= 4 * COUNT_OF(shapes)) return false;
  const int64_t *s = shapes[side->index / 4];
  RopeLayout layout = side->index & 1 ? ROPE_INTERLEAVED : ROPE_HALVES;
  float frequencies[64];
  for (int64_t i = 0; i < s[3] / 2; i++) frequencies[i] = (float)pow(10000.0, -2.0 * (double)i / (double)s[3]);
  SAY("%d heads of %d, %d of them turned, layout %d", (int)s[1], (int)s[2], (int)s[3], layout);
  int32_t *positions = side_indices(side, s[0], 1009);
  float *turns = side_send(side, frequencies, s[3] / 2 * (int64_t)sizeof *frequencies);
  void *x = side_output(side, OUTPUT_ACTIVATIONS, s[0] * s[1] * s[2], 1e-4);
  side->kernels->rope(x, side->type, positions, turns, s[0], s[1], s[2], s[3], layout, 1.25f, side->index & 2, side->backend);
  return true;
}

static const AttentionShape attention_shapes[] = {
    {.heads = 4, .kv_heads = 2, .head_size = 64, .value_size = 64, .scale = 0.125f},
    {.heads = 2, .kv_heads = 1, .head_size = 128, .value_size = 128, .scale = 0.09f, .window = 11},
    {.heads = 3, .kv_heads = 3, .head_size = 96, .value_size = 64, .scale = 0.1f, .softcap = 30},
    {.heads = 2, .kv_heads = 1, .head_size = 24, .value_size = 40, .scale = 0.2f},
};
// Two documents, the second with 5 keys of an earlier context.
static const AttentionSpan attention_spans[] = {{0, 37, 0, 37}, {37, 58, 37, 63}};
enum { QUERIES = 58, KEYS = 63 };

typedef struct AttentionInputs {
  void *q, *k, *v;
} AttentionInputs;
static AttentionInputs attention_inputs(Side *side, const AttentionShape *s) {
  SAY("%d heads over %d of %d, %d, window %d", (int)s->heads, (int)s->kv_heads, (int)s->head_size, (int)s->value_size, (int)s->window);
  AttentionInputs in = {.q = side_activations(side, QUERIES * s->heads * s->head_size, 1)};
  in.k = side_activations(side, KEYS * s->kv_heads * s->head_size, 1);
  in.v = side_activations(side, KEYS * s->kv_heads * s->value_size, 1);
  return in;
}

static bool attention_forward(Side *side) {
  if (side->index >= COUNT_OF(attention_shapes)) return false;
  const AttentionShape *s = &attention_shapes[side->index];
  AttentionInputs in = attention_inputs(side, s);
  void *o = side_output(side, OUTPUT_ACTIVATIONS, QUERIES * s->heads * s->value_size, 0);
  float *lse = side_output(side, OUTPUT_FLOATS, QUERIES * s->heads, 0);
  side->kernels->attention_forward(o, lse, in.q, in.k, in.v, side->type, attention_spans, 2, NULL, *s, side->backend);
  return true;
}

// Of its own forward pass.
static bool attention_backward(Side *side) {
  if (side->index >= COUNT_OF(attention_shapes)) return false;
  const AttentionShape *s = &attention_shapes[side->index];
  AttentionInputs in = attention_inputs(side, s);
  void *go = side_activations(side, QUERIES * s->heads * s->value_size, 1),
       *o = side_activations(side, QUERIES * s->heads * s->value_size, 1);
  float *lse = side_floats(side, QUERIES * s->heads, 1), *scratch = side_floats(side, attention_scratch_floats(QUERIES, s, FLOAT_BF16), 1);
  void *dq = side_output(side, OUTPUT_ACTIVATIONS, QUERIES * s->heads * s->head_size, 0);
  void *dk = side_output(side, OUTPUT_ACTIVATIONS, KEYS * s->kv_heads * s->head_size, 0);
  void *dv = side_output(side, OUTPUT_ACTIVATIONS, KEYS * s->kv_heads * s->value_size, 0);
  side->kernels->attention_forward(o, lse, in.q, in.k, in.v, side->type, attention_spans, 2, NULL, *s, side->backend);
  side->kernels->attention_backward(dq, dk, dv, scratch, go, o, lse, in.q, in.k, in.v, side->type, attention_spans, 2, NULL, *s,
                                    side->backend);
  return true;
}

static const int64_t counts[] = {1, 1000, 4103};

static bool gated_forward(Side *side) {
  if (side->index >= 2 * COUNT_OF(counts)) return false;
  int64_t count = counts[side->index / 2];
  Activation f = side->index % 2 ? ACTIVATION_GELU_TANH : ACTIVATION_SILU;
  SAY("%d values, function %d", (int)count, f);
  void *gate = side_activations(side, count, 3), *up = side_activations(side, count, 1);
  side->kernels->gated_forward(side_output(side, OUTPUT_ACTIVATIONS, count, 0), gate, up, side->type, count, f, side->backend);
  return true;
}

static bool gated_backward(Side *side) {
  if (side->index >= 2 * COUNT_OF(counts)) return false;
  int64_t count = counts[side->index / 2];
  Activation f = side->index % 2 ? ACTIVATION_GELU_TANH : ACTIVATION_SILU;
  SAY("%d values, function %d", (int)count, f);
  void *dy = side_activations(side, count, 1), *gate = side_activations(side, count, 3), *up = side_activations(side, count, 1);
  void *dgate = side_output(side, OUTPUT_ACTIVATIONS, count, 0), *dup = side_output(side, OUTPUT_ACTIVATIONS, count, 0);
  side->kernels->gated_backward(dgate, dup, dy, gate, up, side->type, count, f, side->backend);
  return true;
}

static bool cross_entropy(Side *side) {
  static const int64_t vocabularies[] = {5, 1000, 4099};
  if (side->index >= 2 * COUNT_OF(vocabularies)) return false;
  enum { N = 5 };
  int64_t vocabulary = vocabularies[side->index / 2];
  float cap = side->index % 2 ? 20 : 0;
  SAY("a vocabulary of %d, soft cap %g", (int)vocabulary, (double)cap);
  int32_t *targets = side_indices(side, N, vocabulary);
  float *scale = side_floats(side, N, 1), *nll = side_output(side, OUTPUT_FLOATS, N, 0);
  float *logits = side_output(side, OUTPUT_FLOATS, N * vocabulary, 0);
  side->kernels->cross_entropy(nll, logits, vocabulary, targets, scale, FLOAT_32, N, vocabulary, cap, side->backend);
  return true;
}

static bool divergence(Side *side) {
  static const int64_t vocabularies[] = {5, 1000, 4099};
  if (side->index >= 2 * COUNT_OF(vocabularies)) return false;
  enum { N = 5 };
  int64_t vocabulary = vocabularies[side->index / 2];
  float cap = side->index % 2 ? 20 : 0;
  SAY("a vocabulary of %d, soft cap %g", (int)vocabulary, (double)cap);
  float *logits = side_floats(side, N * vocabulary, 2), *scale = side_floats(side, N, 1);
  float *kl = side_output(side, OUTPUT_FLOATS, N, 0), *base = side_output(side, OUTPUT_FLOATS, N * vocabulary, 0);
  side->kernels->divergence(kl, base, logits, vocabulary, scale, N, vocabulary, cap, side->backend);
  return true;
}

static bool linear_cross_entropy(Side *side) {
  static const int types[] = {BLOCK_Q6_K, BLOCK_Q8_0, BLOCK_BF16, BLOCK_F32, BLOCK_NF4, BLOCK_Q4_K};
  if (side->index >= COUNT_OF(types)) return false;
  enum { N = 37, VOCABULARY = 211, COLUMNS = 256 };
  Matrix head = {0};
  SAY("head of %s", weight_name(types[side->index]));
  side_matrix(side, &head, types[side->index], VOCABULARY, COLUMNS);
  Rows x = side_rows(side, N, COLUMNS, 1), dx = side_output_rows(side, N, COLUMNS);
  int32_t *targets = side_indices(side, N, VOCABULARY);
  float *scale = side_floats(side, N, 1), *nll = side_output(side, OUTPUT_FLOATS, N, 0);
  float *scratch = side_floats(side, linear_cross_entropy_floats(N, VOCABULARY, COLUMNS), 0);
  if (side->status != STATUS_OK) return true;
  side->kernels->linear_cross_entropy(nll, dx, x, &head, targets, scale, N, scratch, side->index % 2 ? 30 : 0, side->backend);
  return true;
}

static bool softcap(Side *side) {
  if (side->index >= COUNT_OF(counts)) return false;
  SAY("%d values", (int)counts[side->index]);
  side->kernels->softcap(side_output(side, OUTPUT_FLOATS, counts[side->index], 0), counts[side->index], 2.5f, side->backend);
  return true;
}

static const RouterSettings routers[] = {
    {.experts = 8, .used = 2, .is_normalized = true, .scale = 1},
    {.experts = 64, .used = 8, .scale = 1},
    {.experts = 64,
     .used = 6,
     .is_sigmoid = true,
     .groups = 8,
     .groups_used = 3,
     .groups_by_two = true,
     .is_normalized = true,
     .scale = 2.5f},
};

static bool router_forward(Side *side) {
  if (side->index >= COUNT_OF(routers)) return false;
  enum { N = 19 };
  RouterSettings router = routers[side->index];
  SAY("%d of %d experts", (int)router.used, (int)router.experts);
  if (router.is_sigmoid) router.bias = side_floats(side, router.experts, 0.1);
  float *logits = side_floats(side, N * router.experts, 2);
  int32_t *chosen = side_output(side, OUTPUT_INTEGERS, N * router.used, 0);
  float *weights = side_output(side, OUTPUT_FLOATS, N * router.used, 0), *totals = side_output(side, OUTPUT_FLOATS, 2 * router.experts, 0);
  side->kernels->router_forward(chosen, weights, totals, logits, &router, N, side->backend);
  return true;
}

static bool router_backward(Side *side) {
  if (side->index >= COUNT_OF(routers)) return false;
  enum { N = 19 };
  const RouterSettings *router = &routers[side->index];
  SAY("%d of %d experts", (int)router->used, (int)router->experts);
  int32_t chosen[N * 8];
  for (int64_t i = 0; i < N * router->used; i++) chosen[i] = (int32_t)((i / router->used + i % router->used) % router->experts);
  float *logits = side_floats(side, N * router->experts, 1), *dweights = side_floats(side, N * router->used, 1);
  int32_t *sent = side_send(side, chosen, N * router->used * (int64_t)sizeof *chosen);
  float *dlogits = side_output(side, OUTPUT_FLOATS, N * router->experts, 0);
  side->kernels->router_backward(dlogits, dweights, logits, sent, router, N, side->backend);
  return true;
}

enum { EXPERTS = 4, EXPERTS_USED = 2, HIDDEN = 256, WIDTH = 256, EXPERT_ROWS = 11 };
static const int expert_types[] = {BLOCK_Q8_0, BLOCK_Q4_K, BLOCK_MXFP4, BLOCK_BF16};

// Every type by each way that a device has for experts: one after another, and all at once.
static int expert_type(const Side *side) { return expert_types[side->index / 2]; }
static Choice choose_experts(Side *side) {
  Choice before = choice_of(side);
  if (side->backend->tuning_count == TUNING_COUNT) side->backend->tuning[TUNING_GROUPED_PAIRS] = side->index % 2 ? 1 : INT64_MAX;
  return before;
}

static bool open_experts(Side *side, ExpertMatrices *out, Matrix matrices[3][EXPERTS], const int32_t **chosen) {
  int32_t numbers[EXPERT_ROWS * EXPERTS_USED];
  for (int i = 0; i < EXPERT_ROWS * EXPERTS_USED; i++) numbers[i] = (i + i / 6) % EXPERTS;
  SAY("experts of %s%s", weight_name(expert_type(side)), side->index % 2 ? ", at once" : "");
  for (int i = 0; i < 3; i++)
    for (int e = 0; e < EXPERTS; e++)
      if (!side_matrix(side, &matrices[i][e], expert_type(side), i == 2 ? HIDDEN : WIDTH, i == 2 ? WIDTH : HIDDEN)) return false;
  *out = (ExpertMatrices){matrices[0], matrices[1], matrices[2], EXPERTS, EXPERTS_USED, HIDDEN, WIDTH, ACTIVATION_SILU};
  *chosen = side_send(side, numbers, sizeof numbers);
  return true;
}

static bool experts_forward(Side *side) {
  if (side->index >= 2 * COUNT_OF(expert_types)) return false;
  Matrix matrices[3][EXPERTS];
  ExpertMatrices experts;
  const int32_t *chosen;
  if (!open_experts(side, &experts, matrices, &chosen)) return true;
  Rows x = side_rows(side, EXPERT_ROWS, HIDDEN, 0.5), y = rows_f32(side_output(side, OUTPUT_FLOATS, EXPERT_ROWS * HIDDEN, 0), HIDDEN);
  float *weights = side_floats(side, EXPERT_ROWS * EXPERTS_USED, 1);
  Choice before = choose_experts(side);
  int64_t floats = side->kernels->experts_scratch_floats(EXPERT_ROWS, &experts, side->type, false, side->backend);
  float *scratch = side_floats(side, floats, 0);
  side->kernels->experts_forward(y, x, &experts, chosen, weights, EXPERT_ROWS, false, scratch, side->backend);
  choose_again(side, &before);
  return true;
}

static bool experts_backward(Side *side) {
  if (side->index >= 2 * COUNT_OF(expert_types)) return false;
  Matrix matrices[3][EXPERTS];
  ExpertMatrices experts;
  const int32_t *chosen;
  if (!open_experts(side, &experts, matrices, &chosen)) return true;
  Rows x = side_rows(side, EXPERT_ROWS, HIDDEN, 0.5), dx = rows_f32(side_output(side, OUTPUT_FLOATS, EXPERT_ROWS * HIDDEN, 0), HIDDEN);
  Rows dy = rows_f32(side_floats(side, EXPERT_ROWS * HIDDEN, 1), HIDDEN);
  float *weights = side_floats(side, EXPERT_ROWS * EXPERTS_USED, 1);
  Choice before = choose_experts(side);
  int64_t floats = side->kernels->experts_scratch_floats(EXPERT_ROWS, &experts, side->type, true, side->backend);
  float *scratch = side_floats(side, floats, 0), *dweights = side_output(side, OUTPUT_FLOATS, EXPERT_ROWS * EXPERTS_USED, 0);
  bool accumulate = side->index / 2 % 2;
  side->kernels->experts_backward(dx, dweights, dy, x, &experts, chosen, weights, EXPERT_ROWS, accumulate, scratch, side->backend);
  choose_again(side, &before);
  return true;
}

static bool copy_heads(Side *side) {
  if (side->index >= 4) return false;
  enum { N = 9, HEADS = 4, SIZE = 40 };
  bool sums = side->index / 2;  // over heads; else all read the same columns
  SAY(sums ? "heads are summed" : "heads read the same");
  Rows x = side_rows(side, N, HEADS * SIZE, 1), y = side_output_rows(side, N, HEADS * SIZE);
  side->kernels->copy_heads(y, sums ? 0 : SIZE, x, sums ? SIZE : 0, HEADS, SIZE, N, side->index % 2, side->backend);
  return true;
}

static bool low_rank_norms(Side *side) {
  static const int shapes[][2] = {{64, 8}, {67, 5}, {256, 32}};
  if (side->index >= COUNT_OF(shapes)) return false;
  int64_t out = shapes[side->index][0], rank = shapes[side->index][1];
  SAY("%d rows of rank %d", (int)out, (int)rank);
  // (Squares that are large beside the other terms: the sums are positive.)
  float *squares = side_normals(side, out, 1), *products = side_floats(side, rank * out, 1), *gram = side_floats(side, rank * rank, 1);
  for (int64_t i = 0; i < out; i++) squares[i] = 60 * (float)rank + squares[i];
  float *b = side_floats(side, out * rank, 0.5), *norms = side_output(side, OUTPUT_FLOATS, out, 0);
  side->kernels->low_rank_norms(norms, side_send(side, squares, out * (int64_t)sizeof *squares), products, gram, b, out, rank, 0.5f,
                                side->backend);
  return true;
}

static Magnitude magnitude_of(Side *side, int64_t columns) {
  float *norms = side_normals(side, columns, 1);
  for (int64_t i = 0; i < columns; i++) norms[i] = fabsf(norms[i]) + 0.5f;
  return (Magnitude){
      .m = side_floats(side, columns, 1), .norms = side_send(side, norms, columns * (int64_t)sizeof *norms), .columns = columns};
}

static bool magnitude_forward(Side *side) {
  if (side->index >= 4) return false;
  int64_t n = 9, columns = side->index % 2 ? 67 : 256;
  SAY("%d columns, residual %d", (int)columns, side->index / 2);
  Magnitude magnitude = magnitude_of(side, columns);
  if (side->index / 2) magnitude.bias = side_floats(side, columns, 1);
  Rows residual = side->index / 2 ? rows_f32(side_floats(side, n * columns, 1), columns) : (Rows){0};
  Rows z = side_rows(side, n, columns, 1);
  side->kernels->magnitude_forward(side_output_rows(side, n, columns), z, residual, &magnitude, n, side->backend);
  return true;
}

static bool magnitude_backward(Side *side) {
  if (side->index >= 2) return false;
  int64_t n = 70, columns = side->index ? 67 : 256;
  SAY("%d columns", (int)columns);
  Magnitude magnitude = magnitude_of(side, columns);
  Rows dy = side_rows(side, n, columns, 1), z = side_rows(side, n, columns, 1), dz = side_output_rows(side, n, columns);
  side->kernels->magnitude_backward(dz, side_output(side, OUTPUT_FLOATS, columns, 0), dy, z, &magnitude, n, side->backend);
  return true;
}

static bool dropout(Side *side) {
  if (side->index >= 2 * COUNT_OF(counts)) return false;
  int64_t count = counts[side->index / 2];
  SAY("%d values", (int)count);
  void *x = side_activations(side, count, 1);
  side->kernels->dropout(side_output(side, OUTPUT_ACTIVATIONS, count, 0), x, side->type, count, 0.3f, 1, 2, side->index % 2, side->backend);
  return true;
}

static bool add_uniform(Side *side) {
  if (side->index >= COUNT_OF(counts)) return false;
  int64_t count = counts[side->index];
  SAY("%d values", (int)count);
  side->kernels->add_uniform(side_output(side, OUTPUT_FLOATS, count, 0), count, 0.7f, 1, 2, side->backend);
  return true;
}

static bool gather_rows(Side *side) {
  if (side->index >= 2) return false;
  int64_t columns = side->index ? 67 : 256;
  SAY("%d columns", (int)columns);
  void *x = side_activations(side, 20 * columns, 1);
  int32_t *rows = side_indices(side, 13, 20);
  side->kernels->gather_rows(side_output(side, OUTPUT_ACTIVATIONS, 13 * columns, 0), x, side->type, rows, 13, columns, side->backend);
  return true;
}

static bool scatter_rows(Side *side) {
  if (side->index >= 2) return false;
  int64_t columns = side->index ? 67 : 256;
  SAY("%d columns", (int)columns);
  void *x = side_activations(side, 13 * columns, 1);
  int32_t *rows = side_indices(side, 13, 20);
  side->kernels->scatter_rows(side_output(side, OUTPUT_ACTIVATIONS, 20 * columns, 0), x, side->type, rows, 13, columns, side->backend);
  return true;
}

static bool column_sums(Side *side) {
  if (side->index >= COUNT_OF(norm_shapes)) return false;
  int64_t columns = norm_shapes[side->index][1];
  SAY("%d columns", (int)columns);
  Rows x = side_rows(side, 70, columns, 1);
  side->kernels->column_sums(side_output(side, OUTPUT_FLOATS, columns, 0), x, columns, 70, side->backend);
  return true;
}

static bool norm_weight_backward(Side *side) {
  if (side->index >= 2 * COUNT_OF(norm_shapes)) return false;
  int64_t columns = norm_shapes[side->index % COUNT_OF(norm_shapes)][1];
  NormSettings norm = norm_settings(side, columns, false);
  Rows dy = side_rows(side, 70, columns, 1), x = side_rows(side, 70, columns, 1);
  side->kernels->norm_weight_backward(side_output(side, OUTPUT_FLOATS, columns, 0), dy, x, &norm, 70, side->backend);
  return true;
}

static bool embedding_backward(Side *side) {
  enum { PLACES = 13 };
  if (side->index >= 2) return false;
  int64_t columns = side->index ? 67 : 256;
  SAY("%d columns", (int)columns);
  float *dy = side_floats(side, PLACES * columns, 1);
  const int32_t bounds[] = {0, 4, 5, PLACES};
  int32_t *rows = side_indices(side, 3, 20), *places = side_indices(side, PLACES, PLACES);
  const int32_t *begins = side_send(side, bounds, sizeof bounds);
  float *dw = side_output(side, OUTPUT_FLOATS, 20 * columns, 0);
  side->kernels->embedding_backward(dw, dy, rows, begins, places, 3, columns, 0.5f, side->backend);
  return true;
}

// The kernels of `count` floats.
#define ELEMENTWISE(name, ...)                             \
  static bool name(Side *side) {                           \
    if (side->index >= COUNT_OF(counts)) return false;     \
    int64_t count = counts[side->index];                   \
    SAY("%d values", (int)count);                          \
    const float *x = side_floats(side, count, 1);          \
    float *y = side_output(side, OUTPUT_FLOATS, count, 0); \
    const Kernels *kernels = side->kernels;                \
    (void)x;                                               \
    kernels->name(__VA_ARGS__, side->backend);             \
    return true;                                           \
  }
ELEMENTWISE(fill, y, 1.5f, count)
ELEMENTWISE(copy, y, x, count)
ELEMENTWISE(add, y, x, -1.5f, count)

static AdamwSettings adamw_settings(int64_t step) {
  return (AdamwSettings){
      .learning_rate = 2e-2, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.1, .step = step, .gradient_scale = 0.5};
}

// The second of three steps in a row works on what the first left.
static bool adamw(Side *side) {
  if (side->index >= COUNT_OF(counts)) return false;
  int64_t count = counts[side->index];
  SAY("%d values", (int)count);
  const float *g = side_floats(side, count, 1);
  float *p = side_output(side, OUTPUT_FLOATS, count, 0), *m = side_output(side, OUTPUT_FLOATS, count, 0),
        *v = side_output(side, OUTPUT_FLOATS, count, 0);
  side->kernels->fill(m, 0, count, side->backend);
  side->kernels->fill(v, 0, count, side->backend);
  for (int64_t step = 1; step <= 3; step++) side->kernels->adamw(p, m, v, g, count, adamw_settings(step), side->backend);
  return true;
}

// Codes may be a neighbour's where a value lies near the bound of two, so the parameters are compared, and the scales.
static bool adamw_8bit(Side *side) {
  if (side->index >= COUNT_OF(counts)) return false;
  int64_t count = counts[side->index], blocks = moment_blocks(count);
  SAY("%d values", (int)count);
  uint8_t *zeros = arena_new(&side->arena, (size_t)count + 1, 1);
  float *no_scales = arena_new(&side->arena, (size_t)blocks, sizeof *no_scales);
  const float *g = side_floats(side, count, 1);
  uint8_t *m = side_send(side, zeros, count), *v = side_send(side, zeros, count);
  float *p = side_output(side, OUTPUT_FLOATS, count, 1e-3), *scales[2];
  for (int i = 0; i < 2; i++) {
    scales[i] = side_output(side, OUTPUT_FLOATS, blocks, 1e-3);
    side->backend->upload(scales[i], no_scales, blocks * (int64_t)sizeof(float), side->backend);
  }
  for (int64_t step = 1; step <= 3; step++)
    side->kernels->adamw_8bit(p, m, scales[0], v, scales[1], g, count, adamw_settings(step), side->backend);
  return true;
}

static UpdateSettings update_settings(int rule, int64_t step) {
  return (UpdateSettings){.rule = (UpdateRule)rule,
                          .learning_rate = 2e-2,
                          .weight_decay = 0.1,
                          .gradient_scale = 0.5,
                          .epsilon = 1e-8,
                          .beta1 = 0.9,
                          .beta2 = 0.99,
                          .beta3 = 0.999,
                          .alpha = 3,
                          .correction1 = 1 - pow(0.9, (double)step),
                          .correction2 = sqrt(1 - pow(0.99, (double)step)),
                          .gain = 1,
                          .direct = 0.5,
                          .through = 0.75,
                          .average = 1 / (double)step};
}

// Every rule of kernels/update.h, three steps of it.
static bool update(Side *side) {
  if (side->index >= COUNT_OF(counts) * UPDATE_COUNT) return false;
  int rule = side->index % UPDATE_COUNT;
  int64_t count = counts[side->index / UPDATE_COUNT];
  SAY("%d values by rule %d", (int)count, rule);
  const float *g = side_floats(side, count, 1);
  float *p = side_output(side, OUTPUT_FLOATS, count, 0), *states[UPDATE_STATES] = {0};
  for (int i = 0; i < update_states(rule); i++) {
    states[i] = side_output(side, OUTPUT_FLOATS, count, 0);
    side->kernels->fill(states[i], 0, count, side->backend);
  }
  for (int64_t step = 1; step <= 3; step++) side->kernels->update(p, states, g, count, update_settings(rule, step), side->backend);
  return true;
}

// (Lion moves by its states' signs, in which a neighbour's code may show whole.)
static bool update_8bit(Side *side) {
  static const int rules[] = {UPDATE_ADEMAMIX, UPDATE_ROOT};
  if (side->index >= COUNT_OF(counts) * COUNT_OF(rules)) return false;
  int rule = rules[side->index % COUNT_OF(rules)];
  int64_t count = counts[side->index / COUNT_OF(rules)], blocks = moment_blocks(count);
  SAY("%d values by rule %d", (int)count, rule);
  uint8_t *zeros = arena_new(&side->arena, (size_t)count + 1, 1), *codes[UPDATE_STATES] = {0};
  float *no_scales = arena_new(&side->arena, (size_t)blocks, sizeof *no_scales), *scales[UPDATE_STATES] = {0};
  const float *g = side_floats(side, count, 1);
  float *p = side_output(side, OUTPUT_FLOATS, count, 1e-3);
  for (int i = 0; i < update_states(rule); i++) {
    codes[i] = side_send(side, zeros, count);
    scales[i] = side_output(side, OUTPUT_FLOATS, blocks, 1e-3);
    side->backend->upload(scales[i], no_scales, blocks * (int64_t)sizeof(float), side->backend);
  }
  for (int64_t step = 1; step <= 3; step++)
    side->kernels->update_8bit(p, codes, scales, g, count, update_settings(rule, step), side->backend);
  return true;
}

static const int factored_shapes[][2] = {{1, 7}, {5, 3}, {33, 64}, {200, 8}};

static bool factored_moments(Side *side) {
  if (side->index >= COUNT_OF(factored_shapes)) return false;
  int64_t rows = factored_shapes[side->index][0], columns = factored_shapes[side->index][1];
  SAY("%d rows, %d columns", (int)rows, (int)columns);
  const float *g = side_floats(side, rows * columns, 1);
  float *r = side_output(side, OUTPUT_FLOATS, rows, 0), *c = side_output(side, OUTPUT_FLOATS, columns, 0);
  FactoredSettings settings = {.beta = 0.5, .epsilon = 1e-30, .gradient_scale = 0.5};
  side->kernels->factored_moments(r, c, g, rows, columns, settings, side->backend);
  return true;
}

static bool factored_update(Side *side) {
  if (side->index >= COUNT_OF(factored_shapes)) return false;
  int64_t rows = factored_shapes[side->index][0], columns = factored_shapes[side->index][1];
  SAY("%d rows, %d columns", (int)rows, (int)columns);
  const float *g = side_floats(side, rows * columns, 1);
  float *u = side_output(side, OUTPUT_FLOATS, rows * columns, 0);
  float *r = arena_new(&side->arena, (size_t)rows, sizeof *r), *c = arena_new(&side->arena, (size_t)columns, sizeof *c);
  for (int64_t i = 0; i < rows; i++) r[i] = 0.5f + (float)(i % 7);
  for (int64_t i = 0; i < columns; i++) c[i] = 0.25f + (float)(i % 5);
  const float *sent_r = side_send(side, r, rows * (int64_t)sizeof *r), *sent_c = side_send(side, c, columns * (int64_t)sizeof *c);
  side->kernels->factored_update(u, g, sent_r, sent_c, rows, columns, 0.5, side->backend);
  return true;
}

static bool sum_of_squares(Side *side) {
  if (side->index >= COUNT_OF(counts)) return false;
  SAY("%d values", (int)counts[side->index]);
  const float *x = side_floats(side, counts[side->index], 1);
  float *y = side_output(side, OUTPUT_FLOATS, 1, 0);
  float sum = (float)side->kernels->sum_of_squares(x, counts[side->index], side->backend);
  side->backend->upload(y, &sum, sizeof sum, side->backend);
  return true;
}

// Slots of 40 tokens in three pages, and shapes of heads by kernels' ways.
enum { PAGE_COUNT = 3, PAGED_TOKENS = 70 };
static const AttentionShape paged_shapes[] = {
    {.heads = 4, .kv_heads = 2, .head_size = 64, .value_size = 64, .scale = 0.125f},
    {.heads = 7, .kv_heads = 1, .head_size = 128, .value_size = 96, .scale = 0.09f, .window = 41},
    {.heads = 3, .kv_heads = 3, .head_size = 96, .value_size = 64, .scale = 0.1f, .softcap = 30},
};

static PagesType paged_case(Side *side, const AttentionShape **shape) {
  PagesType type = (PagesType)(side->index % 3);
  *shape = &paged_shapes[side->index / 3 % COUNT_OF(paged_shapes)];
  const AttentionShape *s = *shape;
  SAY("pages of %s, %d heads over %d of %d, %d, window %d", pages_type_name(type), (int)s->heads, (int)s->kv_heads, (int)s->head_size,
      (int)s->value_size, (int)s->window);
  return type;
}

// Token i goes to place i of pages 2, 0 and 1.
static const int32_t page_table[PAGE_COUNT] = {2, 0, 1};
static void store_tokens(Side *side, const Pages *pages, const AttentionShape *shape) {
  int32_t slots[PAGED_TOKENS];
  for (int i = 0; i < PAGED_TOKENS; i++) slots[i] = page_table[i / PAGE_TOKENS] * PAGE_TOKENS + i % PAGE_TOKENS;
  float *k = side_floats(side, PAGED_TOKENS * shape->kv_heads * shape->head_size, 1);
  float *v = side_floats(side, PAGED_TOKENS * shape->kv_heads * shape->value_size, 1);
  const int32_t *sent = side_send(side, slots, sizeof slots);
  side->kernels->store_pages(pages, k, v, sent, PAGED_TOKENS, *shape, side->backend);
}

// Bits, that is: numbers of float32, and pairs and fours of other elements.
static bool store_pages(Side *side) {
  if (side->index >= 3 * COUNT_OF(paged_shapes)) return false;
  const AttentionShape *shape;
  Pages pages = {.type = paged_case(side, &shape)};
  OutputKind kind = pages.type == PAGES_F32 ? OUTPUT_FLOATS : OUTPUT_INTEGERS;
  int64_t heads = PAGE_COUNT * shape->kv_heads;
  pages.keys = side_output(side, kind, heads * page_head_bytes(pages.type, shape->head_size) / 4, 0);
  pages.values = side_output(side, kind, heads * page_head_bytes(pages.type, shape->value_size) / 4, 0);
  store_tokens(side, &pages, shape);
  return true;
}

// A draft of three tokens and a text that is 33 tokens of it; or the same rows as a prompt's.
static bool paged_attention(Side *side) {
  enum { ROWS = 45 };
  if (side->index >= 6 * COUNT_OF(paged_shapes)) return false;
  const AttentionShape *shape;
  Pages pages = {.type = paged_case(side, &shape)};
  bool is_alone = side->index >= 3 * COUNT_OF(paged_shapes);
  int64_t heads = PAGE_COUNT * shape->kv_heads;
  pages.keys = side_floats(side, heads * page_head_bytes(pages.type, shape->head_size) / 4, 0);
  pages.values = side_floats(side, heads * page_head_bytes(pages.type, shape->value_size) / 4, 0);
  store_tokens(side, &pages, shape);
  const PagedSpan spans[] = {{1, is_alone ? 4 : 44, PAGED_TOKENS, 0, is_alone}, {44, 45, 33, 0, is_alone}};
  const float *q = side_floats(side, ROWS * shape->heads * shape->head_size, 1);
  float *o = side_output(side, OUTPUT_FLOATS, ROWS * shape->heads * shape->value_size, 0);
  const int32_t *table = side_send(side, page_table, sizeof page_table);
  side->kernels->paged_attention(o, q, &pages, table, spans, 2, *shape, side->backend);
  return true;
}

static bool low_rank_rows(Side *side) {
  static const int shapes[][3] = {{1, 256, 16}, {9, 77, 5}, {33, 128, 40}};  // rows, columns, rank
  enum { OUT = 75 };
  if (side->index >= COUNT_OF(shapes)) return false;
  int64_t n = shapes[side->index][0], columns = shapes[side->index][1], rank = shapes[side->index][2];
  SAY("%d rows of %d, rank %d", (int)n, (int)columns, (int)rank);
  const float *x = side_floats(side, n * columns, 1), *a = side_floats(side, rank * columns, 0.1), *b = side_floats(side, OUT * rank, 0.5);
  float *y = side_output(side, OUTPUT_FLOATS, n * OUT, 0), *z = side_output(side, OUTPUT_FLOATS, n * OUT, 0);
  const LowRankRows groups[] = {
      {0, n / 2, y, a, b, OUT, rank, 0.5f}, {n / 2, n, y, a, b, OUT, rank / 2 + 1, -2}, {0, n, z, a, b, OUT, rank, 1}};
  side->kernels->low_rank_rows(groups, 3, rows_f32(x, columns), columns, side->backend);
  return true;
}

#define KERNEL(name, has_types) \
  { #name, name, has_types }
const SelfcheckKernel selfcheck_kernels[] = {
    KERNEL(linear_forward, true),
    KERNEL(linear_forward_int8, false),
    KERNEL(linear_backward, true),
    KERNEL(weight_backward, true),
    KERNEL(low_rank_backward, true),
    KERNEL(embedding_forward, false),
    KERNEL(norm_forward, true),
    KERNEL(norm_backward, true),
    KERNEL(rope, true),
    KERNEL(attention_forward, true),
    KERNEL(attention_backward, true),
    KERNEL(gated_forward, true),
    KERNEL(gated_backward, true),
    KERNEL(cross_entropy, false),
    KERNEL(linear_cross_entropy, true),
    KERNEL(softcap, false),
    KERNEL(router_forward, false),
    KERNEL(router_backward, false),
    KERNEL(experts_forward, true),
    KERNEL(experts_backward, true),
    KERNEL(copy_heads, true),
    KERNEL(dropout, true),
    KERNEL(gather_rows, true),
    KERNEL(scatter_rows, true),
    KERNEL(fill, false),
    KERNEL(copy, false),
    KERNEL(add, false),
    KERNEL(adamw, false),
    KERNEL(adamw_8bit, false),
    KERNEL(update, false),
    KERNEL(update_8bit, false),
    KERNEL(factored_moments, false),
    KERNEL(factored_update, false),
    KERNEL(sum_of_squares, false),
    KERNEL(add_uniform, false),
    KERNEL(column_sums, true),
    KERNEL(embedding_backward, false),
    KERNEL(norm_weight_backward, true),
    KERNEL(low_rank_norms, false),
    KERNEL(magnitude_forward, true),
    KERNEL(magnitude_backward, true),
    KERNEL(divergence, false),
    KERNEL(linear_forward_rows, true),
    KERNEL(store_pages, false),
    KERNEL(paged_attention, false),
    KERNEL(low_rank_rows, false),
    {NULL, NULL, false},
};
