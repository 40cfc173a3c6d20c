// AdamW over whole arrays (kernels/cuda/adamw.h), and the sum of squares of float32, in double and always in one order.
#include "kernels/cuda/adamw.h"
#include "kernels/cuda/elements.h"

enum { SUM_BLOCKS = 512 };

__global__ void __launch_bounds__(THREADS)
    adamw_kernel(float *p, float *m, float *v, const float *g, int64_t count, AdamwFactors with, bool is_packed) {
  constexpr int N = PACKET<float>;
  for (int64_t i = first_element<N>(); i < count; i += element_step<N>()) {
    float values[N], first[N], second[N], gradients[N];
    load_floats<N>(values, p + i, count - i, is_packed);
    load_floats<N>(first, m + i, count - i, is_packed);
    load_floats<N>(second, v + i, count - i, is_packed);
    load_floats<N>(gradients, g + i, count - i, is_packed);
    UNROLL for (int k = 0; k < N; k++) adamw_update(values[k], first[k], second[k], gradients[k], with);
    store_floats<N>(p + i, values, count - i, is_packed);
    store_floats<N>(m + i, first, count - i, is_packed);
    store_floats<N>(v + i, second, count - i, is_packed);
  }
}

void cuda_adamw(float *p, float *m, float *v, const float *g, int64_t count, AdamwSettings settings, Backend *backend) {
  Device *device = device_of(backend);
  if (count == 0) return;
  LAUNCH(device, adamw_kernel, loop_blocks(device, count, PACKET<float>), THREADS, 0, p, m, v, g, count, adamw_factors(settings),
         is_aligned(p, m, v, g));
}

// The sum over a block of THREADS, in thread 0.
__device__ __forceinline__ double sum_doubles(double x, double *room) {
  room[threadIdx.x] = x;
  for (unsigned half = THREADS / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
  }
  return room[0];
}

__global__ void __launch_bounds__(THREADS) squares_kernel(double *parts, const float *x, int64_t count, bool is_packed) {
  SHARED(double, room, [THREADS]);
  constexpr int N = PACKET<float>;
  double sum = 0;
  for (int64_t i = first_element<N>(); i < count; i += element_step<N>()) {
    float values[N];
    load_floats<N>(values, x + i, count - i, is_packed);
    UNROLL for (int k = 0; k < N; k++) sum += static_cast<double>(values[k]) * static_cast<double>(values[k]);
  }
  sum = sum_doubles(sum, room);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(THREADS) squares_total_kernel(double *total, const double *parts, int count) {
  SHARED(double, room, [THREADS]);
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += THREADS) sum += parts[i];
  sum = sum_doubles(sum, room);
  if (threadIdx.x == 0) *total = sum;
}

double cuda_sum_of_squares(const float *x, int64_t count, Backend *backend) {
  Device *device = device_of(backend);
  double *numbers = static_cast<double *>(device_workspace(device, WORKSPACE_RESULT, (SUM_BLOCKS + 1) * sizeof(double))), result = 0;
  if (count == 0 || !numbers) return 0;
  int64_t each = THREADS * PACKET<float>;
  int blocks = static_cast<int>(count < SUM_BLOCKS * each ? (count + each - 1) / each : int64_t(SUM_BLOCKS));
  LAUNCH(device, squares_kernel, blocks, THREADS, 0, numbers + 1, x, count, is_aligned(x));
  LAUNCH(device, squares_total_kernel, 1, THREADS, 0, numbers, numbers + 1, blocks);
  backend->download(&result, numbers, sizeof result, backend);
  return result;
}
