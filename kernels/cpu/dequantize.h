// Rows of a frozen matrix as float32, and their dot products with float32 rows, dequantised in registers.
#ifndef KERNELS_CPU_DEQUANTIZE_H
#define KERNELS_CPU_DEQUANTIZE_H

#include "kernels/matrix.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/unpack.h"

// `first` of every segment below is a multiple of GROUP (unpack.h), and `count` too unless the segment ends the row.

// w[row, first .. first + count - 1]: in `buffer`, which has room for `count`, or in place when w is float32.
#define matrix_segment ISA_NAME(matrix_segment)
const float *matrix_segment(const Matrix *w, int64_t row, int64_t first, int64_t count, float *buffer);

#ifdef __AVX512BF16__
// The same, times alpha, as bfloat16: in `buffer`, which has room for `count` up to a multiple of GROUP and is filled up with zeros, or in
// place.
#define matrix_words ISA_NAME(matrix_words)
const uint16_t *matrix_words(const Matrix *w, int64_t row, int64_t first, int64_t count, float alpha, uint16_t *buffer);
#endif

// Where the bytes of a segment are, in this and the following rows: to be fetched into the caches, for they lie too far apart for the
// processor to see what comes.
typedef struct MatrixBytes {
  const char *first;
  int64_t row_step, count;
} MatrixBytes;
#define matrix_bytes ISA_NAME(matrix_bytes)
MatrixBytes matrix_bytes(const Matrix *w, int64_t row, int64_t first, int64_t count);
static inline void matrix_fetch(MatrixBytes bytes, int64_t row) {
  const char *from = bytes.first + row * bytes.row_step;
  for (int64_t i = 0; i < bytes.count; i += 64) __builtin_prefetch(from + i);
}

// out[i] = w . x[i * x_step ..] over `columns` for n rows of x. Lane l of accumulator a sums the elements
// (4 k + a) VL + l in the order of k, whatever n is.
#define dot_rows ISA_NAME(dot_rows)
void dot_rows(float *out, const float *w, const float *x, int64_t x_step, int64_t n, int64_t columns);

// w[row] . x with the bits of dot_rows, without a buffer in between; where is_dot_fused.
#define matrix_dot ISA_NAME(matrix_dot)
#define is_dot_fused ISA_NAME(is_dot_fused)
bool is_dot_fused(const Matrix *w);
float matrix_dot(const Matrix *w, int64_t row, const float *x);

#endif
