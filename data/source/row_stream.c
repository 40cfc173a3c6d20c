#include "data/source/row_stream.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { PIECE = 1 << 20, ROW_LIMIT = 1 << 30 };

static void close_file(RowStream *stream) {
  if (stream->file) gzclose(stream->file);
  row_scan_release(&stream->scan);
  stream->file = NULL;
  stream->window.length = stream->at = 0;
  stream->whole = false;
}

static Status open_file(RowStream *stream) {
  const DatasetPath *path = &stream->paths.items[stream->next_path++];
  row_scan_start(&stream->scan, path->format, path->path);
  stream->file = gzopen(path->path, "rbe");
  if (!stream->file) return status_errno(STATUS_BAD_INPUT, errno, "%s: cannot be opened", path->path);
  gzbuffer(stream->file, PIECE);
  return STATUS_OK;
}

Status row_stream_open(RowStream *stream, const DatasetRecipe *dataset, const Recipe *recipe) {
  *stream = (RowStream){0};
  return dataset_paths(&stream->paths, dataset, recipe);
}

void row_stream_close(RowStream *stream) {
  close_file(stream);
  buffer_release(&stream->window);
  path_list_release(&stream->paths);
}

void row_stream_rewind(RowStream *stream) {
  close_file(stream);
  stream->next_path = 0;
}

static Status read_more(RowStream *stream) {
  Buffer *window = &stream->window;
  window->length -= stream->at;
  memmove(window->data ? window->data : "", window->data ? window->data + stream->at : "", window->length);
  stream->at = 0;
  if (window->length >= ROW_LIMIT)
    return status_fail(STATUS_BAD_INPUT, "%s:%" PRId64 ": a row of over 1 GiB", stream->scan.path, stream->scan.line);
  size_t piece = window->length > PIECE ? window->length : PIECE;  // doubled for a long row, which is scanned again each time
  buffer_reserve(window, piece);
  int got = gzread(stream->file, window->data + window->length, (unsigned)piece), code = Z_OK;
  const char *problem = gzerror(stream->file, &code);
  if (got < 0 || (code != Z_OK && code != Z_STREAM_END))
    return status_fail(STATUS_BAD_INPUT, "%s: cannot be read: %s", stream->scan.path, code == Z_ERRNO ? strerror(errno) : problem);
  window->length += (size_t)got;
  stream->whole = (size_t)got < piece;
  return STATUS_OK;
}

static void keep_row(DatasetFile *chunk, const RowStream *stream, const RowPlace *place) {
  RowPlace kept = {chunk->buffer.length, place->length, place->line};
  buffer_append(&chunk->buffer, stream->window.data + place->begin, place->length);
  ARRAY_PUSH(chunk->rows, chunk->count, chunk->capacity) = kept;
}

static void name_columns(DatasetFile *chunk, const RowScan *scan) {
  row_scan_start(&chunk->scan, scan->format, scan->path);
  for (int64_t i = 0; i < scan->column_count; i++)
    ARRAY_PUSH(chunk->scan.columns, chunk->scan.column_count, chunk->scan.column_capacity) = memory_copy_string(scan->columns[i]);
}

Status row_stream_take(DatasetFile *chunk, RowStream *stream, int64_t rows) {
  *chunk = (DatasetFile){0};
  while (chunk->count < rows) {
    if (!stream->file) {
      if (chunk->count || stream->next_path == stream->paths.count) break;
      TRY(open_file(stream));
    }
    ScanResult result;
    RowPlace place;
    buffer_reserve(&stream->window, 0);
    TRY(row_scan_next(&stream->scan, &result, &place, stream->window.data, stream->window.length, &stream->at, stream->whole));
    if (result == SCAN_ROW) keep_row(chunk, stream, &place);
    else if (result == SCAN_MORE) TRY(read_more(stream));
    else {
      if (chunk->count) name_columns(chunk, &stream->scan);
      close_file(stream);
    }
  }
  if (chunk->count && !chunk->scan.path) name_columns(chunk, &stream->scan);
  chunk->text = chunk->buffer.data;
  chunk->length = chunk->buffer.length;
  return STATUS_OK;
}
