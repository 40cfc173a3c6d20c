// Reading one safetensors file:
//   u64 header length N, little-endian, <= 100,000,000
//   N bytes of JSON: {"__metadata__": {string: string}, NAME: {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, ..}
//   the data; offsets count from its start, and the tensors cover it from 0 to its end without hole or overlap
// Specification: https://github.com/huggingface/safetensors#format. Sharded models are in formats/safetensors_shards.c.
#include "formats/safetensors.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "formats/block.h"
#include "formats/foreign.h"
#include "formats/json_scan.h"
#include "formats/safetensors_parts.h"

enum {
  MAXIMUM_HEADER = 100000000,
  MAXIMUM_TENSORS = 1 << 17,  // the largest public models have some 90,000 over all their shards
  MAXIMUM_METADATA = 1 << 16,
  MAXIMUM_METADATA_VALUE = 1 << 24,
  MAXIMUM_NAME = 1024,
  MAXIMUM_ENTRY = 4096,  // of one tensor's JSON: a type, 8 dimensions and 2 offsets take 300 bytes
};

static const struct {
  const char *name;
  int bytes;
} types[] = {
    [ST_BOOL] = {"BOOL", 1}, [ST_U8] = {"U8", 1},   [ST_I8] = {"I8", 1},   [ST_F8_E4M3] = {"F8_E4M3", 1}, [ST_F8_E5M2] = {"F8_E5M2", 1},
    [ST_I16] = {"I16", 2},   [ST_U16] = {"U16", 2}, [ST_F16] = {"F16", 2}, [ST_BF16] = {"BF16", 2},       [ST_I32] = {"I32", 4},
    [ST_U32] = {"U32", 4},   [ST_F32] = {"F32", 4}, [ST_F64] = {"F64", 8}, [ST_I64] = {"I64", 8},         [ST_U64] = {"U64", 8},
};

const char *safetensors_type_name(SafetensorsType type) { return types[type].name; }
int safetensors_type_bytes(SafetensorsType type) { return types[type].bytes; }

static bool type_from_name(SafetensorsType *type, const char *name) {
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    if (strcmp(types[i].name, name) != 0) continue;
    *type = (SafetensorsType)i;
    return true;
  }
  return false;
}

char *safetensors_json_string(JsonText text, size_t limit) {
  json_t *json = json_text_load(text, limit);
  char *copy = memory_copy_string(json_string_value(json));
  json_decref(json);
  return copy;
}

static Status read_shape(SafetensorsTensor *tensor, const json_t *shape, const char *path) {
  size_t dimensions = json_array_size(shape);
  if (!json_is_array(shape) || dimensions > SAFETENSORS_MAX_DIMENSIONS)
    return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s': 'shape' is no array of at most %d dimensions; " SAFETENSORS_DAMAGED, path,
                       tensor->name, SAFETENSORS_MAX_DIMENSIONS);
  tensor->dimensions = (int)dimensions;
  tensor->count = 1;
  for (size_t i = 0; i < dimensions; i++) {
    const json_t *size = json_array_get(shape, i);
    tensor->shape[i] = json_integer_value(size);
    if (!json_is_integer(size) || tensor->shape[i] < 0 || __builtin_mul_overflow(tensor->count, tensor->shape[i], &tensor->count))
      return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s': its shape has a negative or no dimension, or overflows; " SAFETENSORS_DAMAGED,
                         path, tensor->name);
  }
  return STATUS_OK;
}

