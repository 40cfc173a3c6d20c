// Steps of optimisers that go element by element, beside AdamW's: one kernel, `update`, with a rule for each. g is the gradient times
// gradient_scale, p the parameters, and the rule's states are m, s and v, in the order in which `update_states` has them:
//   lion           p <- p - rate (decay p + sign(beta1 m + (1 - beta1) g));  m <- beta2 m + (1 - beta2) g
//   ademamix       m <- beta1 m + (1 - beta1) g;  s <- beta3 s + (1 - beta3) g;  v <- beta2 v + (1 - beta2) g^2
//                  p <- p - rate (decay p + (m / correction1 + alpha s) / (sqrt(v) / correction2 + epsilon))
//   gradient       p <- p - rate (decay p + g)
//   momentum       h = g + decay p;  m <- beta1 m + gain h;  p <- p - rate (direct h + through m)
//   root           h = g + decay p;  v <- beta2 v + gain h^2;  p <- p - rate h / (sqrt(v) + epsilon)
//   schedule_free  v <- beta2 v + (1 - beta2) g^2;  h = g / (sqrt(v) / correction2 + epsilon) + decay p;  with s = z - y, y being p:
//                  p <- p + average s - rate (1 - beta1 (1 - average)) h;  s <- (1 - average) (s - rate beta1 h)
// Sources: Chen et al. 2023 (Lion), Pagliardini et al. 2024 (AdEMAMix), torch.optim.SGD, RMSprop and Adagrad, Defazio et al. 2024 (the
// schedule-free AdamW of facebookresearch/schedule_free, whose z is kept as its distance from y: so it, too, begins as zeros).
// `update_8bit` does the same with states in 8 bits by blocks of MOMENT_BLOCK (kernels/adamw_8bit.h).
#ifndef KERNELS_UPDATE_H
#define KERNELS_UPDATE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/adamw_8bit.h"

typedef enum UpdateRule {
  UPDATE_LION,
  UPDATE_ADEMAMIX,
  UPDATE_GRADIENT,
  UPDATE_MOMENTUM,
  UPDATE_ROOT,
  UPDATE_SCHEDULE_FREE,
  UPDATE_COUNT
} UpdateRule;

enum { UPDATE_STATES = 3 };

// Doubles, as in AdamwSettings. What a rule's equation does not name is not read.
typedef struct UpdateSettings {
  UpdateRule rule;
  double learning_rate, weight_decay, gradient_scale, epsilon;
  double beta1, beta2, beta3, alpha;
  double correction1, correction2;  // 1 - beta1^t, and the root of 1 - beta2^t
  double gain, direct, through, average;
} UpdateSettings;

// How many states a rule has, and which of them has no signs: the second moment, always the last; the others are as m.
static inline int update_states(UpdateRule rule) {
  switch (rule) {
    case UPDATE_ADEMAMIX: return 3;
    case UPDATE_SCHEDULE_FREE: return 2;
    case UPDATE_LION:
    case UPDATE_MOMENTUM:
    case UPDATE_ROOT: return 1;
    case UPDATE_GRADIENT:
    case UPDATE_COUNT: break;
  }
  return 0;
}
static inline Moment update_moment(UpdateRule rule, int state) {
  bool has_second = rule == UPDATE_ADEMAMIX || rule == UPDATE_ROOT || rule == UPDATE_SCHEDULE_FREE;
  return has_second && state == update_states(rule) - 1 ? MOMENT_SECOND : MOMENT_FIRST;
}

// Second moments of a matrix by its rows and columns alone (Shazeer and Stern 2018, "Adafactor"), with g as above:
//   moments   r_i <- beta r_i + (1 - beta) mean_j (g_ij^2 + epsilon);  c_j <- beta c_j + (1 - beta) mean_i (g_ij^2 + epsilon)
//   update    u_ij = g_ij / sqrt(r_i / mean(r) c_j)
typedef struct FactoredSettings {
  double beta, epsilon, gradient_scale;
} FactoredSettings;

#endif
