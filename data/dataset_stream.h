// Datasets that are read while training goes (streaming, pretraining_dataset): of a text larger than memory only a chunk of rows is
// there at a time. The chunks of all passes over the data are numbered 0, 1, ...; chunk n is the same whenever it is read, so a
// chunk and a micro-batch in it are an exact position.
#ifndef DATA_DATASET_STREAM_H
#define DATA_DATASET_STREAM_H

#include "data/dataset.h"

typedef struct DatasetStream DatasetStream;

// STATUS_USAGE for what needs all rows at once (a slice of a split, deduplication). recipe, tokenizer and options' pool are borrowed.
Status dataset_stream_open(DatasetStream **out, const Recipe *recipe, const Tokenizer *tokenizer, const DatasetOptions *options);
void dataset_stream_close(DatasetStream *stream);
// Puts the rows of a chunk into `rows`, whose former ones are released: streaming_multipack_buffer_size rows of the files, taken
// in turn from each dataset, less those that are dropped. A chunk ends where the data end. STATUS_BAD_INPUT: bad rows, empty data.
Status dataset_stream_read(RowSet *rows, DatasetStream *stream, int64_t number);
int64_t dataset_stream_pass(const DatasetStream *stream);  // that the last chunk belongs to; the first is 0

#endif
