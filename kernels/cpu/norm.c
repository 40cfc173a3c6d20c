// RMSNorm and LayerNorm: the equations of kernels/norm.h. The types and whether the mean is taken off are constants of each loop.
#include <math.h>

#include "kernels/cpu/typed.h"

typedef struct Norm {
  Rows y, x, residual, dx, dy;
  const NormSettings *settings;
  bool accumulate;
} Norm;

typedef struct Moments {
  float mean, inverse;  // of the deviation, or of the root mean square
} Moments;

ALWAYS_INLINE Vec load(Rows rows, int64_t i, int64_t c, int64_t left, int type) {
  return typed_load(rows.data, i * rows.step + c, left, type);
}

// Four sums over the columns of row i, as one.
#define SUM_COLUMNS(value)                                          \
  ({                                                                \
    Vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()}; \
    for (int64_t c = 0; c < columns; c += VL) {                     \
      int64_t left = columns - c;                                   \
      sums[c / VL % 4] += (value);                                  \
    }                                                               \
    vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));             \
  })

// x - mean, 0 past the last column.
ALWAYS_INLINE Vec centered(const Norm *norm, int64_t i, int64_t c, float mean, int x_type, bool is_centered) {
  int64_t left = norm->settings->columns - c;
  Vec x = load(norm->x, i, c, left, x_type);
  if (!is_centered) return x;
  return (Vec)((VecI)(x - vec_set(mean)) & vec_first(left));
}

ALWAYS_INLINE Moments row_moments(const Norm *norm, int64_t i, int x_type, bool is_centered) {
  int64_t columns = norm->settings->columns;
  float mean = is_centered ? SUM_COLUMNS(load(norm->x, i, c, left, x_type)) / (float)columns : 0;
  Vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
  for (int64_t c = 0; c < columns; c += VL) {
    Vec v = centered(norm, i, c, mean, x_type, is_centered);
    sums[c / VL % 4] = vec_fma(v, v, sums[c / VL % 4]);
  }
  float sum = vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  return (Moments){mean, 1 / sqrtf(sum / (float)columns + norm->settings->epsilon)};
}

ALWAYS_INLINE Vec factor(const NormSettings *settings, int64_t c) {
  return vec_set(settings->offset) + vec_load_first(settings->weight + c, settings->columns - c);
}

ALWAYS_INLINE void forward_row(const Norm *norm, int64_t i, int y_type, int x_type, bool is_centered) {
  const NormSettings *settings = norm->settings;
  Moments moments = row_moments(norm, i, x_type, is_centered);
  for (int64_t c = 0; c < settings->columns; c += VL) {
    int64_t left = settings->columns - c;
    Vec value = vec_set(moments.inverse) * centered(norm, i, c, moments.mean, x_type, is_centered) * factor(settings, c);
    if (settings->bias) value += vec_load_first(settings->bias + c, left);
    if (norm->residual.data) value += load(norm->residual, i, c, left, FLOAT_32);
    typed_store(norm->y.data, i * norm->y.step + c, value, left, y_type);
  }
}

ALWAYS_INLINE void backward_row(const Norm *norm, int64_t i, int dx_type, int dy_type, int x_type, bool is_centered) {
  const NormSettings *settings = norm->settings;
  int64_t columns = settings->columns;
  Moments moments = row_moments(norm, i, x_type, is_centered);
  Vec r = vec_set(moments.inverse), gradient_mean = vec_zero();
  if (is_centered) gradient_mean = vec_set(SUM_COLUMNS(load(norm->dy, i, c, left, dy_type) * factor(settings, c)) / (float)columns);
  Vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
  for (int64_t c = 0; c < columns; c += VL) {
    Vec g = load(norm->dy, i, c, columns - c, dy_type) * factor(settings, c);
    sums[c / VL % 4] = vec_fma(g, centered(norm, i, c, moments.mean, x_type, is_centered), sums[c / VL % 4]);
  }
  float product_mean = vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3])) / (float)columns;
  Vec shift = vec_set(moments.inverse * moments.inverse * product_mean);
  for (int64_t c = 0; c < columns; c += VL) {
    int64_t left = columns - c;
    Vec g = load(norm->dy, i, c, left, dy_type) * factor(settings, c) - gradient_mean;
    Vec value = r * vec_fnma(centered(norm, i, c, moments.mean, x_type, is_centered), shift, g);
    if (norm->accumulate) value += load(norm->dx, i, c, left, dx_type);
    typed_store(norm->dx.data, i * norm->dx.step + c, value, left, dx_type);
  }
}

#define BY_CENTERED(is_centered, call) \
  do {                                 \
    if (is_centered) {                 \
      enum { CENTERED = 1 };           \
      call;                            \
    } else {                           \
      enum { CENTERED = 0 };           \
      call;                            \
    }                                  \
  } while (0)

static void forward_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Norm *norm = argument;
  bool x_is_half = norm->x.type == FLOAT_BF16;
  for (int64_t i = begin; i < end; i++)
    BY_CENTERED(norm->settings->is_centered, BY_TYPE(norm->y.type, x_is_half ? forward_row(norm, i, TYPE, FLOAT_BF16, CENTERED)
                                                                             : forward_row(norm, i, TYPE, FLOAT_32, CENTERED)));
}

void cpu_norm_forward(Rows y, Rows x, Rows residual, const NormSettings *settings, int64_t n, Backend *backend) {
  Norm norm = {.y = y, .x = x, .residual = residual, .settings = settings};
  run_rows(backend, n, settings->columns, forward_rows, &norm);
}

// dx has the type of x.
static void backward_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Norm *norm = argument;
  bool x_is_half = norm->x.type == FLOAT_BF16;
  for (int64_t i = begin; i < end; i++)
    BY_CENTERED(norm->settings->is_centered,
                BY_TYPE(norm->dy.type, x_is_half ? backward_row(norm, i, FLOAT_BF16, TYPE, FLOAT_BF16, CENTERED)
                                                 : backward_row(norm, i, FLOAT_32, TYPE, FLOAT_32, CENTERED)));
}

void cpu_norm_backward(Rows dx, Rows dy, Rows x, const NormSettings *settings, int64_t n, bool accumulate, Backend *backend) {
  Norm norm = {.dx = dx, .dy = dy, .x = x, .settings = settings, .accumulate = accumulate};
  run_rows(backend, n, settings->columns, backward_rows, &norm);
}
