// Every kernel written down once more, in the most naive way, in the type REAL with the names NAME(op): included for
// float, whose error against float64 is the measure of tolerances, and for double, which is the truth. It shares no
// code with kernels/reference. Outputs hold their initial values when they are called. A dot product of n terms takes
// TERM(0, n), TERM(1, n), ...: float comes in two orders, because where few numbers are compared one order may be
// right by luck.
// (No include guard: kernel_suite.c includes this file once for each.)

static REAL NAME(dot)(const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t n) {
  REAL sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (REAL)a[TERM(i, n) * a_step] * b[TERM(i, n) * b_step];
  return sum;
}

static void NAME(put)(REAL *out, REAL value, bool accumulate) { *out = accumulate ? *out + value : value; }

static void NAME(linear_forward)(REAL *const *out, const KernelCase *c) {
  const float *x = c->inputs[0];
  for (int64_t i = 0; i < c->n; i++)
    for (int64_t r = 0; r < c->rows; r++) NAME(put)
  (&out[0][i * c->rows + r], c->alpha * NAME(dot)(x + i * c->columns, 1, c->weights + r * c->columns, 1, c->columns), c->accumulate);
}

// The rounding is part of the definition, in float32 in any case; only the products are REAL.
static void NAME(linear_forward_int8)(REAL *const *out, const KernelCase *c) {
  bool is_rounded = c->matrix.type < BLOCK_NF4 && block_traits(c->matrix.type)->elements > 1;
  if (!is_rounded) {
    NAME(linear_forward)(out, c);
    return;
  }
  float *levels = memory_new((size_t)c->columns, sizeof *levels), *scales = memory_new((size_t)c->columns / 32, sizeof *scales);
  for (int64_t i = 0; i < c->n; i++) {
    round_to_int8(levels, scales, (const float *)c->inputs[0] + i * c->columns, c->columns);
    for (int64_t r = 0; r < c->rows; r++) {
      REAL sum = 0;
      for (int64_t k = 0; k < c->columns; k++) {
        int64_t j = TERM(k, c->columns);
        sum += (REAL)scales[j / 32] * levels[j] * c->weights[r * c->columns + j];
      }
      NAME(put)(&out[0][i * c->rows + r], c->alpha * sum, c->accumulate);
    }
  }
  free(levels);
  free(scales);
}

static void NAME(linear_backward)(REAL *const *out, const KernelCase *c) {
  const float *dy = c->inputs[0];
  for (int64_t i = 0; i < c->n; i++)
    for (int64_t j = 0; j < c->columns; j++)
      NAME(put)(&out[0][i * c->columns + j], c->alpha * NAME(dot)(dy + i * c->rows, 1, c->weights + j, c->columns, c->rows), c->accumulate);
}

static void NAME(weight_backward)(REAL *const *out, const KernelCase *c) {
  const float *dy = c->inputs[0], *x = c->inputs[1];
  for (int64_t r = 0; r < c->rows; r++)
    for (int64_t j = 0; j < c->columns; j++) out[0][r * c->columns + j] += c->alpha * NAME(dot)(dy + r, c->rows, x + j, c->columns, c->n);
}

static void NAME(low_rank_backward)(REAL *const *out, const KernelCase *c) {
  const float *dy = c->inputs[0], *h = c->inputs[1], *b = c->inputs[2];
  for (int64_t r = 0; r < c->rows; r++)
    for (int64_t j = 0; j < c->columns; j++) out[0][r * c->columns + j] += NAME(dot)(dy + r, c->rows, h + j, c->columns, c->n);
  for (int64_t i = 0; i < c->n; i++)
    for (int64_t j = 0; j < c->columns; j++)
      out[1][i * c->columns + j] = c->alpha * NAME(dot)(dy + i * c->rows, 1, b + j, c->columns, c->rows);
}

static void NAME(embedding_forward)(REAL *const *out, const KernelCase *c) {
  const int32_t *ids = c->inputs[0];
  for (int64_t i = 0; i < c->n * c->columns; i++)
    out[0][i] = (REAL)c->alpha * c->weights[ids[i / c->columns] * c->columns + i % c->columns];
}

// A row's mean (0 unless it is taken off) and its root mean square about that.
static void NAME(moments)(REAL *mean, REAL *root, const float *x, const NormSettings *norm) {
  REAL sum = 0, squares = 0;
  for (int64_t j = 0; norm->is_centered && j < norm->columns; j++) sum += x[TERM(j, norm->columns)];
  *mean = sum / norm->columns;
  for (int64_t j = 0; j < norm->columns; j++) {
    REAL z = x[TERM(j, norm->columns)] - *mean;
    squares += z * z;
  }
  *root = sqrt(squares / norm->columns + norm->epsilon);
}

static void NAME(norm_forward)(REAL *const *out, const KernelCase *c) {
  const float *x = c->inputs[0], *w = c->inputs[1], *bias = c->inputs[2], *residual = c->inputs[3];
  for (int64_t i = 0; i < c->n; i++) {
    REAL mean, root;
    NAME(moments)(&mean, &root, x + i * c->x_step, &c->norm);
    for (int64_t j = 0; j < c->norm.columns; j++) {
      REAL value = (x[i * c->x_step + j] - mean) / root * ((REAL)c->norm.offset + w[j]);
      out[0][i * c->y_step + j] = value + (bias ? bias[j] : 0) + (residual ? residual[i * c->y_step + j] : 0);
    }
  }
}

// dx = (g - mean(g)) / root - z sum(g z) / (columns root^3), g = dy (offset + w), z = x - mean
static void NAME(norm_backward)(REAL *const *out, const KernelCase *c) {
  const float *w = c->inputs[2];
  int64_t columns = c->norm.columns;
  for (int64_t i = 0; i < c->n; i++) {
    const float *dy = (const float *)c->inputs[0] + i * c->y_step, *x = (const float *)c->inputs[1] + i * c->x_step;
    REAL mean, root, sum = 0, product = 0;
    NAME(moments)(&mean, &root, x, &c->norm);
    for (int64_t k = 0; k < columns; k++) {
      int64_t j = TERM(k, columns);
      REAL g = dy[j] * ((REAL)c->norm.offset + w[j]);
      sum += c->norm.is_centered ? g : 0;
      product += g * (x[j] - mean);
    }
    for (int64_t j = 0; j < columns; j++) {
      REAL g = dy[j] * ((REAL)c->norm.offset + w[j]);
      REAL value = (g - sum / columns) / root - (x[j] - mean) * product / (columns * root * root * root);
      NAME(put)(&out[0][i * c->x_step + j], value, c->accumulate);
    }
  }
}

