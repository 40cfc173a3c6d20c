// RMSNorm (Zhang and Sennrich 2019), each row x[columns] apart, with m = offset + w:
//   r = 1 / sqrt(mean(x^2) + epsilon),  y = r x m
//   dx (+)= r (g - x r^2 mean(g x)),    g = dy m
#include <math.h>

#include "kernels/cpu/typed.h"

typedef struct Norm {
  void *y;
  float *dx;
  const void *dy;
  FloatType type;  // of y and dy
  const float *x, *w;
  int64_t columns;
  float epsilon, offset;
  bool accumulate;
} Norm;

static float inverse_root_mean_square(const float *x, const Norm *norm) {
  Vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
  for (int64_t c = 0; c < norm->columns; c += VL) {
    Vec v = vec_load_first(x + c, norm->columns - c);
    sums[c / VL % 4] = vec_fma(v, v, sums[c / VL % 4]);
  }
  float sum = vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  return 1 / sqrtf(sum / (float)norm->columns + norm->epsilon);
}

ALWAYS_INLINE void forward_row(const Norm *norm, int64_t i, int type) {
  const float *x = norm->x + i * norm->columns;
  Vec r = vec_set(inverse_root_mean_square(x, norm));
  for (int64_t c = 0; c < norm->columns; c += VL) {
    int64_t left = norm->columns - c;
    Vec m = vec_set(norm->offset) + vec_load_first(norm->w + c, left);
    typed_store(norm->y, i * norm->columns + c, r * vec_load_first(x + c, left) * m, left, type);
  }
}

static void forward_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Norm *norm = argument;
  BY_TYPE(norm->type, for (int64_t i = begin; i < end; i++) forward_row(norm, i, TYPE));
}

void cpu_rmsnorm_forward(void *y, FloatType type, const float *x, const float *w, int64_t n, int64_t columns, float epsilon, float offset,
                         Backend *backend) {
  Norm norm = {.y = y, .type = type, .x = x, .w = w, .columns = columns, .epsilon = epsilon, .offset = offset};
  run_rows(backend, n, columns, forward_rows, &norm);
}

ALWAYS_INLINE float mean_of_gradient_times_input(const float *x, int64_t i, const Norm *norm, int type) {
  Vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
  for (int64_t c = 0; c < norm->columns; c += VL) {
    int64_t left = norm->columns - c;
    Vec g = typed_load(norm->dy, i * norm->columns + c, left, type) * (vec_set(norm->offset) + vec_load_first(norm->w + c, left));
    sums[c / VL % 4] = vec_fma(g, vec_load_first(x + c, left), sums[c / VL % 4]);
  }
  return vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3])) / (float)norm->columns;
}

ALWAYS_INLINE void backward_row(const Norm *norm, int64_t i, int type) {
  const float *x = norm->x + i * norm->columns;
  float *dx = norm->dx + i * norm->columns, root = inverse_root_mean_square(x, norm);
  Vec r = vec_set(root), shift = vec_set(root * root * mean_of_gradient_times_input(x, i, norm, type));
  for (int64_t c = 0; c < norm->columns; c += VL) {
    int64_t left = norm->columns - c;
    Vec g = typed_load(norm->dy, i * norm->columns + c, left, type) * (vec_set(norm->offset) + vec_load_first(norm->w + c, left));
    Vec value = r * vec_fnma(vec_load_first(x + c, left), shift, g);
    if (norm->accumulate) value += vec_load_first(dx + c, left);
    vec_store_first(dx + c, value, left);
  }
}

static void backward_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Norm *norm = argument;
  BY_TYPE(norm->type, for (int64_t i = begin; i < end; i++) backward_row(norm, i, TYPE));
}

void cpu_rmsnorm_backward(float *dx, const void *dy, FloatType type, const float *x, const float *w, int64_t n, int64_t columns,
                          float epsilon, float offset, bool accumulate, Backend *backend) {
  Norm norm = {
      .dx = dx, .dy = dy, .type = type, .x = x, .w = w, .columns = columns, .epsilon = epsilon, .offset = offset, .accumulate = accumulate};
  run_rows(backend, n, columns, backward_rows, &norm);
}
