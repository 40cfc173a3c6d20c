// Opening a data file and listing its rows.
#include "data/source/dataset_file.h"

#include <stdlib.h>
#include <string.h>

static const size_t FILE_LIMIT = (size_t)1 << 36;  // inflated

static Status list_rows(DatasetFile *file) {
  ScanResult result = SCAN_ROW;
  for (size_t at = 0; result == SCAN_ROW;) {
    RowPlace place;
    TRY(row_scan_next(&file->scan, &result, &place, file->text, file->length, &at, true));
    if (result == SCAN_ROW) ARRAY_PUSH(file->rows, file->count, file->capacity) = place;
  }
  return STATUS_OK;
}

static void use_buffer(DatasetFile *file) {
  file->text = file->buffer.data;
  file->length = file->buffer.length;
}

static Status read_text(DatasetFile *file, const char *path) {
  TRY(file_map(&file->map, path));
  file->text = (const char *)file->map.data;
  file->length = file->map.size;
  if (file->length < 2 || memcmp(file->text, "\x1F\x8B", 2) != 0) return STATUS_OK;
  file_unmap(&file->map);
  buffer_reserve(&file->buffer, 0);
  TRY(file_read(&file->buffer, path, FILE_LIMIT));
  use_buffer(file);
  return STATUS_OK;
}

Status dataset_file_open(DatasetFile *file, const char *path, RowFormat format) {
  *file = (DatasetFile){0};
  row_scan_start(&file->scan, format, path);
  TRY(read_text(file, path));
  return list_rows(file);
}

Status dataset_file_parse(DatasetFile *file, const char *path, RowFormat format, const char *text, size_t length) {
  *file = (DatasetFile){0};
  row_scan_start(&file->scan, format, path);
  buffer_append(&file->buffer, text, length);
  use_buffer(file);
  return list_rows(file);
}

void dataset_file_release(DatasetFile *file) {
  file_unmap(&file->map);
  buffer_release(&file->buffer);
  row_scan_release(&file->scan);
  free(file->rows);
  *file = (DatasetFile){0};
}

Status dataset_file_row(json_t **row, const DatasetFile *file, int64_t index) {
  const RowPlace *place = &file->rows[index];
  return row_parse(row, &file->scan, file->text + place->begin, place->length);
}