static void NAME(copy_heads)(REAL *const *out, const KernelCase *c) {
  const float *x = c->inputs[0];
  for (int64_t i = 0; i < c->n; i++)
    for (int64_t j = 0; j < c->head_size; j++)
      for (int64_t h = 0; h < c->heads; h++) {
        bool adds = c->accumulate || (c->y_head_step == 0 && h > 0);
        NAME(put)(&out[0][i * c->y_step + h * c->y_head_step + j], x[i * c->x_step + h * c->x_head_step + j], adds);
      }
}

static void NAME(low_rank_norms)(REAL *const *out, const KernelCase *c) {
  const float *squares = c->inputs[0], *products = c->inputs[1], *gram = c->inputs[2], *b = c->inputs[3];
  int64_t rank = c->columns;
  for (int64_t i = 0; i < c->n; i++) {
    REAL sum = squares[i];
    for (int64_t k = 0; k < rank; k++) {
      int64_t r = TERM(k, rank);
      REAL row = NAME(dot)(gram + r * rank, 1, b + i * rank, 1, rank);
      sum += c->alpha * b[i * rank + r] * (2 * (REAL)products[r * c->n + i] + c->alpha * row);
    }
    out[0][i] = sqrt(sum);
  }
}

static void NAME(magnitude_forward)(REAL *const *out, const KernelCase *c) {
  const float *z = c->inputs[0], *m = c->inputs[1], *norms = c->inputs[2], *bias = c->inputs[3], *residual = c->inputs[4];
  for (int64_t i = 0; i < c->n; i++)
    for (int64_t j = 0; j < c->columns; j++) {
      int64_t at = i * c->x_step + j;
      out[0][at] = z[at] * ((REAL)m[j] / norms[j]) + (bias ? bias[j] : 0) + (residual ? residual[at] : 0);
    }
}

static void NAME(magnitude_backward)(REAL *const *out, const KernelCase *c) {
  const float *dy = c->inputs[0], *z = c->inputs[1], *m = c->inputs[2], *norms = c->inputs[3];
  for (int64_t j = 0; j < c->columns; j++) {
    for (int64_t i = 0; i < c->n; i++) out[0][i * c->x_step + j] = dy[i * c->x_step + j] * ((REAL)m[j] / norms[j]);
    out[1][j] += NAME(dot)(dy + j, c->x_step, z + j, c->x_step, c->n) / norms[j];
  }
}

static void NAME(softcap)(REAL *const *out, const KernelCase *c) {
  for (int64_t i = 0; i < c->n; i++) out[0][i] = c->alpha * tanh(out[0][i] / c->alpha);
}

static void NAME(scores)(REAL *scores, const float *logits, const RouterSettings *router) {
  REAL largest = -INFINITY, sum = 0;
  for (int64_t e = 0; e < router->experts; e++) largest = fmax(largest, (REAL)logits[e]);
  for (int64_t e = 0; e < router->experts; e++)
    sum += scores[e] = router->is_sigmoid ? 1 / (1 + exp(-(REAL)logits[e])) : exp(logits[e] - largest);
  for (int64_t e = 0; !router->is_sigmoid && e < router->experts; e++) scores[e] /= sum;
}

// Whether values[i] is among the `most` best of values[0 .. count - 1], those with a lower number first among equals.
static bool NAME(is_among_best)(const REAL *values, int64_t count, int64_t i, int64_t most) {
  int64_t before = 0;
  for (int64_t j = 0; j < count; j++) before += values[j] > values[i] || (values[j] == values[i] && j < i);
  return before < most;
}

// choice[experts] = -infinity of the experts that are not in the best groups.
static void NAME(leave_groups)(REAL *choice, const RouterSettings *router) {
  int64_t size = router->experts / router->groups;
  REAL *scores = memory_new((size_t)router->groups, sizeof *scores);
  for (int64_t g = 0; g < router->groups; g++) {
    scores[g] = 0;
    for (int64_t e = 0; e < size; e++)
      if (NAME(is_among_best)(choice + g * size, size, e, router->groups_by_two ? 2 : 1)) scores[g] += choice[g * size + e];
  }
  for (int64_t e = 0; e < router->experts; e++)
    if (!NAME(is_among_best)(scores, router->groups, e / size, router->groups_used)) choice[e] = -INFINITY;
  free(scores);
}

static REAL NAME(chosen_sum)(const REAL *scores, const int32_t *chosen, const RouterSettings *router) {
  REAL sum = 0;
  for (int64_t k = 0; k < router->used; k++) sum += scores[chosen[TERM(k, router->used)]];
  return router->is_normalized ? sum + (REAL)1e-20 : 1;
}

static void NAME(router_forward)(REAL *const *out, const KernelCase *c) {
  const RouterSettings *router = &c->router;
  int64_t experts = router->experts, used = router->used;
  const float *bias = c->inputs[1];
  REAL *scores = memory_new((size_t)experts, sizeof *scores), *choice = memory_new((size_t)experts, sizeof *choice);
  int32_t *chosen = memory_new((size_t)used, sizeof *chosen);
  for (int64_t i = 0; i < c->n; i++) {
    NAME(scores)(scores, (const float *)c->inputs[0] + i * experts, router);
    REAL sum = 0;
    for (int64_t e = 0; e < experts; e++) sum += scores[TERM(e, experts)];
    for (int64_t e = 0; e < experts; e++) choice[e] = scores[e] + (bias ? bias[e] : 0);
    if (router->groups > 1) NAME(leave_groups)(choice, router);
    for (int64_t k = 0; k < used; k++)
      for (int64_t e = 0; e < experts; e++)  // the one that is among the k + 1 best and not among the k best
        if (NAME(is_among_best)(choice, experts, e, k + 1) && !NAME(is_among_best)(choice, experts, e, k)) chosen[k] = (int32_t)e;
    for (int64_t k = 0; k < used; k++) {
      out[0][i * used + k] = router->scale * scores[chosen[k]] / NAME(chosen_sum)(scores, chosen, router);
      out[1][chosen[k]] += 1;
      out[2][i * used + k] = chosen[k];
    }
    for (int64_t e = 0; e < experts; e++) out[1][experts + e] += router->is_sigmoid ? scores[e] / sum : scores[e];
  }
  free(scores);
  free(choice);
  free(chosen);
}

