// p <- p (1 - rate decay);  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
// p <- p - rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon),  t the number of updates, 1 for the first.
#include "optim/adamw.h"

static void adamw_step(Optimizer *optimizer, float *parameters, const float *gradients, const ParameterGroup *group, double learning_rate,
                       double gradient_scale) {
  AdamwSettings settings = {
      .learning_rate = learning_rate,
      .beta1 = optimizer->settings.beta1,
      .beta2 = optimizer->settings.beta2,
      .epsilon = optimizer->settings.epsilon,
      .weight_decay = group->weight_decay,
      .step = optimizer->updates,
      .gradient_scale = gradient_scale,
  };
  int64_t begin = group->begin;
  optimizer->backend->kernels->adamw(parameters + begin, optimizer->state[0] + begin, optimizer->state[1] + begin, gradients + begin,
                                     group->end - begin, settings, optimizer->backend);
}

const OptimizerMethod optimizer_adamw = {.name = "adamw", .state_count = 2, .state_names = {"m", "v"}, .step = adamw_step};
