// New rows of embedding and head for tokens that the file's vocabulary has not: the mean of the old rows, which is what transformers'
// resize_token_embeddings draws them around (with a covariance of 1e-9 of the old rows').
#include <stdlib.h>
#include <string.h>

#include "models/parts.h"

static Status grow(Matrix *matrix, const char *name, int64_t rows, Model *model) {
  const BlockTraits *traits = matrix->type < BLOCK_NF4 ? block_traits(matrix->type) : NULL;
  if (!traits || traits->elements != 1)
    return status_fail(STATUS_USAGE,
                       "tokens: %s of %s is quantised, so no token can be added; name a base_model whose embedding is in floats", name,
                       model->path);
  int64_t columns = matrix->columns, row_bytes = block_row_bytes(matrix->type, columns);
  char *data = arena_new(&model->arena, (size_t)(rows * row_bytes), 1);
  double *sums = memory_new((size_t)columns, sizeof *sums);
  float *row = memory_new((size_t)columns, sizeof *row);
  memcpy(data, matrix->data, (size_t)(matrix->rows * row_bytes));
  for (int64_t i = 0; i < matrix->rows; i++) {
    matrix_dequantize(row, matrix, i, 0, columns);
    for (int64_t c = 0; c < columns; c++) sums[c] += row[c];
  }
  for (int64_t c = 0; c < columns; c++) row[c] = (float)(sums[c] / (double)matrix->rows);
  for (int64_t i = matrix->rows; i < rows; i++) traits->quantize(data + i * row_bytes, row, NULL, columns);
  free(sums);
  free(row);
  *matrix = (Matrix){.type = matrix->type, .rows = rows, .columns = columns, .data = data};
  return STATUS_OK;
}

Status model_grow_vocabulary(Model *model, int64_t rows) {
  if (rows <= model->config.vocabulary) return STATUS_OK;
  bool is_tied = model->config.tied_embeddings;
  TRY(grow(&model->embedding.weight, "the embedding", rows, model));
  if (is_tied) model->head.weight = model->embedding.weight;
  else TRY(grow(&model->head.weight, "the head", rows, model));
  model->file_vocabulary = model->config.vocabulary;
  model->config.vocabulary = rows;
  return STATUS_OK;
}