// By the matrix of derivatives dw_k / ds_j and ds_j / dlogit_e, term by term.
static void NAME(router_backward)(REAL *const *out, const KernelCase *c) {
  const RouterSettings *router = &c->router;
  int64_t experts = router->experts, used = router->used;
  REAL *scores = memory_new((size_t)experts, sizeof *scores);
  for (int64_t i = 0; i < c->n; i++) {
    const float *dweights = (const float *)c->inputs[0] + i * used;
    const int32_t *chosen = (const int32_t *)c->inputs[2] + i * used;
    NAME(scores)(scores, (const float *)c->inputs[1] + i * experts, router);
    REAL sum = NAME(chosen_sum)(scores, chosen, router);
    for (int64_t e = 0; e < experts; e++) {
      REAL gradient = 0;
      for (int64_t j = 0; j < used; j++) {
        REAL dscore = 0, s = scores[chosen[j]];
        for (int64_t k = 0; k < used; k++) {
          REAL slope = (k == j) / sum - (router->is_normalized ? scores[chosen[k]] / (sum * sum) : 0);
          dscore += router->scale * dweights[k] * slope;
        }
        if (router->is_sigmoid) gradient += chosen[j] == e ? dscore * s * (1 - s) : 0;
        else gradient += dscore * s * ((chosen[j] == e) - scores[e]);
      }
      out[0][i * experts + e] = gradient;
    }
  }
  free(scores);
}

static void NAME(rope)(REAL *const *out, const KernelCase *c) {
  const int32_t *positions = c->inputs[0];
  const float *frequencies = c->inputs[1];
  int64_t half = c->rotary / 2;
  for (int64_t i = 0; i < c->n * c->heads; i++) {
    REAL *x = out[0] + i * c->head_size;
    for (int64_t f = 0; f < half; f++) {
      int64_t a = c->layout == ROPE_HALVES ? f : 2 * f, b = c->layout == ROPE_HALVES ? f + half : 2 * f + 1;
      REAL angle = (REAL)positions[i / c->heads] * frequencies[f] * (c->inverse ? -1 : 1), u = x[a], v = x[b];
      x[a] = c->alpha * (u * cos(angle) - v * sin(angle));
      x[b] = c->alpha * (u * sin(angle) + v * cos(angle));
    }
  }
}

// The T x T softmax of one head of one span: probabilities[queries][keys], 0 where nothing is seen, and each row's
// log of the sum of exponentials; in the backward pass by the lse that is given, as the kernel's contract has it (its rounding
// to float32 is an input's, not an error of the kernel). With `slopes`, the derivative of each score by its q . k, too.
static void NAME(softmax)(REAL *probabilities, REAL *slopes, REAL *lse, const KernelCase *c, const AttentionSpan *span, int64_t h) {
  const float *q = c->inputs[c->op == OP_attention_forward ? 0 : 3], *k = c->inputs[c->op == OP_attention_forward ? 1 : 4];
  const int32_t *ends = c->inputs[c->op == OP_attention_forward ? 4 : 7];
  const AttentionShape *shape = &c->shape;
  int64_t queries = span->query_end - span->query_begin, keys = span->key_end - span->key_begin;
  int64_t g = h / (shape->heads / shape->kv_heads), size = shape->head_size;
  for (int64_t i = 0; i < queries; i++) {
    REAL maximum = -INFINITY, sum = 0, *row = probabilities + i * keys;
    for (int64_t j = 0; j < keys; j++) {
      int64_t own = ends ? ends[span->query_begin + i] - 1 - span->key_begin : keys - queries + i, age = own - j;
      row[j] = -INFINITY;
      if (age < 0 || (shape->window > 0 && age >= shape->window)) continue;
      row[j] = shape->scale * NAME(dot)(q + ((span->query_begin + i) * shape->heads + h) * size, 1,
                                        k + ((span->key_begin + j) * shape->kv_heads + g) * size, 1, size);
      REAL turned = shape->softcap > 0 ? tanh(row[j] / shape->softcap) : 0;
      if (shape->softcap > 0) row[j] = shape->softcap * turned;
      if (slopes) slopes[i * keys + j] = shape->scale * (1 - turned * turned);
      maximum = fmax(maximum, row[j]);
    }
    for (int64_t j = 0; j < keys; j++) sum += exp(row[j] - maximum);
    lse[i] = maximum + log(sum);
    if (c->op == OP_attention_backward) lse[i] = ((const float *)c->inputs[2])[(span->query_begin + i) * shape->heads + h];
    for (int64_t j = 0; j < keys; j++) row[j] = exp(row[j] - lse[i]);
  }
}

static void NAME(attention_forward)(REAL *const *out, const KernelCase *c) {
  const float *v = c->inputs[2];
  const AttentionSpan *spans = c->inputs[3];
  const AttentionShape *shape = &c->shape;
  REAL *p = memory_new((size_t)(c->queries * c->keys), sizeof *p), *lse = memory_new((size_t)c->queries, sizeof *lse);
  for (int64_t s = 0; s < c->span_count; s++)
    for (int64_t h = 0; h < shape->heads; h++) {
      int64_t keys = spans[s].key_end - spans[s].key_begin, g = h / (shape->heads / shape->kv_heads);
      NAME(softmax)(p, NULL, lse, c, &spans[s], h);
      for (int64_t i = 0; i < spans[s].query_end - spans[s].query_begin; i++) {
        int64_t row = (spans[s].query_begin + i) * shape->heads + h;
        out[1][row] = lse[i];
        for (int64_t e = 0; e < shape->value_size; e++) {
          REAL sum = 0;
          for (int64_t j = 0; j < keys; j++)
            sum += p[i * keys + j] * v[((spans[s].key_begin + j) * shape->kv_heads + g) * shape->value_size + e];
          out[0][row * shape->value_size + e] = sum;
        }
      }
    }
  free(p);
  free(lse);
}