// `tensor` has its name and file; sets the rest but the data, which lies at *begin.
static Status read_entry(SafetensorsTensor *tensor, int64_t *begin, const json_t *entry, const char *path, size_t data_size) {
  const json_t *dtype = json_object_get(entry, "dtype"), *offsets = json_object_get(entry, "data_offsets");
  if (json_object_size(entry) != 3 || !json_is_string(dtype) || json_array_size(offsets) != 2)
    return status_fail(STATUS_BAD_INPUT,
                       "%s: tensor '%s' is not described by 'dtype', 'shape' and two 'data_offsets'; " SAFETENSORS_DAMAGED, path,
                       tensor->name);
  if (!type_from_name(&tensor->type, json_string_value(dtype)))
    return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s' has the type '%.32s', which is not read; convert it to BF16 or F32", path,
                       tensor->name, json_string_value(dtype));
  TRY(read_shape(tensor, json_object_get(entry, "shape"), path));
  const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
  int64_t end = json_integer_value(last);
  *begin = json_integer_value(first);
  if (!json_is_integer(first) || !json_is_integer(last) || *begin < 0 || end < *begin || (uint64_t)end > data_size)
    return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s': 'data_offsets' lie outside the %zu bytes of data; " SAFETENSORS_DAMAGED, path,
                       tensor->name, data_size);
  tensor->bytes = (size_t)(end - *begin);
  int64_t expected;
  if (__builtin_mul_overflow(tensor->count, (int64_t)types[tensor->type].bytes, &expected) || expected != end - *begin)
    return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s': %zu bytes do not hold its shape in %s; " SAFETENSORS_DAMAGED, path, tensor->name,
                       tensor->bytes, types[tensor->type].name);
  return STATUS_OK;
}

static Status add_tensor(SafetensorsParse *parse, JsonText key, JsonText value) {
  Safetensors *out = parse->out;
  char *name = safetensors_json_string(key, MAXIMUM_NAME + 2);
  if (!name || !text_is_printable(name, strlen(name))) {
    free(name);
    return status_fail(STATUS_BAD_INPUT, "%s: a tensor's name is not 1 to %d bytes of printable UTF-8; " SAFETENSORS_DAMAGED, parse->path,
                       MAXIMUM_NAME);
  }
  SafetensorsTensor tensor = {.name = arena_copy_string(&out->arena, name), .file = parse->file};
  free(name);
  if (map_get_string(&out->index, tensor.name, NULL))
    return status_fail(STATUS_BAD_INPUT, "%s: tensor '%s' is there twice; the file is damaged: fetch or write it again", parse->path,
                       tensor.name);
  if (out->tensor_count - parse->first == MAXIMUM_TENSORS)
    return status_fail(STATUS_BAD_INPUT, "%s: more than %d tensors; split the model into shards", parse->path, MAXIMUM_TENSORS);
  json_t *entry = json_text_load(value, MAXIMUM_ENTRY);
  int64_t begin = 0;
  Status status =
      json_is_object(entry)
          ? read_entry(&tensor, &begin, entry, parse->path, parse->data_size)
          : status_fail(STATUS_BAD_INPUT, "%s: tensor '%s' is not described by a JSON object of at most %d bytes; " SAFETENSORS_DAMAGED,
                        parse->path, tensor.name, MAXIMUM_ENTRY);
  json_decref(entry);
  TRY(status);
  tensor.data = parse->data + begin;
  map_set_string(&out->index, tensor.name, out->tensor_count);
  ARRAY_PUSH(out->tensors, out->tensor_count, parse->capacity) = tensor;
  return STATUS_OK;
}

static Status malformed(const char *path, const char *what) {
  return status_fail(STATUS_BAD_INPUT, "%s: %s is not valid JSON of the safetensors layout; " SAFETENSORS_DAMAGED, path, what);
}

