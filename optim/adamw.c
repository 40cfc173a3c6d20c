// p <- p (1 - rate decay);  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
// p <- p - rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon),  t the number of updates, 1 for the first.
// Adam with decoupled weight decay (Loshchilov and Hutter 2019), by the backend's kernels `adamw` and `adamw_8bit`.
#include "optim/methods.h"

static AdamwSettings step_settings(const Optimizer *optimizer, const ParameterRange *range, double learning_rate, double gradient_scale) {
  return (AdamwSettings){
      .learning_rate = learning_rate,
      .beta1 = optimizer->settings.beta1,
      .beta2 = optimizer->settings.beta2,
      .epsilon = optimizer->settings.epsilon,
      .weight_decay = range->weight_decay,
      .step = optimizer->updates,
      .gradient_scale = gradient_scale,
  };
}

void adamw_range(Optimizer *optimizer, float *parameters, float *m, float *v, const float *gradients, const ParameterRange *range,
                 double learning_rate, double gradient_scale) {
  int64_t begin = range->begin;
  optimizer->backend->kernels->adamw(parameters + begin, m, v, gradients + begin, range->end - begin,
                                     step_settings(optimizer, range, learning_rate, gradient_scale), optimizer->backend);
}

static void adamw_step(Optimizer *optimizer, float *parameters, const float *gradients, const ParameterRange *range, double learning_rate,
                       double gradient_scale) {
  float *m = optimizer->state[0], *v = optimizer->state[1];
  adamw_range(optimizer, parameters, m + range->begin, v + range->begin, gradients, range, learning_rate, gradient_scale);
}

static void adamw_8bit_step(Optimizer *optimizer, float *parameters, const float *gradients, const ParameterRange *range,
                            double learning_rate, double gradient_scale) {
  uint8_t *m = optimizer->state[0], *v = optimizer->state[2];
  float *m_scales = optimizer->state[1], *v_scales = optimizer->state[3];
  int64_t begin = range->begin, block = range->first_block;
  optimizer->backend->kernels->adamw_8bit(parameters + begin, m + begin, m_scales + block, v + begin, v_scales + block, gradients + begin,
                                          range->end - begin, step_settings(optimizer, range, learning_rate, gradient_scale),
                                          optimizer->backend);
}

const OptimizerMethod optimizer_adamw = {.name = "adamw",
                                         .state_count = 2,
                                         .states = {{"m", STATE_FLOATS}, {"v", STATE_FLOATS}},
                                         .momentum = MOMENTUM_BETA1,
                                         .step = adamw_step};
const OptimizerMethod optimizer_adamw_8bit = {
    .name = "adamw_8bit",
    .state_count = 4,
    .states = {{"m_codes", STATE_CODES}, {"m_scales", STATE_SCALES}, {"v_codes", STATE_CODES}, {"v_scales", STATE_SCALES}},
    .momentum = MOMENTUM_BETA1,
    .step = adamw_8bit_step};