static void NAME(attention_backward_head)(REAL *const *out, const KernelCase *c, const AttentionSpan *span, int64_t h, REAL *p,
                                          REAL *slopes, REAL *lse) {
  const float *go = c->inputs[0], *o = c->inputs[1], *q = c->inputs[3], *k = c->inputs[4], *v = c->inputs[5];
  const AttentionShape *shape = &c->shape;
  int64_t keys = span->key_end - span->key_begin, g = h / (shape->heads / shape->kv_heads), size = shape->head_size,
          wide = shape->value_size;
  NAME(softmax)(p, slopes, lse, c, span, h);
  for (int64_t i = 0; i < span->query_end - span->query_begin; i++) {
    int64_t row = (span->query_begin + i) * shape->heads + h;
    REAL delta = out[3][row] = NAME(dot)(go + row * wide, 1, o + row * wide, 1, wide);
    for (int64_t j = 0; j < keys; j++) {
      if (p[i * keys + j] == 0) continue;  // not seen, or too small to matter
      int64_t key = (span->key_begin + j) * shape->kv_heads + g;
      REAL ds = p[i * keys + j] * (NAME(dot)(go + row * wide, 1, v + key * wide, 1, wide) - delta) * slopes[i * keys + j];
      for (int64_t e = 0; e < size; e++) {
        out[0][row * size + e] += ds * k[key * size + e];
        out[1][key * size + e] += ds * q[row * size + e];
      }
      for (int64_t e = 0; e < wide; e++) out[2][key * wide + e] += p[i * keys + j] * go[row * wide + e];
    }
  }
}

static void NAME(attention_backward)(REAL *const *out, const KernelCase *c) {
  const AttentionSpan *spans = c->inputs[6];
  size_t scores = (size_t)(c->queries * c->keys);
  REAL *p = memory_new(scores, sizeof *p), *slopes = memory_new(scores, sizeof *p), *lse = memory_new((size_t)c->queries, sizeof *lse);
  for (int output = 0; output < 3; output++)
    for (int64_t i = 0; i < c->counts[output]; i++) out[output][i] = 0;
  for (int64_t s = 0; s < c->span_count; s++)
    for (int64_t h = 0; h < c->shape.heads; h++) NAME(attention_backward_head)(out, c, &spans[s], h, p, slopes, lse);
  free(p);
  free(slopes);
  free(lse);
}

static REAL NAME(gelu_inner)(REAL x) { return sqrt((REAL)2 / (REAL)3.14159265358979323846) * (x + (REAL)0.044715 * x * x * x); }

static REAL NAME(activation)(REAL x, Activation f) {
  return f == ACTIVATION_SILU ? x / (1 + exp(-x)) : x * (1 + tanh(NAME(gelu_inner)(x))) / 2;
}

static REAL NAME(activation_slope)(REAL x, Activation f) {
  if (f == ACTIVATION_SILU) {
    REAL s = 1 / (1 + exp(-x));
    return s + x * s * (1 - s);
  }
  REAL t = tanh(NAME(gelu_inner)(x)), slope = sqrt((REAL)2 / (REAL)3.14159265358979323846) * (1 + (REAL)0.134145 * x * x);
  return (1 + t) / 2 + x * (1 - t * t) * slope / 2;
}

static void NAME(gated_forward)(REAL *const *out, const KernelCase *c) {
  const float *gate = c->inputs[0], *up = c->inputs[1];
  for (int64_t i = 0; i < c->n; i++) out[0][i] = NAME(activation)(gate[i], c->activation) * (up ? up[i] : 1);
}

static void NAME(gated_backward)(REAL *const *out, const KernelCase *c) {
  const float *dy = c->inputs[0], *gate = c->inputs[1], *up = c->inputs[2];
  for (int64_t i = 0; i < c->n; i++) {
    out[0][i] = dy[i] * (REAL)(up ? up[i] : 1) * NAME(activation_slope)(gate[i], c->activation);
    if (up) out[1][i] = dy[i] * NAME(activation)(gate[i], c->activation);
  }
}

// What lies between the products of an expert is rounded to the type of activations; the truth is not.
static REAL NAME(between)(REAL value, const KernelCase *c) {
  return sizeof(REAL) == sizeof(float) ? (REAL)float_rounded((float)value, c->type) : value;
}

// gate and up of row i in expert e
static void NAME(expert_gate)(REAL *gate, REAL *up, const KernelCase *c, int64_t i, int64_t e) {
  const float *x = (const float *)c->inputs[0] + i * c->columns;
  for (int64_t j = 0; j < c->experts.width; j++) {
    const float *w = c->weights + case_expert_offset(c, 0, e) + j * c->columns,
                *v = c->weights + case_expert_offset(c, 1, e) + j * c->columns;
    gate[j] = NAME(between)(NAME(dot)(x, 1, w, 1, c->columns), c);
    up[j] = NAME(between)(NAME(dot)(x, 1, v, 1, c->columns), c);
  }
}

static void NAME(experts_forward)(REAL *const *out, const KernelCase *c) {
  int64_t width = c->experts.width, used = c->experts.used;
  REAL *gate = memory_new((size_t)width, sizeof *gate), *up = memory_new((size_t)width, sizeof *up);
  for (int64_t p = 0; p < c->n * used; p++) {
    int64_t i = p / used, e = ((const int32_t *)c->inputs[4])[p];
    const float *down = c->weights + case_expert_offset(c, 2, e);
    NAME(expert_gate)(gate, up, c, i, e);
    for (int64_t j = 0; j < width; j++) gate[j] = NAME(between)(NAME(activation)(gate[j], c->activation) * up[j], c);
    for (int64_t h = 0; h < c->columns; h++) {
      REAL sum = 0;
      for (int64_t j = 0; j < width; j++) sum += gate[TERM(j, width)] * down[h * width + TERM(j, width)];
      out[0][i * c->columns + h] += ((const float *)c->inputs[5])[p] * sum;
    }
  }
  free(gate);
  free(up);
}

