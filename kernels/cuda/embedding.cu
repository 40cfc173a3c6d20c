// Rows of the embedding matrix, of whatever type: y[i] = scale * w[ids[i]].
#include "kernels/cuda/weights.h"

extern "C" void cuda_embedding_forward(float *y, const int32_t *ids, const Matrix *w, int64_t n, float scale, Backend *backend) {
  Device *device = device_of(backend);
  weights_gather(y, FLOAT_32, w->columns, scale, w, ids, n, device, device->stream);
}
