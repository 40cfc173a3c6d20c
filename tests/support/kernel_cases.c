// Builds, runs and evaluates the cases of tests/support/kernel_cases.h.
#include "tests/support/kernel_cases.h"

#include <float.h>
#include <math.h>

double relative_error(const float *actual, const double *expected, int64_t n, double scale) {
  double difference = 0, largest = scale;
  for (int64_t i = 0; i < n; i++) {
    if (!isfinite(actual[i]) || !isfinite(expected[i])) return INFINITY;
    difference = fmax(difference, fabs(actual[i] - expected[i]));
    largest = fmax(largest, fabs(expected[i]));
  }
  if (difference < FLT_TRUE_MIN) return 0;  // such as exp(-1000), which float32 rounds to 0
  return largest > 0 ? difference / largest : INFINITY;
}

void case_evaluate(double *out[CASE_OUTPUTS], Arena *arena, const KernelCase *c) {
  for (int output = 0; output < CASE_OUTPUTS; output++) {
    out[output] = arena_new(arena, (size_t)c->counts[output], sizeof **out);
    for (int64_t i = 0; c->initial[output] && i < c->counts[output]; i++) out[output][i] = c->initial[output][i];
  }
  kernel_ops[c->op].plain_double(out, c);
}

void round_to_bfloat16(float *values, int64_t count) {
  for (int64_t i = 0; i < count; i++) values[i] = bfloat16_to_float(bfloat16_from_float(values[i]));
}

bool case_round(KernelCase *c) {
  bool any = false;
  for (int i = 0; i < CASE_INPUTS; i++) {
    if (!c->inputs[i] || !case_is_activation(c, i, false)) continue;
    round_to_bfloat16((float *)(uintptr_t)c->inputs[i], c->input_bytes[i] / (int64_t)sizeof(float));
    any = true;
  }
  for (int i = 0; i < CASE_OUTPUTS; i++) {
    any |= c->counts[i] > 0 && case_is_activation(c, i, true);
    if (c->initial[i] && case_is_activation(c, i, true)) round_to_bfloat16(c->initial[i], c->counts[i]);
  }
  c->type = FLOAT_BF16;
  return any;
}

Rows random_rows(Arena *arena, Rng *rng, int64_t n, int64_t step, FloatType type) {
  float *values = arena_new(arena, (size_t)(n * step), sizeof *values);
  fill_normal(values, n * step, 1, rng);
  if (type == FLOAT_32) return rows_f32(values, step);
  uint16_t *rounded = arena_new(arena, (size_t)(n * step), sizeof *rounded);
  for (int64_t i = 0; i < n * step; i++) rounded[i] = bfloat16_from_float(values[i]);
  return (Rows){rounded, step, type};
}

double rows_element(Rows rows, int64_t i, int64_t column) {
  int64_t at = i * rows.step + column;
  return rows.type == FLOAT_BF16 ? bfloat16_to_float(((const uint16_t *)rows.data)[at]) : ((const float *)rows.data)[at];
}

// Building blocks of cases.

static KernelCase *case_new(Arena *arena, KernelOp op) {
  KernelCase *c = arena_new(arena, 1, sizeof *c);
  c->op = op;
  return c;
}

static float *normals(Arena *arena, Rng *rng, int64_t n, double deviation) {
  float *out = arena_new(arena, (size_t)n, sizeof *out);
  fill_normal(out, n, deviation, rng);
  return out;
}

static void put_input(KernelCase *c, int index, const void *data, int64_t bytes) {
  c->inputs[index] = data;
  c->input_bytes[index] = bytes;
}

static float *put_normals(KernelCase *c, int index, Arena *arena, Rng *rng, int64_t n) {
  float *data = normals(arena, rng, n, 1);
  put_input(c, index, data, n * (int64_t)sizeof *data);
  return data;
}