static void NAME(experts_backward)(REAL *const *out, const KernelCase *c) {
  int64_t width = c->experts.width, used = c->experts.used;
  REAL *gate = memory_new((size_t)width, sizeof *gate), *up = memory_new((size_t)width, sizeof *up);
  for (int64_t i = 0; !c->accumulate && i < c->n * c->columns; i++) out[0][i] = 0;
  for (int64_t p = 0; p < c->n * used; p++) {
    int64_t i = p / used, e = ((const int32_t *)c->inputs[4])[p];
    const float *down = c->weights + case_expert_offset(c, 2, e), *dy = (const float *)c->inputs[6] + i * c->columns;
    REAL weight = ((const float *)c->inputs[5])[p], dweight = 0;
    NAME(expert_gate)(gate, up, c, i, e);
    for (int64_t k = 0; k < width; k++) {
      int64_t j = TERM(k, width);
      REAL t = NAME(dot)(dy, 1, down + j, width, c->columns), f = NAME(activation)(gate[j], c->activation);
      dweight += t * NAME(between)(f * up[j], c);
      t = NAME(between)(weight * t, c);
      REAL dgate = NAME(between)(t * up[j] * NAME(activation_slope)(gate[j], c->activation), c), dup = NAME(between)(t * f, c);
      for (int64_t h = 0; h < c->columns; h++)
        out[0][i * c->columns + h] += dgate * c->weights[case_expert_offset(c, 0, e) + j * c->columns + h] +
                                      dup * c->weights[case_expert_offset(c, 1, e) + j * c->columns + h];
    }
    out[1][p] = dweight;
  }
  free(gate);
  free(up);
}

static REAL NAME(capped)(REAL logit, float cap) { return cap > 0 ? cap * tanh(logit / cap) : logit; }
static REAL NAME(capped_slope)(REAL z, float cap) { return cap > 0 ? 1 - (z / cap) * (z / cap) : 1; }

static void NAME(cross_entropy)(REAL *const *out, const KernelCase *c) {
  const int32_t *targets = c->inputs[0];
  const float *scale = c->inputs[1];
  for (int64_t i = 0; i < c->n; i++) {
    REAL *z = out[1] + i * c->columns, sum = 0;
    for (int64_t j = 0; j < c->columns; j++) z[j] = NAME(capped)(z[j], c->softcap);
    REAL maximum = z[0];
    for (int64_t j = 0; j < c->columns; j++) maximum = fmax(maximum, z[j]);
    for (int64_t j = 0; j < c->columns; j++) sum += exp(z[j] - maximum);
    REAL lse = maximum + log(sum);
    out[0][i] = lse - z[targets[i]];
    for (int64_t j = 0; scale && j < c->columns; j++)
      z[j] = scale[i] * (exp(z[j] - lse) - (j == targets[i])) * NAME(capped_slope)(z[j], c->softcap);
  }
}

static REAL NAME(log_sum_exp)(const REAL *z, int64_t n) {
  REAL maximum = z[0], sum = 0;
  for (int64_t j = 0; j < n; j++) maximum = fmax(maximum, z[j]);
  for (int64_t j = 0; j < n; j++) sum += exp(z[TERM(j, n)] - maximum);
  return maximum + log(sum);
}

static void NAME(divergence)(REAL *const *out, const KernelCase *c) {
  const float *logits = c->inputs[0], *scale = c->inputs[1];
  REAL *z = memory_new((size_t)c->columns, sizeof *z);
  for (int64_t i = 0; i < c->n; i++) {
    REAL *w = out[1] + i * c->columns, kl = 0;
    REAL *q = memory_new((size_t)c->columns, sizeof *q);
    for (int64_t j = 0; j < c->columns; j++) {
      z[j] = NAME(capped)(logits[i * c->columns + j], c->softcap);
      q[j] = NAME(capped)(w[j], c->softcap);
    }
    REAL lse = NAME(log_sum_exp)(z, c->columns), base_lse = NAME(log_sum_exp)(q, c->columns);
    for (int64_t k = 0; k < c->columns; k++) {
      int64_t j = TERM(k, c->columns);
      kl += exp(z[j] - lse) * ((z[j] - lse) - (q[j] - base_lse));
    }
    out[0][i] = kl;
    for (int64_t j = 0; scale && j < c->columns; j++)
      w[j] = scale[i] * exp(z[j] - lse) * ((z[j] - lse) - (q[j] - base_lse) - kl) * NAME(capped_slope)(z[j], c->softcap);
    free(q);
  }
  free(z);
}

static void NAME(linear_cross_entropy)(REAL *const *out, const KernelCase *c) {
  const float *x = c->inputs[0], *scale = c->inputs[5];
  const int32_t *targets = c->inputs[4];
  REAL *p = memory_new((size_t)c->rows, sizeof *p), *slope = memory_new((size_t)c->rows, sizeof *slope);
  for (int64_t i = 0; i < c->n; i++) {
    for (int64_t j = 0; j < c->rows; j++) {
      p[j] = NAME(capped)(NAME(dot)(x + i * c->columns, 1, c->weights + j * c->columns, 1, c->columns), c->softcap);
      slope[j] = NAME(capped_slope)(p[j], c->softcap);
    }
    REAL maximum = p[0], at_target = p[targets[i]], sum = 0;
    for (int64_t j = 0; j < c->rows; j++) maximum = fmax(maximum, p[j]);
    for (int64_t j = 0; j < c->rows; j++) sum += p[TERM(j, c->rows)] = exp(p[TERM(j, c->rows)] - maximum);
    out[0][i] = maximum - at_target + log(sum);
    for (int64_t k = 0; c->counts[1] && k < c->columns; k++) {
      REAL dx = 0;
      for (int64_t j = 0; j < c->rows; j++)
        dx += (p[TERM(j, c->rows)] / sum - (TERM(j, c->rows) == targets[i])) * slope[TERM(j, c->rows)] *
              c->weights[TERM(j, c->rows) * c->columns + k];
      out[1][i * c->columns + k] = scale[i] * dx;
    }
  }
  free(p);
  free(slope);
}

static void NAME(dropout)(REAL *const *out, const KernelCase *c) {
  const float *x = c->inputs[0];
  for (int64_t i = 0; i < c->n; i++) {
    uint32_t words[4];
    philox(words, CASE_SEED, CASE_STREAM, (uint64_t)(i / 4));
    NAME(put)(&out[0][i], words[i % 4] >= c->alpha * 0x1p32 ? x[i] / (1 - (REAL)c->alpha) : 0, c->accumulate);
  }
}

static void NAME(add_uniform)(REAL *const *out, const KernelCase *c) {
  for (int64_t i = 0; i < c->n; i++) {
    uint32_t words[4];
    philox(words, CASE_SEED, CASE_STREAM, (uint64_t)(i / 4));
    out[0][i] += c->alpha * ((REAL)(words[i % 4] >> 8) * (REAL)0x1p-23 - 1);
  }
}

