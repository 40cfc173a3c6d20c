// y_i = alpha x_i w^T + h_i low^T + bias + residual_i for very few rows i: bound by the reading of w. A block computes four rows of w; its
// threads share the columns, an octet each at a time, so that codes are read side by side and every x that a thread reads serves four rows.
// Sums are in float32: of a thread's own columns in order, over the lanes of a warp, over the warps.
#include "kernels/cuda/fused.h"

enum { THREADS = 128, WARPS = THREADS / WARP, BLOCK_ROWS = 4 };

template <typename T>
__device__ __forceinline__ void load_packed_octet(float out[OCTET], const void *data, int64_t at) {
#pragma unroll
  for (int part = 0; part < OCTET / Packet<T>::COUNT; part++) {
    Packet<T> packet = load_packet(static_cast<const T *>(data) + at + part * Packet<T>::COUNT);
#pragma unroll
    for (int j = 0; j < Packet<T>::COUNT; j++) out[part * Packet<T>::COUNT + j] = to_float(packet.at[j]);
  }
}

// x[i, column .. column + 7], 0 beyond the row.
__device__ __forceinline__ void load_x(float out[OCTET], const Rows &x, bool is_packed, int64_t i, int column, int columns) {
  if (is_packed && column + OCTET <= columns) {
    int64_t at = i * x.step + column;
    if (x.type == FLOAT_32) load_packed_octet<float>(out, x.data, at);
    else if (x.type == FLOAT_BF16) load_packed_octet<bf16>(out, x.data, at);
    else load_packed_octet<fp16>(out, x.data, at);
    return;
  }
#pragma unroll
  for (int j = 0; j < OCTET; j++) out[j] = column + j < columns ? load_element(x, i, column + j) : 0;
}

// The sums of the block's threads, alpha and the low-rank term in them, are added up, and the other terms.
template <int N>
__device__ __forceinline__ void finish_rows(const Terms &terms, float sums[BLOCK_ROWS][N], int64_t top, int64_t rows, int64_t first,
                                            int count) {
  SHARED(float, parts, [WARPS][BLOCK_ROWS * N]);
#pragma unroll
  for (int r = 0; r < BLOCK_ROWS; r++)
#pragma unroll
    for (int i = 0; i < N; i++) {
      float sum = warp_sum(sums[r][i]);
      if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP][r * N + i] = sum;
    }
  __syncthreads();
  int r = threadIdx.x / N, i = threadIdx.x % N;
  if (r >= BLOCK_ROWS || top + r >= rows || i >= count) return;
  float sum = parts[0][threadIdx.x];
  for (int warp = 1; warp < WARPS; warp++) sum += parts[warp][threadIdx.x];
  finish(terms, first + i, top + r, sum);
}

// Block (b, c): rows 4 b and the next of w, N c and the next of x. Rows beyond the last are the last again, and not written.
template <Form F, int N>
__global__ void __launch_bounds__(THREADS, N < 4 ? 5 : 4) gemv_rows(Terms terms, Weights w, Rows x, bool is_packed, int64_t n) {
  SHARED(float, book, [BOOK_ROOM<F>]);
  load_book<F>(book, w);
  int64_t top = static_cast<int64_t>(blockIdx.x) * BLOCK_ROWS, first = static_cast<int64_t>(blockIdx.y) * N;
  int columns = static_cast<int>(w.columns), count = n - first < N ? static_cast<int>(n - first) : N;
  float sums[BLOCK_ROWS][N] = {};
#pragma unroll(N < 4 ? 2 : 1)
  for (int column = threadIdx.x * OCTET; column < columns; column += THREADS * OCTET) {
    float values[BLOCK_ROWS][OCTET];
#pragma unroll
    for (int r = 0; r < BLOCK_ROWS; r++) weights_octet<F>(values[r], w, book, top + r < w.rows ? top + r : w.rows - 1, column);
#pragma unroll
    for (int i = 0; i < N; i++) {
      float of_x[OCTET];
      load_x(of_x, x, is_packed, first + (i < count ? i : 0), column, columns);
#pragma unroll
      for (int r = 0; r < BLOCK_ROWS; r++)
#pragma unroll
        for (int j = 0; j < OCTET; j++) sums[r][i] = fmaf(values[r][j], of_x[j], sums[r][i]);
    }
  }
#pragma unroll
  for (int r = 0; r < BLOCK_ROWS; r++)
#pragma unroll
    for (int i = 0; i < N; i++) {
      sums[r][i] *= terms.alpha;
      if (top + r < w.rows && i < count)
        for (int k = threadIdx.x; k < terms.rank; k += THREADS)
          sums[r][i] = fmaf(load_element(terms.h, first + i, k), terms.low[(top + r) * terms.rank + k], sums[r][i]);
    }
  finish_rows<N>(terms, sums, top, w.rows, first, count);
}

template <int N>
static void start(const Projection *projection, Rows x, int64_t n, Device *device) {
  Weights weights = weights_of(projection->w);
  Terms terms = terms_of(projection);
  bool is_packed = is_aligned(x.data) && (n == 1 || x.step * float_bytes(x.type) % 16 == 0);
  dim3 grid(blocks_for(weights.rows, BLOCK_ROWS), blocks_for(n, N));
  with_form(weights.form, [&](auto form) {
    auto kernel = gemv_rows<decltype(form)::value, N>;
    LAUNCH(device, kernel, grid, dim3(THREADS), 0, terms, weights, x, is_packed, n);
  });
}

void gemv_forward(const Projection *projection, Rows x, int64_t n, Device *device) {
  if (n <= 0 || projection->w->rows <= 0) return;
  if (n == 1) start<1>(projection, x, n, device);
  else start<4>(projection, x, n, device);
}
