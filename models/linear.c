#include "models/linear.h"

static Parameter parameter_rows(const Parameter *whole, int64_t first, int64_t rows) {
  int64_t offset = first * whole->columns;
  return (Parameter){
      .data = whole->data + offset, .gradient = whole->gradient ? whole->gradient + offset : NULL, .rows = rows, .columns = whole->columns};
}

// The same number, so the same dropout: its A sees one x.
static LowRank *pair_rows(Tape *tape, const LowRank *pair, int64_t first, int64_t rows) {
  LowRank *own = arena_new(&tape->arena, 1, sizeof *own);
  *own = *pair;
  own->b = parameter_rows(&pair->b, first, rows);
  if (pair->magnitude.data) {
    own->magnitude = parameter_rows(&pair->magnitude, first, rows);
    own->squares += first;
    if (own->norms) own->norms += first;
  }
  return own;
}

LinearPart linear_part_rows(Tape *tape, const Linear *linear, int64_t first, int64_t rows) {
  Matrix *weight = arena_new(&tape->arena, 1, sizeof *weight);
  *weight = matrix_rows(&linear->weight, first, rows);
  LinearPart part = {.weight = weight, .bias = linear->bias ? linear->bias + first : NULL};
  if (linear->weight_gradient) part.weight_gradient = linear->weight_gradient + first * linear->weight.columns;
  if (linear->bias_gradient) part.bias_gradient = linear->bias_gradient + first;
  if (linear->adapter) part.adapter = pair_rows(tape, linear->adapter, first, rows);
  if (!linear->bank) return part;
  const LowRank **bank = arena_new(&tape->arena, (size_t)linear->bank_count, sizeof *bank);
  for (int i = 0; i < linear->bank_count; i++)
    if (linear->bank[i]) bank[i] = pair_rows(tape, linear->bank[i], first, rows);
  part.bank = bank;
  part.bank_count = linear->bank_count;
  return part;
}
