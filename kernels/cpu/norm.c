// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019), each row x[columns] apart, with m = offset + weight:
//   r = 1 / sqrt(mean((x - mean)^2) + epsilon),  y = (x - mean) r m + bias + residual
//   dx (+)= r (g - mean(g) - (x - mean) r^2 mean(g (x - mean))),    g = dy m
//   dw += sum over rows of dy (x - mean) r
// In RMSNorm, the mean of x and mean(g) are zero. RMSNorm without bias and residual has a loop of its own.
#include <math.h>

#include "kernels/cpu/column_sums.h"

typedef struct Norm {
  Rows y, x, residual, dx, dy;
  const NormSettings *settings;
  bool accumulate;
} Norm;

typedef struct Moments {
  float mean, r;
} Moments;

ALWAYS_INLINE float sum_of_four(const Vec sums[4]) { return vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3])); }

ALWAYS_INLINE Moments row_moments(const Norm *norm, int64_t i, bool is_centered, int x_type) {
  int64_t columns = norm->settings->columns, at = i * norm->x.step;
  const void *data = norm->x.data;
  Vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()}, squares[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
  for (int64_t c = 0; is_centered && c < columns; c += VL) sums[c / VL % 4] += typed_load(data, at + c, columns - c, x_type);
  float mean = is_centered ? sum_of_four(sums) / (float)columns : 0;
  for (int64_t c = 0; c < columns; c += VL) {
    Vec v = typed_load(data, at + c, columns - c, x_type);
    if (is_centered) v = (Vec)((VecI)(v - vec_set(mean)) & vec_first(columns - c));
    squares[c / VL % 4] = vec_fma(v, v, squares[c / VL % 4]);
  }
  return (Moments){mean, 1 / sqrtf(sum_of_four(squares) / (float)columns + norm->settings->epsilon)};
}

ALWAYS_INLINE Vec factor(NormSettings settings, int64_t c, int64_t left) {
  return vec_set(settings.offset) + vec_load_first(settings.weight + c, left);
}

// (Copies of what `norm` points to, for a store into y might change it, as far as a compiler knows.)
ALWAYS_INLINE void forward_row(const Norm *norm, int64_t i, bool is_plain, int x_type, int y_type) {
  const NormSettings settings = *norm->settings;
  const Rows from = norm->x, to = norm->y, residual = norm->residual;
  bool is_centered = !is_plain && settings.is_centered;
  Moments moments = row_moments(norm, i, is_centered, x_type);
  Vec r = vec_set(moments.r), mean = vec_set(moments.mean);
  for (int64_t c = 0; c < settings.columns; c += VL) {
    int64_t left = settings.columns - c;
    Vec x = typed_load(from.data, i * from.step + c, left, x_type);
    if (is_centered) x -= mean;
    Vec value = r * x * factor(settings, c, left);
    if (!is_plain && settings.bias) value += vec_load_first(settings.bias + c, left);
    if (!is_plain && residual.data) value += vec_load_first((const float *)residual.data + i * residual.step + c, left);
    typed_store(to.data, i * to.step + c, value, left, y_type);
  }
}

static void forward_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Norm *norm = argument;
  bool is_plain = !norm->settings->is_centered && !norm->settings->bias && !norm->residual.data;
  if (is_plain) BY_TYPES(norm->x.type, norm->y.type, for (int64_t i = begin; i < end; i++) forward_row(norm, i, true, X_TYPE, Y_TYPE));
  else BY_TYPES(norm->x.type, norm->y.type, for (int64_t i = begin; i < end; i++) forward_row(norm, i, false, X_TYPE, Y_TYPE));
}

void cpu_norm_forward(Rows y, Rows x, Rows residual, const NormSettings *norm, int64_t n, Backend *backend) {
  run_rows(backend, n, norm->columns, forward_rows, &(Norm){.y = y, .x = x, .residual = residual, .settings = norm});
}

