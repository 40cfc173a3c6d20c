// Builds, runs and evaluates the cases of tests/support/kernel_cases.h.
#include "tests/support/case_parts.h"

#include "kernels/adamw_8bit.h"

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

float float_rounded(float value, FloatType type) {
  switch (type) {
    case FLOAT_32: return value;
    case FLOAT_BF16: return bfloat16_to_float(bfloat16_from_float(value));
    case FLOAT_F16: return half_to_float(half_from_float(value));
  }
  return value;
}

void round_to_type(float *values, int64_t count, FloatType type) {
  for (int64_t i = 0; type != FLOAT_32 && i < count; i++) values[i] = float_rounded(values[i], type);
}

double case_flop(const KernelCase *c) {
  double attention = (double)c->queries * (double)c->keys * (double)c->shape.heads * (double)(c->shape.head_size + c->shape.value_size);
  double experts = (double)c->n * (double)c->experts.used * (double)c->experts.width * (double)c->experts.hidden * 3;
  double product = (double)(c->n ? c->n : 1) * (double)(c->rows ? c->rows : 1) * (double)(c->columns ? c->columns : 1);
  return 2 * fmax(attention, fmax(experts, product));
}

bool case_round(KernelCase *c, FloatType type) {
  bool any = false;
  for (int i = 0; i < CASE_INPUTS; i++) {
    if (!c->inputs[i] || !case_is_activation(c, i, false)) continue;
    round_to_type((float *)(uintptr_t)c->inputs[i], c->input_bytes[i] / (int64_t)sizeof(float), type);
    any = true;
  }
  for (int i = 0; i < CASE_OUTPUTS; i++) {
    any |= c->counts[i] > 0 && case_is_activation(c, i, true);
    if (c->initial[i] && case_is_activation(c, i, true)) round_to_type(c->initial[i], c->counts[i], type);
  }
  c->type = type;
  return any;
}

FloatType case_type(const KernelCase *c, int index, bool is_output) { return case_is_activation(c, index, is_output) ? c->type : FLOAT_32; }

Rows random_rows(Arena *arena, Rng *rng, int64_t n, int64_t step, FloatType type) {
  float *values = arena_new(arena, (size_t)(n * step), sizeof *values);
  fill_normal(values, n * step, 1, rng);
  if (type == FLOAT_32) return rows_f32(values, step);
  uint16_t *rounded = arena_new(arena, (size_t)(n * step), sizeof *rounded);
  for (int64_t i = 0; i < n * step; i++) rounded[i] = type == FLOAT_BF16 ? bfloat16_from_float(values[i]) : half_from_float(values[i]);
  return (Rows){rounded, step, type};
}

double rows_element(Rows rows, int64_t i, int64_t column) {
  int64_t at = i * rows.step + column;
  switch (rows.type) {
    case FLOAT_32: return ((const float *)rows.data)[at];
    case FLOAT_BF16: return bfloat16_to_float(((const uint16_t *)rows.data)[at]);
    case FLOAT_F16: return half_to_float(((const uint16_t *)rows.data)[at]);
  }
  return NAN;
}

// Building blocks of cases.

KernelCase *case_new(Arena *arena, KernelOp op) {
  KernelCase *c = arena_new(arena, 1, sizeof *c);
  c->op = op;
  return c;
}

float *normals(Arena *arena, Rng *rng, int64_t n, double deviation) {
  float *out = arena_new(arena, (size_t)n, sizeof *out);
  fill_normal(out, n, deviation, rng);
  return out;
}

void put_input(KernelCase *c, int index, const void *data, int64_t bytes) {
  c->inputs[index] = data;
  c->input_bytes[index] = bytes;
}

