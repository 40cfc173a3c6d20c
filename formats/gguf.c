// Reading GGUF. All numbers little-endian (the host is taken to be that too):
//   "GGUF", u32 version, u64 tensors, u64 keys
//   each key:    string, u32 type, value; a string is u64 length and bytes; an array u32 element type, u64 count, elements
//   each tensor: string name, u32 dimensions, u64 shape[] (fastest first), u32 type, u64 offset into the data
//   padding to general.alignment (32 when absent), then the data
// Everything here comes from a file that may be hostile: no number is used before it was compared with what is left of
// the file, and what is allocated grows with the file, not with what it claims.
#include "formats/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "formats/foreign.h"
#include "formats/gguf_check.h"
#include "formats/gguf_parts.h"

enum {
  DEFAULT_ALIGNMENT = 32,
  MINIMUM_ALIGNMENT = 8,
  MAXIMUM_ALIGNMENT = 1 << 16,
  MAXIMUM_COUNT = 1 << 30,  // of a string's bytes and an array's elements
  MAXIMUM_KEYS = 1 << 16,  // real files have some dozens
  MAXIMUM_KEY_LENGTH = 65535,  // the specification's
  MAXIMUM_NAME_LENGTH = 63,  // ggml keeps names in 64 bytes
};

#define DAMAGED "the file is damaged or cut short: fetch it again"

typedef struct Reader {
  Gguf *gguf;
  const uint8_t *data;
  size_t size, offset;
} Reader;

static size_t bytes_left(const Reader *reader) { return reader->size - reader->offset; }

static Status take_bytes(Reader *reader, void *out, size_t length, const char *what) {
  if (bytes_left(reader) < length) return status_fail(STATUS_BAD_INPUT, "%s: ends inside %s; " DAMAGED, reader->gguf->path, what);
  memcpy(out, reader->data + reader->offset, length);
  reader->offset += length;
  return STATUS_OK;
}

static Status take_string(Reader *reader, GgufString *out, const char *what) {
  uint64_t length = 0;
  TRY(take_bytes(reader, &length, sizeof length, what));
  if (length > MAXIMUM_COUNT || length > bytes_left(reader))
    return status_fail(STATUS_BAD_INPUT,
                       "%s: %s: a string of %" PRIu64 " bytes where the file has %zu left (and at most 2^30 are allowed); " DAMAGED,
                       reader->gguf->path, what, length, bytes_left(reader));
  *out = (GgufString){(const char *)reader->data + reader->offset, (size_t)length};
  reader->offset += (size_t)length;
  return STATUS_OK;
}

// A key or a tensor's name: printable UTF-8 of 1 to `limit` bytes, copied with a NUL.
static Status take_name(Reader *reader, const char **out, size_t limit, const char *what) {
  GgufString text = {0};
  TRY(take_string(reader, &text, what));
  if (text.length > limit || !text_is_printable(text.data, text.length))
    return status_fail(STATUS_BAD_INPUT, "%s: %s is not 1 to %zu bytes of printable UTF-8 (it has %zu bytes); " DAMAGED, reader->gguf->path,
                       what, limit, text.length);
  *out = arena_copy_bytes(&reader->gguf->arena, text.data, text.length);
  return STATUS_OK;
}

// Bytes of one number of the type; 0 for strings, arrays and types that GGUF does not have.
static size_t number_bytes(uint32_t type) {
  static const uint8_t bytes[] = {
      [GGUF_UINT8] = 1,   [GGUF_INT8] = 1, [GGUF_UINT16] = 2, [GGUF_INT16] = 2, [GGUF_UINT32] = 4,  [GGUF_INT32] = 4,
      [GGUF_FLOAT32] = 4, [GGUF_BOOL] = 1, [GGUF_UINT64] = 8, [GGUF_INT64] = 8, [GGUF_FLOAT64] = 8,
  };
  return type < sizeof bytes ? bytes[type] : 0;
}

