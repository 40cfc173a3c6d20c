// The host's side of the forms of weights.h: from what a file holds to rows of planes and scales.
#ifndef KERNELS_CUDA_REPACK_H
#define KERNELS_CUDA_REPACK_H

#include "kernels/cuda/weights.h"

// The arrays that a row of a matrix becomes.
enum Array { ARRAY_CODES, ARRAY_PAIRS, ARRAY_BITS, ARRAY_SCALES, ARRAY_UNIT_SCALES, ARRAY_COUNT };

Form repack_form(const Matrix *w);  // of the host's matrix
// Bytes of a row of each array; 0 where a form has none. Of NF4 and GROUPED the scales are not by rows, and not among them.
void repack_steps(int64_t step[ARRAY_COUNT], Form form, int64_t columns);
void repack_row(uint8_t *const out[ARRAY_COUNT], const Matrix *w, Form form, int64_t row);

#endif
