// The files of a dataset and the rows in them. A file is read whole (gzip inflated), and its rows are found
// by a scan that parses nothing: one a line in JSONL, one an element in a JSON array. Each knows its line,
// and is parsed only when it is asked for.
#ifndef DATA_SOURCE_DATASET_FILE_H
#define DATA_SOURCE_DATASET_FILE_H

#include <jansson.h>
#include <stdint.h>

#include "core/memory.h"
#include "core/status.h"
#include "recipes/recipe.h"

typedef struct RowPlace {
  size_t begin, length;  // bytes of the file's text
  int64_t line;  // the first is 1
} RowPlace;

typedef struct DatasetFile {
  char *path;
  Buffer text;
  RowPlace *rows;
  int64_t count, capacity;
} DatasetFile;

// STATUS_BAD_INPUT naming the file when it cannot be read, or its array does not end.
Status dataset_file_open(DatasetFile *file, const char *path);
// The same for bytes in memory, which are copied; `path` only names them.
Status dataset_file_parse(DatasetFile *file, const char *path, const char *text, size_t length);
void dataset_file_release(DatasetFile *file);
// Row `index` as a new value; STATUS_BAD_INPUT says what is wrong with it, not where it is.
Status dataset_file_row(json_t **row, const DatasetFile *file, int64_t index);

// The paths of a dataset's files, in order: its path, a folder's data files, or its data_files.
// A relative path is one of the current folder, or else of the recipe's.
typedef struct PathList {
  char **items;
  int64_t count, capacity;
} PathList;

Status dataset_paths(PathList *paths, const DatasetRecipe *dataset, const Recipe *recipe);
void path_list_release(PathList *paths);

// Which of `count` rows a split takes: "train", "train[:5%]", "train[10:-20]", "train[:10]+train[-10:]".
// Percentages are rounded to the nearest row, halves to the even one, as Hugging Face's datasets does.
typedef struct RowRange {
  int64_t begin, end;
} RowRange;

typedef struct RowRanges {
  RowRange *items;
  int64_t count, capacity;
} RowRanges;

Status split_parse(RowRanges *ranges, const char *split, int64_t count);

#endif
