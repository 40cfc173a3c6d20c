// Rows of the embedding matrix, of whatever type: y[i] = scale * w[ids[i]]; and its gradient, dw[id] += scale * the sum of dy over the
// places that have the id. A block adds up one group's rows, in their order, some columns of them.
#include "kernels/cuda/elements.h"
#include "kernels/cuda/weights.h"

extern "C" void cuda_embedding_forward(float *y, const int32_t *ids, const Matrix *w, int64_t n, float scale, Backend *backend) {
  Device *device = device_of(backend);
  weights_gather(y, FLOAT_32, w->columns, scale, w, ids, n, device, device->stream);
}

namespace {

struct Groups {
  const int32_t *rows, *begins, *places;
};

__global__ void __launch_bounds__(THREADS) embedding_backward_kernel(float *dw, const float *dy, Groups groups, int64_t columns, float scale) {
  const int64_t column = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  const int begin = groups.begins[blockIdx.x], end = groups.begins[blockIdx.x + 1];
  float sum = 0;
  for (int j = begin; j < end; j++) sum += dy[groups.places[j] * columns + column];
  float *to = dw + groups.rows[blockIdx.x] * columns + column;
  *to = fmaf(scale, sum, *to);
}

}  // namespace

extern "C" void cuda_embedding_backward(float *dw, const float *dy, const int32_t *rows, const int32_t *begins, const int32_t *places,
                                        int64_t groups, int64_t columns, float scale, Backend *backend) {
  if (groups == 0 || columns == 0) return;
  unsigned threads = whole_warps(columns, THREADS);
  dim3 grid(static_cast<unsigned>(groups), blocks_for(columns, threads));
  LAUNCH(device_of(backend), embedding_backward_kernel, grid, threads, 0, dw, dy, Groups{rows, begins, places}, columns, scale);
}