// `n` whole numbers under `bound`: distinct ones when `distinct`, which needs n <= bound.
static void put_indices(KernelCase *c, int index, Arena *arena, Rng *rng, int64_t n, int64_t bound, bool distinct) {
  int32_t *out = arena_new(arena, (size_t)n, sizeof *out);
  int64_t *order = arena_new(arena, (size_t)bound, sizeof *order);
  for (int64_t i = 0; i < bound; i++) order[i] = i;
  rng_shuffle(rng, order, bound);
  for (int64_t i = 0; i < n; i++) out[i] = (int32_t)(distinct ? order[i] : (int64_t)rng_below(rng, (uint64_t)bound));
  put_input(c, index, out, n * (int64_t)sizeof *out);
}

static void put_output(KernelCase *c, int output, int64_t count, float *initial) {
  c->counts[output] = count;
  c->initial[output] = initial;
}

static float *initial_if(bool accumulate, Arena *arena, Rng *rng, int64_t n) { return accumulate ? normals(arena, rng, n, 1) : NULL; }

// Bytes at which a block of each quantised type keeps its half-precision scale and shift; -1: none.
static const struct {
  BlockType type;
  int scale, shift;
} block_scales[] = {
    {BLOCK_Q4_0, 0, -1},   {BLOCK_Q4_1, 0, 2},    {BLOCK_Q5_0, 0, -1},   {BLOCK_Q5_1, 0, 2},    {BLOCK_Q8_0, 0, -1},
    {BLOCK_Q2_K, 80, 82},  {BLOCK_Q3_K, 108, -1}, {BLOCK_Q4_K, 0, 2},    {BLOCK_Q5_K, 0, 2},    {BLOCK_Q6_K, 208, -1},
    {BLOCK_IQ4_NL, 0, -1}, {BLOCK_IQ4_XS, 0, -1}, {BLOCK_TQ1_0, 52, -1}, {BLOCK_TQ2_0, 64, -1},
};

void block_set_scales(uint8_t *block, BlockType type, float scale, float shift) {
  if (type == BLOCK_Q8_K) memcpy(block, &scale, sizeof scale);
  if (type == BLOCK_MXFP4) block[0] = (uint8_t)(isfinite(scale) ? 128 + ilogbf(scale) : 255);
  for (size_t t = 0; t < sizeof block_scales / sizeof *block_scales; t++) {
    if (block_scales[t].type != type) continue;
    uint16_t halves[] = {half_from_float(scale), half_from_float(shift)};
    memcpy(block + block_scales[t].scale, &halves[0], 2);
    if (block_scales[t].shift >= 0) memcpy(block + block_scales[t].shift, &halves[1], 2);
  }
}

static void randomize_blocks(uint8_t *data, BlockType type, int64_t blocks, Rng *rng) {
  const BlockTraits *traits = block_traits(type);
  for (int64_t i = 0; i < blocks * traits->bytes; i++) data[i] = (uint8_t)rng_next(rng);
  for (int64_t b = 0; b < blocks; b++) {
    float scale = (float)(0.01 * rng_normal(rng));
    block_set_scales(data + b * traits->bytes, type, scale, (float)(0.01 * rng_normal(rng)));
  }
}

// A random matrix of any type as inputs 1 .. 3 (NF4: packed, scales, nested scales).
static void put_matrix(KernelCase *c, Arena *arena, Rng *rng, BlockType type, int64_t rows, int64_t columns) {
  int64_t n = rows * columns;
  float *values = normals(arena, rng, n, 1);
  c->matrix = (Matrix){.type = type, .rows = rows, .columns = columns};
  c->rows = rows, c->columns = columns;
  if (type == BLOCK_NF4) {
    int64_t blocks = (n + NF4_BLOCK - 1) / NF4_BLOCK;
    nf4_quantize(&c->matrix.nf4, arena_new(arena, (size_t)nf4_bytes(n), 1), values, n);
    put_input(c, 1, c->matrix.nf4.packed, (n + 1) / 2);
    put_input(c, 2, c->matrix.nf4.scales, blocks);
    put_input(c, 3, c->matrix.nf4.nested_scales, (blocks + NF4_NESTED_BLOCK - 1) / NF4_NESTED_BLOCK * (int64_t)sizeof(float));
  } else {
    int64_t bytes = rows * block_row_bytes(type, columns);
    void *data = arena_new(arena, (size_t)bytes, 1);
    for (int64_t i = 0; i < n && type == BLOCK_F32; i++) ((float *)data)[i] = values[i];
    for (int64_t i = 0; i < n && type == BLOCK_F16; i++) ((uint16_t *)data)[i] = half_from_float(values[i]);
    for (int64_t i = 0; i < n && type == BLOCK_BF16; i++) ((uint16_t *)data)[i] = bfloat16_from_float(values[i]);
    if (block_traits(type)->elements > 1) randomize_blocks(data, type, n / block_traits(type)->elements, rng);
    put_input(c, 1, data, bytes);
    c->matrix.data = data;
  }
  c->weights = values;
  for (int64_t r = 0; r < rows; r++) matrix_dequantize(values + r * columns, &c->matrix, r, 0, columns);
}

