// Writing GGUF v3: the layout is at the top of formats/gguf.c. Keys are encoded as they are put; the header is
// written once all tensors are declared, because it holds their offsets.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "formats/gguf.h"

typedef struct GgufWriterTensor {
  char *name;
  uint32_t type;
  int dimensions;
  int64_t shape[4];
  uint64_t bytes, offset;
} GgufWriterTensor;

void gguf_writer_new(GgufWriter *writer) { *writer = (GgufWriter){.alignment = 32}; }

// Keeps the first thing that went wrong, for gguf_writer_open.
static void note_failure(GgufWriter *writer, char *text) {
  if (writer->failure) free(text);
  else writer->failure = text;
}

// Keys and tensor names are apart: a space, which no key begins with, marks the tensors.
static void note_name(GgufWriter *writer, const char *mark, const char *name) {
  char *marked = memory_format("%s%s", mark, name);
  if (map_get_string(&writer->keys, marked, NULL)) note_failure(writer, memory_format("'%s' is declared twice", name));
  map_set_string(&writer->keys, marked, 0);
  free(marked);
}

static void append_string(Buffer *buffer, const char *bytes, size_t length) {
  uint64_t count = length;
  buffer_append(buffer, &count, sizeof count);
  buffer_append(buffer, bytes, length);
}

static void append_uint32(Buffer *buffer, uint32_t value) { buffer_append(buffer, &value, sizeof value); }

static void put_key(GgufWriter *writer, const char *key, GgufType type) {
  note_name(writer, "", key);
  append_string(&writer->header, key, strlen(key));
  append_uint32(&writer->header, type);
  writer->value_count++;
}

static void put_array_start(GgufWriter *writer, const char *key, GgufType element, uint64_t count) {
  put_key(writer, key, GGUF_ARRAY);
  append_uint32(&writer->header, element);
  buffer_append(&writer->header, &count, sizeof count);
}

void gguf_put_uint32(GgufWriter *writer, const char *key, uint32_t value) {
  put_key(writer, key, GGUF_UINT32);
  append_uint32(&writer->header, value);
  if (strcmp(key, "general.alignment") == 0) writer->alignment = value;
}

void gguf_put_float32(GgufWriter *writer, const char *key, float value) {
  put_key(writer, key, GGUF_FLOAT32);
  buffer_append(&writer->header, &value, sizeof value);
}

void gguf_put_bool(GgufWriter *writer, const char *key, bool value) {
  put_key(writer, key, GGUF_BOOL);
  buffer_append(&writer->header, value ? "\1" : "\0", 1);
}

void gguf_put_string(GgufWriter *writer, const char *key, const char *value, size_t length) {
  put_key(writer, key, GGUF_STRING);
  append_string(&writer->header, value, length);
}

static size_t element_bytes(GgufType type) {
  switch (type) {
    case GGUF_UINT8:
    case GGUF_INT8:
    case GGUF_BOOL: return 1;
    case GGUF_UINT16:
    case GGUF_INT16: return 2;
    case GGUF_UINT32:
    case GGUF_INT32:
    case GGUF_FLOAT32: return 4;
    case GGUF_UINT64:
    case GGUF_INT64:
    case GGUF_FLOAT64: return 8;
    default: return 0;
  }
}

void gguf_put_array(GgufWriter *writer, const char *key, GgufType element, const void *data, uint64_t count) {
  if (element_bytes(element) == 0) note_failure(writer, memory_format("key '%s' is declared as an array of no number type", key));
  put_array_start(writer, key, element, count);
  buffer_append(&writer->header, data, (size_t)count * element_bytes(element));
}

void gguf_put_string_array(GgufWriter *writer, const char *key, const GgufString *strings, uint64_t count) {
  put_array_start(writer, key, GGUF_STRING, count);
  for (uint64_t i = 0; i < count; i++) append_string(&writer->header, strings[i].data, strings[i].length);
}

void gguf_put_value(GgufWriter *writer, const GgufValue *value) {
  if (value->type == GGUF_ARRAY) put_array_start(writer, value->key, value->element, value->count);
  else put_key(writer, value->key, value->type);
  buffer_append(&writer->header, value->data, value->bytes);
  int64_t alignment;
  if (strcmp(value->key, "general.alignment") == 0 && gguf_array_integer(value, 0, &alignment)) writer->alignment = (uint64_t)alignment;
}

// The tensor's bytes, or 0 with a note of why nobody could read it.
static uint64_t tensor_bytes(GgufWriter *writer, const GgufWriterTensor *tensor) {
  const char *fault = NULL;
  BlockLayout layout;
  int64_t count = 1;
  uint64_t bytes = 0;
  if (strlen(tensor->name) > 63 || !text_is_printable(tensor->name, strlen(tensor->name)))
    fault = "has a name that is not 1 to 63 printable bytes";
  else if (!block_layout_any(&layout, tensor->type)) fault = "has a type that is not supported";
  else if (tensor->dimensions < 1 || tensor->dimensions > 4) fault = "has not 1 to 4 dimensions";
  for (int i = 0; !fault && i < tensor->dimensions; i++)
    if (tensor->shape[i] < 1 || __builtin_mul_overflow(count, tensor->shape[i], &count))
      fault = "has a dimension below 1, or a shape that overflows";
  if (!fault && tensor->shape[0] % layout.elements) fault = "has rows that its type's blocks do not divide";
  if (!fault && __builtin_mul_overflow((uint64_t)(count / layout.elements), (uint64_t)layout.bytes, &bytes)) fault = "overflows";
  if (fault) note_failure(writer, memory_format("tensor '%s' %s", tensor->name, fault));
  return fault ? 0 : bytes;
}

