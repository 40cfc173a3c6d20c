// The leading singular vectors of a matrix that is known by its products with vectors: a randomised subspace iteration (Halko, Martinsson and
// Tropp 2011). Sums are in double and in one order, so bits do not depend on threads where those of the products do not.
#ifndef ADAPTERS_SVD_H
#define ADAPTERS_SVD_H

#include <stdbool.h>
#include <stdint.h>

// w [rows, columns], by products with `count` vectors, the rows of x: y [count, rows] = x w^T, and y [count, columns] = x w.
typedef struct LinearMap {
  int64_t rows, columns;
  void (*apply)(float *y, const float *x, int64_t count, const struct LinearMap *map);
  void (*apply_transposed)(float *y, const float *x, int64_t count, const struct LinearMap *map);
  void *context;
} LinearMap;

enum { SVD_EXACT = -1 };

// w is about u^T diag(values) v: values[rank] descending, u[rank, rows] and v[rank, columns] in rows. iterations: how often the subspace goes
// through w w^T; SVD_EXACT: until the values stand. A subspace as large as the matrix is exact at once, and is taken where that is small.
// rank is at most the smaller side.
void svd_leading(float *values, float *u, float *v, int64_t rank, int iterations, const LinearMap *map, uint64_t seed);

// Makes the rows of x [count, columns] orthonormal in their order, twice over (Gram-Schmidt; Giraud et al. 2005). A row that depends on those
// before it becomes zeros.
void svd_orthonormalize(float *x, int64_t count, int64_t columns);

// Eigenvalues, descending, of a symmetric matrix [n, n], which is overwritten, and its eigenvectors in the rows of `vectors` (Jacobi 1846).
void svd_symmetric(double *values, double *vectors, double *matrix, int64_t n);

#endif