float *put_normals(KernelCase *c, int index, Arena *arena, Rng *rng, int64_t n) {
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

void put_output(KernelCase *c, int output, int64_t count, float *initial) {
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

void randomize_blocks(uint8_t *data, BlockType type, int64_t blocks, Rng *rng) {
  const BlockTraits *traits = block_traits(type);
  for (int64_t i = 0; i < blocks * traits->bytes; i++) data[i] = (uint8_t)rng_next(rng);
  for (int64_t b = 0; b < blocks; b++) {
    float scale = (float)(0.01 * rng_normal(rng));
    block_set_scales(data + b * traits->bytes, type, scale, (float)(0.01 * rng_normal(rng)));
  }
}

// Every form that groups can have: bits, order of halves, levels, types of scales, zeros, sizes of groups, rows that share scales,
// columns in any order.
static void put_grouped(KernelCase *c, Arena *arena, Rng *rng, int64_t rows, int64_t columns) {
  static const BlockType types[] = {BLOCK_F32, BLOCK_F16, BLOCK_BF16};
  static const int64_t groups[] = {1, 5, 16, 32, 64, 96, 128};
  Grouped *grouped = arena_new(arena, 1, sizeof *grouped);
  int64_t group = groups[rng_below(rng, 7)], n = rows * columns;
  bool is_4bit = rng_below(rng, 2), has_levels = rng_below(rng, 2), is_scaled_in_f32 = rng_below(rng, 3) == 0;
  if (group > columns || rng_below(rng, 4) == 0) group = columns;
  *grouped = (Grouped){.bits = is_4bit ? 4 : 8,
                       .high_first = rng_below(rng, 2),
                       .scale_type = is_scaled_in_f32 ? BLOCK_F32 : types[rng_below(rng, 3)],
                       .rounding = types[rng_below(rng, 3)],
                       .factor = rng_below(rng, 2) ? 1 : 1 / 127.0f,
                       .columns = columns,
                       .group = group,
                       .groups = (columns + group - 1) / group,
                       .row_group = 1 + (int64_t)rng_below(rng, 3) * 7,
                       .zero = 8};
  if (has_levels) grouped->levels = is_4bit ? nf4_levels : grouped_signed_levels;
  int64_t count = (rows + grouped->row_group - 1) / grouped->row_group * grouped->groups, bytes = grouped_code_bytes(grouped, rows);
  uint8_t *codes = arena_new(arena, (size_t)bytes, 1);
  for (int64_t i = 0; i < bytes; i++) codes[i] = (uint8_t)rng_next(rng);
  int64_t scale_bytes = count * block_traits(grouped->scale_type)->bytes;
  float *values = normals(arena, rng, count, 0.01);
  void *scales = arena_new(arena, (size_t)scale_bytes, 1);
  block_traits(grouped->scale_type)->quantize(scales, values, NULL, count);
  int16_t *zeros = arena_new(arena, (size_t)count, sizeof *zeros);
  for (int64_t i = 0; i < count; i++) zeros[i] = (int16_t)((int)rng_below(rng, 24) - 4);
  if (rng_below(rng, 3) == 0) {  // columns in an order of their own
    int32_t *group_of = arena_new(arena, (size_t)columns, sizeof *group_of);
    for (int64_t j = 0; j < columns; j++) group_of[j] = (int32_t)rng_below(rng, (uint64_t)grouped->groups);
    grouped->group_of = group_of;
  }
  grouped->codes = codes, grouped->scales = scales, grouped->zeros = zeros;
  put_input(c, 1, codes, bytes);
  put_input(c, 2, scales, scale_bytes);
  put_input(c, 3, zeros, count * (int64_t)sizeof *zeros);
  c->matrix.grouped = grouped;
  c->weights = arena_new(arena, (size_t)n, sizeof(float));
  for (int64_t r = 0; r < rows; r++) matrix_dequantize(c->weights + r * columns, &c->matrix, r, 0, columns);
}

// A random matrix of any type as inputs 1 .. 3 (NF4: packed, scales, nested scales; groups: codes, scales, zeros).
static void put_matrix(KernelCase *c, Arena *arena, Rng *rng, BlockType type, int64_t rows, int64_t columns) {
  int64_t n = rows * columns;
  float *values = normals(arena, rng, n, 1);
  c->matrix = (Matrix){.type = type, .rows = rows, .columns = columns};
  c->rows = rows, c->columns = columns;
  if (type == BLOCK_GROUPED) {
    put_grouped(c, arena, rng, rows, columns);
    return;
  }
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
  snprintf(c->description, sizeof c->description, "%s n=%lld rows=%lld columns=%lld alpha=%g accumulate=%d", block_traits(type)->name,
           (long long)n, (long long)rows, (long long)columns, (double)alpha, accumulate);
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

// Sets no scale below the largest |x| r |offset + w| of a forward case, or |dy (offset + w)| r of a backward case: what a norm sums.
static void put_norm_scale(KernelCase *c, const float *values, const float *x, const float *w) {
  int64_t columns = c->norm.columns;
  for (int64_t i = 0; i < c->n; i++) {
    const float *row = x + i * c->x_step;
    double mean = 0, squares = 0;
    for (int64_t j = 0; c->norm.is_centered && j < columns; j++) mean += (double)row[j] / (double)columns;
    for (int64_t j = 0; j < columns; j++) squares += (row[j] - mean) * (row[j] - mean) / (double)columns;
    for (int64_t j = 0; j < columns; j++)
      c->scale[0] =
          fmax(c->scale[0], fabs(values[i * c->x_step + j] * ((double)c->norm.offset + w[j])) / sqrt(squares + (double)c->norm.epsilon));
  }
}

KernelCase *case_norm(Arena *arena, Rng *rng, KernelOp op, int64_t n, NormSettings norm, bool has_bias, bool has_residual, int64_t gap,
                      bool accumulate) {
  KernelCase *c = case_new(arena, op);
  bool is_backward = op == OP_norm_backward;
  int64_t step = norm.columns + gap;
  c->n = n, c->norm = norm, c->accumulate = accumulate, c->x_step = c->y_step = step;
  const float *dy = is_backward ? put_normals(c, 0, arena, rng, n * step) : NULL;
  const float *x = put_normals(c, is_backward, arena, rng, n * step), *w = put_normals(c, is_backward + 1, arena, rng, norm.columns);
  if (has_bias) put_normals(c, 2, arena, rng, norm.columns);
  if (has_residual) put_normals(c, 3, arena, rng, n * step);
  put_norm_scale(c, is_backward ? dy : x, x, w);
  put_output(c, 0, n * step, initial_if(accumulate || gap > 0, arena, rng, n * step));
  snprintf(c->description, sizeof c->description, "n=%lld columns=%lld offset=%g centered=%d bias=%d residual=%d gap=%lld accumulate=%d",
           (long long)n, (long long)norm.columns, (double)norm.offset, norm.is_centered, has_bias, has_residual, (long long)gap,
           accumulate);
  return c;
}

KernelCase *case_heads(Arena *arena, Rng *rng, int64_t n, int64_t heads, int64_t width, int64_t x_head_step, int64_t y_head_step,
                       bool accumulate) {
  KernelCase *c = case_new(arena, OP_copy_heads);
  c->n = n, c->heads = heads, c->head_size = width, c->accumulate = accumulate;
  c->x_head_step = x_head_step, c->y_head_step = y_head_step;
  c->x_step = (heads - 1) * x_head_step + width + 3;
  c->y_step = (heads - 1) * y_head_step + width + 1;
  put_normals(c, 0, arena, rng, n * c->x_step);
  put_output(c, 0, n * c->y_step, normals(arena, rng, n * c->y_step, 1));
  c->scale[0] = y_head_step ? 0 : sqrt((double)heads);
  snprintf(c->description, sizeof c->description, "n=%lld heads=%lld width=%lld steps=%lld,%lld accumulate=%d", (long long)n,
           (long long)heads, (long long)width, (long long)x_head_step, (long long)y_head_step, accumulate);
  return c;
}

KernelCase *case_router(Arena *arena, Rng *rng, KernelOp op, int64_t n, RouterSettings router, bool has_bias) {
  KernelCase *c = case_new(arena, op);
  c->n = n, c->router = router;
  int first = op == OP_router_forward ? 0 : 1;
  float *logits = normals(arena, rng, n * router.experts, 2);
  put_input(c, first, logits, n * router.experts * (int64_t)sizeof *logits);
  if (op == OP_router_forward) {
    if (has_bias) put_normals(c, 1, arena, rng, router.experts);
    put_output(c, 0, n * router.used, NULL);
    put_output(c, 1, 2 * router.experts, normals(arena, rng, 2 * router.experts, 1));
    put_output(c, 2, n * router.used, NULL);
  } else {
    float *dweights = put_normals(c, 0, arena, rng, n * router.used);
    int32_t *chosen = arena_new(arena, (size_t)(n * router.used), sizeof *chosen);
    int64_t *order = arena_new(arena, (size_t)router.experts, sizeof *order);
    for (int64_t e = 0; e < router.experts; e++) order[e] = e;
    for (int64_t i = 0; i < n; i++) {  // any experts, none twice
      rng_shuffle(rng, order, router.experts);
      for (int64_t k = 0; k < router.used; k++) chosen[i * router.used + k] = (int32_t)order[k];
    }
    put_input(c, 2, chosen, n * router.used * (int64_t)sizeof *chosen);
    put_output(c, 0, n * router.experts, NULL);
    // Of weights that are divided by their sum, gradients are differences of terms up to this, which may leave nothing.
    for (int64_t i = 0; router.is_normalized && i < n * router.used; i++)
      c->scale[0] = fmax(c->scale[0], (double)router.scale * fabs((double)dweights[i]));
  }
  snprintf(c->description, sizeof c->description, "n=%lld experts=%lld used=%lld sigmoid=%d bias=%d groups=%lld/%lld two=%d normalized=%d",
           (long long)n, (long long)router.experts, (long long)router.used, router.is_sigmoid, has_bias, (long long)router.groups_used,
           (long long)router.groups, router.groups_by_two, router.is_normalized);
  return c;
}

int64_t case_expert_offset(const KernelCase *c, int which, int64_t expert) {
  return (which * c->experts.experts + expert) * c->experts.width * c->experts.hidden;
}

Matrix case_expert_matrix(const KernelCase *c, const Matrix *all, int which, int64_t expert) {
  const BlockTraits *traits = block_traits(all->type);
  Matrix own = {.type = all->type};
  own.rows = which == 2 ? c->experts.hidden : c->experts.width;
  own.columns = which == 2 ? c->experts.width : c->experts.hidden;
  own.data = (const char *)all->data + case_expert_offset(c, which, expert) / traits->elements * traits->bytes;
  return own;
}

KernelCase *case_experts(Arena *arena, Rng *rng, KernelOp op, BlockType type, int64_t n, ExpertMatrices shape, bool accumulate) {
  KernelCase *c = case_new(arena, op);
  c->n = n, c->alpha = 1, c->experts = shape, c->accumulate = accumulate, c->activation = shape.activation;
  float *x = put_normals(c, 0, arena, rng, n * shape.hidden);
  put_matrix(c, arena, rng, type, 3 * shape.experts * shape.width, shape.hidden);
  double size = sqrt((double)shape.hidden) * root_mean_square(c->weights, c->rows * c->columns);
  for (int64_t i = 0; i < n * shape.hidden; i++) x[i] = (float)(2 * x[i] / size);
  int32_t *chosen = arena_new(arena, (size_t)(n * shape.used), sizeof *chosen);
  int64_t *order = arena_new(arena, (size_t)shape.experts, sizeof *order);
  for (int64_t e = 0; e < shape.experts; e++) order[e] = e;
  for (int64_t i = 0; i < n; i++) {
    rng_shuffle(rng, order, shape.experts);
    for (int64_t s = 0; s < shape.used; s++) chosen[i * shape.used + s] = (int32_t)order[s];
  }
  put_input(c, 4, chosen, n * shape.used * (int64_t)sizeof *chosen);
  put_normals(c, 5, arena, rng, n * shape.used);
  int64_t count = n * shape.hidden;
  if (op == OP_experts_forward) {
    put_output(c, 0, count, normals(arena, rng, count, 1));
  } else {
    put_normals(c, 6, arena, rng, count);
    put_output(c, 0, count, initial_if(accumulate, arena, rng, count));
    put_output(c, 1, n * shape.used, NULL);
  }
  snprintf(c->description, sizeof c->description, "%s n=%lld experts=%lld used=%lld hidden=%lld width=%lld f=%d accumulate=%d",
           block_traits(type)->name, (long long)n, (long long)shape.experts, (long long)shape.used, (long long)shape.hidden,
           (long long)shape.width, shape.activation, accumulate);
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

KernelCase *case_gated(Arena *arena, Rng *rng, KernelOp op, int64_t count, Activation f, bool in_place, bool has_up) {
  KernelCase *c = case_new(arena, op);
  c->n = count, c->activation = f, c->in_place = in_place;
  int first = op == OP_gated_forward ? 0 : 1;
  if (first) put_normals(c, 0, arena, rng, count);
  float *gate = normals(arena, rng, count, 3);
  put_input(c, first, gate, count * (int64_t)sizeof *gate);
  float *up = has_up ? put_normals(c, first + 1, arena, rng, count) : NULL;
  put_output(c, 0, count, in_place ? gate : NULL);
  if (first && has_up) put_output(c, 1, count, in_place ? up : NULL);
  snprintf(c->description, sizeof c->description, "count=%lld activation=%d in place=%d up=%d", (long long)count, f, in_place, has_up);
  return c;
}

KernelCase *case_cross_entropy(Arena *arena, Rng *rng, int64_t n, int64_t vocabulary, float deviation, bool gradient, float softcap) {
  KernelCase *c = case_new(arena, OP_cross_entropy);
  c->n = n, c->columns = vocabulary, c->softcap = softcap;
  put_indices(c, 0, arena, rng, n, vocabulary, false);
  const float *scale = gradient ? put_normals(c, 1, arena, rng, n) : NULL;
  // 1 - tanh^2 may leave nothing.
  for (int64_t i = 0; scale && softcap > 0 && i < n; i++) c->scale[1] = fmax(c->scale[1], fabs((double)scale[i]));
  put_output(c, 0, n, NULL);
  put_output(c, 1, n * vocabulary, normals(arena, rng, n * vocabulary, deviation));
  snprintf(c->description, sizeof c->description, "n=%lld vocabulary=%lld deviation=%g gradient=%d softcap=%g", (long long)n,
           (long long)vocabulary, (double)deviation, gradient, (double)softcap);
  return c;
}

KernelCase *case_divergence(Arena *arena, Rng *rng, int64_t n, int64_t vocabulary, float deviation, float distance, bool gradient,
                            float softcap) {
  KernelCase *c = case_new(arena, OP_divergence);
  c->n = n, c->columns = vocabulary, c->softcap = softcap;
  float *logits = normals(arena, rng, n * vocabulary, deviation), *base = normals(arena, rng, n * vocabulary, distance);
  put_input(c, 0, logits, n * vocabulary * (int64_t)sizeof *logits);
  const float *scale = gradient ? put_normals(c, 1, arena, rng, n) : NULL;
  double largest = 0;  // of the terms that d is the sum of
  for (int64_t i = 0; i < n * vocabulary; i++) {
    base[i] += logits[i];
    largest = fmax(largest, fmax(fabs((double)logits[i]), fabs((double)base[i])));
  }
  c->scale[0] = softcap > 0 ? fmin(largest, softcap) : largest;
  for (int64_t i = 0; scale && i < n; i++) c->scale[1] = fmax(c->scale[1], c->scale[0] * fabs((double)scale[i]));
  put_output(c, 0, n, NULL);
  put_output(c, 1, n * vocabulary, base);
  snprintf(c->description, sizeof c->description, "n=%lld vocabulary=%lld deviation=%g distance=%g gradient=%d softcap=%g", (long long)n,
           (long long)vocabulary, (double)deviation, (double)distance, gradient, (double)softcap);
  return c;
}

KernelCase *case_linear_cross_entropy(Arena *arena, Rng *rng, BlockType type, int64_t n, int64_t vocabulary, int64_t columns, bool is_large,
                                      bool gradient, float softcap) {
  KernelCase *c = case_new(arena, OP_linear_cross_entropy);
  c->n = n, c->alpha = 1, c->softcap = softcap;
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
  snprintf(c->description, sizeof c->description, "%s n=%lld vocabulary=%lld columns=%lld large=%d gradient=%d softcap=%g",
           block_traits(type)->name, (long long)n, (long long)vocabulary, (long long)columns, is_large, gradient, (double)softcap);
  return c;
}

KernelCase *case_norms(Arena *arena, Rng *rng, int64_t out, int64_t rank, int64_t in) {
  KernelCase *c = case_new(arena, OP_low_rank_norms);
  c->n = out, c->columns = rank, c->alpha = 0.5f;
  const float *w = normals(arena, rng, out * in, 1), *a = normals(arena, rng, rank * in, 1);
  float *squares = put_normals(c, 0, arena, rng, out), *products = put_normals(c, 1, arena, rng, rank * out),
        *gram = put_normals(c, 2, arena, rng, rank * rank);
  put_normals(c, 3, arena, rng, out * rank);
  for (int64_t i = 0; i < out * in; i++) squares[i / in] = (float)((i % in ? squares[i / in] : 0) + (double)w[i] * w[i]);
  for (int64_t r = 0; r < rank; r++) {
    for (int64_t i = 0; i < out; i++) products[r * out + i] = 0;
    for (int64_t i = 0; i < rank; i++) gram[r * rank + i] = 0;
    for (int64_t j = 0; j < in; j++) {
      for (int64_t i = 0; i < out; i++) products[r * out + i] += a[r * in + j] * w[i * in + j];
      for (int64_t i = 0; i < rank; i++) gram[r * rank + i] += a[r * in + j] * a[i * in + j];
    }
  }
  put_output(c, 0, out, NULL);
  snprintf(c->description, sizeof c->description, "out=%lld rank=%lld in=%lld", (long long)out, (long long)rank, (long long)in);
  return c;
}

static float *put_positive(KernelCase *c, int index, Arena *arena, Rng *rng, int64_t n) {
  float *values = put_normals(c, index, arena, rng, n);
  for (int64_t i = 0; i < n; i++) values[i] = fabsf(values[i]) + 0.25f;
  return values;
}

KernelCase *case_magnitude(Arena *arena, Rng *rng, KernelOp op, int64_t n, int64_t columns, bool has_bias, bool has_residual, int64_t gap) {
  KernelCase *c = case_new(arena, op);
  bool is_backward = op == OP_magnitude_backward;
  int64_t step = columns + gap;
  c->n = n, c->columns = columns, c->x_step = c->y_step = step;
  put_normals(c, 0, arena, rng, n * step);
  if (is_backward) put_normals(c, 1, arena, rng, n * step);
  put_normals(c, is_backward + 1, arena, rng, columns);
  put_positive(c, is_backward + 2, arena, rng, columns);
  if (has_bias) put_normals(c, 3, arena, rng, columns);
  if (has_residual) put_normals(c, 4, arena, rng, n * step);
  put_output(c, 0, n * step, gap ? normals(arena, rng, n * step, 1) : NULL);
  if (is_backward) put_output(c, 1, columns, normals(arena, rng, columns, 1));
  if (is_backward) c->scale[1] = 4 * sqrt((double)n);
  snprintf(c->description, sizeof c->description, "n=%lld columns=%lld bias=%d residual=%d gap=%lld", (long long)n, (long long)columns,
           has_bias, has_residual, (long long)gap);
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

KernelCase *case_column_sums(Arena *arena, Rng *rng, int64_t n, int64_t columns, int64_t gap) {
  KernelCase *c = case_new(arena, OP_column_sums);
  c->n = n, c->columns = columns, c->x_step = columns + gap;
  put_normals(c, 0, arena, rng, n * c->x_step);
  put_output(c, 0, columns, normals(arena, rng, columns, 1));
  c->scale[0] = sqrt((double)n);
  snprintf(c->description, sizeof c->description, "n=%lld columns=%lld gap=%lld", (long long)n, (long long)columns, (long long)gap);
  return c;
}

KernelCase *case_norm_weight(Arena *arena, Rng *rng, int64_t n, NormSettings norm, int64_t gap) {
  KernelCase *c = case_new(arena, OP_norm_weight_backward);
  c->n = n, c->norm = norm, c->x_step = c->y_step = norm.columns + gap;
  put_normals(c, 0, arena, rng, n * c->y_step);
  put_normals(c, 1, arena, rng, n * c->x_step);
  put_output(c, 0, norm.columns, normals(arena, rng, norm.columns, 1));
  c->scale[0] = sqrt((double)n);
  snprintf(c->description, sizeof c->description, "n=%lld columns=%lld centered=%d gap=%lld", (long long)n, (long long)norm.columns,
           norm.is_centered, (long long)gap);
  return c;
}

KernelCase *case_embedding_backward(Arena *arena, Rng *rng, int64_t n, int64_t rows, int64_t columns) {
  KernelCase *c = case_new(arena, OP_embedding_backward);
  int32_t *ids = arena_new(arena, (size_t)n, sizeof *ids), *group_rows = arena_new(arena, (size_t)n, sizeof *group_rows);
  int32_t *begins = arena_new(arena, (size_t)n + 1, sizeof *begins), *places = arena_new(arena, (size_t)n, sizeof *places);
  c->columns = columns, c->alpha = -1.5f;
  for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)rng_below(rng, (uint64_t)rows);
  int32_t count = 0;
  for (int32_t id = (int32_t)rows - 1; id >= 0; id--) {  // any order of groups
    int32_t begin = count;
    for (int32_t i = 0; i < n; i++)
      if (ids[i] == id) places[count++] = i;
    if (count == begin) continue;
    group_rows[c->n] = id, begins[c->n++] = begin;
  }
  begins[c->n] = count;
  put_normals(c, 0, arena, rng, n * columns);
  put_input(c, 1, group_rows, c->n * (int64_t)sizeof *group_rows);
  put_input(c, 2, begins, (c->n + 1) * (int64_t)sizeof *begins);
  put_input(c, 3, places, n * (int64_t)sizeof *places);
  put_output(c, 0, rows * columns, normals(arena, rng, rows * columns, 1));
  c->scale[0] = 1.5 * sqrt((double)n);
  snprintf(c->description, sizeof c->description, "n=%lld rows=%lld columns=%lld", (long long)n, (long long)rows, (long long)columns);
  return c;
}

KernelCase *case_elementwise(Arena *arena, Rng *rng, KernelOp op, int64_t count) {
  KernelCase *c = case_new(arena, op);
  c->n = count, c->alpha = op == OP_softcap ? 2.5f : -1.5f;
  if (op != OP_fill && op != OP_softcap && op != OP_add_uniform) put_normals(c, 0, arena, rng, count);
  bool is_updated = op == OP_add || op == OP_softcap || op == OP_add_uniform;
  put_output(c, 0, op == OP_sum_of_squares ? 1 : count, is_updated ? normals(arena, rng, count, 3) : NULL);
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

// Codes of all levels for old moments; but where v is to stay small m is as small and the gradient, too, or the step would be huge. Old
// blocks are of one size, and the first of a few is as new.
KernelCase *case_adamw_8bit(Arena *arena, Rng *rng, int64_t count, int64_t step) {
  KernelCase *c = case_adamw(arena, rng, count, step);
  int64_t blocks = moment_blocks(count);
  float *g = normals(arena, rng, count, 1), *scales = arena_new(arena, (size_t)(2 * blocks), sizeof *scales);
  uint8_t *m = arena_new(arena, (size_t)count, 1), *v = arena_new(arena, (size_t)count, 1);
  for (int64_t i = 0; i < count; i++) {
    bool is_small = i % 5 == 3, is_new = step == 1 || i / MOMENT_BLOCK % 4 == 1;
    if (is_small) g[i] *= (float)pow(10, -1 - 5 * rng_uniform(rng));
    if (i % 97 == 5) g[i] = 0;
    m[i] = (uint8_t)(is_new ? 0 : is_small ? 120 + rng_below(rng, 15) : rng_below(rng, MOMENT_LEVELS));
    v[i] = (uint8_t)(is_new ? 0 : is_small ? rng_below(rng, 40) : 80 + rng_below(rng, MOMENT_LEVELS - 80));
    if (!is_new) scales[i / MOMENT_BLOCK] = 0.3f, scales[blocks + i / MOMENT_BLOCK] = 0.2f;
  }
  c->op = OP_adamw_8bit;
  put_input(c, 0, g, count * (int64_t)sizeof *g);
  put_input(c, 1, m, count);
  put_input(c, 2, v, count);
  put_input(c, 3, scales, 2 * blocks * (int64_t)sizeof *scales);
  put_output(c, 1, count, NULL);
  put_output(c, 2, count, NULL);
  put_output(c, 3, 2 * blocks, NULL);
  return c;
}

// Of a run's first step, where all states are zero, or of a later one.
static UpdateSettings update_case_settings(UpdateRule rule, bool is_first) {
  double t = is_first ? 1 : 1000;
  return (UpdateSettings){.rule = rule,
                          .learning_rate = 2e-2f,
                          .weight_decay = 0.1f,
                          .gradient_scale = 0.5f,
                          .epsilon = 1e-8f,
                          .beta1 = 0.9f,
                          .beta2 = rule == UPDATE_ROOT && is_first ? 1 : 0.99f,
                          .beta3 = 0.999f,
                          .alpha = 3,
                          .correction1 = 1 - pow(0.9f, t),
                          .correction2 = sqrt(1 - pow(0.99f, t)),
                          .gain = is_first ? 1 : 0.25f,
                          .direct = is_first ? 1 : 0,
                          .through = 0.75f,
                          .average = is_first ? 0 : 0.125f};
}

KernelCase *case_update(Arena *arena, Rng *rng, UpdateRule rule, int64_t count, bool is_first) {
  KernelCase *c = case_new(arena, OP_update);
  c->n = count;
  c->update = update_case_settings(rule, is_first);
  put_normals(c, 0, arena, rng, count);
  put_output(c, 0, count, normals(arena, rng, count, 1));
  for (int k = 0; k < update_states(rule); k++) {
    put_output(c, 1 + k, count, normals(arena, rng, count, is_first ? 0 : 0.3));
    for (int64_t i = 0; i < count && update_moment(rule, k) == MOMENT_SECOND; i++) c->initial[1 + k][i] *= c->initial[1 + k][i];
  }
  snprintf(c->description, sizeof c->description, "rule=%d count=%lld first=%d", rule, (long long)count, is_first);
  return c;
}

// Codes as in case_adamw_8bit.
KernelCase *case_update_8bit(Arena *arena, Rng *rng, UpdateRule rule, int64_t count, bool is_first) {
  KernelCase *c = case_update(arena, rng, rule, count, is_first);
  int64_t blocks = moment_blocks(count), states = update_states(rule);
  float *g = normals(arena, rng, count, 1), *scales = arena_new(arena, (size_t)(states * blocks) + 1, sizeof *scales);
  uint8_t *codes = arena_new(arena, (size_t)(states * count) + 1, 1);
  for (int64_t i = 0; i < count; i++) {
    bool is_small = i % 5 == 3, is_new = is_first || i / MOMENT_BLOCK % 4 == 1;
    if (is_small) g[i] *= (float)pow(10, -1 - 5 * rng_uniform(rng));
    if (i % 97 == 5) g[i] = 0;
    for (int k = 0; k < states; k++) {
      bool is_second = update_moment(rule, k) == MOMENT_SECOND;
      uint8_t old = (uint8_t)(is_small ? 120 + rng_below(rng, 15) : rng_below(rng, MOMENT_LEVELS));
      if (is_second) old = (uint8_t)(is_small ? rng_below(rng, 40) : 80 + rng_below(rng, MOMENT_LEVELS - 80));
      codes[k * count + i] = is_new ? 0 : old;
      if (!is_new) scales[k * blocks + i / MOMENT_BLOCK] = is_second ? 0.2f : 0.3f;
    }
  }
  c->op = OP_update_8bit;
  put_input(c, 0, g, count * (int64_t)sizeof *g);
  put_input(c, 1, codes, states * count + 1);
  put_input(c, 2, scales, (states * blocks + 1) * (int64_t)sizeof *scales);
  for (int k = 0; k < CASE_OUTPUTS - 1; k++) put_output(c, 1 + k, 0, NULL);
  if (states) put_output(c, 1, states * count, NULL);
  if (states) put_output(c, 2, states * blocks, NULL);
  return c;
}

KernelCase *case_factored(Arena *arena, Rng *rng, KernelOp op, int64_t rows, int64_t columns) {
  KernelCase *c = case_new(arena, op);
  c->n = rows, c->columns = columns;
  c->factored = (FactoredSettings){.beta = 0.75f, .epsilon = 1e-30f, .gradient_scale = 0.5f};
  put_normals(c, 0, arena, rng, rows * columns);
  float *r = normals(arena, rng, rows, 1), *of_columns = normals(arena, rng, columns, 1);
  for (int64_t i = 0; i < rows; i++) r[i] = 0.1f + r[i] * r[i];
  for (int64_t i = 0; i < columns; i++) of_columns[i] = 0.1f + of_columns[i] * of_columns[i];
  if (op == OP_factored_moments) {
    put_output(c, 0, rows, r);
    put_output(c, 1, columns, of_columns);
  } else {
    put_input(c, 1, r, rows * (int64_t)sizeof *r);
    put_input(c, 2, of_columns, columns * (int64_t)sizeof *of_columns);
    put_output(c, 0, rows * columns, NULL);
  }
  snprintf(c->description, sizeof c->description, "rows=%lld columns=%lld", (long long)rows, (long long)columns);
  return c;
}
