// The one way to read a piece of a frozen matrix as float32, whatever its element type.
#include "kernels/matrix.h"

void matrix_dequantize(float *out, const Matrix *w, int64_t row, int64_t first, int64_t count) {
  if (w->type == BLOCK_NF4) {
    nf4_dequantize(out, &w->nf4, (w->first_row + row) * w->columns + first, count);
    return;
  }
  if (w->type == BLOCK_GROUPED) {
    grouped_dequantize(out, w->grouped, w->first_row + row, first, count);
    return;
  }
  const BlockTraits *traits = block_traits(w->type);
  int64_t offset = row * block_row_bytes(w->type, w->columns) + first / traits->elements * traits->bytes;
  traits->dequantize(out, (const char *)w->data + offset, count);
}

Matrix matrix_rows(const Matrix *w, int64_t first, int64_t rows) {
  Matrix out = *w;
  out.rows = rows;
  if (w->type >= BLOCK_NF4) out.first_row += first;
  else out.data = (const char *)w->data + first * block_row_bytes(w->type, w->columns);
  return out;
}
