#include "kernels/loss.h"

#include <stddef.h>

// A row of half as many bytes as float32 logits have, with the sums of its groups, and a row of dx; but at least one row of logits.
int64_t linear_cross_entropy_floats(int64_t n, int64_t vocabulary, int64_t columns) {
  int64_t step = logits_step(vocabulary), row = step / 2 + step / 32 + (columns + 15) / 16 * 16 + 16;
  return n * row > step ? n * row : step;
}

void linear_cross_entropy_by_parts(const Kernels *kernels, float *nll, Rows dx, Rows x, const Matrix *head, const int32_t *targets,
                                   const float *gradient_scale, int64_t n, float *scratch, float softcap, Backend *backend) {
  int64_t step = logits_step(head->rows), most = linear_cross_entropy_floats(n, head->rows, head->columns) / step;
  for (int64_t row = 0; row < n; row += most) {
    int64_t rows = n - row < most ? n - row : most;
    Projection logits = {.w = head, .alpha = 1, .y = rows_f32(scratch, step)};
    kernels->linear_forward(&logits, 1, rows_from(x, row * x.step), rows, backend);
    kernels->cross_entropy(nll + row, scratch, step, targets + row, dx.data ? gradient_scale + row : NULL, x.type, rows, head->rows,
                           softcap, backend);
    if (!dx.data) continue;
    if (x.type != FLOAT_32) logits.y = (Rows){scratch, 2 * step, x.type};
    kernels->linear_backward(rows_from(dx, row * dx.step), &logits, 1, rows, false, backend);
  }
}