static Status take_numbers(Reader *reader, GgufValue *value, uint32_t type, uint64_t count) {
  const char *path = reader->gguf->path;
  size_t size = number_bytes(type);
  if (size == 0)
    return status_fail(STATUS_BAD_INPUT, "%s: key '%s': type %u is unknown or an array in an array; " DAMAGED, path, value->key, type);
  if (count > bytes_left(reader) / size)
    return status_fail(STATUS_BAD_INPUT, "%s: key '%s': %" PRIu64 " elements of %zu bytes where the file has %zu bytes left; " DAMAGED,
                       path, value->key, count, size, bytes_left(reader));
  value->data = reader->data + reader->offset;
  value->bytes = (size_t)count * size;
  reader->offset += value->bytes;
  for (uint64_t i = 0; type == GGUF_BOOL && i < count; i++)
    if (value->data[i] > 1)
      return status_fail(STATUS_BAD_INPUT, "%s: key '%s': a bool of value %u; " DAMAGED, path, value->key, value->data[i]);
  return STATUS_OK;
}

static Status take_strings(Reader *reader, GgufValue *value, uint64_t count) {
  if (count > bytes_left(reader) / sizeof(uint64_t))
    return status_fail(STATUS_BAD_INPUT, "%s: key '%s': %" PRIu64 " strings where the file has %zu bytes left; " DAMAGED,
                       reader->gguf->path, value->key, count, bytes_left(reader));
  GgufString *strings = arena_new(&reader->gguf->arena, (size_t)count, sizeof *strings);
  size_t start = reader->offset;
  for (uint64_t i = 0; i < count; i++) {
    Status status = take_string(reader, &strings[i], "a value");
    if (status) return status_context(status, "key '%s', string %" PRIu64, value->key, i);
  }
  value->data = reader->data + start;
  value->bytes = reader->offset - start;
  value->strings = strings;
  return STATUS_OK;
}

static Status take_value(Reader *reader, GgufValue *value) {
  Gguf *gguf = reader->gguf;
  TRY(take_name(reader, &value->key, MAXIMUM_KEY_LENGTH, "a key"));
  uint32_t type = 0, element = 0;
  uint64_t count = 1;
  TRY(take_bytes(reader, &type, sizeof type, value->key));
  if (type == GGUF_ARRAY) {
    TRY(take_bytes(reader, &element, sizeof element, value->key));
    TRY(take_bytes(reader, &count, sizeof count, value->key));
    if (count > MAXIMUM_COUNT)
      return status_fail(STATUS_BAD_INPUT, "%s: key '%s': an array of %" PRIu64 " elements, over the limit of 2^30; " DAMAGED, gguf->path,
                         value->key, count);
  }
  uint32_t number = type == GGUF_ARRAY ? element : type;
  if (number == GGUF_STRING) TRY(take_strings(reader, value, count));
  else TRY(take_numbers(reader, value, number, count));
  value->type = (GgufType)type;
  value->element = (GgufType)number;
  value->count = count;
  if (map_get_string(&gguf->value_index, value->key, NULL))
    return status_fail(STATUS_BAD_INPUT, "%s: key '%s' is there twice; the file is damaged: fetch or convert it again", gguf->path,
                       value->key);
  map_set_string(&gguf->value_index, value->key, value - gguf->values);
  return STATUS_OK;
}