ALWAYS_INLINE void backward_row(const Norm *norm, int64_t i, bool is_centered, int x_type, int dy_type, int dx_type) {
  const NormSettings settings = *norm->settings;
  const Rows from = norm->x, dy = norm->dy, dx = norm->dx;
  const bool accumulate = norm->accumulate;
  int64_t columns = settings.columns, x_at = i * from.step, dy_at = i * dy.step, dx_at = i * dx.step;
  Moments moments = row_moments(norm, i, is_centered, x_type);
  Vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()}, products[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
  Vec mean = vec_set(moments.mean);
  for (int64_t c = 0; c < columns; c += VL) {
    int64_t left = columns - c;
    Vec g = typed_load(dy.data, dy_at + c, left, dy_type) * factor(settings, c, left);
    Vec x = typed_load(from.data, x_at + c, left, x_type);
    if (is_centered) x -= mean, sums[c / VL % 4] += g;
    products[c / VL % 4] = vec_fma(g, x, products[c / VL % 4]);
  }
  float mean_of_g = is_centered ? sum_of_four(sums) / (float)columns : 0;
  Vec r = vec_set(moments.r), shift = vec_set(moments.r * moments.r * (sum_of_four(products) / (float)columns));
  for (int64_t c = 0; c < columns; c += VL) {
    int64_t left = columns - c;
    Vec g = typed_load(dy.data, dy_at + c, left, dy_type) * factor(settings, c, left);
    Vec x = typed_load(from.data, x_at + c, left, x_type);
    if (is_centered) x -= mean, g -= vec_set(mean_of_g);
    Vec value = r * vec_fnma(x, shift, g);
    if (accumulate) value += typed_load(dx.data, dx_at + c, left, dx_type);
    typed_store(dx.data, dx_at + c, value, left, dx_type);
  }
}

// dx has x's type where both belong to one tensor.
ALWAYS_INLINE void backward_some(const Norm *norm, int64_t begin, int64_t end, bool is_centered) {
  if (norm->dx.type == norm->x.type)
    BY_TYPES(norm->x.type, norm->dy.type, for (int64_t i = begin; i < end; i++) backward_row(norm, i, is_centered, X_TYPE, Y_TYPE, X_TYPE));
  else
    BY_TYPES(norm->x.type, norm->dy.type,
             for (int64_t i = begin; i < end; i++) backward_row(norm, i, is_centered, X_TYPE, Y_TYPE, norm->dx.type));
}

static void backward_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Norm *norm = argument;
  if (norm->settings->is_centered) backward_some(norm, begin, end, true);
  else backward_some(norm, begin, end, false);
}

void cpu_norm_backward(Rows dx, Rows dy, Rows x, const NormSettings *norm, int64_t n, bool accumulate, Backend *backend) {
  run_rows(backend, n, norm->columns, backward_rows, &(Norm){.x = x, .dx = dx, .dy = dy, .settings = norm, .accumulate = accumulate});
}

typedef struct WeightSums {
  const Norm *norm;
  int64_t n;
  ColumnParts parts;
} WeightSums;

ALWAYS_INLINE void weight_rows(const WeightSums *s, int64_t part, int x_type, int dy_type) {
  const Norm *norm = s->norm;
  int64_t columns = norm->settings->columns;
  float *to = s->parts.sums + part * s->parts.step;
  for (int64_t i = part * s->parts.rows; i < smaller((part + 1) * s->parts.rows, s->n); i++) {
    Moments moments = row_moments(norm, i, norm->settings->is_centered, x_type);
    Vec mean = vec_set(moments.mean), r = vec_set(moments.r);
    for (int64_t c = 0; c < columns; c += VL) {
      Vec x = typed_load(norm->x.data, i * norm->x.step + c, columns - c, x_type) - mean;
      Vec dy = typed_load(norm->dy.data, i * norm->dy.step + c, columns - c, dy_type);
      vec_store(to + c, vec_fma(dy, x * r, vec_load(to + c)));
    }
  }
}

static void weight_part(void *argument, int64_t part, int thread) {
  (void)thread;
  const WeightSums *s = argument;
  BY_TYPES(s->norm->x.type, s->norm->dy.type, weight_rows(s, part, X_TYPE, Y_TYPE));
}

void cpu_norm_weight_backward(float *dw, Rows dy, Rows x, const NormSettings *norm, int64_t n, Backend *backend) {
  Norm rows = {.x = x, .dy = dy, .settings = norm};
  WeightSums s = {.norm = &rows, .n = n, .parts = column_parts_new(n, norm->columns, backend)};
  pool_run(backend->pool, s.parts.count, weight_part, &s);
  column_parts_add(dw, &s.parts, norm->columns, backend);
}
