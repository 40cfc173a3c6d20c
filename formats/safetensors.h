// safetensors (https://github.com/huggingface/safetensors#format), one file or sharded by
// model.safetensors.index.json, read by mmap and written.
#ifndef FORMATS_SAFETENSORS_H
#define FORMATS_SAFETENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/file.h"
#include "core/map.h"
#include "core/memory.h"
#include "core/status.h"

typedef enum SafetensorsType {
  ST_BOOL,
  ST_U8,
  ST_I8,
  ST_F8_E4M3,
  ST_F8_E5M2,
  ST_I16,
  ST_U16,
  ST_F16,
  ST_BF16,
  ST_I32,
  ST_U32,
  ST_F32,
  ST_F64,
  ST_I64,
  ST_U64
} SafetensorsType;

const char *safetensors_type_name(SafetensorsType type);  // "BF16"
int safetensors_type_bytes(SafetensorsType type);

enum { SAFETENSORS_MAX_DIMENSIONS = 8 };

typedef struct SafetensorsTensor {
  const char *name;
  SafetensorsType type;
  int dimensions;
  int64_t shape[SAFETENSORS_MAX_DIMENSIONS];  // row-major, shape[0] the slowest
  int64_t count;  // elements
  const void *data;  // mapped, may be unaligned
  size_t bytes;
  int file;  // index in Safetensors.paths
} SafetensorsTensor;

typedef struct Safetensors {
  SafetensorsTensor *tensors;
  int64_t tensor_count;
  char **metadata_keys, **metadata_values;  // __metadata__ of the first file
  int64_t metadata_count;
  char **paths;
  int path_count;
  // private
  FileMap *maps;
  Arena arena;
  Map index;
} Safetensors;

// `path` is a .safetensors file, an .index.json, or a folder that holds model.safetensors or
// model.safetensors.index.json. A folder with only pytorch_model.bin is refused with the remedy.
Status safetensors_open(Safetensors *out, const char *path);
// As safetensors_open, but on failure what was read before it stays, for who wants to show it; safetensors_close is due in any case.
Status safetensors_examine(Safetensors *out, const char *path);
Status safetensors_parse(Safetensors *out, const char *path, const uint8_t *data, size_t size);  // one file, bytes owned by the caller
void safetensors_close(Safetensors *st);
const SafetensorsTensor *safetensors_find(const Safetensors *st, const char *name);  // NULL when absent
// Converts F32, F16, BF16 and F64 to float32; false for other types.
bool safetensors_to_float(float *out, const SafetensorsTensor *tensor, int64_t first, int64_t count);

// Writing: tensors are declared in order, then the header is written, then each tensor's bytes in that order
// (in pieces if the caller likes). A declaration that no reader would accept (a name twice, an offset that its element's
// size does not divide: declare wider types first) makes safetensors_writer_open fail with STATUS_FAILED.
typedef struct SafetensorsWriter {
  FileWriter file;
  struct SafetensorsEntry *entries;
  int64_t count, capacity;
  Buffer metadata;
  uint64_t declared, written;  // bytes of tensor data
  // private
  Map metadata_index, index;  // what is already there
  char *failure;  // what was wrong with a declaration; safetensors_writer_open tells
} SafetensorsWriter;

void safetensors_writer_new(SafetensorsWriter *writer);
void safetensors_put_metadata(SafetensorsWriter *writer, const char *key, const char *value);
void safetensors_declare(SafetensorsWriter *writer, const char *name, SafetensorsType type, int dimensions, const int64_t *shape);
Status safetensors_writer_open(SafetensorsWriter *writer, const char *path);
void safetensors_write(SafetensorsWriter *writer, const void *bytes, size_t length);
Status safetensors_writer_commit(SafetensorsWriter *writer);  // exactly the declared bytes must have been written
void safetensors_writer_abandon(SafetensorsWriter *writer);

#endif
