// What is measured lies in the device's memory: bench.h.
#include <stdlib.h>

#include "cli/bench.h"

void *bench_place(BenchMemory *memory, void *host, int64_t bytes) {
  Backend *backend = memory->backend;
  if (!backend->upload_matrix) return host;
  void *block;
  if (backend->allocate(&block, bytes + 1, "measurements", backend) != STATUS_OK) memory_exhausted((size_t)bytes);
  backend->upload(block, host, bytes, backend);
  ARRAY_PUSH(memory->blocks, memory->block_count, memory->block_capacity) = block;
  return block;
}

void bench_place_matrix(BenchMemory *memory, Matrix *matrix) {
  Backend *backend = memory->backend;
  if (!backend->upload_matrix) return;
  if (backend->upload_matrix(matrix, NULL, backend) != STATUS_OK) memory_exhausted((size_t)(matrix->rows * matrix->columns));
  ARRAY_PUSH(memory->matrices, memory->matrix_count, memory->matrix_capacity) = *matrix;
}

void bench_release(BenchMemory *memory) {
  for (int i = 0; i < memory->block_count; i++) memory->backend->release(memory->blocks[i], memory->backend);
  for (int i = 0; i < memory->matrix_count; i++) memory->backend->release_matrix(&memory->matrices[i], memory->backend);
  free(memory->blocks);
  free(memory->matrices);
  arena_release(&memory->arena);
}