static void NAME(gather_rows)(REAL *const *out, const KernelCase *c) {
  const float *x = c->inputs[0];
  const int32_t *rows = c->inputs[1];
  for (int64_t i = 0; i < c->n * c->columns; i++) out[0][i] = x[rows[i / c->columns] * c->columns + i % c->columns];
}

static void NAME(scatter_rows)(REAL *const *out, const KernelCase *c) {
  const float *x = c->inputs[0];
  const int32_t *rows = c->inputs[1];
  for (int64_t i = 0; i < c->n * c->columns; i++) out[0][rows[i / c->columns] * c->columns + i % c->columns] += x[i];
}

static void NAME(column_sums)(REAL *const *out, const KernelCase *c) {
  const float *x = c->inputs[0];
  for (int64_t j = 0; j < c->columns; j++) {
    REAL sum = 0;
    for (int64_t i = 0; i < c->n; i++) sum += x[TERM(i, c->n) * c->x_step + j];
    out[0][j] += sum;
  }
}

static void NAME(norm_weight_backward)(REAL *const *out, const KernelCase *c) {
  const float *dy = c->inputs[0], *x = c->inputs[1];
  REAL *sums = memory_new((size_t)c->norm.columns, sizeof *sums);
  for (int64_t k = 0; k < c->n; k++) {
    int64_t i = TERM(k, c->n);
    REAL mean, root;
    NAME(moments)(&mean, &root, x + i * c->x_step, &c->norm);
    for (int64_t j = 0; j < c->norm.columns; j++) sums[j] += dy[i * c->y_step + j] * (x[i * c->x_step + j] - mean) / root;
  }
  for (int64_t j = 0; j < c->norm.columns; j++) out[0][j] += sums[j];
  free(sums);
}

static void NAME(embedding_backward)(REAL *const *out, const KernelCase *c) {
  const float *dy = c->inputs[0];
  const int32_t *rows = c->inputs[1], *begins = c->inputs[2], *places = c->inputs[3];
  for (int64_t g = 0; g < c->n; g++)
    for (int64_t j = 0; j < c->columns; j++) {
      REAL sum = 0;
      int64_t count = begins[g + 1] - begins[g];
      for (int64_t k = 0; k < count; k++) sum += dy[places[begins[g] + TERM(k, count)] * c->columns + j];
      out[0][rows[g] * c->columns + j] += (REAL)c->alpha * sum;
    }
}

static void NAME(fill)(REAL *const *out, const KernelCase *c) {
  for (int64_t i = 0; i < c->n; i++) out[0][i] = c->alpha;
}

static void NAME(copy)(REAL *const *out, const KernelCase *c) {
  for (int64_t i = 0; i < c->n; i++) out[0][i] = ((const float *)c->inputs[0])[i];
}

static void NAME(add)(REAL *const *out, const KernelCase *c) {
  for (int64_t i = 0; i < c->n; i++) out[0][i] += (REAL)c->alpha * ((const float *)c->inputs[0])[i];
}

static void NAME(adamw)(REAL *const *out, const KernelCase *c) {
  const AdamwSettings *s = &c->adamw;
  REAL rate = s->learning_rate, beta1 = s->beta1, beta2 = s->beta2;
  REAL *p = out[0], *m = out[1], *v = out[2];
  for (int64_t i = 0; i < c->n; i++) {
    REAL g = (REAL)s->gradient_scale * ((const float *)c->inputs[0])[i];
    m[i] = beta1 * m[i] + (1 - beta1) * g;
    v[i] = beta2 * v[i] + (1 - beta2) * g * g;
    REAL m_hat = m[i] / (1 - pow(beta1, (REAL)s->step)), v_hat = v[i] / (1 - pow(beta2, (REAL)s->step));
    p[i] = p[i] - rate * s->weight_decay * p[i] - rate * m_hat / (sqrt(v_hat) + s->epsilon);
  }
}

// The new m or v of every parameter, before it is rounded. What a code stands for is a float32 by definition.
static void NAME(new_moments)(REAL *out, const KernelCase *c, Moment moment) {
  const float *scales = (const float *)c->inputs[3] + moment * moment_blocks(c->n), *levels = moment_levels(moment);
  REAL beta = moment == MOMENT_FIRST ? c->adamw.beta1 : c->adamw.beta2;
  for (int64_t i = 0; i < c->n; i++) {
    REAL g = (REAL)c->adamw.gradient_scale * ((const float *)c->inputs[0])[i];
    float old = scales[i / MOMENT_BLOCK] * levels[((const uint8_t *)c->inputs[1 + moment])[i]];
    out[i] = beta * old + (1 - beta) * (moment == MOMENT_FIRST ? g : g * g);
  }
}

// The level nearest to x, looked for among all of them.
static uint8_t NAME(moment_code)(REAL x, const float *levels) {
  int nearest = 0;
  for (int i = 1; i < MOMENT_LEVELS; i++)
    if (fabs(x - levels[i]) < fabs(x - levels[nearest])) nearest = i;
  if (levels[nearest] != 0 || x == 0) return (uint8_t)nearest;
  return (uint8_t)(x < 0 ? nearest - 1 : levels[0] == 0 ? 1 : nearest);
}

static void NAME(adamw_8bit)(REAL *const *out, const KernelCase *c) {
  int64_t blocks = moment_blocks(c->n);
  REAL *moments[MOMENT_COUNT];
  uint8_t *codes = memory_new((size_t)c->n + 1, 1);
  for (int k = 0; k < MOMENT_COUNT; k++) {
    REAL *x = moments[k] = memory_new((size_t)c->n + 1, sizeof *x);
    double *scales = memory_new((size_t)blocks + 1, sizeof *scales);
    NAME(new_moments)(x, c, k);
    for (int64_t i = 0; i < c->n; i++) scales[i / MOMENT_BLOCK] = fmax(scales[i / MOMENT_BLOCK], (double)fabs(x[i]));
    for (int64_t i = 0; i < c->n; i++) {
      REAL scale = (REAL)scales[i / MOMENT_BLOCK];
      codes[i] = scale > 0 ? NAME(moment_code)(x[i] / scale, moment_levels(k)) : 0;
    }
    double *places = memory_new((size_t)(c->n + blocks) + 1, sizeof *places);
    place_moments(places, places + c->n, codes, scales, c, k);
    for (int64_t i = 0; i < c->n; i++) out[1 + k][i] = (REAL)places[i];
    for (int64_t i = 0; i < blocks; i++) out[3][k * blocks + i] = (REAL)places[c->n + i];
    free(places);
    free(scales);
  }
  const AdamwSettings *s = &c->adamw;
  REAL rate = s->learning_rate, beta1 = s->beta1, beta2 = s->beta2;
  for (int64_t i = 0; i < c->n; i++) {
    REAL m_hat = moments[0][i] / (1 - pow(beta1, (REAL)s->step)), v_hat = moments[1][i] / (1 - pow(beta2, (REAL)s->step));
    out[0][i] = out[0][i] - rate * s->weight_decay * out[0][i] - rate * m_hat / (sqrt(v_hat) + s->epsilon);
  }
  for (int k = 0; k < MOMENT_COUNT; k++) free(moments[k]);
  free(codes);
}

