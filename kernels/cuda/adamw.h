// A step of AdamW (Loshchilov and Hutter 2019) in the order of torch.optim.AdamW, with g the gradient times gradient_scale:
//   m <- m + (1 - beta1) (g - m),  v <- v + (1 - beta2) (g^2 - v)
//   p <- p - (rate weight_decay p + rate / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + epsilon))
// in float32, of factors that are computed in double: what is taken off p is small beside it, and rounded before it is taken off.
#ifndef KERNELS_CUDA_ADAMW_H
#define KERNELS_CUDA_ADAMW_H

#include "kernels/cuda/cuda.h"

struct AdamwFactors {
  float gradient_scale, decay, one_minus_beta1, one_minus_beta2, step_size, correction, epsilon;
};

static inline AdamwFactors adamw_factors(AdamwSettings settings) {
  double step = static_cast<double>(settings.step);
  return {static_cast<float>(settings.gradient_scale),
          static_cast<float>(settings.learning_rate * settings.weight_decay),
          static_cast<float>(1 - settings.beta1),
          static_cast<float>(1 - settings.beta2),
          static_cast<float>(settings.learning_rate / (1 - pow(settings.beta1, step))),
          static_cast<float>(1 / sqrt(1 - pow(settings.beta2, step))),
          static_cast<float>(settings.epsilon)};
}

__device__ __forceinline__ void adamw_update(float &p, float &m, float &v, float gradient, const AdamwFactors &with) {
  float g = gradient * with.gradient_scale;
  m = fmaf(with.one_minus_beta1, g - m, m);
  v = fmaf(with.one_minus_beta2, fmaf(g, g, -v), v);
  p -= fmaf(with.decay, p, with.step_size * m / fmaf(sqrtf(v), with.correction, with.epsilon));
}

#endif
