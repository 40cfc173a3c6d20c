// Rotary position embedding (Su et al. 2021): with t = position * frequencies[i], the pair (a, b) of index i becomes
//   (a, b) <- magnitude * (a cos t - b sin t, a sin t + b cos t)
// and for the inverse t is negated. A block takes a row: its angles once, then all heads. The angle is taken in double to within an eighth of
// a turn, where float32 is enough; at position 100,000 a float32 product would already be off by up to 0.004.
#include "kernels/cuda/elements.h"

// magnitude * (cos t, sin t). The remainder is of an eighth of a turn at most, where these terms leave less than 2e-9.
__device__ __forceinline__ float2 angle_factors(int position, float frequency, float magnitude, bool inverse) {
  double turns = static_cast<double>(position) * static_cast<double>(frequency) * 0.15915494309189533577;
  turns -= rint(turns);
  double quarter = rint(4 * turns);
  float t = static_cast<float>((turns - 0.25 * quarter) * 6.28318530717958647693), u = t * t;
  float sine = fmaf(fmaf(fmaf(fmaf(2.75573192e-6f, u, -1.98412698e-4f), u, 8.33333333e-3f), u, -1.66666667e-1f), u * t, t);
  float cosine = fmaf(fmaf(fmaf(fmaf(fmaf(-2.75573192e-7f, u, 2.48015873e-5f), u, -1.38888889e-3f), u, 4.16666667e-2f), u, -0.5f), u, 1.0f);
  int quarters = static_cast<int>(quarter) & 3;
  float c = quarters & 1 ? sine : cosine, s = quarters & 1 ? cosine : sine;
  if (quarters == 1 || quarters == 2) c = -c;
  if (quarters >= 2) s = -s;
  return make_float2(magnitude * c, magnitude * (inverse ? -s : s));
}

__device__ __forceinline__ void turn(float &a, float &b, float2 factors) {
  float first = a * factors.x - b * factors.y;
  b = a * factors.y + b * factors.x;
  a = first;
}

// HALVES: pairs (i, i + rotary / 2), N at a time; else pairs (2i, 2i + 1), of which a packet of N elements (2 at least) has half as many.
// evidence: threads THREADS, shared 64 * 8
template <typename T, int N, bool HALVES>
__global__ void __launch_bounds__(THREADS) rope_kernel(T *x, const int32_t *positions, const float *frequencies, int heads, int head_size,
                                                       int rotary, float magnitude, bool inverse, bool is_packed) {
  constexpr int PAIRS = HALVES ? N : N / 2;
  DYNAMIC_SHARED(float2, factors);
  int half = rotary / 2, position = positions[blockIdx.x];
  for (int i = threadIdx.x; i < half; i += blockDim.x) factors[i] = angle_factors(position, frequencies[i], magnitude, inverse);
  __syncthreads();
  T *row = x + static_cast<int64_t>(blockIdx.x) * heads * head_size;
  int each = half / PAIRS;
  for (int item = threadIdx.x; item < heads * each; item += blockDim.x) {
    int head = item / each, i = item % each * PAIRS;
    T *at = row + static_cast<int64_t>(head) * head_size + (HALVES ? i : 2 * i);
    float a[N], b[N];
    load_floats<N>(a, at, N, is_packed);
    if (HALVES) load_floats<N>(b, at + half, N, is_packed);
    UNROLL for (int k = 0; k < PAIRS; k++) {
      if (HALVES) turn(a[k], b[k], factors[i + k]);
      else turn(a[2 * k], a[2 * k + 1], factors[i + k]);
    }
    store_floats<N>(at, a, N, is_packed);
    if (HALVES) store_floats<N>(at + half, b, N, is_packed);
  }
}

void cuda_rope(void *x, FloatType type, const int32_t *positions, const float *frequencies, int64_t n, int64_t heads, int64_t head_size,
               int64_t rotary, RopeLayout layout, float magnitude, bool inverse, Backend *backend) {
  Device *device = device_of(backend);
  if (n == 0 || heads == 0 || rotary < 2) return;
  auto start = [&](auto kernel, auto *data, int64_t pairs, bool is_packed) {
    unsigned threads = whole_warps(heads * (rotary / 2 / pairs), THREADS);
    LAUNCH(device, kernel, static_cast<unsigned>(n), threads, static_cast<size_t>(rotary / 2) * sizeof(float2), data, positions,
           frequencies, static_cast<int>(heads), static_cast<int>(head_size), static_cast<int>(rotary), magnitude, inverse, is_packed);
  };
  with_type(type, [&](auto element) {
    using T = decltype(element);
    constexpr int N = PACKET<T>;
    T *data = static_cast<T *>(x);
    bool is_packed = is_aligned(x) && head_size % N == 0;
    if (layout == ROPE_HALVES) {
      if (is_packed && rotary / 2 % N == 0) start(rope_kernel<T, N, true>, data, N, true);
      else start(rope_kernel<T, 1, true>, data, 1, false);
    } else {
      if (is_packed && rotary % N == 0) start(rope_kernel<T, N, false>, data, N / 2, true);
      else start(rope_kernel<T, 2, false>, data, 1, false);
    }
  });
}