// One element of kernels/update.h; returns the new p.
static REAL NAME(update_element)(REAL p, REAL *states[UPDATE_STATES], REAL g, const UpdateSettings *s) {
  REAL rate = s->learning_rate, decay = s->weight_decay, beta1 = s->beta1, beta2 = s->beta2, kept = 1 - (REAL)s->average;
  REAL coupled = g + decay * p, old = 0, *last = states[update_states(s->rule) - (update_states(s->rule) > 0)];
  switch (s->rule) {
    case UPDATE_LION:
      old = beta1 * *last + (1 - beta1) * g;
      *last = beta2 * *last + (1 - beta2) * g;
      return p - rate * decay * p - (old > 0 ? rate : old < 0 ? -rate : 0);
    case UPDATE_ADEMAMIX:
      *states[0] = beta1 * *states[0] + (1 - beta1) * g;
      *states[1] = (REAL)s->beta3 * *states[1] + (1 - (REAL)s->beta3) * g;
      *last = beta2 * *last + (1 - beta2) * g * g;
      return p - rate * decay * p -
             rate * (*states[0] / (REAL)s->correction1 + (REAL)s->alpha * *states[1]) / (sqrt(*last) / (REAL)s->correction2 + s->epsilon);
    case UPDATE_MOMENTUM:
      *last = beta1 * *last + (REAL)s->gain * coupled;
      return p - rate * ((REAL)s->direct * coupled + (REAL)s->through * *last);
    case UPDATE_ROOT:
      *last = beta2 * *last + (REAL)s->gain * coupled * coupled;
      return p - rate * (coupled / (sqrt(*last) + (REAL)s->epsilon));
    case UPDATE_SCHEDULE_FREE:
      *last = beta2 * *last + (1 - beta2) * g * g;
      coupled = g / (sqrt(*last) / (REAL)s->correction2 + (REAL)s->epsilon) + decay * p;
      old = *states[0];
      *states[0] = kept * (old - rate * beta1 * coupled);
      return p + (REAL)s->average * old - rate * (1 - beta1 * kept) * coupled;
    default: return p - rate * coupled;
  }
}

static void NAME(update)(REAL *const *out, const KernelCase *c) {
  for (int64_t i = 0; i < c->n; i++) {
    REAL *states[UPDATE_STATES] = {out[1] + i, out[2] + i, out[3] + i};
    out[0][i] = NAME(update_element)(out[0][i], states, (REAL)c->update.gradient_scale * ((const float *)c->inputs[0])[i], &c->update);
  }
}

// p[n] and states[of the rule][n] after the step, before they are rounded.
static void NAME(new_states)(REAL *p, REAL *states, const KernelCase *c) {
  const uint8_t *codes = c->inputs[1];
  const float *scales = c->inputs[2];
  int64_t blocks = moment_blocks(c->n);
  for (int64_t i = 0; i < c->n; i++) {
    REAL *element[UPDATE_STATES] = {0};
    for (int k = 0; k < update_states(c->update.rule); k++) {
      float old = scales[k * blocks + i / MOMENT_BLOCK] * moment_levels(update_moment(c->update.rule, k))[codes[k * c->n + i]];
      element[k] = states + k * c->n + i;
      *element[k] = old;
    }
    p[i] = NAME(update_element)(c->initial[0][i], element, (REAL)c->update.gradient_scale * ((const float *)c->inputs[0])[i], &c->update);
  }
}

static void NAME(update_8bit)(REAL *const *out, const KernelCase *c) {
  int64_t n = c->n, blocks = moment_blocks(n);
  REAL *states = memory_new((size_t)(UPDATE_STATES * n) + 1, sizeof *states);
  uint8_t *codes = memory_new((size_t)n + 1, 1);
  double *scales = memory_new((size_t)blocks + 1, sizeof *scales), *places = memory_new((size_t)(n + blocks) + 1, sizeof *places);
  NAME(new_states)(out[0], states, c);
  for (int k = 0; k < update_states(c->update.rule); k++) {
    const REAL *x = states + k * n;
    for (int64_t i = 0; i < blocks; i++) scales[i] = 0;
    for (int64_t i = 0; i < n; i++) scales[i / MOMENT_BLOCK] = fmax(scales[i / MOMENT_BLOCK], (double)fabs(x[i]));
    for (int64_t i = 0; i < n; i++) {
      REAL scale = (REAL)scales[i / MOMENT_BLOCK];
      codes[i] = scale > 0 ? NAME(moment_code)(x[i] / scale, moment_levels(update_moment(c->update.rule, k))) : 0;
    }
    place_states(places, places + n, codes, scales, c, k);
    for (int64_t i = 0; i < n; i++) out[1][k * n + i] = (REAL)places[i];
    for (int64_t i = 0; i < blocks; i++) out[2][k * blocks + i] = (REAL)places[n + i];
  }
  free(states);
  free(codes);
  free(scales);
  free(places);
}

static void NAME(factored_moments)(REAL *const *out, const KernelCase *c) {
  const float *g = c->inputs[0];
  REAL beta = c->factored.beta, scale = c->factored.gradient_scale, epsilon = c->factored.epsilon;
  for (int64_t i = 0; i < c->n + c->columns; i++) {
    bool is_row = i < c->n;
    int64_t terms = is_row ? c->columns : c->n;
    REAL sum = 0, *moment = is_row ? out[0] + i : out[1] + i - c->n;
    for (int64_t j = 0; j < terms; j++) {
      int64_t k = TERM(j, terms);
      REAL x = scale * (is_row ? g[i * c->columns + k] : g[k * c->columns + i - c->n]);
      sum += x * x + epsilon;
    }
    *moment = beta * *moment + (1 - beta) * sum / terms;
  }
}

