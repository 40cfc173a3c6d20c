#include "models/linear.h"

static Parameter parameter_rows(const Parameter *whole, int64_t first, int64_t rows) {
  int64_t offset = first * whole->columns;
  return (Parameter){
      .data = whole->data + offset, .gradient = whole->gradient ? whole->gradient + offset : NULL, .rows = rows, .columns = whole->columns};
}

LinearPart linear_part_rows(Tape *tape, const Linear *linear, int64_t first, int64_t rows) {
  Matrix *weight = arena_new(&tape->arena, 1, sizeof *weight);
  *weight = matrix_rows(&linear->weight, first, rows);
  LinearPart part = {.weight = weight, .bias = linear->bias ? linear->bias + first : NULL};
  if (linear->weight_gradient) part.weight_gradient = linear->weight_gradient + first * linear->weight.columns;
  if (linear->bias_gradient) part.bias_gradient = linear->bias_gradient + first;
  if (!linear->adapter) return part;
  LowRank *adapter = arena_new(&tape->arena, 1, sizeof *adapter);
  *adapter = *linear->adapter;  // the same number, so the same dropout: its A sees one x
  adapter->b = parameter_rows(&linear->adapter->b, first, rows);
  if (adapter->magnitude.data) {
    adapter->magnitude = parameter_rows(&linear->adapter->magnitude, first, rows);
    adapter->squares += first;
    if (adapter->norms) adapter->norms += first;
  }
  part.adapter = adapter;
  return part;
}
