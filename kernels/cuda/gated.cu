// Gated activation (Shazeer 2020): y = f(gate) * up (1 where there is none), elementwise, with
//   silu(x) = x s(x),   gelu_tanh(x) = x/2 (1 + tanh(u)) = x s(2u),  u = sqrt(2/pi) (x + 0.044715 x^3),   s(w) = 1 / (1 + exp(-w))
// Both are x s(w(x)), so that backward
//   dgate = dy up s (1 + x (1 - s) w'),   dup = dy x s
// All of an element's inputs are read before either output is written.
#include "kernels/cuda/elements.h"

#define SQRT_2_OVER_PI 0.7978845608f
#define GELU_CUBIC 0.044715f
#define GELU_SATURATED 30.0f  // from here on s(2u) is 0 or 1 to float32, and w' still finite
#define LEAST_EXPONENT -87.0f  // exp of its negative is finite

struct Gate {
  float value, derivative;
};

// Exponentials and quotients of a few units in the last place of float32 will do where what is written has 11 bits or fewer. 1 - s is e s,
// with e = exp(-w), to full precision. Comparisons let NaN through.
template <bool IS_ROUNDED>
__device__ __forceinline__ Gate activate(float x, Activation f) {
  float near = x, w = x, slope = 1;
  if (f == ACTIVATION_GELU_TANH) {
    near = x > GELU_SATURATED ? GELU_SATURATED : x < -GELU_SATURATED ? -GELU_SATURATED : x;
    float square = near * near;
    w = 2 * SQRT_2_OVER_PI * near * fmaf(GELU_CUBIC, square, 1.0f);
    slope = 2 * SQRT_2_OVER_PI * fmaf(3 * GELU_CUBIC, square, 1.0f);
  }
  w = w < LEAST_EXPONENT ? LEAST_EXPONENT : w;
  float e = IS_ROUNDED ? __expf(-w) : expf(-w), s = IS_ROUNDED ? __fdividef(1.0f, 1.0f + e) : 1.0f / (1.0f + e);
  return {x * s, s * fmaf(near * slope, e * s, 1.0f)};
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    gated_forward_kernel(T *y, const T *gate, const T *up, int64_t count, Activation f, bool is_packed) {
  constexpr int N = PACKET<T>;
  for (int64_t i = first_element<N>(); i < count; i += element_step<N>()) {
    float gates[N], ups[N];
    load_floats<N>(gates, gate + i, count - i, is_packed);
    if (up) load_floats<N>(ups, up + i, count - i, is_packed);
    UNROLL for (int k = 0; k < N; k++) {
      float value = activate<sizeof(T) == 2>(gates[k], f).value;
      gates[k] = up ? value * ups[k] : value;
    }
    store_floats<N>(y + i, gates, count - i, is_packed);
  }
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    gated_backward_kernel(T *dgate, T *dup, const T *dy, const T *gate, const T *up, int64_t count, Activation f, bool is_packed) {
  constexpr int N = PACKET<T>;
  for (int64_t i = first_element<N>(); i < count; i += element_step<N>()) {
    float gates[N], ups[N], gradients[N];
    load_floats<N>(gates, gate + i, count - i, is_packed);
    load_floats<N>(gradients, dy + i, count - i, is_packed);
    if (up) load_floats<N>(ups, up + i, count - i, is_packed);
    UNROLL for (int k = 0; k < N; k++) {
      Gate of = activate<sizeof(T) == 2>(gates[k], f);
      gates[k] = gradients[k] * (up ? ups[k] : 1.0f) * of.derivative;
      ups[k] = gradients[k] * of.value;
    }
    store_floats<N>(dgate + i, gates, count - i, is_packed);
    if (up) store_floats<N>(dup + i, ups, count - i, is_packed);
  }
}

void cuda_gated_forward(void *y, const void *gate, const void *up, FloatType type, int64_t count, Activation f, Backend *backend) {
  Device *device = device_of(backend);
  if (count == 0) return;
  with_type(type, [&](auto element) {
    using T = decltype(element);
    auto kernel = gated_forward_kernel<T>;
    LAUNCH(device, kernel, loop_blocks(device, count, PACKET<T>), THREADS, 0, static_cast<T *>(y), static_cast<const T *>(gate),
           static_cast<const T *>(up), count, f, is_aligned(y, gate, up));
  });
}

void cuda_gated_backward(void *dgate, void *dup, const void *dy, const void *gate, const void *up, FloatType type, int64_t count,
                         Activation f, Backend *backend) {
  Device *device = device_of(backend);
  bool is_packed = is_aligned(dgate, dy, gate, up) && (!up || is_aligned(dup));
  if (count == 0) return;
  with_type(type, [&](auto element) {
    using T = decltype(element);
    auto kernel = gated_backward_kernel<T>;
    LAUNCH(device, kernel, loop_blocks(device, count, PACKET<T>), THREADS, 0, static_cast<T *>(dgate), static_cast<T *>(dup),
           static_cast<const T *>(dy), static_cast<const T *>(gate), static_cast<const T *>(up), count, f, is_packed);
  });
}