void gguf_declare_tensor(GgufWriter *writer, const char *name, uint32_t type, int dimensions, const int64_t *shape) {
  note_name(writer, " ", name);
  GgufWriterTensor tensor = {.name = memory_copy_string(name), .type = type, .dimensions = dimensions};
  for (int i = 0; i < dimensions && i < 4; i++) tensor.shape[i] = shape[i];
  tensor.bytes = tensor_bytes(writer, &tensor);
  ARRAY_PUSH(writer->tensors, writer->tensor_count, writer->tensor_capacity) = tensor;
}

static uint64_t padding_of(const GgufWriter *writer, uint64_t offset) {
  return (writer->alignment - offset % writer->alignment) % writer->alignment;
}

static void append_tensor_infos(GgufWriter *writer, Buffer *header) {
  uint64_t offset = 0;
  for (int64_t i = 0; i < writer->tensor_count; i++) {
    GgufWriterTensor *tensor = &writer->tensors[i];
    tensor->offset = offset;
    append_string(header, tensor->name, strlen(tensor->name));
    append_uint32(header, (uint32_t)tensor->dimensions);
    buffer_append(header, tensor->shape, (size_t)tensor->dimensions * sizeof *tensor->shape);
    append_uint32(header, tensor->type);
    buffer_append(header, &tensor->offset, sizeof tensor->offset);
    offset += tensor->bytes + padding_of(writer, tensor->bytes);
  }
}

Status gguf_writer_open(GgufWriter *writer, const char *path) {
  if (writer->alignment < 8 || writer->alignment > 1 << 16 || (writer->alignment & (writer->alignment - 1)))
    note_failure(writer, memory_format("general.alignment %" PRIu64 " is no power of two from 8 to 65536", writer->alignment));
  if (writer->failure) return status_fail(STATUS_FAILED, "%s: cannot be written as GGUF: %s", path, writer->failure);
  TRY(file_writer_open(&writer->file, path));
  Buffer infos = {0};
  append_tensor_infos(writer, &infos);
  const uint32_t version = 3;
  const uint64_t tensors = (uint64_t)writer->tensor_count;
  file_write(&writer->file, "GGUF", 4);
  file_write(&writer->file, &version, sizeof version);
  file_write(&writer->file, &tensors, sizeof tensors);
  file_write(&writer->file, &writer->value_count, sizeof writer->value_count);
  file_write(&writer->file, writer->header.data, writer->header.length);
  file_write(&writer->file, infos.data, infos.length);
  file_write_zeros(&writer->file, (size_t)padding_of(writer, writer->file.offset));
  buffer_release(&infos);
  return STATUS_OK;
}

Status gguf_write_tensor(GgufWriter *writer, const void *data, size_t bytes) {
  if (writer->tensors_written == writer->tensor_count)
    return status_fail(STATUS_FAILED, "%s: a tensor of %zu bytes is written behind the last declared one", writer->file.path, bytes);
  const GgufWriterTensor *tensor = &writer->tensors[writer->tensors_written];
  if (bytes != tensor->bytes)
    return status_fail(STATUS_FAILED, "%s: tensor '%s': %zu bytes are written where %" PRIu64 " were declared", writer->file.path,
                       tensor->name, bytes, tensor->bytes);
  file_write(&writer->file, data, bytes);
  file_write_zeros(&writer->file, (size_t)padding_of(writer, writer->file.offset));
  writer->tensors_written++;
  // Found out now, a full disk does not cost the rest of the work.
  if (writer->file.error) return status_errno(STATUS_FAILED, writer->file.error, "%s: cannot be written", writer->file.path);
  return STATUS_OK;
}

Status gguf_writer_commit(GgufWriter *writer) {
  Status status = STATUS_OK;
  if (writer->tensors_written != writer->tensor_count)
    status = status_fail(STATUS_FAILED, "%s: %" PRId64 " of %" PRId64 " declared tensors were written", writer->file.path,
                         writer->tensors_written, writer->tensor_count);
  else status = file_writer_commit(&writer->file);
  gguf_writer_abandon(writer);
  return status;
}

void gguf_writer_abandon(GgufWriter *writer) {
  file_writer_abandon(&writer->file);
  for (int64_t i = 0; i < writer->tensor_count; i++) free(writer->tensors[i].name);
  free(writer->tensors);
  free(writer->failure);
  buffer_release(&writer->header);
  map_release(&writer->keys);
  gguf_writer_new(writer);
}
