// Reading and writing importance matrices (imatrix.h has the formats). Numbers are checked before use: a matrix decides where errors go,
// and a NaN in it would be an error everywhere.
#include "formats/imatrix.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/text.h"
#include "formats/gguf.h"

enum { MAX_NAME = 63, MAX_COLUMNS = 1 << 24, MAX_EXPERTS = 1 << 16 };

static const char sums_suffix[] = ".in_sum2", counts_suffix[] = ".counts";

static Status add_entry(ImportanceMatrix *matrix, const char *name, int64_t columns, int64_t experts, ImatrixEntry **out) {
  int64_t known;
  if (map_get_string(&matrix->index, name, &known)) return status_fail(STATUS_BAD_INPUT, "%s: %s occurs twice", matrix->path, name);
  map_set_string(&matrix->index, name, matrix->count);
  *out = &ARRAY_PUSH(matrix->entries, matrix->count, matrix->capacity);
  **out = (ImatrixEntry){.name = name, .columns = columns, .experts = experts};
  (*out)->sums = arena_new(&matrix->arena, (size_t)(columns * experts), sizeof *(*out)->sums);
  (*out)->counts = arena_new(&matrix->arena, (size_t)experts, sizeof *(*out)->counts);
  return STATUS_OK;
}

// Sums become means.
static Status finish_entry(const ImportanceMatrix *matrix, ImatrixEntry *entry) {
  for (int64_t e = 0; e < entry->experts; e++) {
    if (!(entry->counts[e] >= 0) || isinf(entry->counts[e]))
      return status_fail(STATUS_BAD_INPUT, "%s: %s: the count %g is no number of rows", matrix->path, entry->name,
                         (double)entry->counts[e]);
    for (int64_t i = 0; i < entry->columns; i++) {
      float *value = &entry->sums[e * entry->columns + i];
      if (!(*value >= 0) || isinf(*value))
        return status_fail(STATUS_BAD_INPUT, "%s: %s: column %" PRId64 " has %g, which is no sum of squares; make the matrix anew",
                           matrix->path, entry->name, i, (double)*value);
      if (entry->counts[e] > 0) *value /= entry->counts[e];
    }
  }
  return STATUS_OK;
}

// ---- GGUF ----

static Status read_pair(ImportanceMatrix *matrix, const Gguf *gguf, const GgufTensor *sums) {
  size_t length = strlen(sums->name) - (sizeof sums_suffix - 1);
  char *name = arena_copy_bytes(&matrix->arena, sums->name, length);
  const GgufTensor *counts = gguf_find_tensor(gguf, arena_format(&matrix->arena, "%s%s", name, counts_suffix));
  if (!counts) return status_fail(STATUS_BAD_INPUT, "%s: %s has no %s%s beside it", matrix->path, sums->name, name, counts_suffix);
  if (sums->type != BLOCK_F32 || counts->type != BLOCK_F32)
    return status_fail(STATUS_BAD_INPUT, "%s: %s and its counts are not both f32", matrix->path, sums->name);
  if (sums->shape[0] > MAX_COLUMNS || sums->shape[1] > MAX_EXPERTS || sums->shape[2] != 1 || sums->shape[3] != 1 || counts->shape[0] != 1 ||
      counts->shape[1] != sums->shape[1] || counts->shape[2] != 1 || counts->shape[3] != 1)
    return status_fail(STATUS_BAD_INPUT, "%s: %s and its counts are not [columns, experts] and [1, experts]", matrix->path, sums->name);
  ImatrixEntry *entry;
  TRY(add_entry(matrix, name, sums->shape[0], sums->shape[1], &entry));
  memcpy(entry->sums, sums->data, sums->bytes);
  memcpy(entry->counts, counts->data, counts->bytes);
  return finish_entry(matrix, entry);
}

static Status parse_gguf(ImportanceMatrix *matrix, const uint8_t *data, size_t size) {
  Gguf gguf;
  TRY(gguf_parse(&gguf, matrix->path, data, size));
  GgufString type;
  Status status = STATUS_OK;
  if (!gguf_get_string(&gguf, "general.type", &type) || type.length != 7 || memcmp(type.data, "imatrix", 7) != 0)
    status = status_fail(STATUS_BAD_INPUT, "%s: a GGUF file, but general.type is not \"imatrix\"; `lora imatrix` makes one", matrix->path);
  for (int64_t i = 0; status == STATUS_OK && i < gguf.tensor_count; i++)
    if (text_ends_with(gguf.tensors[i].name, sums_suffix)) status = read_pair(matrix, &gguf, &gguf.tensors[i]);
  gguf_close(&gguf);
  return status;
}

// ---- .dat ----

typedef struct Reader {
  const uint8_t *data;
  size_t left;
} Reader;

static bool take(void *out, Reader *reader, size_t bytes) {
  if (reader->left < bytes) return false;
  memcpy(out, reader->data, bytes);
  reader->data += bytes;
  reader->left -= bytes;
  return true;
}

