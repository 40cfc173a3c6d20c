// Optimisers' steps over whole arrays (kernels/cuda/update.h), and Adafactor's factored moments: sums of squares by rows, a block a row,
// and by columns, a thread a column.
#include <type_traits>

#include "kernels/cuda/elements.h"
#include "kernels/cuda/update.h"

struct UpdateStates {
  float *at[UPDATE_STATES];
};

template <int RULE>
__global__ void __launch_bounds__(THREADS)
    update_kernel(float *p, UpdateStates states, const float *g, int64_t count, UpdateFactors with, bool is_packed) {
  constexpr int N = PACKET<float>, STATES = UPDATE_STATE_COUNT<RULE>;
  for (int64_t i = first_element<N>(); i < count; i += element_step<N>()) {
    float values[N], gradients[N], old[UPDATE_STATES][N];
    load_floats<N>(values, p + i, count - i, is_packed);
    load_floats<N>(gradients, g + i, count - i, is_packed);
    UNROLL for (int k = 0; k < STATES; k++) load_floats<N>(old[k], states.at[k] + i, count - i, is_packed);
    UNROLL for (int n = 0; n < N; n++) {
      float element[UPDATE_STATES];
      UNROLL for (int k = 0; k < STATES; k++) element[k] = old[k][n];
      update_element<RULE>(values[n], element, gradients[n], with);
      UNROLL for (int k = 0; k < STATES; k++) old[k][n] = element[k];
    }
    store_floats<N>(p + i, values, count - i, is_packed);
    UNROLL for (int k = 0; k < STATES; k++) store_floats<N>(states.at[k] + i, old[k], count - i, is_packed);
  }
}

void cuda_update(float *p, float *const *states, const float *g, int64_t count, UpdateSettings settings, Backend *backend) {
  Device *device = device_of(backend);
  if (count == 0) return;
  UpdateStates arrays = {};
  bool is_packed = is_aligned(p, g);
  for (int k = 0; k < update_states(settings.rule); k++) {
    arrays.at[k] = states[k];
    is_packed = is_packed && is_aligned(states[k]);
  }
  with_rule(settings.rule, [&](auto rule) {
    LAUNCH(device, update_kernel<decltype(rule)::value>, loop_blocks(device, count, PACKET<float>), THREADS, 0, p, arrays, g, count,
           update_factors(settings), is_packed);
  });
}

__global__ void __launch_bounds__(THREADS)
    factored_rows_kernel(float *r, const float *g, int64_t columns, float beta, float one_minus_beta, float epsilon, float gradient_scale) {
  SHARED(float, room, [THREADS / WARP]);
  const float *row = g + static_cast<int64_t>(blockIdx.x) * columns;
  float sum = 0;
  for (int64_t j = threadIdx.x; j < columns; j += THREADS) {
    float x = row[j] * gradient_scale;
    sum = fmaf(x, x, sum);
  }
  sum = block_sum(sum, room);
  if (threadIdx.x == 0) r[blockIdx.x] = fmaf(beta, r[blockIdx.x], one_minus_beta * (sum / static_cast<float>(columns) + epsilon));
}

// Warps of a block take rows in turn, and their sums are added in the order of warps.
__global__ void __launch_bounds__(THREADS) factored_columns_kernel(float *c, const float *g, int64_t rows, int64_t columns, float beta,
                                                                   float one_minus_beta, float epsilon, float gradient_scale) {
  SHARED(float, sums, [THREADS / WARP][WARP]);
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  int64_t j = static_cast<int64_t>(blockIdx.x) * WARP + lane;
  float sum = 0;
  for (int64_t i = warp; i < rows && j < columns; i += THREADS / WARP) {
    float x = g[i * columns + j] * gradient_scale;
    sum = fmaf(x, x, sum);
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || j >= columns) return;
  for (int i = 1; i < THREADS / WARP; i++) sum += sums[i][lane];
  c[j] = fmaf(beta, c[j], one_minus_beta * (sum / static_cast<float>(rows) + epsilon));
}

void cuda_factored_moments(float *r, float *c, const float *g, int64_t rows, int64_t columns, FactoredSettings settings,
                           Backend *backend) {
  Device *device = device_of(backend);
  if (rows == 0 || columns == 0) return;
  float beta = static_cast<float>(settings.beta), one_minus_beta = static_cast<float>(1 - settings.beta);
  float epsilon = static_cast<float>(settings.epsilon), scale = static_cast<float>(settings.gradient_scale);
  LAUNCH(device, factored_rows_kernel, static_cast<unsigned>(rows), THREADS, 0, r, g, columns, beta, one_minus_beta, epsilon, scale);
  LAUNCH(device, factored_columns_kernel, blocks_for(columns, WARP), THREADS, 0, c, g, rows, columns, beta, one_minus_beta, epsilon, scale);
}

__global__ void __launch_bounds__(THREADS) factored_mean_kernel(float *mean, const float *r, int64_t rows) {
  SHARED(float, room, [THREADS / WARP]);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < rows; i += THREADS) sum += r[i];
  sum = block_sum(sum, room);
  if (threadIdx.x == 0) *mean = sum / static_cast<float>(rows);
}

__global__ void __launch_bounds__(THREADS) factored_update_kernel(float *u, const float *g, const float *r, const float *c,
                                                                  const float *mean, int64_t columns, float gradient_scale) {
  int64_t begin = static_cast<int64_t>(blockIdx.x) * columns;
  float scale = gradient_scale / sqrtf(r[blockIdx.x] / *mean);
  for (int64_t j = threadIdx.x; j < columns; j += THREADS) u[begin + j] = scale * g[begin + j] / sqrtf(c[j]);
}

void cuda_factored_update(float *u, const float *g, const float *r, const float *c, int64_t rows, int64_t columns, double gradient_scale,
                          Backend *backend) {
  Device *device = device_of(backend);
  float *mean = static_cast<float *>(device_workspace(device, WORKSPACE_RESULT, sizeof(double)));
  if (rows == 0 || columns == 0 || !mean) return;
  LAUNCH(device, factored_mean_kernel, 1, THREADS, 0, mean, r, rows);
  LAUNCH(device, factored_update_kernel, static_cast<unsigned>(rows), THREADS, 0, u, g, r, c, mean, columns,
         static_cast<float>(gradient_scale));
}
