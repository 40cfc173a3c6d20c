// A frozen weight matrix as kernels see it: rows = out_features, columns = in_features, in any element
// type that formats/block.h knows. It owns nothing; the model's file mapping or arena does.
#ifndef KERNELS_MATRIX_H
#define KERNELS_MATRIX_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/block.h"
#include "formats/grouped.h"
#include "formats/nf4.h"

typedef struct Matrix {
  BlockType type;
  int64_t rows, columns;
  const void *data;  // [rows, columns] in blocks along columns; unused for BLOCK_NF4 and BLOCK_GROUPED, the device's own for BLOCK_DEVICE
  Nf4 nf4;  // BLOCK_NF4 only
  int64_t first_row;  // from BLOCK_NF4 on, which are of a whole matrix: the rows of it before this one's
  const Grouped *grouped;  // BLOCK_GROUPED only
} Matrix;

// out[count] = w[row, first .. first + count - 1]. `first` starts a block of the type; `count` ends one or the row.
// (NF4, whose blocks run over the flattened matrix, and groups have no such limits.)
void matrix_dequantize(float *out, const Matrix *w, int64_t row, int64_t first, int64_t count);

// Rows first .. first + rows - 1 as a matrix of their own.
Matrix matrix_rows(const Matrix *w, int64_t first, int64_t rows);

// Quantised in blocks whose levels are integers of 8 bits: w = scale * level + shift.
static inline bool matrix_has_integer_levels(const Matrix *w) { return w->type < BLOCK_NF4 && block_traits(w->type)->elements > 1; }

static inline Matrix matrix_f32(const float *data, int64_t rows, int64_t columns) {
  return (Matrix){.type = BLOCK_F32, .rows = rows, .columns = columns, .data = data};
}

#endif
