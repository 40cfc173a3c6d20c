#include "kernels/loss.h"

#include <stddef.h>

// Of rows of logits: whole cache lines, and no power of two of them, which would meet in few sets of the caches.
static int64_t logits_step(int64_t vocabulary) { return (vocabulary + 31) / 32 * 32 + 32; }

// A row of logits, or of half as many bytes with a few sums (kernels/cpu/linear_cross_entropy.c), and a row of dx.
int64_t linear_cross_entropy_floats(int64_t n, int64_t vocabulary, int64_t columns) {
  return n * (logits_step(vocabulary) + (columns + 15) / 16 * 16 + 16);
}

void linear_cross_entropy_by_parts(const Kernels *kernels, float *nll, Rows dx, Rows x, const Matrix *head, const int32_t *targets,
                                   const float *gradient_scale, int64_t n, float *scratch, Backend *backend) {
  int64_t step = logits_step(head->rows);
  Projection logits = {.w = head, .alpha = 1, .y = rows_f32(scratch, step)};
  kernels->linear_forward(&logits, 1, x, n, backend);
  kernels->cross_entropy(nll, scratch, step, targets, dx.data ? gradient_scale : NULL, x.type, n, head->rows, backend);
  if (!dx.data) return;
  if (x.type == FLOAT_BF16) logits.y = (Rows){scratch, 2 * step, FLOAT_BF16};
  kernels->linear_backward(dx, &logits, 1, n, false, backend);
}
