// Writing safetensors: the layout is at the top of formats/safetensors.c. The header is padded with spaces so that the data
// begins at a multiple of 8; tensors follow each other in the order of declaration.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "formats/json_scan.h"
#include "formats/safetensors.h"

typedef struct SafetensorsEntry {
  char *name;
  SafetensorsType type;
  int dimensions;
  int64_t shape[SAFETENSORS_MAX_DIMENSIONS];
  uint64_t begin, end;
} SafetensorsEntry;

void safetensors_writer_new(SafetensorsWriter *writer) { *writer = (SafetensorsWriter){0}; }

static void note_failure(SafetensorsWriter *writer, char *text) {
  if (writer->failure) free(text);
  else writer->failure = text;
}

static void append_json_string(SafetensorsWriter *writer, Buffer *buffer, const char *text) {
  json_t *string = json_string(text);
  char *encoded = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
  if (encoded) buffer_append_string(buffer, encoded);
  else note_failure(writer, memory_format("a name or a metadata value is not UTF-8"));
  free(encoded);
  json_decref(string);
}

void safetensors_put_metadata(SafetensorsWriter *writer, const char *key, const char *value) {
  if (map_get_string(&writer->metadata_index, key, NULL)) note_failure(writer, memory_format("metadata key '%s' is put twice", key));
  map_set_string(&writer->metadata_index, key, 0);
  if (writer->metadata.length) buffer_append_string(&writer->metadata, ",");
  append_json_string(writer, &writer->metadata, key);
  buffer_append_string(&writer->metadata, ":");
  append_json_string(writer, &writer->metadata, value);
}

static const char *entry_fault(const SafetensorsWriter *writer, SafetensorsEntry *entry) {
  int64_t bytes = safetensors_type_bytes(entry->type);
  if (!text_is_printable(entry->name, strlen(entry->name)) || strcmp(entry->name, "__metadata__") == 0)
    return "has no name of printable UTF-8";
  if (map_get_string(&writer->index, entry->name, NULL)) return "is declared twice";
  if (entry->dimensions < 0 || entry->dimensions > SAFETENSORS_MAX_DIMENSIONS) return "has more than 8 dimensions";
  // Readers map elements in place; they want them aligned.
  if (writer->declared % (uint64_t)bytes) return "would begin at no multiple of its element's size: declare wider types first";
  for (int i = 0; i < entry->dimensions; i++)
    if (entry->shape[i] < 0 || __builtin_mul_overflow(bytes, entry->shape[i], &bytes)) return "has a negative dimension, or overflows";
  if (__builtin_add_overflow(writer->declared, (uint64_t)bytes, &entry->end)) return "overflows";
  return NULL;
}

void safetensors_declare(SafetensorsWriter *writer, const char *name, SafetensorsType type, int dimensions, const int64_t *shape) {
  SafetensorsEntry entry = {.name = memory_copy_string(name), .type = type, .dimensions = dimensions, .begin = writer->declared};
  for (int i = 0; i < dimensions && i < SAFETENSORS_MAX_DIMENSIONS; i++) entry.shape[i] = shape[i];
  const char *fault = entry_fault(writer, &entry);
  if (fault) {
    note_failure(writer, memory_format("tensor '%s' %s", name, fault));
    free(entry.name);
    return;
  }
  map_set_string(&writer->index, name, writer->count);
  writer->declared = entry.end;
  ARRAY_PUSH(writer->entries, writer->count, writer->capacity) = entry;
}

static void append_entry(SafetensorsWriter *writer, Buffer *header, const SafetensorsEntry *entry) {
  if (header->length > 1) buffer_append_string(header, ",");
  append_json_string(writer, header, entry->name);
  buffer_format(header, ":{\"dtype\":\"%s\",\"shape\":[", safetensors_type_name(entry->type));
  for (int i = 0; i < entry->dimensions; i++) buffer_format(header, "%s%" PRId64, i ? "," : "", entry->shape[i]);
  buffer_format(header, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", entry->begin, entry->end);
}

static void build_header(SafetensorsWriter *writer, Buffer *header) {
  buffer_append_string(header, "{");
  if (writer->metadata.length) buffer_format(header, "\"__metadata__\":{%s}", writer->metadata.data);
  for (int64_t i = 0; i < writer->count; i++) append_entry(writer, header, &writer->entries[i]);
  buffer_append_string(header, "}");
  while (header->length % 8) buffer_append_string(header, " ");
}

Status safetensors_writer_open(SafetensorsWriter *writer, const char *path) {
  Buffer header = {0};
  build_header(writer, &header);
  uint64_t length = header.length;
  Status status = STATUS_OK;
  if (length > 100000000)
    note_failure(writer, memory_format("a header of %" PRIu64 " bytes, over the format's 100,000,000; write shards", length));
  if (writer->failure) status = status_fail(STATUS_FAILED, "%s: cannot be written as safetensors: %s", path, writer->failure);
  else status = file_writer_open(&writer->file, path);
  if (status == STATUS_OK) {
    file_write(&writer->file, &length, sizeof length);
    file_write(&writer->file, header.data, header.length);
  }
  buffer_release(&header);
  return status;
}

void safetensors_write(SafetensorsWriter *writer, const void *bytes, size_t length) {
  writer->written += length;
  if (writer->written <= writer->declared) file_write(&writer->file, bytes, length);
}

Status safetensors_writer_commit(SafetensorsWriter *writer) {
  Status status = STATUS_OK;
  if (writer->written != writer->declared)
    status = status_fail(STATUS_FAILED, "%s: %" PRIu64 " bytes of tensors were written where %" PRIu64 " were declared", writer->file.path,
                         writer->written, writer->declared);
  else status = file_writer_commit(&writer->file);
  safetensors_writer_abandon(writer);
  return status;
}

void safetensors_writer_abandon(SafetensorsWriter *writer) {
  file_writer_abandon(&writer->file);
  for (int64_t i = 0; i < writer->count; i++) free(writer->entries[i].name);
  free(writer->entries);
  free(writer->failure);
  buffer_release(&writer->metadata);
  map_release(&writer->metadata_index);
  map_release(&writer->index);
  safetensors_writer_new(writer);
}
