// Frozen weights in the device's memory, in a form of this backend's own: what the files hold in blocks of odd sizes lies here in planes, so
// that codes are read 16 bytes at a time, and one kernel reads every type.
#ifndef KERNELS_CUDA_WEIGHTS_H
#define KERNELS_CUDA_WEIGHTS_H

#include "kernels/cuda/cuda.h"

// Backend.upload_matrix and release_matrix.
Status weights_upload(Matrix *matrix, Backend *backend);
void weights_release(Matrix *matrix, Backend *backend);

// out[i, j] = alpha w[first + i, j] for i < rows, rounded to `type`, rows `step` elements apart, 16-byte aligned. Of any type that
// kernels/matrix.h's have here: plain floats, or BLOCK_DEVICE. In `stream`.
void weights_dequantize(void *out, FloatType type, int64_t step, float alpha, const Matrix *w, int64_t first, int64_t rows, Device *device,
                        cudaStream_t stream);

// A projection of few rows x[n, w->columns], whole, with all of its terms (kernels/linear.h), where the weights are dequantised within the
// product and only once. Any n is computed; the choice is the caller's, by device->thresholds.
void fused_forward(const Projection *projection, Rows x, int64_t n, Device *device);

#endif
