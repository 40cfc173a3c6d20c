// Prepared rows: what dataset_prepare makes of a recipe, taken from the cache in dataset_prepared_path where that holds them.
#ifndef DATA_PREPARED_H
#define DATA_PREPARED_H

#include "data/dataset.h"

// As dataset_prepare; what was not in the cache is written there. Of data that are streamed there is no cache.
Status prepared_load(RowSet *train, RowSet *evaluation, const Recipe *recipe, const Tokenizer *tokenizer, const DatasetOptions *options);

#endif