static double root_mean_square(const float *x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
  return sqrt(sum / (double)n);
}

// Single cases.

KernelCase *case_linear(Arena *arena, Rng *rng, KernelOp op, BlockType type, int64_t n, int64_t rows, int64_t columns, float alpha,
                        bool accumulate) {
  KernelCase *c = case_new(arena, op);
  int64_t in = op != OP_linear_backward ? columns : rows, out = op != OP_linear_backward ? rows : columns;
  c->n = n, c->alpha = alpha, c->accumulate = accumulate;
  put_normals(c, 0, arena, rng, n * in);
  put_matrix(c, arena, rng, type, rows, columns);
  put_output(c, 0, n * out, initial_if(accumulate, arena, rng, n * out));
  c->scale[0] = fabs((double)alpha) * sqrt((double)in) * root_mean_square(c->weights, rows * columns);
  snprintf(c->description, sizeof c->description, "%s n=%lld rows=%lld columns=%lld alpha=%g accumulate=%d",
           type == BLOCK_NF4 ? "nf4" : block_traits(type)->name, (long long)n, (long long)rows, (long long)columns, (double)alpha,
           accumulate);
  return c;
}

KernelCase *case_weight(Arena *arena, Rng *rng, int64_t n, int64_t rows, int64_t columns, float alpha) {
  KernelCase *c = case_new(arena, OP_weight_backward);
  c->n = n, c->rows = rows, c->columns = columns, c->alpha = alpha;
  put_normals(c, 0, arena, rng, n * rows);
  put_normals(c, 1, arena, rng, n * columns);
  put_output(c, 0, rows * columns, normals(arena, rng, rows * columns, 1));
  c->scale[0] = fabs((double)alpha) * sqrt((double)n);
  snprintf(c->description, sizeof c->description, "n=%lld rows=%lld columns=%lld", (long long)n, (long long)rows, (long long)columns);
  return c;
}

KernelCase *case_low_rank(Arena *arena, Rng *rng, int64_t n, int64_t out, int64_t rank, float scale) {
  KernelCase *c = case_new(arena, OP_low_rank_backward);
  c->n = n, c->rows = out, c->columns = rank, c->alpha = scale;
  put_normals(c, 0, arena, rng, n * out);
  put_normals(c, 1, arena, rng, n * rank);
  put_normals(c, 2, arena, rng, out * rank);
  put_output(c, 0, out * rank, normals(arena, rng, out * rank, 1));
  put_output(c, 1, n * rank, NULL);
  c->scale[0] = sqrt((double)n);
  c->scale[1] = fabs((double)scale) * sqrt((double)out);
  snprintf(c->description, sizeof c->description, "n=%lld out=%lld rank=%lld", (long long)n, (long long)out, (long long)rank);
  return c;
}

KernelCase *case_rmsnorm(Arena *arena, Rng *rng, KernelOp op, int64_t n, int64_t columns, float offset, bool accumulate) {
  KernelCase *c = case_new(arena, op);
  bool is_backward = op == OP_rmsnorm_backward;
  c->n = n, c->columns = columns, c->alpha = 1e-5f, c->offset = offset, c->accumulate = accumulate;
  const float *dy = is_backward ? put_normals(c, 0, arena, rng, n * columns) : NULL;
  const float *x = put_normals(c, is_backward, arena, rng, n * columns), *w = put_normals(c, is_backward + 1, arena, rng, columns);
  for (int64_t i = 0; is_backward && i < n * columns; i++) {
    double size = fabs(dy[i] * ((double)offset + w[i % columns])) / root_mean_square(x + i / columns * columns, columns);
    c->scale[0] = fmax(c->scale[0], size);  // dx = g / root - ...: of one column, nearly nothing
  }
  put_output(c, 0, n * columns, initial_if(accumulate, arena, rng, n * columns));
  snprintf(c->description, sizeof c->description, "n=%lld columns=%lld offset=%g accumulate=%d", (long long)n, (long long)columns,
           (double)offset, accumulate);
  return c;
}