static void NAME(factored_update)(REAL *const *out, const KernelCase *c) {
  const float *g = c->inputs[0], *r = c->inputs[1], *columns = c->inputs[2];
  REAL mean = 0;
  for (int64_t i = 0; i < c->n; i++) mean += r[TERM(i, c->n)];
  mean /= c->n;
  for (int64_t i = 0; i < c->n * c->columns; i++)
    out[0][i] = (REAL)c->factored.gradient_scale * g[i] / (sqrt(r[i / c->columns] / mean) * sqrt((REAL)columns[i % c->columns]));
}

static void NAME(sum_of_squares)(REAL *const *out, const KernelCase *c) { out[0][0] = NAME(dot)(c->inputs[0], 1, c->inputs[0], 1, c->n); }

static void NAME(linear_forward_rows)(REAL *const *out, const KernelCase *c) { NAME(linear_forward)(out, c); }

// A token's row of one head. In PAGES_Q8_0 the rounding is part of the definition, in float32 in any case.
static void NAME(store_row)(REAL *elements, REAL *scales, PagesType type, const float *x, int64_t size) {
  for (int64_t j = 0; j < size; j++) {
    if (type != PAGES_Q8_0) elements[j] = float_rounded(x[j], type == PAGES_F16 ? FLOAT_F16 : FLOAT_32);
    if (type != PAGES_Q8_0 || j % PAGES_BLOCK > 0) continue;
    float largest = 0;
    for (int64_t k = j; k < j + PAGES_BLOCK; k++) largest = fmaxf(largest, fabsf(x[k]));
    float d = float_rounded(largest / 127, FLOAT_F16);
    for (int64_t k = j; k < j + PAGES_BLOCK; k++) elements[k] = d > 0 ? rintf(x[k] / d) : 0;
    scales[j / PAGES_BLOCK] = d;
  }
}

static void NAME(store_pages)(REAL *const *out, const KernelCase *c) {
  const int32_t *slots = c->inputs[2];
  int64_t kv_heads = c->shape.kv_heads;
  for (int64_t i = 0; i < c->n * kv_heads; i++) {
    int64_t token = i / kv_heads, page = slots[token] / PAGE_TOKENS, place = slots[token] % PAGE_TOKENS;
    int64_t row = (page * kv_heads + i % kv_heads) * PAGE_TOKENS + place;
    for (int output = 0; output < 2; output++) {
      int64_t size = output ? c->shape.value_size : c->shape.head_size;
      NAME(store_row)
      (out[output] + row * size, out[output + 2] + row * (size / PAGES_BLOCK), c->pages, (const float *)c->inputs[output] + i * size, size);
    }
  }
}

// Element 0 of token t's row in pages of rows of `size`.
static const float *NAME(paged_row)(const KernelCase *c, int input, const PagedSpan *span, int64_t t, int64_t g, int64_t size) {
  int64_t page = ((const int32_t *)c->inputs[3])[span->table + t / PAGE_TOKENS];
  return (const float *)c->inputs[input] + ((page * c->shape.kv_heads + g) * PAGE_TOKENS + t % PAGE_TOKENS) * size;
}

static void NAME(paged_head)(REAL *o, REAL *scores, const KernelCase *c, const PagedSpan *span, int64_t i, int64_t h) {
  const AttentionShape *shape = &c->shape;
  const float *q = (const float *)c->inputs[0] + (i * shape->heads + h) * shape->head_size;
  int64_t end = span->length - (span->query_end - 1 - i), begin = shape->window > 0 && end > shape->window ? end - shape->window : 0;
  int64_t g = h / (shape->heads / shape->kv_heads), count = end - begin;
  REAL maximum = -INFINITY, sum = 0;
  for (int64_t j = 0; j < count; j++) {
    const float *key = NAME(paged_row)(c, 5, span, begin + j, g, shape->head_size);
    scores[j] = shape->scale * NAME(dot)(q, 1, key, 1, shape->head_size);
    if (shape->softcap > 0) scores[j] = shape->softcap * tanh(scores[j] / shape->softcap);
    maximum = fmax(maximum, scores[j]);
  }
  for (int64_t e = 0; e < shape->value_size; e++) o[e] = 0;
  for (int64_t k = 0; k < count; k++) {
    int64_t j = TERM(k, count);
    const float *value = NAME(paged_row)(c, 6, span, begin + j, g, shape->value_size);
    REAL p = exp(scores[j] - maximum);
    sum += p;
    for (int64_t e = 0; e < shape->value_size; e++) o[e] += p * value[e];
  }
  for (int64_t e = 0; e < shape->value_size; e++) o[e] /= sum;
}

static void NAME(paged_attention)(REAL *const *out, const KernelCase *c) {
  const PagedSpan *spans = c->inputs[4];
  REAL *scores = memory_new((size_t)c->keys + 1, sizeof *scores);
  for (const PagedSpan *span = spans; span < spans + c->span_count; span++)
    for (int64_t i = span->query_begin; i < span->query_end; i++)
      for (int64_t h = 0; h < c->shape.heads; h++)
        NAME(paged_head)(out[0] + (i * c->shape.heads + h) * c->shape.value_size, scores, c, span, i, h);
  free(scores);
}

static void NAME(low_rank_rows)(REAL *const *out, const KernelCase *c) {
  const RowGroup *groups = c->inputs[3];
  for (const RowGroup *group = groups; group < groups + c->span_count; group++) {
    const float *a = (const float *)c->inputs[1] + group->a, *b = (const float *)c->inputs[2] + group->b;
    int64_t out_columns = c->counts[group->y] / c->n;
    REAL *h = memory_new((size_t)group->rank + 1, sizeof *h);
    for (int64_t i = group->begin; i < group->end; i++) {
      for (int64_t r = 0; r < group->rank; r++)
        h[r] = NAME(dot)((const float *)c->inputs[0] + i * c->x_step, 1, a + r * c->columns, 1, c->columns);
      for (int64_t j = 0; j < out_columns; j++) {
        REAL sum = 0;
        for (int64_t r = 0; r < group->rank; r++) sum += h[TERM(r, group->rank)] * b[j * group->rank + TERM(r, group->rank)];
        out[group->y][i * out_columns + j] += group->scale * sum;
      }
    }
    free(h);
  }
}