static Status take_tensor(Reader *reader, GgufTensor *tensor, uint64_t *offset) {
  Gguf *gguf = reader->gguf;
  uint32_t dimensions = 0;
  TRY(take_name(reader, &tensor->name, MAXIMUM_NAME_LENGTH, "a tensor's name"));
  TRY(take_bytes(reader, &dimensions, sizeof dimensions, tensor->name));
  if (dimensions < 1 || dimensions > 4)
    return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s' has %u dimensions, not 1 to 4; " DAMAGED, gguf->path, tensor->name, dimensions);
  tensor->dimensions = (int)dimensions;
  int64_t count = 1;
  for (int i = 0; i < 4; i++) {
    tensor->shape[i] = 1;
    if (i < tensor->dimensions) TRY(take_bytes(reader, &tensor->shape[i], sizeof tensor->shape[i], tensor->name));
    if (tensor->shape[i] < 1 || __builtin_mul_overflow(count, tensor->shape[i], &count))
      return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s': its shape has a dimension below 1 or overflows; " DAMAGED, gguf->path,
                         tensor->name);
  }
  TRY(take_bytes(reader, &tensor->type, sizeof tensor->type, tensor->name));
  TRY(take_bytes(reader, offset, sizeof *offset, tensor->name));
  BlockLayout layout;
  if (!block_layout_any(&layout, tensor->type))
    return status_fail(
        STATUS_BAD_INPUT,
        "%s: tensor '%s' has the unknown type %u; the file is damaged or of a newer GGUF: convert it to one of f32, bf16, q8_0", gguf->path,
        tensor->name, tensor->type);
  if (tensor->shape[0] % layout.elements)
    return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s': rows of %" PRId64 " values do not divide into %s blocks of %d; " DAMAGED,
                       gguf->path, tensor->name, tensor->shape[0], layout.name, layout.elements);
  if (__builtin_mul_overflow((size_t)(count / layout.elements), (size_t)layout.bytes, &tensor->bytes))
    return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s': its size overflows; " DAMAGED, gguf->path, tensor->name);
  if (map_get_string(&gguf->tensor_index, tensor->name, NULL))
    return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s' is there twice; the file is damaged: fetch or convert it again", gguf->path,
                       tensor->name);
  map_set_string(&gguf->tensor_index, tensor->name, tensor - gguf->tensors);
  return STATUS_OK;
}

static Status read_alignment(Gguf *gguf) {
  gguf->alignment = DEFAULT_ALIGNMENT;
  const GgufValue *value = gguf_find(gguf, "general.alignment");
  if (!value) return STATUS_OK;
  int64_t alignment = 0;
  bool is_integer = gguf_get_integer(gguf, "general.alignment", &alignment);
  if (!is_integer || alignment < MINIMUM_ALIGNMENT || alignment > MAXIMUM_ALIGNMENT || (alignment & (alignment - 1)))
    return status_fail(STATUS_BAD_INPUT, "%s: key 'general.alignment' is not a power of two from %d to %d; " DAMAGED, gguf->path,
                       MINIMUM_ALIGNMENT, MAXIMUM_ALIGNMENT);
  gguf->alignment = (uint64_t)alignment;
  return STATUS_OK;
}

typedef struct Range {
  uint64_t start, end;
  const GgufTensor *tensor;
} Range;

static int compare_ranges(const void *a, const void *b) {
  const Range *x = a, *y = b;
  return x->start != y->start ? (x->start < y->start ? -1 : 1) : (x->end > y->end) - (x->end < y->end);
}

static Status check_overlaps(const Gguf *gguf, Range *ranges) {
  qsort(ranges, (size_t)gguf->tensor_count, sizeof *ranges, compare_ranges);
  for (int64_t i = 1; i < gguf->tensor_count; i++)
    if (ranges[i].start < ranges[i - 1].end)
      return status_fail(STATUS_BAD_INPUT, "%s: tensors '%s' and '%s' overlap; the file is damaged: fetch or convert it again", gguf->path,
                         ranges[i - 1].tensor->name, ranges[i].tensor->name);
  return STATUS_OK;
}

// Places each tensor at its offset behind the header, which ends at the reader's offset.
static Status place_tensors(Reader *reader, const uint64_t *offsets) {
  Gguf *gguf = reader->gguf;
  if (gguf->tensor_count == 0) return STATUS_OK;
  uint64_t start = (reader->offset + gguf->alignment - 1) / gguf->alignment * gguf->alignment;
  Range *ranges = memory_new((size_t)gguf->tensor_count, sizeof *ranges);
  Status status = STATUS_OK;
  for (int64_t i = 0; status == STATUS_OK && i < gguf->tensor_count; i++) {
    GgufTensor *tensor = &gguf->tensors[i];
    uint64_t bytes = tensor->bytes, room = reader->size > start ? reader->size - start : 0;
    if (offsets[i] % gguf->alignment)
      status =
          status_fail(STATUS_BAD_INPUT, "%s: tensor '%s': its offset %" PRIu64 " is no multiple of the alignment %" PRIu64 "; " DAMAGED,
                      gguf->path, tensor->name, offsets[i], gguf->alignment);
    else if (offsets[i] > room || bytes > room - offsets[i])
      status = status_fail(STATUS_BAD_INPUT,
                           "%s: tensor '%s': %" PRIu64 " bytes at offset %" PRIu64 " end behind the file's %zu bytes; " DAMAGED, gguf->path,
                           tensor->name, bytes, offsets[i], reader->size);
    else tensor->data = reader->data + start + offsets[i];
    ranges[i] = (Range){offsets[i], offsets[i] + bytes, tensor};
  }
  if (status == STATUS_OK) status = check_overlaps(gguf, ranges);
  free(ranges);
  return status;
}

