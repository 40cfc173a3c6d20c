// Importance matrices of llama.cpp: for each matrix of a model the mean squared activation of its columns over some text, by which
// quantising weighs errors.
//
// GGUF (tools/imatrix): general.type = "imatrix", imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size; for each matrix NAME the F32
// tensors NAME.in_sum2 [columns, experts], sums of squares, and NAME.counts [1, experts], how many rows were summed.
// The older .dat: int32 entries; of each int32 length, name, int32 calls, int32 values, float32 values[] (means times calls); then perhaps
// int32 chunks and the name of the data set. Little-endian.
#ifndef FORMATS_IMATRIX_H
#define FORMATS_IMATRIX_H

#include <stddef.h>
#include <stdint.h>

#include "core/map.h"
#include "core/memory.h"
#include "core/status.h"

typedef struct ImatrixEntry {
  const char *name;  // "blk.0.attn_q.weight"
  int64_t columns, experts;  // experts: 1 of an ordinary matrix
  float *sums;  // [experts, columns] of squares
  float *counts;  // [experts]
} ImatrixEntry;

typedef struct ImportanceMatrix {
  char *path;
  ImatrixEntry *entries;  // as read, sums are means already
  int64_t count, capacity;
  // private
  Arena arena;
  Map index;
} ImportanceMatrix;

// STATUS_BAD_INPUT names file and entry. Close it in any case.
Status imatrix_open(ImportanceMatrix *matrix, const char *path);
Status imatrix_parse(ImportanceMatrix *matrix, const char *path, const uint8_t *data, size_t size);  // either format; for fuzzing, too
void imatrix_close(ImportanceMatrix *matrix);

// *means [columns] of an expert's columns (0 of an ordinary matrix), or NULL when the text never came there or the entry is not known.
// STATUS_BAD_INPUT when the entry has other columns: it is of another model.
Status imatrix_find(const float **means, const ImportanceMatrix *matrix, const char *name, int64_t columns, int64_t expert);

typedef struct ImatrixText {
  const char *name;  // of the data set
  int64_t chunks, chunk_tokens;
} ImatrixText;

// Writes the GGUF format, whole or not at all.
Status imatrix_write(const char *path, const ImatrixEntry *entries, int64_t count, ImatrixText text);

#endif