KernelCase *case_rope(Arena *arena, Rng *rng, int64_t n, int64_t heads, int64_t head_size, int64_t rotary, RopeLayout layout,
                      bool inverse) {
  KernelCase *c = case_new(arena, OP_rope);
  c->n = n, c->heads = heads, c->head_size = head_size, c->rotary = rotary, c->layout = layout, c->inverse = inverse;
  c->alpha = inverse ? 1 : 1.25f;
  put_indices(c, 0, arena, rng, n, inverse ? 64 : 8192, false);
  float *frequencies = arena_new(arena, (size_t)(rotary / 2), sizeof *frequencies);
  for (int64_t i = 0; i < rotary / 2; i++) frequencies[i] = (float)pow(10000.0, -2.0 * (double)i / (double)rotary);
  put_input(c, 1, frequencies, rotary / 2 * (int64_t)sizeof *frequencies);
  put_output(c, 0, n * heads * head_size, normals(arena, rng, n * heads * head_size, 1));
  snprintf(c->description, sizeof c->description, "n=%lld heads=%lld size=%lld rotary=%lld layout=%d inverse=%d", (long long)n,
           (long long)heads, (long long)head_size, (long long)rotary, layout, inverse);
  return c;
}

static void put_attention_results(KernelCase *c, Arena *arena) {
  KernelCase forward = *c;
  forward.op = OP_attention_forward;
  for (int i = 0; i < 5; i++) put_input(&forward, i, c->inputs[i + 3], c->input_bytes[i + 3]);
  forward.counts[0] = c->queries * c->shape.heads * c->shape.value_size;
  forward.counts[1] = c->queries * c->shape.heads;
  double *results[CASE_OUTPUTS];
  case_evaluate(results, arena, &forward);
  for (int output = 0; output < 2; output++) {
    float *rounded = arena_new(arena, (size_t)forward.counts[output], sizeof *rounded);
    for (int64_t i = 0; i < forward.counts[output]; i++) rounded[i] = (float)results[output][i];
    put_input(c, output + 1, rounded, forward.counts[output] * (int64_t)sizeof *rounded);
  }
}

// For each query the end of the keys that it sees: some of its span's, in their order.
static void put_query_ends(KernelCase *c, int index, Arena *arena, Rng *rng, const AttentionSpan *spans) {
  int32_t *ends = arena_new(arena, (size_t)c->queries, sizeof *ends);
  for (const AttentionSpan *span = spans; span < spans + c->span_count; span++) {
    int64_t query = span->query_begin;
    for (int64_t key = span->key_begin; query < span->query_end; key++) {
      int64_t keys = span->key_end - key, wanted = span->query_end - query;
      if ((int64_t)rng_below(rng, (uint64_t)keys) < wanted) ends[query++] = (int32_t)key + 1;
    }
  }
  put_input(c, index, ends, c->queries * (int64_t)sizeof *ends);
}

