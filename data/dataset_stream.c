#include "data/dataset_stream.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/row_filter.h"
#include "data/row_reader.h"
#include "data/source/row_stream.h"

typedef struct Source {
  DatasetRecipe dataset;
  Prompt *prompt;
  RowStream rows;
  int64_t row;  // of the pass: how many have been taken
  bool ended;
} Source;

struct DatasetStream {
  const Recipe *recipe;
  DatasetOptions options;
  Source *sources;
  int count;
  int64_t next, pass;  // the chunk that comes next, and its pass
  bool any;  // this pass has given a row
};

// pretraining_dataset trains on whole texts unless it says otherwise.
static DatasetRecipe pretraining_recipe(const Recipe *recipe) {
  static char completion[] = "completion";
  DatasetRecipe dataset = recipe->pretraining;
  if (!dataset.type || strcmp(dataset.type, "pretrain") == 0) dataset.type = completion;
  return dataset;
}

static Status check_recipe(const DatasetStream *stream) {
  const Recipe *recipe = stream->recipe;
  if (recipe->dataset_exact_deduplication)
    return recipe_fail(recipe, STATUS_USAGE, "dataset_exact_deduplication", "cannot be done while streaming; remove duplicates beforehand");
  for (int i = 0; i < stream->count; i++) {
    const char *split = stream->sources[i].dataset.split;
    if (!split || !strchr(split, '[')) continue;
    return status_fail(STATUS_USAGE,
                       "%s: split: %s is a share of all rows, which streaming never has together; use `shards`, or streaming: false",
                       stream->sources[i].dataset.path, split);
  }
  return STATUS_OK;
}

static Status open_sources(DatasetStream *stream, const Tokenizer *tokenizer) {
  TRY(check_recipe(stream));
  for (int i = 0; i < stream->count; i++) {
    Source *source = &stream->sources[i];
    TRY(row_stream_open(&source->rows, &source->dataset, stream->recipe));
    TRY(status_context(prompt_open(&source->prompt, &source->dataset, stream->recipe, tokenizer), "%s", source->dataset.path));
  }
  return STATUS_OK;
}

Status dataset_stream_open(DatasetStream **out, const Recipe *recipe, const Tokenizer *tokenizer, const DatasetOptions *options) {
  DatasetStream *stream = memory_new(1, sizeof *stream);
  stream->recipe = recipe;
  stream->options = *options;
  stream->count = recipe->has_pretraining ? 1 : recipe->dataset_count;
  stream->sources = memory_new((size_t)stream->count, sizeof *stream->sources);
  for (int i = 0; i < stream->count; i++)
    stream->sources[i].dataset = recipe->has_pretraining ? pretraining_recipe(recipe) : recipe->datasets[i];
  Status status = open_sources(stream, tokenizer);
  *out = status == STATUS_OK ? stream : NULL;
  if (status != STATUS_OK) dataset_stream_close(stream);
  return status;
}

void dataset_stream_close(DatasetStream *stream) {
  if (!stream) return;
  for (int i = 0; i < stream->count; i++) {
    prompt_free(stream->sources[i].prompt);
    row_stream_close(&stream->sources[i].rows);
  }
  free(stream->sources);
  free(stream);
}

int64_t dataset_stream_pass(const DatasetStream *stream) { return stream->pass; }

// Up to `count` rows of one dataset, into `rows` or, to come past them, nowhere (NULL). `skip` rows are passed over in each pass,
// and of `shards` only every one's own are taken.
static Status take_rows(RowSet *rows, DatasetStream *stream, Source *source, int64_t count) {
  DatasetFile chunk;
  RowReference *references = memory_new((size_t)count, sizeof *references);
  int64_t taken = 0, shards = source->dataset.shards > 1 ? source->dataset.shards : 1;
  Status status = row_stream_take(&chunk, &source->rows, count);
  source->ended = chunk.count == 0;
  for (int64_t r = 0; r < chunk.count; r++, source->row++)
    if (source->row >= source->dataset.skip && source->row % shards == source->dataset.shards_idx) references[taken++].row = r;
  if (status == STATUS_OK && rows && taken) {
    RowReader reader = {.set = rows,
                        .prompt = source->prompt,
                        .files = &chunk,
                        .pool = stream->options.pool,
                        .skip_bad_rows = stream->options.skip_bad_rows};
    status = row_reader_read(&reader, references, taken);
  }
  stream->any = stream->any || taken > 0;
  dataset_file_release(&chunk);
  free(references);
  return status;
}

static bool has_ended(const DatasetStream *stream) {
  for (int i = 0; i < stream->count; i++)
    if (!stream->sources[i].ended) return false;
  return true;
}

static Status begin_pass(DatasetStream *stream, int64_t pass) {
  if (pass > 0 && !stream->any) return status_fail(STATUS_BAD_INPUT, "%s: the data to stream are empty", stream->sources[0].dataset.path);
  for (int i = 0; i < stream->count; i++) {
    row_stream_rewind(&stream->sources[i].rows);
    stream->sources[i].row = 0;
    stream->sources[i].ended = false;
  }
  stream->pass = pass;
  stream->any = false;
  return STATUS_OK;
}

// The next chunk: a share of it from each dataset that has rows left, until it is full or the pass has ended.
static Status next_chunk(RowSet *rows, DatasetStream *stream) {
  int64_t room = stream->recipe->streaming_multipack_buffer_size, share = (room + stream->count - 1) / stream->count;
  if (has_ended(stream)) TRY(begin_pass(stream, stream->pass + 1));
  while (room > 0 && !has_ended(stream)) {
    for (int i = 0; i < stream->count && room > 0; i++) {
      if (stream->sources[i].ended) continue;
      int64_t before = stream->sources[i].row;
      TRY(take_rows(rows, stream, &stream->sources[i], share < room ? share : room));
      room -= stream->sources[i].row - before;
    }
  }
  stream->next++;
  return STATUS_OK;
}

Status dataset_stream_read(RowSet *rows, DatasetStream *stream, int64_t number) {
  row_set_release(rows);
  if (number < stream->next) {
    TRY(begin_pass(stream, 0));
    stream->next = 0;
  }
  while (stream->next < number) TRY(next_chunk(NULL, stream));
  TRY(next_chunk(rows, stream));
  TRY(row_filter(rows, stream->recipe, stream->recipe->sequence_len));
  rows->report.fates[ROW_KEPT] = rows->count - rows->report.fates[ROW_CUT];
  return STATUS_OK;
}
