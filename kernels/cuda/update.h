// The steps of kernels/update.h for a thread, in float32, of factors that are computed in double. What is taken off p is small beside it,
// and rounded before it is taken off.
#ifndef KERNELS_CUDA_UPDATE_H
#define KERNELS_CUDA_UPDATE_H

#include "kernels/cuda/cuda.h"

struct UpdateFactors {
  float rate, decay, rate_decay, gradient_scale, epsilon;
  float beta1, beta2, one_minus_beta1, one_minus_beta2, one_minus_beta3;
  float correction1, correction2, alpha;  // corrections are inverse
  float gain, direct, through, average, kept, direction;  // kept: 1 - average; direction: rate (1 - beta1 kept)
};

static inline UpdateFactors update_factors(const UpdateSettings &s) {
  auto f = [](double x) { return static_cast<float>(x); };
  double kept = 1 - s.average;
  return {f(s.learning_rate),
          f(s.weight_decay),
          f(s.learning_rate * s.weight_decay),
          f(s.gradient_scale),
          f(s.epsilon),
          f(s.beta1),
          f(s.beta2),
          f(1 - s.beta1),
          f(1 - s.beta2),
          f(1 - s.beta3),
          f(s.correction1 != 0 ? 1 / s.correction1 : 0),
          f(s.correction2 != 0 ? 1 / s.correction2 : 0),
          f(s.alpha),
          f(s.gain),
          f(s.direct),
          f(s.through),
          f(s.average),
          f(kept),
          f(s.learning_rate * (1 - s.beta1 * kept))};
}

template <int RULE>
constexpr int UPDATE_STATE_COUNT = RULE == UPDATE_ADEMAMIX        ? 3
                                   : RULE == UPDATE_SCHEDULE_FREE ? 2
                                   : RULE == UPDATE_GRADIENT      ? 0
                                                                  : 1;
// Which state is a second moment: the last, or none (-1).
template <int RULE>
constexpr int SECOND_STATE = RULE == UPDATE_LION || RULE == UPDATE_MOMENTUM ? -1 : UPDATE_STATE_COUNT<RULE> - 1;

// beta x + (1 - beta) y, for a beta near 1
__device__ __forceinline__ float moved(float x, float y, float one_minus_beta) { return fmaf(one_minus_beta, y - x, x); }

template <int RULE>
__device__ __forceinline__ void update_element(float &p, float *states, float gradient, const UpdateFactors &with) {
  float g = gradient * with.gradient_scale, h = fmaf(with.decay, p, g);
  if (RULE == UPDATE_LION) {
    float mixed = moved(states[0], g, with.one_minus_beta1);
    states[0] = moved(states[0], g, with.one_minus_beta2);
    p -= fmaf(with.rate_decay, p, mixed > 0 ? with.rate : mixed < 0 ? -with.rate : 0.0f);
  } else if (RULE == UPDATE_ADEMAMIX) {
    states[0] = moved(states[0], g, with.one_minus_beta1);
    states[1] = moved(states[1], g, with.one_minus_beta3);
    states[2] = fmaf(with.one_minus_beta2, fmaf(g, g, -states[2]), states[2]);
    float mixed = fmaf(states[0], with.correction1, with.alpha * states[1]);
    p -= fmaf(with.rate_decay, p, with.rate * mixed / fmaf(sqrtf(states[2]), with.correction2, with.epsilon));
  } else if (RULE == UPDATE_GRADIENT) {
    p -= with.rate * h;
  } else if (RULE == UPDATE_MOMENTUM) {
    states[0] = fmaf(with.beta1, states[0], with.gain * h);
    p -= with.rate * fmaf(with.direct, h, with.through * states[0]);
  } else if (RULE == UPDATE_ROOT) {
    states[0] = fmaf(with.beta2, states[0], with.gain * h * h);
    p -= with.rate * h / (sqrtf(states[0]) + with.epsilon);
  } else {
    states[1] = fmaf(with.one_minus_beta2, fmaf(g, g, -states[1]), states[1]);
    float direction = fmaf(with.decay, p, g / fmaf(sqrtf(states[1]), with.correction2, with.epsilon));
    p += fmaf(with.average, states[0], -with.direction * direction);
    states[0] = with.kept * fmaf(-with.rate * with.beta1, direction, states[0]);
  }
}

// use(std::integral_constant of the rule).
template <typename Use>
void with_rule(UpdateRule rule, Use use) {
  switch (rule) {
    case UPDATE_LION: use(std::integral_constant<int, UPDATE_LION>()); break;
    case UPDATE_ADEMAMIX: use(std::integral_constant<int, UPDATE_ADEMAMIX>()); break;
    case UPDATE_GRADIENT: use(std::integral_constant<int, UPDATE_GRADIENT>()); break;
    case UPDATE_MOMENTUM: use(std::integral_constant<int, UPDATE_MOMENTUM>()); break;
    case UPDATE_ROOT: use(std::integral_constant<int, UPDATE_ROOT>()); break;
    case UPDATE_SCHEDULE_FREE: use(std::integral_constant<int, UPDATE_SCHEDULE_FREE>()); break;
    case UPDATE_COUNT: break;
  }
}

#endif
