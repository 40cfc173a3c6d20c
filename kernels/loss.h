// The output layer with cross-entropy, a chunk of rows: Kernels.linear_cross_entropy.
#ifndef KERNELS_LOSS_H
#define KERNELS_LOSS_H

#include "kernels/backend.h"

// Elements from a row of logits to the next: whole cache lines, and no power of two of them, which would meet in few sets of the caches.
static inline int64_t logits_step(int64_t vocabulary) { return (vocabulary + 31) / 32 * 32 + 32; }

// Of its scratch, for n rows of `columns` elements.
int64_t linear_cross_entropy_floats(int64_t n, int64_t vocabulary, int64_t columns);

// By the linear_forward, cross_entropy and linear_backward of a table, with float32 logits of as many rows at once as the scratch holds.
void linear_cross_entropy_by_parts(const Kernels *kernels, float *nll, Rows dx, Rows x, const Matrix *head, const int32_t *targets,
                                   const float *gradient_scale, int64_t n, float *scratch, float softcap, Backend *backend);

#endif
