// Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) as Axolotl's `muon` has it: for each matrix [rows, columns]
//   m <- momentum m + g;   u = g + momentum m (nesterov) or m;   u <- u / (|u| + epsilon)
//   five times, with (a, b, c) of each: A = u u^T (or u^T u, whichever is smaller);  u <- a u + (b A + c A A) u (or u (b A + c A A))
//   p <- p - rate decay p - rate f u,   f = sqrt(rows / columns) (spectral), 0.2 sqrt(max(rows, columns)) (rms), or 1
// so that all singular values of u come near to 1. Vectors, embeddings and the output layer go by AdamW. Products are float32, where the
// published code rounds to bfloat16: that is for speed, and the iteration forgives it.
#include <math.h>

#include "optim/methods.h"

enum { ITERATIONS = 5 };
static const double coefficients[ITERATIONS][3] = {
    {4.0848, -6.8946, 2.9270}, {3.9505, -6.3029, 2.6377}, {3.7418, -5.5913, 2.3037}, {2.8769, -3.1427, 1.2046}, {2.8366, -3.0525, 1.2012}};
static const double least_norm = 1e-8;

// Where a block of so many floats may end, so that the next begins at a whole line.
static int64_t whole_lines(int64_t count) { return (count + 15) / 16 * 16; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// y[count] = alpha x
static void scale_into(float *y, const float *x, double alpha, int64_t count, Backend *backend) {
  backend->kernels->fill(y, 0, count, backend);
  backend->kernels->add(y, x, (float)alpha, count, backend);
}

// One iteration: u becomes next, both [rows, columns]; gram and mixed are [side, side].
static void iterate(float *next, const float *u, float *gram, float *mixed, int64_t rows, int64_t columns, const double abc[3],
                    Backend *backend) {
  const Kernels *k = backend->kernels;
  int64_t side = smaller(rows, columns);
  Matrix u_matrix = matrix_f32(u, rows, columns), gram_matrix = matrix_f32(gram, side, side), mixed_matrix = matrix_f32(mixed, side, side);
  if (rows <= columns) {
    Projection product = projection_f32(gram, &u_matrix, 1);
    k->linear_forward(&product, 1, rows_f32(u, columns), rows, backend);
  } else {
    WeightGradient product = {.dw = gram, .dy = rows_f32(u, columns), .rows = columns, .alpha = 1};
    k->fill(gram, 0, side * side, backend);
    k->weight_backward(&product, 1, rows_f32(u, columns), columns, rows, backend);
  }
  scale_into(mixed, gram, abc[1], side * side, backend);
  Projection square = projection_f32(mixed, &gram_matrix, (float)abc[2]);
  square.residual = square.y;
  k->linear_forward(&square, 1, rows_f32(gram, side), side, backend);
  scale_into(next, u, abc[0], rows * columns, backend);
  if (rows <= columns) {
    Projection product = projection_f32(mixed, &u_matrix, 1);
    k->linear_backward(rows_f32(next, columns), &product, 1, rows, true, backend);
  } else {
    Projection product = projection_f32(next, &mixed_matrix, 1);
    product.residual = product.y;
    k->linear_forward(&product, 1, rows_f32(u, columns), rows, backend);
  }
}

static double matrix_rate(const Optimizer *optimizer, const ParameterRange *range) {
  double rows = (double)range->rows, columns = (double)range->columns;
  switch (optimizer->settings.matrix_rate) {
    case MATRIX_RATE_SPECTRAL: return sqrt(rows / columns);
    case MATRIX_RATE_RMS: return 0.2 * sqrt(fmax(rows, columns));
    case MATRIX_RATE_PLAIN: break;
  }
  return 1;
}

static void matrix_step(Optimizer *optimizer, float *parameters, const float *gradients, const ParameterRange *range, double rate,
                        double gradient_scale) {
  Backend *backend = optimizer->backend;
  const OptimizerSettings *s = &optimizer->settings;
  int64_t count = range->end - range->begin, side = smaller(range->rows, range->columns);
  float *m = (float *)optimizer->state[0] + range->begin, *u = optimizer->scratch, *next = u + whole_lines(count);
  float *gram = next + whole_lines(count), *mixed = gram + whole_lines(side * side);
  // A step of momentum from zero with the rate -1 is the direction itself.
  UpdateSettings direction = {.rule = UPDATE_MOMENTUM,
                              .learning_rate = -1,
                              .gradient_scale = gradient_scale,
                              .beta1 = s->momentum,
                              .gain = 1,
                              .direct = s->nesterov ? 1 : 0,
                              .through = s->nesterov ? s->momentum : 1};
  backend->kernels->fill(u, 0, count, backend);
  backend->kernels->update(u, (float *[UPDATE_STATES]){m}, gradients + range->begin, count, direction, backend);
  double norm = sqrt(backend->kernels->sum_of_squares(u, count, backend));
  scale_into(next, u, 1 / (norm + least_norm), count, backend);
  for (int i = 0; i < ITERATIONS; i++) {
    float *from = i % 2 ? u : next, *to = i % 2 ? next : u;
    iterate(to, from, gram, mixed, range->rows, range->columns, coefficients[i], backend);
  }
  UpdateSettings update = {
      .rule = UPDATE_GRADIENT, .learning_rate = rate, .weight_decay = range->weight_decay, .gradient_scale = matrix_rate(optimizer, range)};
  backend->kernels->update(parameters + range->begin, (float *[UPDATE_STATES]){0}, u, count, update, backend);
}

static void muon_step(Optimizer *optimizer, float *parameters, const float *gradients, const ParameterRange *range, double learning_rate,
                      double gradient_scale) {
  if (range->is_matrix) {
    matrix_step(optimizer, parameters, gradients, range, learning_rate, gradient_scale);
    return;
  }
  float *m = (float *)optimizer->state[0] + range->begin, *v = (float *)optimizer->state[1] + range->first_other;
  adamw_range(optimizer, parameters, m, v, gradients, range, learning_rate, gradient_scale);
}

static int64_t muon_scratch(const Optimizer *optimizer) {
  int64_t most = 0;
  for (int i = 0; i < optimizer->range_count; i++) {
    const ParameterRange *range = &optimizer->ranges[i];
    int64_t side = smaller(range->rows, range->columns), floats = 2 * (whole_lines(range->end - range->begin) + whole_lines(side * side));
    if (range->is_matrix && floats > most) most = floats;
  }
  return most;
}

const OptimizerMethod optimizer_muon = {.name = "muon",
                                        .state_count = 2,
                                        .states = {{"m", STATE_FLOATS}, {"v", STATE_OTHERS}},
                                        .by_tensor = true,
                                        .scratch_floats = muon_scratch,
                                        .step = muon_step};
