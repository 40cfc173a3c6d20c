// Gated activation (Shazeer 2020): y = f(gate) * up (1 where there is none), elementwise. Both activations are x sigmoid(u), so that
//   f' = s + x s (1 - s) u',  s = sigmoid(u), 1 - s = sigmoid(-u), each to full precision
//   silu: u = x;  gelu_tanh: u = 2 sqrt(2/pi) (x + 0.044715 x^3), as (1 + tanh(u/2)) / 2 = sigmoid(u)
// backward: dgate = dy * up * f'(gate), dup = dy * f(gate); all inputs of an element are read before its outputs.
#include "kernels/cpu/typed.h"

enum { GRAIN = 16384 };

typedef struct Gated {
  void *y, *dgate, *dup;
  const void *dy, *gate, *up;
  FloatType type;
  Activation f;
} Gated;

typedef struct Gate {
  Vec sigmoid, rest, slope;  // s, 1 - s, u'
} Gate;

// e = exp(-u), s = 1 / (1 + e), 1 - s = e s. Below u = -87, where s would be a denormal, it stays what it is there.
ALWAYS_INLINE Gate evaluate_gate(Vec x, Activation f, int type) {
  Vec u = x, slope = vec_set(1);
  if (f == ACTIVATION_GELU_TANH) {
    const float linear = 1.5957691216057308f, cubic = 0.044715f * 1.5957691216057308f;
    Vec square = x * x;
    u = x * vec_fma(vec_set(cubic), square, vec_set(linear));
    slope = vec_fma(vec_set(3 * cubic), square, vec_set(linear));
  }
  u = vec_max(vec_set(-87), u);
  Vec e = type == FLOAT_BF16 ? vec_exp2(u * vec_set(-LOG2_E)) : vec_exp(-u);
  Vec sigmoid = typed_reciprocal(vec_set(1) + e, type);
  return (Gate){sigmoid, e * sigmoid, slope};
}

ALWAYS_INLINE void forward_some(const Gated *g, int64_t begin, int64_t end, int type) {
  for (int64_t i = begin; i < end; i += VL) {
    Vec x = typed_load(g->gate, i, end - i, type);
    Vec up = g->up ? typed_load(g->up, i, end - i, type) : vec_set(1);
    typed_store(g->y, i, x * evaluate_gate(x, g->f, type).sigmoid * up, end - i, type);
  }
}

static void forward_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Gated *g = argument;
  BY_TYPE(g->type, forward_some(g, begin, end, TYPE));
}

void cpu_gated_forward(void *y, const void *gate, const void *up, FloatType type, int64_t count, Activation f, Backend *backend) {
  run_ranges(backend, count, GRAIN, forward_range, &(Gated){.y = y, .gate = gate, .up = up, .type = type, .f = f});
}

ALWAYS_INLINE void backward_some(const Gated *g, int64_t begin, int64_t end, int type) {
  for (int64_t i = begin; i < end; i += VL) {
    Vec x = typed_load(g->gate, i, end - i, type), dy = typed_load(g->dy, i, end - i, type);
    Vec up = g->up ? typed_load(g->up, i, end - i, type) : vec_set(1);
    Gate gate = evaluate_gate(x, g->f, type);
    Vec derivative = vec_fma(x * gate.sigmoid * gate.rest, gate.slope, gate.sigmoid);
    typed_store(g->dgate, i, dy * up * derivative, end - i, type);
    if (g->up) typed_store(g->dup, i, dy * x * gate.sigmoid, end - i, type);
  }
}

static void backward_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Gated *g = argument;
  BY_TYPE(g->type, backward_some(g, begin, end, TYPE));
}

void cpu_gated_backward(void *dgate, void *dup, const void *dy, const void *gate, const void *up, FloatType type, int64_t count,
                        Activation f, Backend *backend) {
  run_ranges(backend, count, GRAIN, backward_range,
             &(Gated){.dgate = dgate, .dup = dup, .dy = dy, .gate = gate, .up = up, .type = type, .f = f});
}
