// DoRA (Liu et al. 2024, arXiv 2402.09353): rows of a weight by their length, the magnitude, which is trained apart from the direction.
//   norms_i = || w_i + scale b_i a ||
//           = sqrt(squares_i + 2 scale sum_r b_ir products_ri + scale^2 sum_rq b_ir gram_rq b_iq)
//     with squares_i = ||w_i||^2, products = a w^T, gram = a a^T, so that no row of the sum is ever made
//   forward   y = z m / norms + bias + residual,  z = x (w + scale b a)^T
//   backward  dz = dy m / norms,  dm_i += sum_n dy_ni z_ni / norms_i   (the norm is a constant to gradients, section 4.3)
#ifndef KERNELS_MAGNITUDE_H
#define KERNELS_MAGNITUDE_H

#include "kernels/rows.h"

typedef struct Magnitude {
  const float *m, *norms;  // [columns]
  const float *bias;  // [columns] or NULL; forward only
  int64_t columns;
} Magnitude;

// Smallest norm that is divided by: a row of zeros stays zeros.
#define MAGNITUDE_SMALLEST 1e-30f

#endif
