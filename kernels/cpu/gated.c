// Gated activation (Shazeer 2020): y = f(gate) * up, elementwise. Both activations are x sigmoid(u), so that
//   f' = s + x s (1 - s) u',  s = sigmoid(u), 1 - s = sigmoid(-u), each to full precision
//   silu: u = x;  gelu_tanh: u = 2 sqrt(2/pi) (x + 0.044715 x^3), as (1 + tanh(u/2)) / 2 = sigmoid(u)
// backward: dgate = dy * up * f'(gate), dup = dy * f(gate); all inputs of an element are read before its outputs.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

enum { GRAIN = 16384 };

typedef struct Gated {
  float *y, *dgate, *dup;
  const float *dy, *gate, *up;
  Activation f;
} Gated;

typedef struct Gate {
  Vec sigmoid, rest, slope;  // s, 1 - s, u'
} Gate;

static inline Gate evaluate_gate(Vec x, Activation f) {
  Vec u = x, slope = vec_set(1);
  if (f == ACTIVATION_GELU_TANH) {
    const float linear = 1.5957691216057308f, cubic = 0.044715f * 1.5957691216057308f;
    Vec square = x * x;
    u = x * vec_fma(vec_set(cubic), square, vec_set(linear));
    slope = vec_fma(vec_set(3 * cubic), square, vec_set(linear));
  }
  Vec e = vec_exp(-vec_abs(u)), larger_part = vec_set(1) / (vec_set(1) + e), smaller_part = e * larger_part;
  VecI is_negative = u < vec_zero();
  return (Gate){vec_select(is_negative, smaller_part, larger_part), vec_select(is_negative, larger_part, smaller_part), slope};
}

static void forward_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Gated *g = argument;
  for (int64_t i = begin; i < end; i += VL) {
    Vec x = vec_load_first(g->gate + i, end - i);
    vec_store_first(g->y + i, x * evaluate_gate(x, g->f).sigmoid * vec_load_first(g->up + i, end - i), end - i);
  }
}

void cpu_gated_forward(float *y, const float *gate, const float *up, int64_t count, Activation f, Backend *backend) {
  run_ranges(backend, count, GRAIN, forward_range, &(Gated){.y = y, .gate = gate, .up = up, .f = f});
}

static void backward_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Gated *g = argument;
  for (int64_t i = begin; i < end; i += VL) {
    Vec x = vec_load_first(g->gate + i, end - i), up = vec_load_first(g->up + i, end - i), dy = vec_load_first(g->dy + i, end - i);
    Gate gate = evaluate_gate(x, g->f);
    Vec derivative = vec_fma(x * gate.sigmoid * gate.rest, gate.slope, gate.sigmoid);
    vec_store_first(g->dgate + i, dy * up * derivative, end - i);
    vec_store_first(g->dup + i, dy * x * gate.sigmoid, end - i);
  }
}

void cpu_gated_backward(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t count, Activation f,
                        Backend *backend) {
  run_ranges(backend, count, GRAIN, backward_range, &(Gated){.dgate = dgate, .dup = dup, .dy = dy, .gate = gate, .up = up, .f = f});
}
