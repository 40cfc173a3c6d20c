#include "models/quantize.h"

#include <stdlib.h>

#include "core/file.h"

BlockType quantize_type(const Matrix *weight, ModelOptions options) {
  BlockType type = options.quantize_nf4 ? BLOCK_NF4 : options.quantize_q8_0 ? BLOCK_Q8_0 : weight->type;
  if (weight->type >= BLOCK_NF4 || block_traits(weight->type)->elements != 1) return weight->type;
  return type == BLOCK_Q8_0 && weight->columns % block_traits(type)->elements != 0 ? weight->type : type;
}

int64_t quantize_bytes(const Matrix *weight, BlockType type) {
  if (type == weight->type) return 0;
  return type == BLOCK_NF4 ? nf4_bytes(weight->rows * weight->columns) : block_row_bytes(type, weight->columns) * weight->rows;
}

// Points `weight` to what quantize_matrix has left in storage.
static void take_storage(Matrix *weight, BlockType type, void *storage) {
  weight->type = type;
  weight->data = type == BLOCK_NF4 ? NULL : storage;
  if (type == BLOCK_NF4) nf4_attach(&weight->nf4, storage, weight->rows * weight->columns);
}

void quantize_matrix(Matrix *weight, BlockType type, void *storage) {
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
  Model *model;
  BlockType *types;  // [count] that matrices become
  void **storage;  // [count] NULL: it stays as it is
  int64_t first, step;  // the matrices first, first + step, ... are this rank's
} QuantizeTask;

// The linear layers' matrices, then the experts'.
static Matrix *quantizable(const Model *model, int64_t index) {
  return index < model->linear_count ? &model->linears[index]->weight : model->expert_matrices[index - model->linear_count];
}

static void quantize_task(void *argument, int64_t task, int thread) {
  (void)thread;
  const QuantizeTask *job = argument;
  int64_t index = job->first + task * job->step;
  if (job->storage[index]) quantize_matrix(quantizable(job->model, index), job->types[index], job->storage[index]);
}

// Where each matrix's values go: one block, which the ranks of this machine share if they can.
static Status find_storage(QuantizeTask *job, int64_t count) {
  enum { ALIGNMENT = 64 };
  Model *model = job->model;
  int64_t bytes = 0;
  for (int64_t i = 0; i < count; i++) {
    const Matrix *weight = quantizable(model, i);
    job->types[i] = quantize_type(weight, model->options);
    bytes += (quantize_bytes(weight, job->types[i]) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }
  if (bytes == 0) return STATUS_OK;
  void *block = NULL;
  if (model->options.group) TRY(group_shared_block(&block, bytes, model->options.group));
  if (block) {
    model->shared_block = block, model->shared_bytes = bytes;
    job->first = model->options.group->local_rank, job->step = model->options.group->local_size;
  } else {
    block = arena_new(&model->arena, (size_t)bytes, 1);
  }
  char *place = block;
  for (int64_t i = 0; i < count; i++) {
    int64_t size = quantize_bytes(quantizable(model, i), job->types[i]);
    if (size == 0) continue;
    job->storage[i] = place;
    place += (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    model->nf4_bytes += size;
    if (job->types[i] != BLOCK_NF4) model->q8_0_bytes += size;
  }
  return STATUS_OK;
}

Status quantize_model(Model *model) {
  if (!model->options.quantize_nf4 && !model->options.quantize_q8_0) return STATUS_OK;
  int64_t count = model->linear_count + model->expert_matrix_count;
  QuantizeTask job = {.model = model,
                      .types = memory_new((size_t)count, sizeof *job.types),
                      .storage = memory_new((size_t)count, sizeof *job.storage),
                      .step = 1};
  Status status = find_storage(&job, count);
  if (status == STATUS_OK) pool_run(model->backend->pool, (count - job.first + job.step - 1) / job.step, quantize_task, &job);
  if (status == STATUS_OK && model->shared_block) status = group_barrier("the quantisation of the base", model->options.group);
  for (int64_t i = 0; status == STATUS_OK && model->shared_block && i < count; i++)
    if (job.storage[i] && i % job.step != job.first) take_storage(quantizable(model, i), job.types[i], job.storage[i]);
  free(job.types);
  free(job.storage);
  return status;
}
