// AdamW (Loshchilov and Hutter 2019) in the order of torch.optim.AdamW, with g the gradient times gradient_scale:
//   p <- p (1 - rate * weight_decay)
//   m <- m + (1 - beta1) (g - m),  v <- beta2 v + (1 - beta2) g^2
//   p <- p - rate / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + epsilon)
#include <math.h>

#include "kernels/reference/reference.h"

void reference_adamw(float *p, float *m, float *v, const float *g, int64_t count, AdamwSettings settings, Backend *backend) {
  (void)backend;
  double beta1 = settings.beta1, beta2 = settings.beta2, rate = settings.learning_rate;
  double step_size = rate / (1 - pow(beta1, (double)settings.step));
  double correction = sqrt(1 - pow(beta2, (double)settings.step));
  for (int64_t i = 0; i < count; i++) {
    double gradient = (double)settings.gradient_scale * g[i];
    double first = m[i] + (1 - beta1) * (gradient - m[i]);
    double second = beta2 * v[i] + (1 - beta2) * gradient * gradient;
    double decayed = p[i] * (1 - rate * settings.weight_decay);
    p[i] = (float)(decayed - step_size * first / (sqrt(second) / correction + settings.epsilon));
    m[i] = (float)first;
    v[i] = (float)second;
  }
}
