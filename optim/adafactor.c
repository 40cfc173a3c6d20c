// Adafactor (Shazeer and Stern 2018) as transformers.Adafactor computes it, without its first moment. With beta_t = 1 - t^decay_rate:
//   r_i, c_j   the factored moments of kernels/update.h, of g^2 + square_epsilon;  u_ij = g_ij / sqrt(r_i / mean(r) c_j)
//   u <- u / max(1, rms(u) / clip_threshold);  rate_t = s rate, or with relative_step  s min(1e-2, or 1e-6 t with warmup_init, 1 / sqrt(t))
//   s = max(scale_epsilon, rms(p)) with scale_parameter, else 1;   p <- p - rate_t (decay p + u)
// A vector is a matrix of one row: then u = g / sqrt(c), which is its unfactored moment. Root mean squares come to the host, so a step
// waits for the device once a tensor, or twice.
#include <math.h>

#include "optim/methods.h"

static double root_mean_square(const float *x, int64_t count, Backend *backend) {
  return sqrt(backend->kernels->sum_of_squares(x, count, backend) / (double)count);
}

static double tensor_rate(const Optimizer *optimizer, const float *p, int64_t count, double rate, double multiplier) {
  const OptimizerSettings *s = &optimizer->settings;
  double t = (double)optimizer->updates;
  if (s->relative_step) rate = multiplier * fmin(s->warmup_init ? 1e-6 * t : 1e-2, 1 / sqrt(t));
  return s->scale_parameter ? rate * fmax(s->scale_epsilon, root_mean_square(p, count, optimizer->backend)) : rate;
}

static void adafactor_step(Optimizer *optimizer, float *parameters, const float *gradients, const ParameterRange *range,
                           double learning_rate, double gradient_scale) {
  const OptimizerSettings *s = &optimizer->settings;
  Backend *backend = optimizer->backend;
  float *p = parameters + range->begin, *u = optimizer->scratch;
  const float *g = gradients + range->begin;
  float *r = (float *)optimizer->state[0] + range->first_row, *c = (float *)optimizer->state[1] + range->first_column;
  int64_t count = range->end - range->begin;
  double rate = tensor_rate(optimizer, p, count, learning_rate, range->rate_multiplier);
  FactoredSettings moments = {
      .beta = 1 - pow((double)optimizer->updates, s->decay_rate), .epsilon = s->square_epsilon, .gradient_scale = gradient_scale};
  backend->kernels->factored_moments(r, c, g, range->rows, range->columns, moments, backend);
  backend->kernels->factored_update(u, g, r, c, range->rows, range->columns, gradient_scale, backend);
  double excess = root_mean_square(u, count, backend) / s->clip_threshold;
  UpdateSettings update = {
      .rule = UPDATE_GRADIENT, .learning_rate = rate, .weight_decay = range->weight_decay, .gradient_scale = excess > 1 ? 1 / excess : 1};
  backend->kernels->update(p, (float *[UPDATE_STATES]){0}, u, count, update, backend);
}

static int64_t largest_range(const Optimizer *optimizer) {
  int64_t most = 0;
  for (int i = 0; i < optimizer->range_count; i++) {
    int64_t count = optimizer->ranges[i].end - optimizer->ranges[i].begin;
    if (count > most) most = count;
  }
  return most;
}

const OptimizerMethod optimizer_adafactor = {.name = "adafactor",
                                             .state_count = 2,
                                             .states = {{"rows", STATE_ROWS}, {"columns", STATE_COLUMNS}},
                                             .by_tensor = true,
                                             .scratch_floats = largest_range,
                                             .step = adafactor_step};
