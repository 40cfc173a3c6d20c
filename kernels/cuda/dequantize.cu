// Rows of frozen weights as plain floats, for products by cuBLASLt and for embeddings:
//   out[i, j] = alpha w[ids[i], j] (where ids[i] is below 0, the row stays), or alpha w[first + i, j]
// Bound by memory: a thread reads an octet of codes of each of four rows, and writes them 16 bytes at a time, beside its neighbours'.
#include "kernels/cuda/weights.h"

enum { THREADS = 256, BLOCK_ROWS = 4 };

template <typename T>
__device__ __forceinline__ void store_octet(T *to, const float values[OCTET], int count, bool is_packed) {
  if (is_packed && count >= OCTET) {
#pragma unroll
    for (int part = 0; part < OCTET / Packet<T>::COUNT; part++) {
      Packet<T> packet;
#pragma unroll
      for (int j = 0; j < Packet<T>::COUNT; j++) packet.at[j] = from_float<T>(values[part * Packet<T>::COUNT + j]);
      store_packet(to + part * Packet<T>::COUNT, packet);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < OCTET; j++)
    if (j < count) to[j] = from_float<T>(values[j]);
}

// Block (i, c): rows 4 i and the next, octets blockDim c and the next.
template <Form F, typename T>
__global__ void __launch_bounds__(THREADS, 4)
    dequantize_rows(T *out, int64_t step, bool is_packed, float alpha, Weights w, const int32_t *ids, int64_t first, int64_t rows) {
  SHARED(float, book, [BOOK_ROOM<F>]);
  load_book<F>(book, w);
  int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * OCTET, left = static_cast<int>(w.columns) - column;
  if (left <= 0) return;
  int64_t top = static_cast<int64_t>(blockIdx.x) * BLOCK_ROWS;
  float values[BLOCK_ROWS][OCTET];
#pragma unroll
  for (int i = 0; i < BLOCK_ROWS; i++) {
    int64_t own = top + i < rows ? top + i : rows - 1;  // loads stand under no condition, so that all are under way at once
    int64_t row = ids ? load_as<int32_t>(ids, own) : first + own;
    weights_octet<F>(values[i], w, book, row < 0 ? 0 : row, column);
  }
#pragma unroll
  for (int i = 0; i < BLOCK_ROWS; i++) {
    if (top + i >= rows) break;
    if (ids && load_as<int32_t>(ids, top + i) < 0) continue;
#pragma unroll
    for (int j = 0; j < OCTET; j++) values[i][j] = __fmul_rn(values[i][j], alpha);
    store_octet(out + (top + i) * step + column, values[i], left, is_packed);
  }
}

static void start(void *out, FloatType type, int64_t step, float alpha, const Matrix *w, const int32_t *ids, int64_t first, int64_t rows,
                  Device *device, cudaStream_t stream) {
  if (rows <= 0 || w->columns <= 0) return;
  Weights weights = weights_of(w);
  bool is_packed = is_aligned(out) && step * float_bytes(type) % 16 == 0;
  int64_t octets = (w->columns + OCTET - 1) / OCTET;
  unsigned threads = octets >= THREADS ? static_cast<unsigned>(THREADS) : blocks_for(octets, WARP) * WARP;
  dim3 grid(blocks_for(rows, BLOCK_ROWS), blocks_for(octets, threads));
  with_type(type, [&](auto element) {
    using T = decltype(element);
    with_form(weights.form, [&](auto form) {
      auto kernel = dequantize_rows<decltype(form)::value, T>;
      device_check(device,
                   launch(kernel, grid, dim3(threads), 0, stream, static_cast<T *>(out), step, is_packed, alpha, weights, ids, first, rows),
                   "dequantize_rows");
    });
  });
}

void weights_dequantize(void *out, FloatType type, int64_t step, float alpha, const Matrix *w, int64_t first, int64_t rows, Device *device,
                        cudaStream_t stream) {
  start(out, type, step, alpha, w, NULL, first, rows, device, stream);
}

void weights_gather(void *out, FloatType type, int64_t step, float alpha, const Matrix *w, const int32_t *ids, int64_t rows, Device *device,
                    cudaStream_t stream) {
  start(out, type, step, alpha, w, ids, 0, rows, device, stream);
}
