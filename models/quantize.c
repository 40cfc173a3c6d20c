#include "models/quantize.h"

#include <stdlib.h>

#include "core/file.h"

BlockType quantize_type(const Matrix *weight, ModelOptions options) {
  BlockType type = options.quantize_nf4 ? BLOCK_NF4 : options.quantize_q8_0 ? BLOCK_Q8_0 : weight->type;
  if (weight->type >= BLOCK_NF4 || block_traits(weight->type)->elements != 1) return weight->type;
  return type == BLOCK_Q8_0 && weight->columns % block_traits(type)->elements != 0 ? weight->type : type;
}

enum { ALIGNMENT = 64 };

static int64_t aligned(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

// Of storage for a matrix; 0 where the type is its own.
static int64_t matrix_bytes(const Matrix *weight, BlockType type) {
  if (type == weight->type) return 0;
  return type == BLOCK_NF4 ? nf4_bytes(weight->rows * weight->columns) : block_row_bytes(type, weight->columns) * weight->rows;
}

int64_t quantize_bytes(Matrix *const *matrices, int64_t count, ModelOptions options) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < count; i++) bytes += aligned(matrix_bytes(matrices[i], quantize_type(matrices[i], options)));
  return bytes;
}

// Points `weight` to what quantize_matrix has left in storage.
static void take_storage(Matrix *weight, BlockType type, void *storage) {
  weight->type = type;
  weight->data = type == BLOCK_NF4 ? NULL : storage;
  if (type == BLOCK_NF4) nf4_attach(&weight->nf4, storage, weight->rows * weight->columns);
}

static void quantize_matrix(Matrix *weight, BlockType type, void *storage) {
  int64_t count = weight->rows * weight->columns;
  float *values = memory_new((size_t)count, sizeof *values);
  block_traits(weight->type)->dequantize(values, weight->data, count);
  // Nothing reads the source again; where tensor_matrices had to copy it, the copy's pages go.
  file_map_forget(weight->data, (size_t)(block_row_bytes(weight->type, weight->columns) * weight->rows));
  if (type == BLOCK_NF4) nf4_quantize(&weight->nf4, storage, values, count);
  else block_traits(type)->quantize(storage, values, NULL, count);
  take_storage(weight, type, storage);
  free(values);
}

typedef struct QuantizeTask {
  Matrix *const *matrices;  // [count]
  int64_t count;
  BlockType *types;  // that they become
  char **places;  // in storage; NULL: it stays as it is
  int64_t first, step;  // the matrices first, first + step, ... are this rank's
} QuantizeTask;

static void quantize_task(void *argument, int64_t task, int thread) {
  (void)thread;
  const QuantizeTask *job = argument;
  int64_t index = job->first + task * job->step;
  if (job->places[index]) quantize_matrix(job->matrices[index], job->types[index], job->places[index]);
}

static void job_open(QuantizeTask *job, Matrix *const *matrices, int64_t count, char *storage, ModelOptions options) {
  *job = (QuantizeTask){.matrices = matrices,
                        .count = count,
                        .types = memory_new((size_t)count, sizeof *job->types),
                        .places = memory_new((size_t)count, sizeof *job->places),
                        .step = 1};
  for (int64_t i = 0; i < count; i++) {
    job->types[i] = quantize_type(matrices[i], options);
    int64_t bytes = matrix_bytes(matrices[i], job->types[i]);
    job->places[i] = bytes ? storage : NULL;
    storage += aligned(bytes);
  }
}

static void job_run(const QuantizeTask *job, ThreadPool *pool) {
  pool_run(pool, (job->count - job->first + job->step - 1) / job->step, quantize_task, (void *)(uintptr_t)job);
}

static void job_close(QuantizeTask *job) {
  free(job->types);
  free(job->places);
}

void quantize_matrices(Matrix *const *matrices, int64_t count, void *storage, ModelOptions options, ThreadPool *pool) {
  QuantizeTask job;
  job_open(&job, matrices, count, storage, options);
  job_run(&job, pool);
  job_close(&job);
}

// One block for all, which the ranks of this machine share if they can.
static Status find_storage(void **block, int64_t bytes, Model *model) {
  *block = NULL;
  if (model->options.group) TRY(group_shared_block(block, bytes, model->options.group));
  if (*block) model->shared_block = *block, model->shared_bytes = bytes;
  else *block = arena_new(&model->arena, (size_t)bytes, 1);
  return STATUS_OK;
}

static Status quantize_list(Matrix *const *matrices, int64_t count, Model *model) {
  QuantizeTask job;
  void *storage;
  int64_t bytes = quantize_bytes(matrices, count, model->options);
  if (bytes == 0) return STATUS_OK;
  TRY(find_storage(&storage, bytes, model));
  job_open(&job, matrices, count, storage, model->options);
  for (int64_t i = 0; i < count; i++) {
    int64_t own = matrix_bytes(matrices[i], job.types[i]);
    model->nf4_bytes += own;
    if (job.types[i] != BLOCK_NF4) model->q8_0_bytes += own;
  }
  const Group *group = model->options.group;
  if (model->shared_block) job.first = group->local_rank, job.step = group->local_size;
  job_run(&job, model->backend->pool);
  // What the other ranks of this machine have quantised is in its place once all are done. (On other machines there may be one rank alone.)
  Status status = group ? group_barrier("the quantisation of the base", model->options.group) : STATUS_OK;
  for (int64_t i = 0; status == STATUS_OK && i < count; i++)
    if (job.places[i] && i % job.step != job.first) take_storage(matrices[i], job.types[i], job.places[i]);
  job_close(&job);
  return status;
}

Status quantize_model(Model *model) {
  int64_t count = model->linear_count + model->expert_matrix_count;
  Matrix **matrices = memory_new((size_t)count, sizeof *matrices);
  for (int i = 0; i < model->linear_count; i++) matrices[i] = &model->linears[i]->weight;
  for (int64_t i = 0; i < model->expert_matrix_count; i++) matrices[model->linear_count + i] = model->expert_matrices[i];
  Status status = quantize_list(matrices, count, model);
  free(matrices);
  return status;
}
