// W' = W + scale * B A, row by row in float32; with DoRA's magnitudes each row is then scaled to the length m_i; rows of trained tokens in
// place of W's own.
//   W [rows, columns] in any type that is read, A [rank, columns], B [rows, rank]; of the embedding these are LoRA's B and A, turned over
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
  Matrix weight;  // the linear layer's, on the host
  const float *a, *b;  // on the host; NULL without an adapter
  const float *magnitude;  // [rows] on the host, of DoRA; or NULL
  const float *tokens;  // [tokens, columns] on the host; NULL: none
  const float *importance;
  atomic_bool overflow;
} MergeTask;

// The trained values of a token's row, or NULL.
static const float *token_row(const MergeTask *task, int64_t row) {
  const TokenRows *tokens = task->linear->tokens;
  for (int64_t k = 0; task->tokens && k < tokens->rows.rows; k++)
    if (tokens->ids[k] == row) return task->tokens + k * tokens->rows.columns;
  return NULL;
}

static void set_length(float *values, double length, int64_t columns) {
  double squares = 0;
  for (int64_t column = 0; column < columns; column++) squares += (double)values[column] * values[column];
  double factor = length / fmax(sqrt(squares), (double)MAGNITUDE_SMALLEST);
  for (int64_t column = 0; column < columns; column++) values[column] = (float)(factor * values[column]);
}

static void merge_row(MergeTask *task, char *out, float *values, float *delta, int64_t row) {
  const Matrix *weight = &task->weight;
  int64_t columns = weight->columns;
  const float *own = token_row(task, row);
  if (!task->a && !own && weight->type == task->type) {
    memcpy(out, (const char *)weight->data + row * task->row_bytes, (size_t)task->row_bytes);
    return;
  }
  matrix_dequantize(values, weight, row, 0, columns);
  if (task->a) {
    // The product first, then one addition: W is rounded once and not `rank` times.
    const LowRank *pair = task->linear->adapter;
    int64_t rank = pair->b.columns;
    memset(delta, 0, (size_t)columns * sizeof *delta);
    for (int64_t r = 0; r < rank; r++) {
      float factor = task->b[row * rank + r];
      const float *a = task->a + r * columns;
      for (int64_t column = 0; column < columns; column++) delta[column] += factor * a[column];
    }
    for (int64_t column = 0; column < columns; column++) values[column] += pair->scale * delta[column];
    if (task->magnitude) set_length(values, (double)task->magnitude[row], columns);
  }
  if (own) memcpy(values, own, (size_t)columns * sizeof *values);
  if (task->type != BLOCK_F32 && task->type != BLOCK_BF16)
    for (int64_t column = 0; column < columns; column++)
      if (fabsf(values[column]) >= half_limit) atomic_store(&task->overflow, true);
  block_traits(task->type)->quantize(out, values, task->importance, columns);
}

static void merge_rows(void *argument, int64_t index, int thread) {
  (void)thread;
  MergeTask *task = argument;
  const Matrix *weight = &task->weight;
  int64_t first = index * MERGE_TASK_ROWS, last = first + MERGE_TASK_ROWS < weight->rows ? first + MERGE_TASK_ROWS : weight->rows;
  float *values = memory_new((size_t)weight->columns * 2, sizeof *values);
  for (int64_t row = first; row < last; row++) {
    int64_t file_row = linear_file_row(row, task->linear, task->model, task->gguf);
    merge_row(task, task->out + file_row * task->row_bytes, values, values + weight->columns, row);
  }
  free(values);
}

// A parameter's values on the host; free() it.
static Status read_parameter(float **values, const Parameter *parameter, const Model *model) {
  int64_t bytes = parameter->rows * parameter->columns * (int64_t)sizeof **values;
  void *block;
  TRY(memory_try(&block, (size_t)bytes, "a trained tensor"));
  model->backend->download(block, parameter->data, bytes, model->backend);
  *values = block;
  return STATUS_OK;
}

// The factors of a pair as merge_row multiplies them: those of the embedding change places, and its B turns over.
static Status read_pair(float *factors[2], const Linear *linear, const Model *model) {
  const LowRank *pair = linear->adapter;
  if (!pair) return STATUS_OK;
  TRY(read_parameter(&factors[0], &pair->a, model));
  TRY(read_parameter(&factors[1], &pair->b, model));
  if (linear != &model->embedding) return STATUS_OK;
  float *turned = memory_new((size_t)(pair->b.rows * pair->b.columns), sizeof *turned), *a = factors[0];
  transpose(turned, factors[1], pair->b.rows, pair->b.columns);
  free(factors[1]);
  factors[0] = turned;
  factors[1] = a;
  return STATUS_OK;
}

Status merge_matrix(void *out, BlockType type, const float *importance, const Linear *linear, const Model *model, bool gguf) {
  MergeTask task = {.out = out,
                    .type = type,
                    .row_bytes = block_row_bytes(type, linear->weight.columns),
                    .linear = linear,
                    .model = model,
                    .weight = linear->weight,
                    .gguf = gguf,
                    .importance = importance};
  const LowRank *pair = linear->adapter;
  float *factors[2] = {NULL, NULL}, *tokens = NULL, *trained = NULL, *magnitude = NULL;
  Status status = read_pair(factors, linear, model);
  if (status == STATUS_OK && pair && pair->magnitude.data) status = read_parameter(&magnitude, &pair->magnitude, model);
  if (status == STATUS_OK && linear->tokens) status = read_parameter(&tokens, &linear->tokens->rows, model);
  if (status == STATUS_OK && linear->base && model->backend->upload_matrix) {  // trained on a device with a memory of its own
    Parameter weight = {.data = (float *)(uintptr_t)linear->weight.data, .rows = linear->weight.rows, .columns = linear->weight.columns};
    status = read_parameter(&trained, &weight, model);
    task.weight.data = trained;
  }
  task.a = factors[0];
  task.b = factors[1];
  task.magnitude = magnitude;
  task.tokens = tokens;
  if (status == STATUS_OK) pool_run(model->backend->pool, (linear->weight.rows + MERGE_TASK_ROWS - 1) / MERGE_TASK_ROWS, merge_rows, &task);
  free(factors[0]);
  free(factors[1]);
  free(magnitude);
  free(tokens);
  free(trained);
  if (atomic_load(&task.overflow))
    return status_fail(STATUS_FAILED, "%s: %s holds values that are too large for %s; write bf16 or f32 (--type)", model->path,
                       linear->name, block_traits(type)->name);
  return status;
}

bool merge_unties(const Model *model) {
  return model->config.tied_embeddings &&
         (model->embedding.adapter || model->head.adapter || model->embedding.weight.data != model->head.weight.data);
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
