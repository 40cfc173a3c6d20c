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

static void NAME(norm_forward)(REAL *const *out, const KernelCase *c) {
  const float *x = c->inputs[0], *w = c->inputs[1];
  for (int64_t i = 0; i < c->n; i++) {
    const float *row = x + i * c->columns;
    REAL root = sqrt(NAME(dot)(row, 1, row, 1, c->columns) / c->columns + c->alpha);
    for (int64_t j = 0; j < c->columns; j++) out[0][i * c->columns + j] = row[j] / root * ((REAL)c->offset + w[j]);
  }
}

// dx = g / root - x sum(g x) / (columns root^3), g = dy (offset + w)
static void NAME(norm_backward)(REAL *const *out, const KernelCase *c) {
  const float *dy = c->inputs[0], *x = c->inputs[1], *w = c->inputs[2];
  for (int64_t i = 0; i < c->n; i++) {
    const float *row = x + i * c->columns, *grad = dy + i * c->columns;
    REAL root = sqrt(NAME(dot)(row, 1, row, 1, c->columns) / c->columns + c->alpha), sum = 0;
    for (int64_t j = 0; j < c->columns; j++) sum += grad[j] * ((REAL)c->offset + w[j]) * row[j];
    for (int64_t j = 0; j < c->columns; j++) NAME(put)
    (&out[0][i * c->columns + j], grad[j] * ((REAL)c->offset + w[j]) / root - row[j] * sum / (c->columns * root * root * root),
     c->accumulate);
  }
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
  for (int64_t i = 0; i < c->n; i++) out[0][i] = NAME(activation)(gate[i], c->activation) * up[i];
}

static void NAME(gated_backward)(REAL *const *out, const KernelCase *c) {
  const float *dy = c->inputs[0], *gate = c->inputs[1], *up = c->inputs[2];
  for (int64_t i = 0; i < c->n; i++) {
    out[0][i] = dy[i] * (REAL)up[i] * NAME(activation_slope)(gate[i], c->activation);
    out[1][i] = dy[i] * NAME(activation)(gate[i], c->activation);
  }
}

static void NAME(cross_entropy)(REAL *const *out, const KernelCase *c) {
  const int32_t *targets = c->inputs[0];
  const float *scale = c->inputs[1];
  for (int64_t i = 0; i < c->n; i++) {
    REAL *z = out[1] + i * c->columns, maximum = z[0], sum = 0;
    for (int64_t j = 0; j < c->columns; j++) maximum = fmax(maximum, z[j]);
    for (int64_t j = 0; j < c->columns; j++) sum += exp(z[j] - maximum);
    REAL lse = maximum + log(sum);
    out[0][i] = lse - z[targets[i]];
    for (int64_t j = 0; scale && j < c->columns; j++) z[j] = scale[i] * (exp(z[j] - lse) - (j == targets[i]));
  }
}

static void NAME(linear_cross_entropy)(REAL *const *out, const KernelCase *c) {
  const float *x = c->inputs[0], *scale = c->inputs[5];
  const int32_t *targets = c->inputs[4];
  REAL *p = memory_new((size_t)c->rows, sizeof *p);
  for (int64_t i = 0; i < c->n; i++) {
    for (int64_t j = 0; j < c->rows; j++) p[j] = NAME(dot)(x + i * c->columns, 1, c->weights + j * c->columns, 1, c->columns);
    REAL maximum = p[0], at_target = p[targets[i]], sum = 0;
    for (int64_t j = 0; j < c->rows; j++) maximum = fmax(maximum, p[j]);
    for (int64_t j = 0; j < c->rows; j++) sum += p[TERM(j, c->rows)] = exp(p[TERM(j, c->rows)] - maximum);
    out[0][i] = maximum - at_target + log(sum);
    for (int64_t k = 0; c->counts[1] && k < c->columns; k++) {
      REAL dx = 0;
      for (int64_t j = 0; j < c->rows; j++)
        dx += (p[TERM(j, c->rows)] / sum - (TERM(j, c->rows) == targets[i])) * c->weights[TERM(j, c->rows) * c->columns + k];
      out[1][i * c->columns + k] = scale[i] * dx;
    }
  }
  free(p);
}

static void NAME(dropout)(REAL *const *out, const KernelCase *c) {
  const float *x = c->inputs[0];
  for (int64_t i = 0; i < c->n; i++) {
    uint32_t words[4];
    philox(words, CASE_SEED, CASE_STREAM, (uint64_t)(i / 4));
    NAME(put)(&out[0][i], words[i % 4] >= c->alpha * 0x1p32 ? x[i] / (1 - (REAL)c->alpha) : 0, c->accumulate);
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

static void NAME(sum_of_squares)(REAL *const *out, const KernelCase *c) { out[0][0] = NAME(dot)(c->inputs[0], 1, c->inputs[0], 1, c->n); }
