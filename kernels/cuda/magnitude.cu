// DoRA's norms of rows, and columns scaled by magnitudes (kernels/magnitude.h). Sums over rows are a block's for its columns: lanes of rows in
// a fixed order, without an atomic.
#include "kernels/cuda/elements.h"
#include "kernels/magnitude.h"

enum { NORM_ROWS = THREADS / WARP, BACK_COLUMNS = 32, BACK_LANES = THREADS / BACK_COLUMNS };

// A warp is a row: its lanes share the sums over the rank.
__global__ void __launch_bounds__(THREADS) low_rank_norms_kernel(float *norms, const float *squares, const float *products, const float *gram,
                                                                 const float *b, int64_t out, int rank, float scale) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * NORM_ROWS + threadIdx.x / WARP;
  int lane = static_cast<int>(threadIdx.x % WARP);
  if (i >= out) return;
  const float *own = b + i * rank;
  float linear = 0, square = 0;
  for (int q = lane; q < rank; q += WARP) {
    float row = 0;
    for (int r = 0; r < rank; r++) row = fmaf(own[r], gram[static_cast<int64_t>(r) * rank + q], row);
    square = fmaf(row, own[q], square);
    linear = fmaf(own[q], products[q * out + i], linear);
  }
  linear = warp_sum(linear);
  square = warp_sum(square);
  float sum = squares[i] + scale * (2 * linear + scale * square);
  if (lane == 0) norms[i] = fmaxf(sqrtf(fmaxf(sum, 0.0f)), MAGNITUDE_SMALLEST);
}

void cuda_low_rank_norms(float *norms, const float *squares, const float *products, const float *gram, const float *b, int64_t out,
                         int64_t rank, float scale, Backend *backend) {
  Device *device = device_of(backend);
  if (out > 0)
    LAUNCH(device, low_rank_norms_kernel, blocks_for(out, NORM_ROWS), THREADS, 0, norms, squares, products, gram, b, out,
           static_cast<int>(rank), scale);
}

struct RowSteps {
  int64_t y, z, residual;
};

// A block is a row.
template <typename Y, typename Z>
__global__ void __launch_bounds__(THREADS)
    magnitude_forward_kernel(Y *y, const Z *z, const float *residual, RowSteps steps, Magnitude magnitude, bool is_packed) {
  constexpr int N = PACKET<Y, Z>;
  int64_t row = blockIdx.x;
  for (int64_t c = static_cast<int64_t>(threadIdx.x) * N; c < magnitude.columns; c += static_cast<int64_t>(blockDim.x) * N) {
    int64_t left = magnitude.columns - c;
    float values[N], m[N], norms[N], added[N];
    load_floats<N>(values, z + row * steps.z + c, left, is_packed);
    load_floats<N>(m, magnitude.m + c, left, is_packed);
    load_floats<N>(norms, magnitude.norms + c, left, is_packed);
    UNROLL for (int k = 0; k < N; k++) values[k] *= k < left ? m[k] / norms[k] : 0.0f;
    if (magnitude.bias) {
      load_floats<N>(added, magnitude.bias + c, left, is_packed);
      UNROLL for (int k = 0; k < N; k++) values[k] += added[k];
    }
    if (residual) {
      load_floats<N>(added, residual + row * steps.residual + c, left, is_packed);
      UNROLL for (int k = 0; k < N; k++) values[k] += added[k];
    }
    store_floats<N>(y + row * steps.y + c, values, left, is_packed);
  }
}

void cuda_magnitude_forward(Rows y, Rows z, Rows residual, const Magnitude *magnitude, int64_t n, Backend *backend) {
  Device *device = device_of(backend);
  if (n == 0) return;
  with_types(y.type, z.type, [&](auto y_element, auto z_element) {
    using Y = decltype(y_element);
    using Z = decltype(z_element);
    constexpr int N = PACKET<Y, Z>;
    bool is_packed = is_aligned(y.data, z.data, residual.data, magnitude->m, magnitude->norms, magnitude->bias) &&
                     (y.step | z.step | residual.step) % N == 0;
    auto kernel = magnitude_forward_kernel<Y, Z>;
    LAUNCH(device, kernel, static_cast<unsigned>(n), whole_warps((magnitude->columns + N - 1) / N, THREADS), 0, static_cast<Y *>(y.data),
           static_cast<const Z *>(z.data), static_cast<const float *>(residual.data), RowSteps{y.step, z.step, residual.step}, *magnitude,
           is_packed);
  });
}

template <typename Y, typename Z>
__global__ void __launch_bounds__(THREADS)
    magnitude_backward_kernel(Z *dz, float *dm, const Y *dy, const Z *z, int64_t dz_step, RowSteps steps, Magnitude magnitude, int64_t n) {
  SHARED(float, sums, [THREADS]);
  int lane = static_cast<int>(threadIdx.x) / BACK_COLUMNS, column = static_cast<int>(threadIdx.x) % BACK_COLUMNS;
  int64_t c = static_cast<int64_t>(blockIdx.x) * BACK_COLUMNS + column;
  float sum = 0;
  if (c < magnitude.columns) {
    float factor = magnitude.m[c] / magnitude.norms[c];
    for (int64_t i = lane; i < n; i += BACK_LANES) {
      float g = to_float(dy[i * steps.y + c]);
      sum = fmaf(g, to_float(z[i * steps.z + c]), sum);
      dz[i * dz_step + c] = from_float<Z>(g * factor);
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (lane > 0 || c >= magnitude.columns) return;
  for (int other = 1; other < BACK_LANES; other++) sum += sums[other * BACK_COLUMNS + column];
  dm[c] += sum / magnitude.norms[c];
}

void cuda_magnitude_backward(Rows dz, float *dm, Rows dy, Rows z, const Magnitude *magnitude, int64_t n, Backend *backend) {
  Device *device = device_of(backend);
  if (n == 0) return;
  with_types(dy.type, z.type, [&](auto y_element, auto z_element) {
    using Y = decltype(y_element);
    using Z = decltype(z_element);
    auto kernel = magnitude_backward_kernel<Y, Z>;
    LAUNCH(device, kernel, blocks_for(magnitude->columns, BACK_COLUMNS), THREADS, 0, static_cast<Z *>(dz.data), dm,
           static_cast<const Y *>(dy.data), static_cast<const Z *>(z.data), dz.step, RowSteps{dy.step, z.step, 0}, *magnitude, n);
  });
}
