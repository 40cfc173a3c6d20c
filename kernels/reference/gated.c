// Gated activation (Shazeer 2020): y = f(gate) * up (1 where there is none), elementwise, with
//   silu(x) = x / (1 + exp(-x))
//   gelu_tanh(x) = x/2 (1 + tanh(u)),  u = sqrt(2/pi) (x + 0.044715 x^3)
// backward: dgate = dy * up * f'(gate), dup = dy * f(gate); all three inputs are read before either is written.
#include <math.h>

#include "kernels/reference/reference.h"

static const double SQRT_2_OVER_PI = 0.79788456080286535588;
static const double GELU_CUBIC = 0.044715;

static Slope silu(double x) {
  double sigmoid = 1 / (1 + exp(-x));
  return (Slope){x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))};
}

static Slope gelu_tanh(double x) {
  double t = tanh(SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x));
  double inner = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * x * x);
  return (Slope){x / 2 * (1 + t), (1 + t) / 2 + x / 2 * (1 - t * t) * inner};
}

Slope reference_activate(double x, Activation f) { return f == ACTIVATION_SILU ? silu(x) : gelu_tanh(x); }

void reference_gated_forward(void *y, const void *gate, const void *up, FloatType type, int64_t count, Activation f, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < count; i++)
    reference_store(y, type, i, reference_activate(reference_load(gate, type, i), f).value * (up ? reference_load(up, type, i) : 1));
}

void reference_gated_backward(void *dgate, void *dup, const void *dy, const void *gate, const void *up, FloatType type, int64_t count,
                              Activation f, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < count; i++) {
    Slope slope = reference_activate(reference_load(gate, type, i), f);
    double out = reference_load(dy, type, i), factor = up ? reference_load(up, type, i) : 1;
    reference_store(dgate, type, i, out * factor * slope.derivative);
    if (up) reference_store(dup, type, i, out * slope.value);
  }
}
