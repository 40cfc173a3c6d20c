// An adapter's pairs as files have them: on the host, and for the base as it is.
#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"

static float *read_parameter(const Parameter *parameter, Backend *backend) {
  int64_t count = parameter->rows * parameter->columns;
  float *values = memory_new((size_t)count, sizeof *values);
  backend->download(values, parameter->data, count * (int64_t)sizeof *values, backend);
  return values;
}

int64_t adapter_file_rank(const Adapter *adapter, int index) { return adapter->pairs[index].b.columns * (adapter->initial ? 2 : 1); }

int64_t pair_a_count(const PairSource *pair, const Model *model) {
  return pair->rank * (pair->linear == &model->embedding ? pair->linear->weight.rows : pair->linear->weight.columns);
}

int64_t pair_b_count(const PairSource *pair, const Model *model) {
  return pair->rank * (pair->linear == &model->embedding ? pair->linear->weight.columns : pair->linear->weight.rows);
}

// [B, -B0] and [A; A0]: their product is B A - B0 A0.
static void add_start(PairSource *pair, const Adapter *adapter, const LowRank *own) {
  int64_t rank = own->a.rows, in = own->a.columns, out = own->b.rows;
  const float *values = adapter->tensors[0].parameter->data;  // which may be those of another buffer than the adapter's own
  const float *a0 = adapter->initial + (own->a.data - values), *b0 = adapter->initial + (own->b.data - values);
  float *a = memory_new((size_t)(2 * rank * in), sizeof *a), *b = memory_new((size_t)(2 * rank * out), sizeof *b);
  memcpy(a, pair->a, (size_t)(rank * in) * sizeof *a);
  memcpy(a + rank * in, a0, (size_t)(rank * in) * sizeof *a);
  for (int64_t row = 0; row < out; row++)
    for (int64_t r = 0; r < rank; r++) {
      b[row * 2 * rank + r] = pair->b[row * rank + r];
      b[row * 2 * rank + rank + r] = -b0[row * rank + r];
    }
  free(pair->a);
  free(pair->b);
  pair->a = a;
  pair->b = b;
  pair->rank = 2 * rank;
}

PairSource adapter_file_pair(const Adapter *adapter, int index) {
  Backend *backend = adapter->model->backend;
  const LowRank *own = &adapter->pairs[index];
  PairSource pair = {.linear = adapter->linears[index], .rank = own->b.columns, .scale = (double)own->scale};
  pair.a = read_parameter(&own->a, backend);
  pair.b = read_parameter(&own->b, backend);
  if (own->magnitude.data) pair.magnitude = read_parameter(&own->magnitude, backend);
  if (adapter->initial) add_start(&pair, adapter, own);
  return pair;
}

void adapter_file_pair_release(PairSource *pair) {
  free(pair->a);
  free(pair->b);
  free(pair->magnitude);
}
