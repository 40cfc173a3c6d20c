#include "data/prepared.h"

#include <stdlib.h>

#include "core/log.h"
#include "data/cache.h"

// What has just been written, instead of what it was written from: a mapped file instead of memory.
static Status take_up(RowSet *train, RowSet *evaluation, const char *path, const char *key) {
  RowSet sets[2] = {0};
  bool found;
  TRY(cache_read(&sets[0], &sets[1], &found, path, key));
  if (!found) return STATUS_OK;
  row_set_release(train);
  row_set_release(evaluation);
  *train = sets[0];
  *evaluation = sets[1];
  memory_give_back();
  return STATUS_OK;
}

static Status write_cache(const char *path, const char *key, RowSet *train, RowSet *evaluation, bool must) {
  Status status = cache_write(path, key, train, evaluation);
  if (status == STATUS_OK) {
    log_info("the prepared rows are kept in %s", path);
    return take_up(train, evaluation, path, key);
  }
  if (must) return status;
  log_warning("the prepared rows are not kept: %s", status_message());
  return STATUS_OK;
}

Status prepared_load(RowSet *train, RowSet *evaluation, const Recipe *recipe, const Tokenizer *tokenizer, const DatasetOptions *options) {
  char key[65];
  bool found;
  *train = *evaluation = (RowSet){0};
  static const DatasetOptions plain = {0};
  if (!options) options = &plain;
  if (dataset_is_streamed(recipe)) return dataset_prepare(train, evaluation, recipe, tokenizer, options);
  TRY(cache_key(key, recipe, options->skip_bad_rows));
  char *path = cache_path(recipe->dataset_prepared_path, key);
  Status status = cache_read(train, evaluation, &found, path, key);
  if (found) log_info("the prepared rows are taken from %s", path);
  if (status == STATUS_OK && !found) status = dataset_prepare(train, evaluation, recipe, tokenizer, options);
  if (status == STATUS_OK && !found) status = write_cache(path, key, train, evaluation, options->must_cache);
  free(path);
  return status;
}
