// Rows of q and k in the orders of the two formats: GGUF's llama architecture stores the two halves of a rotary pair side by side,
// Hugging Face keeps them head_size / 2 apart (models/linear.h). A LoRA pair's B has the rows of its layer.
#include <string.h>

#include "adapters/parts.h"

int64_t linear_file_row(int64_t row, const Linear *linear, const Model *model, bool gguf) {
  bool model_interleaves = model->config.rope_layout == ROPE_INTERLEAVED;
  int64_t heads = linear->interleaved_heads, rows = linear->weight.rows;
  if (heads == 0 || model_interleaves == gguf) return row;
  if (gguf) return linear_gguf_row(row, rows, heads);
  int64_t size = rows / heads, head = row / size, within = row % size;  // the inverse of linear_gguf_row
  return head * size + within % 2 * (size / 2) + within / 2;
}

void b_rows_from_file(float *out, const float *in, const Linear *linear, const Model *model, int64_t rank, bool gguf) {
  for (int64_t row = 0; row < linear->weight.rows; row++)
    memcpy(out + row * rank, in + linear_file_row(row, linear, model, gguf) * rank, (size_t)rank * sizeof *out);
}

void b_rows_to_file(float *out, const float *in, const Linear *linear, const Model *model, int64_t rank, bool gguf) {
  for (int64_t row = 0; row < linear->weight.rows; row++)
    memcpy(out + linear_file_row(row, linear, model, gguf) * rank, in + row * rank, (size_t)rank * sizeof *out);
}

void transpose(float *out, const float *in, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; row++)
    for (int64_t column = 0; column < columns; column++) out[column * rows + row] = in[row * columns + column];
}