KernelCase *case_attention(Arena *arena, Rng *rng, KernelOp op, AttentionShape shape, int64_t span_count, const int64_t *queries,
                           const int64_t *earlier, bool are_some) {
  KernelCase *c = case_new(arena, op);
  AttentionSpan *spans = arena_new(arena, (size_t)span_count, sizeof *spans);
  for (int64_t s = 0; s < span_count; s++) {
    spans[s] = (AttentionSpan){c->queries, c->queries + queries[s], c->keys, c->keys + queries[s] + earlier[s]};
    c->queries = spans[s].query_end, c->keys = spans[s].key_end;
  }
  c->shape = shape, c->span_count = span_count;
  int64_t q_count = c->queries * shape.heads * shape.head_size, o_count = c->queries * shape.heads * shape.value_size;
  int64_t k_count = c->keys * shape.kv_heads * shape.head_size, v_count = c->keys * shape.kv_heads * shape.value_size;
  int first = op == OP_attention_forward ? 0 : 3;
  put_normals(c, first, arena, rng, q_count);
  put_normals(c, first + 1, arena, rng, k_count);
  put_normals(c, first + 2, arena, rng, v_count);
  put_input(c, first + 3, spans, span_count * (int64_t)sizeof *spans);
  if (are_some) put_query_ends(c, first + 4, arena, rng, spans);
  if (op == OP_attention_forward) {
    put_output(c, 0, o_count, NULL);
    put_output(c, 1, c->queries * shape.heads, NULL);
  } else {
    put_normals(c, 0, arena, rng, o_count);
    put_attention_results(c, arena);
    put_output(c, 0, q_count, NULL);
    put_output(c, 1, k_count, NULL);
    // Where a query sees one key its dq is go . v - delta = 0, of terms that are sums of value_size normal products.
    // dk adds such over the heads of its group.
    c->scale[0] = shape.scale * sqrt((double)shape.value_size);
    c->scale[1] = c->scale[0] * sqrt((double)(shape.heads / shape.kv_heads));
    put_output(c, 2, v_count, NULL);
    put_output(c, 3, c->queries * shape.heads, NULL);
  }
  snprintf(c->description, sizeof c->description,
           "spans=%lld queries=%lld keys=%lld heads=%lld/%lld sizes=%lld,%lld scale=%g window=%lld softcap=%g some=%d",
           (long long)span_count, (long long)c->queries, (long long)c->keys, (long long)shape.heads, (long long)shape.kv_heads,
           (long long)shape.head_size, (long long)shape.value_size, (double)shape.scale, (long long)shape.window, (double)shape.softcap,
           are_some);
  return c;
}

KernelCase *case_gated(Arena *arena, Rng *rng, KernelOp op, int64_t count, Activation f, bool in_place) {
  KernelCase *c = case_new(arena, op);
  c->n = count, c->activation = f, c->in_place = in_place;
  int first = op == OP_gated_forward ? 0 : 1;
  if (first) put_normals(c, 0, arena, rng, count);
  float *gate = normals(arena, rng, count, 3);
  put_input(c, first, gate, count * (int64_t)sizeof *gate);
  float *up = put_normals(c, first + 1, arena, rng, count);
  put_output(c, 0, count, in_place ? gate : NULL);
  if (first) put_output(c, 1, count, in_place ? up : NULL);
  snprintf(c->description, sizeof c->description, "count=%lld activation=%d in place=%d", (long long)count, f, in_place);
  return c;
}

KernelCase *case_cross_entropy(Arena *arena, Rng *rng, int64_t n, int64_t vocabulary, float deviation, bool gradient) {
  KernelCase *c = case_new(arena, OP_cross_entropy);
  c->n = n, c->columns = vocabulary;
  put_indices(c, 0, arena, rng, n, vocabulary, false);
  if (gradient) put_normals(c, 1, arena, rng, n);
  put_output(c, 0, n, NULL);
  put_output(c, 1, n * vocabulary, normals(arena, rng, n * vocabulary, deviation));
  snprintf(c->description, sizeof c->description, "n=%lld vocabulary=%lld deviation=%g gradient=%d", (long long)n, (long long)vocabulary,
           (double)deviation, gradient);
  return c;
}