static Status check_magic(Reader *reader) {
  const char *path = reader->gguf->path;
  if (reader->size < 4 || memcmp(reader->data, "GGUF", 4) != 0) {
    TRY(foreign_refuse(path, reader->data, reader->size));
    bool is_safetensors = reader->size > 8 && reader->data[8] == '{';
    return status_fail(STATUS_BAD_INPUT, "%s: not a GGUF file (%s); give a .gguf file or a Hugging Face folder", path,
                       is_safetensors ? "it looks like safetensors, whose folder is to be given" : "it does not begin with \"GGUF\"");
  }
  reader->offset = 4;
  uint32_t version = 0;
  TRY(take_bytes(reader, &version, sizeof version, "the header"));
  if (version == 0x02000000 || version == 0x03000000)
    return status_fail(STATUS_BAD_INPUT, "%s: a big-endian GGUF; convert it with gguf_convert_endian.py", path);
  if (version != 2 && version != 3)
    return status_fail(STATUS_BAD_INPUT, "%s: GGUF version %u, where 2 and 3 are read; convert the model with a present llama.cpp", path,
                       version);
  reader->gguf->version = version;
  return STATUS_OK;
}

Status gguf_parse_header(Gguf *gguf, const uint8_t *data, size_t size) {
  Reader header = {.gguf = gguf, .data = data, .size = size}, *reader = &header;
  uint64_t tensors = 0, values = 0;
  TRY(check_magic(reader));
  TRY(take_bytes(reader, &tensors, sizeof tensors, "the header"));
  TRY(take_bytes(reader, &values, sizeof values, "the header"));
  // The least that a key takes: a name of one byte, a type, a value of one byte; a tensor has one dimension.
  const size_t least_value = 8 + 1 + 4 + 1, least_tensor = 8 + 1 + 4 + 8 + 4 + 8;
  if (values > MAXIMUM_KEYS || values > bytes_left(reader) / least_value)
    return status_fail(STATUS_BAD_INPUT, "%s: %" PRIu64 " keys in a file of %zu bytes (and at most %d are allowed); " DAMAGED, gguf->path,
                       values, reader->size, MAXIMUM_KEYS);
  if (tensors > GGUF_MAXIMUM_TENSORS || tensors > bytes_left(reader) / least_tensor)
    return status_fail(STATUS_BAD_INPUT, "%s: %" PRIu64 " tensors in a file of %zu bytes (and at most %d are allowed); " DAMAGED,
                       gguf->path, tensors, reader->size, GGUF_MAXIMUM_TENSORS);
  gguf->values = arena_new(&gguf->arena, (size_t)values, sizeof *gguf->values);
  gguf->tensors = arena_new(&gguf->arena, (size_t)tensors, sizeof *gguf->tensors);
  uint64_t *offsets = arena_new(&gguf->arena, (size_t)tensors, sizeof *offsets);
  for (; gguf->value_count < (int64_t)values; gguf->value_count++) TRY(take_value(reader, &gguf->values[gguf->value_count]));
  TRY(read_alignment(gguf));
  for (; gguf->tensor_count < (int64_t)tensors; gguf->tensor_count++)
    TRY(take_tensor(reader, &gguf->tensors[gguf->tensor_count], &offsets[gguf->tensor_count]));
  return place_tensors(reader, offsets);
}

Status gguf_parse(Gguf *gguf, const char *path, const uint8_t *data, size_t size) {
  *gguf = (Gguf){.path = memory_copy_string(path)};
  Status status = gguf_parse_header(gguf, data, size);
  if (status == STATUS_OK) status = gguf_check_contents(gguf);
  if (status != STATUS_OK) gguf_close(gguf);
  return status;
}