// A pair of strings; kept from the first file only.
static Status add_metadata(SafetensorsParse *parse, Map *seen, JsonText key, JsonText value) {
  Safetensors *out = parse->out;
  char *name = safetensors_json_string(key, MAXIMUM_METADATA_VALUE), *text = safetensors_json_string(value, MAXIMUM_METADATA_VALUE);
  Status status = STATUS_OK;
  if (!name || !text)
    status = status_fail(STATUS_BAD_INPUT, "%s: '__metadata__' does not map strings to strings of at most %d bytes; " SAFETENSORS_DAMAGED,
                         parse->path, MAXIMUM_METADATA_VALUE);
  else if (map_get_string(seen, name, NULL) || seen->count == MAXIMUM_METADATA)
    status = status_fail(STATUS_BAD_INPUT, "%s: '__metadata__' has the key '%.64s' twice, or more than %d keys; " SAFETENSORS_DAMAGED,
                         parse->path, name, MAXIMUM_METADATA);
  if (status == STATUS_OK) map_set_string(seen, name, 0);
  if (status == STATUS_OK && parse->file == 0) {
    out->metadata_keys = memory_grow(out->metadata_keys, (size_t)out->metadata_count + 1, sizeof *out->metadata_keys);
    out->metadata_values = memory_grow(out->metadata_values, (size_t)out->metadata_count + 1, sizeof *out->metadata_values);
    out->metadata_keys[out->metadata_count] = name;
    out->metadata_values[out->metadata_count++] = text;
    return STATUS_OK;
  }
  free(name);
  free(text);
  return status;
}

static Status add_metadata_object(SafetensorsParse *parse, JsonText object) {
  JsonScan scan = json_scan(object);
  JsonText key, value;
  Map seen = {0};
  Status status = STATUS_OK;
  while (status == STATUS_OK && json_scan_next(&scan, &key, &value)) status = add_metadata(parse, &seen, key, value);
  map_release(&seen);
  if (status == STATUS_OK && scan.is_malformed) status = malformed(parse->path, "'__metadata__'");
  return status;
}

