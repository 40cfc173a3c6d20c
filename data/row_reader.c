#include "data/row_reader.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/log.h"

enum { BLOCK_ROWS = 512, SHOWN_PROBLEMS = 10 };

typedef struct BadRows {
  int64_t count;
  Buffer problems;  // the first ones, for the message
} BadRows;

typedef struct Block {
  const RowReader *reader;
  const RowReference *references;
  EncodedRow encoded[BLOCK_ROWS];
  char *problems[BLOCK_ROWS];  // NULL: the row is good
} Block;

static void encode_row(void *argument, int64_t task, int thread) {
  (void)thread;
  Block *block = argument;
  const RowReference *reference = &block->references[task];
  json_t *row = NULL;
  encoded_row_clear(&block->encoded[task]);
  Status status = dataset_file_row(&row, &block->reader->files[reference->file], reference->row);
  if (status == STATUS_OK) status = prompt_encode(&block->encoded[task], block->reader->prompt, row);
  json_decref(row);
  block->problems[task] = status == STATUS_OK ? NULL : memory_copy_string(status_message());
}

static void take_bad_row(RowSet *set, BadRows *bad, const char *source, const char *problem) {
  row_set_event(set, ROW_BAD, source, "%s", problem);
  if (bad->count++ < SHOWN_PROBLEMS) buffer_format(&bad->problems, "%s%s: %s", bad->count > 1 ? "\n" : "", source, problem);
}

static void take_block(Block *block, int64_t count, BadRows *bad) {
  const RowReader *reader = block->reader;
  for (int64_t i = 0; i < count; i++) {
    const DatasetFile *file = &reader->files[block->references[i].file];
    const char *source = arena_format(&reader->set->arena, "%s:%" PRId64, file->scan.path, file->rows[block->references[i].row].line);
    const EncodedRow *encoded = &block->encoded[i];
    reader->set->report.read++;
    if (block->problems[i]) take_bad_row(reader->set, bad, source, block->problems[i]);
    TokenRow row = {.source = source, .prompt = encoded->prompt, .rejected = encoded->rejected, .is_undesirable = encoded->is_undesirable};
    row.ids = encoded->ids.ids, row.labels = encoded->labels.ids;  // NULL where the row has no token at all
    for (int64_t s = 0, begin = 0; !block->problems[i] && s < encoded->count; begin = encoded->ends[s++]) {
      row.count = encoded->ends[s] - begin;
      row_set_add_row(reader->set, &row);
      if (row.count) row.ids += row.count, row.labels += row.count;
    }
    free(block->problems[i]);
  }
}

Status row_reader_read(const RowReader *reader, const RowReference *references, int64_t count) {
  Block *block = memory_new(1, sizeof *block);
  BadRows bad = {0};
  block->reader = reader;
  for (int64_t begin = 0; begin < count; begin += BLOCK_ROWS) {
    int64_t rows = count - begin < BLOCK_ROWS ? count - begin : BLOCK_ROWS;
    block->references = references + begin;
    if (reader->pool) pool_run(reader->pool, rows, encode_row, block);
    else
      for (int64_t i = 0; i < rows; i++) encode_row(block, i, 0);
    take_block(block, rows, &bad);
    if (count > BLOCK_ROWS) progress_show(begin + rows, count, "tokenising %s", reader->files[0].scan.path);
  }
  progress_clear();
  for (int i = 0; i < BLOCK_ROWS; i++) encoded_row_release(&block->encoded[i]);
  free(block);
  Status status = STATUS_OK;
  if (bad.count && !reader->skip_bad_rows) {
    int64_t more = bad.count - SHOWN_PROBLEMS;
    if (more > 0) buffer_format(&bad.problems, "\n... and %" PRId64 " more bad rows", more);
    status = status_fail(STATUS_BAD_INPUT, "%s", bad.problems.data);
  }
  buffer_release(&bad.problems);
  return status;
}
