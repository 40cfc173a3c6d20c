// W' = W + scale * B A, row by row in float32; with DoRA's magnitudes each row is then scaled to the length m_i.
//   W [rows, columns] in any type that is read, A [rank, columns], B [rows, rank]
#include "adapters/merge.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "adapters/parts.h"

enum { MERGE_TASK_ROWS = 32 };

static const float half_limit = 65520;  // the first value that rounds to infinity in F16

BlockType merge_base_type(const Model *model, const Matrix *weight) {
  return weight->type < BLOCK_NF4 ? weight->type : model->quantized ? model->quantized_float_type : BLOCK_F16;
}

typedef struct MergeTask {
  char *out;
  BlockType type;
  int64_t row_bytes;
  const Linear *linear;
  const Model *model;
  bool gguf;
  const float *a, *b;  // on the host; NULL without an adapter
  const float *magnitude;  // the same, of DoRA; or NULL
  const float *importance;
  atomic_bool overflow;
} MergeTask;

static void set_length(float *values, double length, int64_t columns) {
  double squares = 0;
  for (int64_t column = 0; column < columns; column++) squares += (double)values[column] * values[column];
  double factor = length / fmax(sqrt(squares), (double)MAGNITUDE_SMALLEST);
  for (int64_t column = 0; column < columns; column++) values[column] = (float)(factor * values[column]);
}

static void merge_row(MergeTask *task, char *out, float *values, float *delta, int64_t row) {
  const Matrix *weight = &task->linear->weight;
  int64_t columns = weight->columns;
  if (!task->a && weight->type == task->type) {
    memcpy(out, (const char *)weight->data + row * task->row_bytes, (size_t)task->row_bytes);
    return;
  }
  matrix_dequantize(values, weight, row, 0, columns);
  if (task->a) {
    // The product first, then one addition: W is rounded once and not `rank` times.
    const LowRank *pair = task->linear->adapter;
    memset(delta, 0, (size_t)columns * sizeof *delta);
    for (int64_t r = 0; r < pair->a.rows; r++) {
      float factor = task->b[row * pair->a.rows + r];
      const float *a = task->a + r * columns;
      for (int64_t column = 0; column < columns; column++) delta[column] += factor * a[column];
    }
    for (int64_t column = 0; column < columns; column++) values[column] += pair->scale * delta[column];
    if (task->magnitude) set_length(values, (double)task->magnitude[row], columns);
  }
  if (task->type != BLOCK_F32 && task->type != BLOCK_BF16)
    for (int64_t column = 0; column < columns; column++)
      if (fabsf(values[column]) >= half_limit) atomic_store(&task->overflow, true);
  block_traits(task->type)->quantize(out, values, task->importance, columns);
}

static void merge_rows(void *argument, int64_t index, int thread) {
  (void)thread;
  MergeTask *task = argument;
  const Matrix *weight = &task->linear->weight;
  int64_t first = index * MERGE_TASK_ROWS, last = first + MERGE_TASK_ROWS < weight->rows ? first + MERGE_TASK_ROWS : weight->rows;
  float *values = memory_new((size_t)weight->columns * 2, sizeof *values);
  for (int64_t row = first; row < last; row++) {
    int64_t file_row = linear_file_row(row, task->linear, task->model, task->gguf);
    merge_row(task, task->out + file_row * task->row_bytes, values, values + weight->columns, row);
  }
  free(values);
}

Status merge_matrix(void *out, BlockType type, const float *importance, const Linear *linear, const Model *model, bool gguf) {
  Backend *backend = model->backend;
  const LowRank *pair = linear->adapter;
  MergeTask task = {.out = out,
                    .type = type,
                    .row_bytes = block_row_bytes(type, linear->weight.columns),
                    .linear = linear,
                    .model = model,
                    .gguf = gguf,
                    .importance = importance};
  float *a = NULL, *b = NULL, *magnitude = NULL;
  if (pair && pair->magnitude.data) {
    magnitude = memory_new((size_t)pair->magnitude.rows, sizeof *magnitude);
    backend->download(magnitude, pair->magnitude.data, pair->magnitude.rows * (int64_t)sizeof *magnitude, backend);
    task.magnitude = magnitude;
  }
  if (pair) {
    int64_t a_count = pair->a.rows * pair->a.columns, b_count = pair->b.rows * pair->b.columns;
    a = memory_new((size_t)a_count, sizeof *a);
    b = memory_new((size_t)b_count, sizeof *b);
    backend->download(a, pair->a.data, a_count * (int64_t)sizeof *a, backend);
    backend->download(b, pair->b.data, b_count * (int64_t)sizeof *b, backend);
    task.a = a;
    task.b = b;
  }
  pool_run(backend->pool, (linear->weight.rows + MERGE_TASK_ROWS - 1) / MERGE_TASK_ROWS, merge_rows, &task);
  free(a);
  free(b);
  free(magnitude);
  if (atomic_load(&task.overflow))
    return status_fail(STATUS_FAILED, "%s: %s holds values that are too large for %s; write bf16 or f32 (--type)", model->path,
                       linear->name, block_traits(type)->name);
  return STATUS_OK;
}

static bool is_same_file(const char *a, const char *b) {
  struct stat x, y;
  return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

Status merge_check_output(const Model *model, const char *path) {
  bool is_base = is_same_file(model->path, path);
  for (int i = 0; i < model->gguf.shard_count; i++) is_base |= is_same_file(model->gguf.shard_paths[i], path);
  if (is_base) return status_fail(STATUS_USAGE, "--output %s: this is the base model itself; name another", path);
  return STATUS_OK;
}