static int compare_places(const void *a, const void *b) {
  const SafetensorsTensor *x = *(const SafetensorsTensor *const *)a, *y = *(const SafetensorsTensor *const *)b;
  if (x->data != y->data) return x->data < y->data ? -1 : 1;
  return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

// The file's tensors, in order of their places, cover the data from its start to its end.
static Status check_cover(const SafetensorsParse *parse) {
  size_t count = (size_t)(parse->out->tensor_count - parse->first);
  const SafetensorsTensor **sorted = memory_new(count, sizeof *sorted);
  for (size_t i = 0; i < count; i++) sorted[i] = &parse->out->tensors[parse->first + (int64_t)i];
  qsort(sorted, count, sizeof *sorted, compare_places);
  const uint8_t *end = parse->data;
  Status status = STATUS_OK;
  for (size_t i = 0; status == STATUS_OK && i < count; end = (const uint8_t *)sorted[i]->data + sorted[i]->bytes, i++)
    if (sorted[i]->data != (const void *)end)
      status = status_fail(STATUS_BAD_INPUT, "%s: tensor '%s' leaves a hole before it or overlaps another; " SAFETENSORS_DAMAGED,
                           parse->path, sorted[i]->name);
  free(sorted);
  if (status == STATUS_OK && (size_t)(end - parse->data) != parse->data_size)
    status = status_fail(STATUS_BAD_INPUT, "%s: the tensors cover %zu of the %zu bytes of data; " SAFETENSORS_DAMAGED, parse->path,
                         (size_t)(end - parse->data), parse->data_size);
  return status;
}

static Status refuse_foreign(const char *path, const uint8_t *data, size_t size) {
  bool may_be_ours = size < 9 || data[8] == '{';
  if (!may_be_ours && memcmp(data, "GGUF", 4) == 0)
    return status_fail(STATUS_BAD_INPUT, "%s: a GGUF file, not safetensors; give it a name that ends in .gguf", path);
  return foreign_refuse(path, data, may_be_ours ? 0 : size);
}

static Status parse_header(SafetensorsParse *parse, const uint8_t *data, size_t size) {
  TRY(refuse_foreign(parse->path, data, size));
  uint64_t length = 0;
  if (size < sizeof length)
    return status_fail(STATUS_BAD_INPUT, "%s: %zu bytes are too few for safetensors; " SAFETENSORS_DAMAGED, parse->path, size);
  memcpy(&length, data, sizeof length);
  if (length > MAXIMUM_HEADER || length > size - sizeof length)
    return status_fail(STATUS_BAD_INPUT,
                       "%s: a header of %" PRIu64 " bytes in a file of %zu (and at most %d are allowed); " SAFETENSORS_DAMAGED, parse->path,
                       length, size, MAXIMUM_HEADER);
  JsonText header = {(const char *)data + sizeof length, (size_t)length}, key, value;
  if (length < 2 || header.data[0] != '{') return malformed(parse->path, "the header");
  parse->data = data + sizeof length + length;
  parse->data_size = size - sizeof length - (size_t)length;
  const char metadata[] = "\"__metadata__\"";
  bool has_metadata = false;
  JsonScan scan = json_scan(header);
  while (json_scan_next(&scan, &key, &value)) {
    if (key.length != sizeof metadata - 1 || memcmp(key.data, metadata, key.length) != 0) {
      TRY(add_tensor(parse, key, value));
    } else {
      if (has_metadata) return status_fail(STATUS_BAD_INPUT, "%s: '__metadata__' is there twice; " SAFETENSORS_DAMAGED, parse->path);
      has_metadata = true;
      TRY(add_metadata_object(parse, value));
    }
  }
  if (scan.is_malformed) return malformed(parse->path, "the header");
  return check_cover(parse);
}

Status safetensors_parse_file(SafetensorsParse *parse, const char *path, const uint8_t *data, size_t size) {
  Safetensors *out = parse->out;
  parse->path = path;
  parse->file = out->path_count;
  parse->first = out->tensor_count;
  out->paths = memory_grow(out->paths, (size_t)out->path_count + 1, sizeof *out->paths);
  out->maps = memory_grow(out->maps, (size_t)out->path_count + 1, sizeof *out->maps);
  out->maps[out->path_count] = (FileMap){0};
  out->paths[out->path_count++] = memory_copy_string(path);
  return parse_header(parse, data, size);
}

Status safetensors_parse(Safetensors *out, const char *path, const uint8_t *data, size_t size) {
  *out = (Safetensors){0};
  SafetensorsParse parse = {.out = out};
  Status status = safetensors_parse_file(&parse, path, data, size);
  if (status != STATUS_OK) safetensors_close(out);
  return status;
}

void safetensors_close(Safetensors *st) {
  for (int i = 0; i < st->path_count; i++) {
    file_unmap(&st->maps[i]);
    free(st->paths[i]);
  }
  for (int64_t i = 0; i < st->metadata_count; i++) {
    free(st->metadata_keys[i]);
    free(st->metadata_values[i]);
  }
  free(st->maps);
  free(st->paths);
  free(st->metadata_keys);
  free(st->metadata_values);
  free(st->tensors);
  map_release(&st->index);
  arena_release(&st->arena);
  *st = (Safetensors){0};
}

const SafetensorsTensor *safetensors_find(const Safetensors *st, const char *name) {
  int64_t index;
  return map_get_string(&st->index, name, &index) ? &st->tensors[index] : NULL;
}

bool safetensors_to_float(float *out, const SafetensorsTensor *tensor, int64_t first, int64_t count) {
  assert(first >= 0 && count >= 0 && first <= tensor->count - count);
  const uint8_t *data = (const uint8_t *)tensor->data + first * types[tensor->type].bytes;
  if (tensor->type == ST_F64) {
    for (int64_t i = 0; i < count; i++) {
      double value;
      memcpy(&value, data + 8 * i, sizeof value);
      out[i] = (float)value;
    }
    return true;
  }
  if (tensor->type != ST_F32 && tensor->type != ST_F16 && tensor->type != ST_BF16) return false;
  BlockType type = tensor->type == ST_F32 ? BLOCK_F32 : tensor->type == ST_F16 ? BLOCK_F16 : BLOCK_BF16;
  block_traits(type)->dequantize(out, data, count);
  return true;
}