KernelCase *case_linear_cross_entropy(Arena *arena, Rng *rng, BlockType type, int64_t n, int64_t vocabulary, int64_t columns, bool is_large,
                                      bool gradient) {
  KernelCase *c = case_new(arena, OP_linear_cross_entropy);
  c->n = n, c->alpha = 1;
  float *x = put_normals(c, 0, arena, rng, n * columns);
  put_matrix(c, arena, rng, is_large ? BLOCK_F32 : type, vocabulary, columns);
  double size = sqrt((double)columns) * root_mean_square(c->weights, vocabulary * columns);
  // Large logits are whole numbers, so that their sums are the same in any order.
  for (int64_t i = 0; i < n * columns; i++) x[i] = is_large ? rintf(8 * x[i]) : 3 * x[i] / (float)size;
  for (int64_t i = 0; is_large && i < vocabulary * columns; i++)
    c->weights[i] = ((float *)(uintptr_t)c->matrix.data)[i] = rintf(2 * c->weights[i]);
  put_indices(c, 4, arena, rng, n, vocabulary, false);
  put_normals(c, 5, arena, rng, n);
  put_output(c, 0, n, NULL);
  put_output(c, 1, gradient ? n * columns : 0, NULL);
  c->scale[0] = 1;
  c->scale[1] = root_mean_square(c->weights, vocabulary * columns);
  snprintf(c->description, sizeof c->description, "%s n=%lld vocabulary=%lld columns=%lld large=%d gradient=%d", block_traits(type)->name,
           (long long)n, (long long)vocabulary, (long long)columns, is_large, gradient);
  return c;
}

KernelCase *case_dropout(Arena *arena, Rng *rng, int64_t count, float p, bool accumulate) {
  KernelCase *c = case_new(arena, OP_dropout);
  c->n = count, c->alpha = p, c->accumulate = accumulate;
  put_normals(c, 0, arena, rng, count);
  put_output(c, 0, count, initial_if(accumulate, arena, rng, count));
  snprintf(c->description, sizeof c->description, "count=%lld p=%g accumulate=%d", (long long)count, (double)p, accumulate);
  return c;
}

KernelCase *case_rows(Arena *arena, Rng *rng, KernelOp op, BlockType type, int64_t n, int64_t rows, int64_t columns) {
  KernelCase *c = case_new(arena, op);
  c->n = n, c->rows = rows, c->columns = columns, c->alpha = 1.5f;
  if (op == OP_embedding_forward) {
    put_indices(c, 0, arena, rng, n, rows, false);
    put_matrix(c, arena, rng, type, rows, columns);
    put_output(c, 0, n * columns, NULL);
  } else if (op == OP_gather_rows) {
    put_normals(c, 0, arena, rng, rows * columns);
    put_indices(c, 1, arena, rng, n, rows, false);
    put_output(c, 0, n * columns, NULL);
  } else if (op == OP_scatter_rows) {
    put_normals(c, 0, arena, rng, n * columns);
    put_indices(c, 1, arena, rng, n, rows, true);
    put_output(c, 0, rows * columns, normals(arena, rng, rows * columns, 1));
  }
  snprintf(c->description, sizeof c->description, "type=%d n=%lld rows=%lld columns=%lld", type, (long long)n, (long long)rows,
           (long long)columns);
  return c;
}

KernelCase *case_elementwise(Arena *arena, Rng *rng, KernelOp op, int64_t count) {
  KernelCase *c = case_new(arena, op);
  c->n = count, c->alpha = -1.5f;
  if (op != OP_fill) put_normals(c, 0, arena, rng, count);
  put_output(c, 0, op == OP_sum_of_squares ? 1 : count, op == OP_add ? normals(arena, rng, count, 1) : NULL);
  snprintf(c->description, sizeof c->description, "count=%lld", (long long)count);
  return c;
}

KernelCase *case_adamw(Arena *arena, Rng *rng, int64_t count, int64_t step) {
  KernelCase *c = case_new(arena, OP_adamw);
  c->n = count;
  c->adamw = (AdamwSettings){
      .learning_rate = 2e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .weight_decay = 0.1f, .step = step, .gradient_scale = 0.5f};
  put_normals(c, 0, arena, rng, count);
  put_output(c, 0, count, normals(arena, rng, count, 1));
  put_output(c, 1, count, normals(arena, rng, count, step > 1 ? 0.3 : 0));
  put_output(c, 2, count, normals(arena, rng, count, step > 1 ? 0.3 : 0));
  for (int64_t i = 0; i < count; i++) c->initial[2][i] *= c->initial[2][i];
  snprintf(c->description, sizeof c->description, "count=%lld step=%lld", (long long)count, (long long)step);
  return c;
}
