// RMSNorm (Zhang and Sennrich 2019), each row x[columns] apart, with m = offset + w:
//   r = 1 / sqrt(mean(x^2) + epsilon),  y = r x m
//   dx (+)= r (g - x r^2 mean(g x)),    g = dy m
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

typedef struct Norm {
  float *out;  // y or dx
  const float *x, *dy, *w;
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

static void forward_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Norm *norm = argument;
  for (int64_t i = begin; i < end; i++) {
    const float *x = norm->x + i * norm->columns;
    Vec r = vec_set(inverse_root_mean_square(x, norm));
    for (int64_t c = 0; c < norm->columns; c += VL) {
      int64_t left = norm->columns - c;
      Vec m = vec_set(norm->offset) + vec_load_first(norm->w + c, left);
      vec_store_first(norm->out + i * norm->columns + c, r * vec_load_first(x + c, left) * m, left);
    }
  }
}

void cpu_rmsnorm_forward(float *y, const float *x, const float *w, int64_t n, int64_t columns, float epsilon, float offset,
                         Backend *backend) {
  Norm norm = {.out = y, .x = x, .w = w, .columns = columns, .epsilon = epsilon, .offset = offset};
  run_rows(backend, n, columns, forward_rows, &norm);
}

static float mean_of_gradient_times_input(const float *dy, const float *x, const Norm *norm) {
  Vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
  for (int64_t c = 0; c < norm->columns; c += VL) {
    int64_t left = norm->columns - c;
    Vec g = vec_load_first(dy + c, left) * (vec_set(norm->offset) + vec_load_first(norm->w + c, left));
    sums[c / VL % 4] = vec_fma(g, vec_load_first(x + c, left), sums[c / VL % 4]);
  }
  return vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3])) / (float)norm->columns;
}

static void backward_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Norm *norm = argument;
  for (int64_t i = begin; i < end; i++) {
    const float *x = norm->x + i * norm->columns, *dy = norm->dy + i * norm->columns;
    float *dx = norm->out + i * norm->columns, root = inverse_root_mean_square(x, norm);
    Vec r = vec_set(root), shift = vec_set(root * root * mean_of_gradient_times_input(dy, x, norm));
    for (int64_t c = 0; c < norm->columns; c += VL) {
      int64_t left = norm->columns - c;
      Vec g = vec_load_first(dy + c, left) * (vec_set(norm->offset) + vec_load_first(norm->w + c, left));
      Vec value = r * vec_fnma(vec_load_first(x + c, left), shift, g);
      if (norm->accumulate) value += vec_load_first(dx + c, left);
      vec_store_first(dx + c, value, left);
    }
  }
}

void cpu_rmsnorm_backward(float *dx, const float *dy, const float *x, const float *w, int64_t n, int64_t columns, float epsilon,
                          float offset, bool accumulate, Backend *backend) {
  Norm norm = {dx, x, dy, w, columns, epsilon, offset, accumulate};
  run_rows(backend, n, columns, backward_rows, &norm);
}