Status gguf_examine(Gguf *gguf, const char *path) {
  *gguf = (Gguf){.path = memory_copy_string(path)};
  TRY(file_map(&gguf->map, path));
  TRY(gguf_parse_header(gguf, gguf->map.data, gguf->map.size));
  TRY(gguf_add_shards(gguf));
  return gguf_check_contents(gguf);
}

Status gguf_open(Gguf *gguf, const char *path) {
  Status status = gguf_examine(gguf, path);
  if (status != STATUS_OK) gguf_close(gguf);
  return status;
}

void gguf_close(Gguf *gguf) {
  free(gguf->path);
  map_release(&gguf->value_index);
  map_release(&gguf->tensor_index);
  arena_release(&gguf->arena);
  file_unmap(&gguf->map);
  for (int i = 0; i < gguf->shard_count; i++) {
    file_unmap(&gguf->shard_maps[i]);
    free(gguf->shard_paths[i]);
  }
  free(gguf->shard_maps);
  free(gguf->shard_paths);
  *gguf = (Gguf){0};
}

const GgufValue *gguf_find(const Gguf *gguf, const char *key) {
  int64_t index;
  return map_get_string(&gguf->value_index, key, &index) ? &gguf->values[index] : NULL;
}

const GgufTensor *gguf_find_tensor(const Gguf *gguf, const char *name) {
  int64_t index;
  return map_get_string(&gguf->tensor_index, name, &index) ? &gguf->tensors[index] : NULL;
}

bool gguf_array_integer(const GgufValue *value, uint64_t index, int64_t *out) {
  if (index >= value->count) return false;
  size_t size = number_bytes(value->element);
  uint64_t bits = 0;
  if (size) memcpy(&bits, value->data + index * size, size);
  switch (value->element) {
    case GGUF_UINT8:
    case GGUF_UINT16:
    case GGUF_UINT32: *out = (int64_t)bits; return true;
    case GGUF_UINT64:
      if (bits > INT64_MAX) return false;
      *out = (int64_t)bits;
      return true;
    case GGUF_INT8: *out = (int8_t)bits; return true;
    case GGUF_INT16: *out = (int16_t)bits; return true;
    case GGUF_INT32: *out = (int32_t)bits; return true;
    case GGUF_INT64: *out = (int64_t)bits; return true;
    default: return false;
  }
}

bool gguf_array_float(const GgufValue *value, uint64_t index, double *out) {
  if (index >= value->count) return false;
  int64_t integer;
  if (value->element == GGUF_FLOAT32) {
    float number;
    memcpy(&number, value->data + index * sizeof number, sizeof number);
    *out = number;
  } else if (value->element == GGUF_FLOAT64) {
    memcpy(out, value->data + index * sizeof *out, sizeof *out);
  } else if (gguf_array_integer(value, index, &integer)) {
    *out = (double)integer;
  } else {
    return false;
  }
  return true;
}

static const GgufValue *find_scalar(const Gguf *gguf, const char *key) {
  const GgufValue *value = gguf_find(gguf, key);
  return value && value->type != GGUF_ARRAY ? value : NULL;
}

bool gguf_get_integer(const Gguf *gguf, const char *key, int64_t *value) {
  const GgufValue *found = find_scalar(gguf, key);
  return found && gguf_array_integer(found, 0, value);
}

bool gguf_get_float(const Gguf *gguf, const char *key, double *value) {
  const GgufValue *found = find_scalar(gguf, key);
  return found && gguf_array_float(found, 0, value);
}

bool gguf_get_bool(const Gguf *gguf, const char *key, bool *value) {
  const GgufValue *found = find_scalar(gguf, key);
  if (!found || found->type != GGUF_BOOL) return false;
  *value = found->data[0] != 0;
  return true;
}

bool gguf_get_string(const Gguf *gguf, const char *key, GgufString *value) {
  const GgufValue *found = find_scalar(gguf, key);
  if (!found || found->type != GGUF_STRING) return false;
  *value = found->strings[0];
  return true;
}
