// GGUF v2 and v3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), read by mmap and written. A split model is one Gguf.
#ifndef FORMATS_GGUF_H
#define FORMATS_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/file.h"
#include "core/map.h"
#include "core/memory.h"
#include "core/status.h"
#include "formats/block.h"

typedef enum GgufType {
  GGUF_UINT8,
  GGUF_INT8,
  GGUF_UINT16,
  GGUF_INT16,
  GGUF_UINT32,
  GGUF_INT32,
  GGUF_FLOAT32,
  GGUF_BOOL,
  GGUF_STRING,
  GGUF_ARRAY,
  GGUF_UINT64,
  GGUF_INT64,
  GGUF_FLOAT64,
} GgufType;

typedef struct GgufString {
  const char *data;  // not NUL-terminated
  size_t length;
} GgufString;

typedef struct GgufValue {
  const char *key;  // NUL-terminated
  GgufType type;
  GgufType element;  // of an array (arrays of arrays are refused)
  uint64_t count;  // of an array; 1 otherwise
  const uint8_t *data;  // the little-endian bytes in the file (may be unaligned), after type and count
  size_t bytes;  // of data
  const GgufString *strings;  // for GGUF_STRING and arrays of it: `count` of them
} GgufValue;

typedef struct GgufTensor {
  const char *name;  // NUL-terminated
  uint32_t type;  // GGUF's number; supported ones are BlockType values
  int dimensions;  // 1 to 4
  int64_t shape[4];  // shape[0] is the fastest (in_features); unused ones are 1
  const void *data;  // mapped
  size_t bytes;
} GgufTensor;

typedef struct Gguf {
  char *path;
  uint32_t version;
  uint64_t alignment;
  GgufValue *values;
  int64_t value_count;
  GgufTensor *tensors;
  int64_t tensor_count;
  char **shard_paths;  // of a split model: all its files, `path` first; NULL otherwise
  int shard_count;  // of a split model; 0 otherwise
  // private
  FileMap map;
  FileMap *shard_maps;  // [shard_count], the first one empty
  Arena arena;
  Map value_index, tensor_index;
} Gguf;

// Enforces every limit of the format before anything is used: STATUS_BAD_INPUT names file and key or tensor.
// A tensor of a type that we cannot read (block_traits gives NULL) is not an error here.
// `path` may be the first file of a split model (PREFIX-00001-of-00003.gguf): the tensors are those of all files, the keys those of
// the first without split.*.
Status gguf_open(Gguf *gguf, const char *path);
// As gguf_open, but on failure what was read before it stays, for who wants to show it; gguf_close is due in any case.
Status gguf_examine(Gguf *gguf, const char *path);
Status gguf_parse(Gguf *gguf, const char *path, const uint8_t *data, size_t size);  // bytes owned by the caller; for fuzzing
void gguf_close(Gguf *gguf);

const GgufValue *gguf_find(const Gguf *gguf, const char *key);  // NULL when absent
const GgufTensor *gguf_find_tensor(const Gguf *gguf, const char *name);  // NULL when absent
// Each returns false, and leaves *value alone, when the key is absent or cannot be that type (integers of any
// width and sign convert when the value fits).
bool gguf_get_integer(const Gguf *gguf, const char *key, int64_t *value);
bool gguf_get_float(const Gguf *gguf, const char *key, double *value);
bool gguf_get_bool(const Gguf *gguf, const char *key, bool *value);
bool gguf_get_string(const Gguf *gguf, const char *key, GgufString *value);
bool gguf_array_integer(const GgufValue *value, uint64_t index, int64_t *out);
bool gguf_array_float(const GgufValue *value, uint64_t index, double *out);

// Writing. Keys and tensors are declared first, in order; then the header is written, then each tensor's bytes
// in the order of declaration. A declaration that no reader would accept (a key twice, a name of 64 bytes, a shape that
// blocks do not divide) makes gguf_writer_open fail with STATUS_FAILED.
typedef struct GgufWriter {
  FileWriter file;
  Buffer header;
  uint64_t value_count;
  struct GgufWriterTensor *tensors;
  int64_t tensor_count, tensor_capacity, tensors_written;
  uint64_t alignment;
  // private
  Map keys;  // of values and tensors already declared
  char *failure;  // what was wrong with a declaration; gguf_writer_open tells
} GgufWriter;

void gguf_writer_new(GgufWriter *writer);
void gguf_put_uint32(GgufWriter *writer, const char *key, uint32_t value);
void gguf_put_float32(GgufWriter *writer, const char *key, float value);
void gguf_put_bool(GgufWriter *writer, const char *key, bool value);
void gguf_put_string(GgufWriter *writer, const char *key, const char *value, size_t length);
void gguf_put_array(GgufWriter *writer, const char *key, GgufType element, const void *data, uint64_t count);  // plain numbers
void gguf_put_string_array(GgufWriter *writer, const char *key, const GgufString *strings, uint64_t count);
void gguf_put_value(GgufWriter *writer, const GgufValue *value);  // a key carried over, byte for byte
void gguf_declare_tensor(GgufWriter *writer, const char *name, uint32_t type, int dimensions, const int64_t *shape);
Status gguf_writer_open(GgufWriter *writer, const char *path);  // writes the header
Status gguf_write_tensor(GgufWriter *writer, const void *data, size_t bytes);  // checks the size against the declaration
Status gguf_writer_commit(GgufWriter *writer);  // all tensors must have been written
void gguf_writer_abandon(GgufWriter *writer);  // safe after anything, also after commit

#endif
