// Rows of data files into a row set by a prompt strategy, in blocks that threads share: the order is that of the references.
#ifndef DATA_ROW_READER_H
#define DATA_ROW_READER_H

#include "core/thread.h"
#include "data/prompt/prompt.h"
#include "data/rows.h"
#include "data/source/dataset_file.h"

typedef struct RowReference {
  int64_t file, row;
} RowReference;

typedef struct RowReader {
  RowSet *set;
  const Prompt *prompt;
  const DatasetFile *files;
  ThreadPool *pool;  // NULL: one thread
  bool skip_bad_rows;  // they are reported alone
} RowReader;

// STATUS_BAD_INPUT names the first bad rows, unless they are skipped.
Status row_reader_read(const RowReader *reader, const RowReference *references, int64_t count);

#endif
