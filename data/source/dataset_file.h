// A file of a dataset and the rows in it. A plain file is mapped, a gzip one inflated; its rows are found by a scan that parses
// nothing, and each is parsed only when it is asked for.
#ifndef DATA_SOURCE_DATASET_FILE_H
#define DATA_SOURCE_DATASET_FILE_H

#include "core/file.h"
#include "data/source/row_scan.h"

typedef struct DatasetFile {
  const char *text;
  size_t length;
  FileMap map;  // one of the two holds the text
  Buffer buffer;
  RowScan scan;
  RowPlace *rows;
  int64_t count, capacity;
} DatasetFile;

// STATUS_BAD_INPUT naming the file when it cannot be read, or its rows have no end. Release it in any case.
Status dataset_file_open(DatasetFile *file, const char *path, RowFormat format);
// The same for bytes in memory, which are copied; `path` only names them.
Status dataset_file_parse(DatasetFile *file, const char *path, RowFormat format, const char *text, size_t length);
void dataset_file_release(DatasetFile *file);
// Row `index` as a new value; STATUS_BAD_INPUT says what is wrong with it, not where it is.
Status dataset_file_row(json_t **row, const DatasetFile *file, int64_t index);

#endif
