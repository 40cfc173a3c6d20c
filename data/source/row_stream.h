// The rows of a dataset in their order, without any file being held whole: what is in memory is the rows that were asked for.
#ifndef DATA_SOURCE_ROW_STREAM_H
#define DATA_SOURCE_ROW_STREAM_H

#include "data/source/dataset_file.h"
#include "data/source/dataset_paths.h"

typedef struct RowStream {
  PathList paths;
  int64_t next_path;
  struct gzFile_s *file;  // open: the one before next_path; plain files pass through zlib as they are
  RowScan scan;
  Buffer window;  // text of the file, from its first row that was not taken yet
  size_t at;
  bool whole;  // the window reaches the file's end
} RowStream;

Status row_stream_open(RowStream *stream, const DatasetRecipe *dataset, const Recipe *recipe);
void row_stream_close(RowStream *stream);
void row_stream_rewind(RowStream *stream);
// Fills `chunk` with the next rows of one file, at most `rows` of them; release it in any case. None: the stream has ended.
Status row_stream_take(DatasetFile *chunk, RowStream *stream, int64_t rows);

#endif
