// DoRA's magnitudes: what of the frozen weights their norms need, and where they begin.
#include <stdlib.h>

#include "adapters/parts.h"
#include "models/shards.h"

enum { PIECE_ROWS = 64 };

// Room on the device for pieces of rows, and the same on the host.
typedef struct RowReader {
  float *rows;  // [PIECE_ROWS, columns]
  int32_t *ids;  // [PIECE_ROWS]
  float *host;
} RowReader;

// squares[i] = ||w_i||^2 in double. The device takes its own form of weights apart: as rows of an embedding.
static Status squares_of_rows(float *squares, const Matrix *w, const RowReader *reader, Backend *backend) {
  for (int64_t first = 0; first < w->rows; first += PIECE_ROWS) {
    int64_t count = w->rows - first < PIECE_ROWS ? w->rows - first : PIECE_ROWS;
    int32_t ids[PIECE_ROWS];
    for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)(first + i);
    backend->upload(reader->ids, ids, count * (int64_t)sizeof *ids, backend);
    backend->kernels->embedding_forward(reader->rows, reader->ids, w, count, 1, backend);
    backend->download(reader->host, reader->rows, count * w->columns * (int64_t)sizeof(float), backend);
    for (int64_t i = 0; i < count; i++) {
      double sum = 0;
      for (int64_t j = 0; j < w->columns; j++) sum += (double)reader->host[i * w->columns + j] * reader->host[i * w->columns + j];
      squares[first + i] = (float)sum;
    }
  }
  return backend->check(backend);
}

static Status read_squares(Adapter *adapter, float *squares) {
  Backend *backend = adapter->model->backend;
  int64_t columns = 0;
  for (int i = 0; i < adapter->count; i++)
    if (adapter->linears[i]->weight.columns > columns) columns = adapter->linears[i]->weight.columns;
  RowReader reader = {.host = memory_new((size_t)(PIECE_ROWS * columns), sizeof(float))};
  Status status;
  TRY_DONE(backend->allocate((void **)&reader.rows, PIECE_ROWS * columns * (int64_t)sizeof(float), "rows of weights", backend));
  TRY_DONE(backend->allocate((void **)&reader.ids, PIECE_ROWS * (int64_t)sizeof(int32_t), "rows of weights", backend));
  for (int i = 0; i < adapter->count; i++) {
    const Matrix *w = &adapter->linears[i]->weight;
    shards_hold(adapter->model, adapter->linears[i]);
    TRY_DONE(squares_of_rows(squares, w, &reader, backend));
    squares += w->rows;
  }
done:
  if (reader.rows) backend->release(reader.rows, backend);
  if (reader.ids) backend->release(reader.ids, backend);
  free(reader.host);
  return status;
}

// The norms of one pair as a pass computes them, into `out` on the device.
static Status compute_norms(float *out, Linear *linear, const LowRank *pair, Backend *backend) {
  Tape tape;
  tape_new(&tape, backend);
  tape_begin(&tape, TAPE_FORWARD);
  Tensor *norms = op_low_rank_norms(&tape, &linear->weight, pair);
  tape_keep(norms);
  tape_plan(&tape, 0);
  Status status = tape_reserve(&tape);
  if (status == STATUS_OK) {
    tape_forward(&tape);
    tape_copy(out, &tape, norms);
    status = backend->check(backend);
  }
  tape_free(&tape);
  return status;
}

Status adapter_open_magnitudes(Adapter *adapter, bool is_new, bool is_fixed) {
  Backend *backend = adapter->model->backend;
  int64_t outputs = 0, offset = 0;
  for (int i = 0; i < adapter->count; i++) outputs += adapter->linears[i]->weight.rows;
  TRY(backend->allocate((void **)&adapter->norms, outputs * (is_fixed ? 2 : 1) * (int64_t)sizeof(float), "norms of weights", backend));
  float *squares = memory_new((size_t)outputs, sizeof *squares);
  Status status = read_squares(adapter, squares);
  if (status == STATUS_OK) backend->upload(adapter->norms, squares, outputs * (int64_t)sizeof *squares, backend);
  free(squares);
  for (int i = 0; status == STATUS_OK && i < adapter->count; i++) {
    LowRank *pair = &adapter->pairs[i];
    pair->squares = adapter->norms + offset;
    float *norms = adapter->norms + outputs + offset;
    if (is_new || is_fixed) shards_hold(adapter->model, adapter->linears[i]);
    if (is_new) status = compute_norms(pair->magnitude.data, adapter->linears[i], pair, backend);
    if (status == STATUS_OK && is_fixed) status = compute_norms(norms, adapter->linears[i], pair, backend);
    if (is_fixed) pair->norms = norms;
    offset += pair->b.rows;
  }
  return status;
}
