// The two ways of a mixture of experts, and what they share: experts.cu, which has the entries and chooses, and experts_grouped.cu.
#ifndef KERNELS_CUDA_EXPERTS_H
#define KERNELS_CUDA_EXPERTS_H

#include "kernels/cuda/cuda.h"

// The arguments of an entry (kernels/backend.h); forward has y, backward dx, dy and dweights.
struct ExpertCall {
  const ExpertMatrices *experts;
  Rows x, y, dx, dy;  // [n, hidden]
  const int32_t *chosen;  // [n, used]
  const float *weights;  // [n, used]
  float *dweights;  // [n, used]
  int64_t n;
  bool in_int8, accumulate;
  Device *device;
  Backend *backend;
};

// to[r, hidden] = the row of `from` that is the token of places[r], a place in chosen[n, used]; for r < rows.
void experts_gather(void *to, FloatType type, Rows from, const int32_t *places, int64_t rows, const ExpertMatrices *experts,
                    Device *device);
// Of row r and its place p = places[r]: dweights[p] = t . h, and dh = weights[p] t. All [rows, width]; dh may be h.
void experts_weigh(void *dh, FloatType type, float *dweights, const float *t, const void *h, const float *weights, const int32_t *places,
                   int64_t rows, int64_t width, Device *device);

// All experts at once, and nothing is waited for: hidden and width are multiples of 8. scratch: experts_grouped_floats.
void experts_grouped_forward(const ExpertCall &call, float *scratch);
void experts_grouped_backward(const ExpertCall &call, float *scratch);
int64_t experts_grouped_floats(int64_t n, const ExpertMatrices *experts, FloatType type, bool backward, const Device *device);

#endif