static Status read_old_entry(ImportanceMatrix *matrix, Reader *reader, int32_t number) {
  int32_t length, calls, values;
  char name[MAX_NAME + 1] = {0};
  if (!take(&length, reader, sizeof length) || length < 1 || length > MAX_NAME || !take(name, reader, (size_t)length) ||
      !text_is_printable(name, (size_t)length))
    return status_fail(STATUS_BAD_INPUT, "%s: entry %d has no name of 1 to %d printable bytes; it is no importance matrix", matrix->path,
                       number, MAX_NAME);
  if (!take(&calls, reader, sizeof calls) || !take(&values, reader, sizeof values) || calls < 0 || values < 1 || values > MAX_COLUMNS ||
      (size_t)values > reader->left / sizeof(float))
    return status_fail(STATUS_BAD_INPUT, "%s: %s: its values are not all there, or their number is out of range", matrix->path, name);
  ImatrixEntry *entry;
  TRY(add_entry(matrix, arena_copy_string(&matrix->arena, name), values, 1, &entry));
  take(entry->sums, reader, (size_t)values * sizeof *entry->sums);
  entry->counts[0] = (float)calls;
  return finish_entry(matrix, entry);
}

static Status parse_old(ImportanceMatrix *matrix, const uint8_t *data, size_t size) {
  Reader reader = {data, size};
  int32_t count;
  if (!take(&count, &reader, sizeof count) || count < 1)
    return status_fail(STATUS_BAD_INPUT, "%s: no importance matrix, neither GGUF nor .dat", matrix->path);
  for (int32_t i = 0; i < count; i++) TRY(read_old_entry(matrix, &reader, i));
  return STATUS_OK;  // what follows tells of the text
}

Status imatrix_parse(ImportanceMatrix *matrix, const char *path, const uint8_t *data, size_t size) {
  *matrix = (ImportanceMatrix){.path = memory_copy_string(path)};
  Status status = size >= 4 && memcmp(data, "GGUF", 4) == 0 ? parse_gguf(matrix, data, size) : parse_old(matrix, data, size);
  if (status == STATUS_OK && matrix->count == 0)
    status = status_fail(STATUS_BAD_INPUT, "%s: there is no entry in this importance matrix", path);
  return status;
}

Status imatrix_open(ImportanceMatrix *matrix, const char *path) {
  *matrix = (ImportanceMatrix){0};
  FileMap map;
  TRY(file_map(&map, path));
  Status status = imatrix_parse(matrix, path, map.data, map.size);
  file_unmap(&map);
  return status;
}

void imatrix_close(ImportanceMatrix *matrix) {
  free(matrix->path);
  free(matrix->entries);
  map_release(&matrix->index);
  arena_release(&matrix->arena);
  *matrix = (ImportanceMatrix){0};
}

Status imatrix_find(const float **means, const ImportanceMatrix *matrix, const char *name, int64_t columns, int64_t expert) {
  int64_t index;
  *means = NULL;
  if (!map_get_string(&matrix->index, name, &index)) return STATUS_OK;
  const ImatrixEntry *entry = &matrix->entries[index];
  // The older format lays experts side by side.
  bool joined = entry->experts == 1 && columns > 0 && entry->columns % columns == 0;
  int64_t experts = joined ? entry->columns / columns : entry->experts;
  if ((entry->columns != columns && !joined) || expert >= experts)
    return status_fail(STATUS_BAD_INPUT, "%s: %s has %" PRId64 " columns, the model's has %" PRId64 "; the matrix is of another model",
                       matrix->path, name, entry->columns, columns);
  if (entry->counts[joined ? 0 : expert] > 0) *means = entry->sums + expert * columns;
  return STATUS_OK;
}

// ---- Writing ----

Status imatrix_write(const char *path, const ImatrixEntry *entries, int64_t count, ImatrixText text) {
  GgufWriter writer;
  gguf_writer_new(&writer);
  const GgufString name = {text.name, strlen(text.name)};
  Status status = STATUS_OK;
  gguf_put_string(&writer, "general.type", "imatrix", 7);
  gguf_put_string_array(&writer, "imatrix.datasets", &name, 1);
  gguf_put_uint32(&writer, "imatrix.chunk_count", (uint32_t)text.chunks);
  gguf_put_uint32(&writer, "imatrix.chunk_size", (uint32_t)text.chunk_tokens);
  for (int64_t i = 0; i < count; i++) {
    char *sums = memory_format("%s%s", entries[i].name, sums_suffix), *counts = memory_format("%s%s", entries[i].name, counts_suffix);
    const int64_t sums_shape[] = {entries[i].columns, entries[i].experts}, counts_shape[] = {1, entries[i].experts};
    gguf_declare_tensor(&writer, sums, BLOCK_F32, 2, sums_shape);
    gguf_declare_tensor(&writer, counts, BLOCK_F32, 2, counts_shape);
    free(sums);
    free(counts);
  }
  TRY_DONE(gguf_writer_open(&writer, path));
  for (int64_t i = 0; i < count; i++) {
    TRY_DONE(gguf_write_tensor(&writer, entries[i].sums, (size_t)(entries[i].columns * entries[i].experts) * sizeof(float)));
    TRY_DONE(gguf_write_tensor(&writer, entries[i].counts, (size_t)entries[i].experts * sizeof(float)));
  }
  status = gguf_writer_commit(&writer);
done:
  gguf_writer_abandon(&writer);
  return status;
}
