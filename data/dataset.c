// The way of a dataset: files -> chosen rows -> tokens by its prompt strategy, in blocks of rows that threads share ->
// shuffle, filters, duplicates -> training and evaluation rows.
#include "data/dataset.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "data/prompt/prompt.h"
#include "data/row_filter.h"
#include "data/row_reader.h"
#include "data/source/dataset_paths.h"
#include "data/source/split.h"
#include "data/template/chat_template.h"

bool dataset_is_streamed(const Recipe *recipe) { return recipe->has_pretraining || recipe->streaming; }

bool dataset_needs_tokenizer(const Recipe *recipe) {
  if (recipe->has_pretraining) return true;
  for (int i = 0; i < recipe->dataset_count; i++)
    if (recipe->datasets[i].type_is_mapping || recipe->datasets[i].type) return true;
  for (int i = 0; i < recipe->test_dataset_count; i++)
    if (recipe->test_datasets[i].type_is_mapping || recipe->test_datasets[i].type) return true;
  // Rows of preference training without a type may be texts or tokens: a vocabulary is taken where there is one.
  return recipe->rl && tokenizer_is_there(dataset_tokenizer_path(recipe));
}

static Status check_tokens(const Tokenizer *tokenizer, const char *key, const StringList *tokens) {
  for (int i = 0; i < tokens->count; i++)
    if (tokenizer_find(tokenizer, tokens->items[i]) < 0)
      return status_fail(STATUS_USAGE, "%s: \"%s\" is no token of this vocabulary; `tokens` adds new ones", key, tokens->items[i]);
  return STATUS_OK;
}

TokenChanges dataset_token_changes(Arena *arena, const Recipe *recipe) {
  const StringPairs *overrides = &recipe->added_tokens_overrides;
  int32_t *ids = arena_new(arena, (size_t)overrides->count + 1, sizeof *ids);
  for (int i = 0; i < overrides->count; i++) ids[i] = (int32_t)strtoll(overrides->keys[i], NULL, 10);
  return (TokenChanges){.ids = ids,
                        .texts = (const char *const *)overrides->values,
                        .override_count = overrides->count,
                        .added = (const char *const *)recipe->tokens.items,
                        .added_count = recipe->tokens.count};
}

// New tokens first: special ones may be among them.
static Status set_special_tokens(Tokenizer *tokenizer, const Recipe *recipe) {
  Arena arena = {0};
  TokenChanges changes = dataset_token_changes(&arena, recipe);
  Status status = tokenizer_change(tokenizer, &changes);
  arena_release(&arena);
  if (status != STATUS_OK) return status_context(status, recipe->tokens.count ? "tokens" : "added_tokens_overrides");
  for (int i = 0; i < recipe->special_tokens.count; i++)
    TRY(status_context(tokenizer_set_special(tokenizer, recipe->special_tokens.keys[i], recipe->special_tokens.values[i]),
                       "special_tokens"));
  return check_tokens(tokenizer, "additional_special_tokens", &recipe->additional_special_tokens);
}

const char *dataset_tokenizer_path(const Recipe *recipe) {
  return recipe->tokenizer_config ? recipe->tokenizer_config : recipe->base_model;
}

Status dataset_open_tokenizer(Tokenizer **out, const Recipe *recipe) {
  TRY(tokenizer_open(out, dataset_tokenizer_path(recipe)));
  Status status = set_special_tokens(*out, recipe);
  if (status == STATUS_OK) return STATUS_OK;
  tokenizer_free(*out);
  *out = NULL;
  return status;
}

Status dataset_chat_template(char **source, const Recipe *recipe, const Tokenizer *tokenizer) {
  *source = NULL;
  for (int i = 0; i < recipe->dataset_count && !*source; i++) {
    const DatasetRecipe *dataset = &recipe->datasets[i];
    const char *type = dataset->type ? dataset->type : "";
    if (dataset->type_is_mapping || !(text_starts_with(type, "chat_template") || text_starts_with(type, "orpo."))) continue;
    ChatTemplate *chat;
    ChatTemplateOptions options = chat_template_options(recipe, dataset);
    TRY(chat_template_open(&chat, &options, tokenizer));
    *source = memory_copy_string(chat_template_source(chat));
    chat_template_free(chat);
  }
  return STATUS_OK;
}

// ---- Which rows of a dataset

typedef struct References {
  RowReference *items;
  int64_t count, capacity;
} References;

static void permute_references(References *references, Rng rng) {
  int64_t *order = memory_new((size_t)references->count, sizeof *order);
  for (int64_t i = 0; i < references->count; i++) order[i] = i;
  rng_shuffle(&rng, order, references->count);
  RowReference *shuffled = memory_new((size_t)references->count, sizeof *shuffled);
  for (int64_t i = 0; i < references->count; i++) shuffled[i] = references->items[order[i]];
  free(order);
  free(references->items);
  references->items = shuffled;
  references->capacity = references->count;
}

// One shard of `shards`: its rows are drawn at random, not cut out of the file's beginning.
static Status take_shard(References *references, const DatasetRecipe *dataset, int64_t seed, int64_t number) {
  if (dataset->shards <= 1) return STATUS_OK;
  if (dataset->shards_idx < 0 || dataset->shards_idx >= dataset->shards)
    return status_fail(STATUS_USAGE, "shards_idx: %" PRId64 " is outside 0 .. %" PRId64, dataset->shards_idx, dataset->shards - 1);
  permute_references(references, data_rng(seed, DATA_ORDER_SHARD, number));
  int64_t each = references->count / dataset->shards, rest = references->count % dataset->shards, index = dataset->shards_idx;
  int64_t begin = index * each + (index < rest ? index : rest);
  references->count = each + (index < rest);
  memmove(references->items, references->items + begin, (size_t)references->count * sizeof *references->items);
  return STATUS_OK;
}

static Status list_rows(References *references, const DatasetFile *files, int64_t file_count, const DatasetRecipe *dataset) {
  References all = {0};
  for (int64_t f = 0; f < file_count; f++)
    for (int64_t r = 0; r < files[f].count; r++) ARRAY_PUSH(all.items, all.count, all.capacity) = (RowReference){f, r};
  RowRanges ranges;
  Status status = split_parse(&ranges, dataset->split, all.count);
  if (status == STATUS_OK) {
    for (int64_t i = 0; i < ranges.count; i++)
      for (int64_t r = ranges.items[i].begin; r < ranges.items[i].end; r++)
        ARRAY_PUSH(references->items, references->count, references->capacity) = all.items[r];
    free(ranges.items);
  }
  free(all.items);
  return status;
}

static Status read_files(RowSet *set, const DatasetRecipe *dataset, const Recipe *recipe, const DatasetFile *files, int64_t file_count,
                         const Prompt *prompt, const DatasetOptions *options, int64_t number) {
  References references = {0};
  Status status = list_rows(&references, files, file_count, dataset);
  if (status == STATUS_OK && references.count == 0) {
    bool sliced = dataset->split && strchr(dataset->split, '[');
    status = status_fail(STATUS_BAD_INPUT, "%s: the dataset is empty%s%s", dataset->path, sliced ? ": nothing is in split " : "",
                         sliced ? dataset->split : "");
  }
  if (status == STATUS_OK) status = take_shard(&references, dataset, recipe->seed, number);
  if (status == STATUS_OK) {
    if (recipe->shuffle_before_merging_datasets && !recipe->curriculum_sampling)
      permute_references(&references, data_rng(recipe->seed, DATA_ORDER_DATASET, number));
    RowReader reader = {.set = set, .prompt = prompt, .files = files, .pool = options->pool, .skip_bad_rows = options->skip_bad_rows};
    status = row_reader_read(&reader, references.items, references.count);
  }
  free(references.items);
  return status;
}

static Status read_dataset(RowSet *set, const DatasetRecipe *dataset, const Recipe *recipe, const Tokenizer *tokenizer,
                           const DatasetOptions *options, int64_t number) {
  PathList paths;
  Prompt *prompt;
  TRY(dataset_paths(&paths, dataset, recipe));
  Status status = status_context(prompt_open(&prompt, dataset, recipe, tokenizer), "%s", dataset->path);
  DatasetFile *files = memory_new((size_t)paths.count, sizeof *files);
  for (int64_t f = 0; f < paths.count && status == STATUS_OK; f++)
    status = dataset_file_open(&files[f], paths.items[f].path, paths.items[f].format);
  if (status == STATUS_OK) status = read_files(set, dataset, recipe, files, paths.count, prompt, options, number);
  for (int64_t f = 0; f < paths.count; f++) dataset_file_release(&files[f]);
  free(files);
  prompt_free(prompt);
  path_list_release(&paths);
  return status;
}

// ---- The merged rows

static void shuffle_rows(RowSet *set, int64_t seed) {
  int64_t *order = memory_new((size_t)set->count, sizeof *order);
  for (int64_t i = 0; i < set->count; i++) order[i] = i;
  Rng rng = data_rng(seed, DATA_ORDER_MERGED, 0);
  rng_shuffle(&rng, order, set->count);
  TokenRow *rows = memory_new((size_t)set->count, sizeof *rows);
  for (int64_t i = 0; i < set->count; i++) rows[i] = set->rows[order[i]];
  free(order);
  free(set->rows);
  set->rows = rows;
  set->capacity = set->count;
}

// val_set_size: the tail of the rows, a fraction (rounded up) or a number of them.
static Status split_evaluation(RowSet *train, RowSet *evaluation, double size) {
  int64_t rows = size > 1 ? (int64_t)size : (int64_t)ceil(size * (double)train->count);
  if (size <= 0) return STATUS_OK;
  if (rows >= train->count) {
    return status_fail(STATUS_BAD_INPUT, "val_set_size: %g takes %" PRId64 " of %" PRId64 " rows and leaves none to train on", size, rows,
                       train->count);
  }
  for (int64_t r = train->count - rows; r < train->count; r++) {
    TokenRow row = train->rows[r];
    row.source = arena_copy_string(&evaluation->arena, row.source);
    row_set_add_row(evaluation, &row);
  }
  train->count -= rows;
  train->report.held_out = rows;
  return STATUS_OK;
}

static Status check_any(const RowSet *set, const char *key) {
  if (set->count) return STATUS_OK;
  const RowReport *report = &set->report;
  if (report->event_count == 0) return status_fail(STATUS_BAD_INPUT, "%s: the datasets are empty", key);
  Buffer fates = {0};
  for (int fate = ROW_CUT; fate < ROW_FATES; fate++)
    if (report->fates[fate])
      buffer_format(&fates, "%s%" PRId64 " %s", fates.length ? ", " : "", report->fates[fate], row_fate_name((RowFate)fate));
  Status status = status_fail(STATUS_BAD_INPUT, "%s: no row is left of %" PRId64 " (%s); the first: %s: %s", key, report->read, fates.data,
                              report->events[0].source, report->events[0].reason);
  buffer_release(&fates);
  return status;
}

static Status read_all(RowSet *set, const DatasetRecipe *datasets, int count, const Recipe *recipe, const Tokenizer *tokenizer,
                       const DatasetOptions *options) {
  for (int i = 0; i < count; i++) TRY(read_dataset(set, &datasets[i], recipe, tokenizer, options, i));
  return STATUS_OK;
}

static Status prepare_training(RowSet *train, const Recipe *recipe, const Tokenizer *tokenizer, const DatasetOptions *options,
                               UniqueRows *unique) {
  if (recipe->dataset_count == 0) return status_fail(STATUS_USAGE, "datasets: the recipe has none");
  TRY(read_all(train, recipe->datasets, recipe->dataset_count, recipe, tokenizer, options));
  if (recipe->shuffle_merged_datasets && !recipe->curriculum_sampling) shuffle_rows(train, recipe->seed);
  TRY(row_filter(train, recipe, recipe->sequence_len));
  if (recipe->dataset_exact_deduplication) row_filter_duplicates(train, unique);
  return check_any(train, "datasets");
}

// The evaluation rows: those of test_datasets, or the tail of the training rows.
static Status prepare_evaluation(RowSet *evaluation, RowSet *train, const Recipe *recipe, const Tokenizer *tokenizer,
                                 const DatasetOptions *options, UniqueRows *unique) {
  int64_t longest = recipe->eval_sequence_len ? recipe->eval_sequence_len : recipe->sequence_len;
  if (recipe->test_dataset_count == 0) {
    TRY(split_evaluation(train, evaluation, recipe->val_set_size));
    evaluation->report.read = evaluation->count;
  } else {
    TRY(read_all(evaluation, recipe->test_datasets, recipe->test_dataset_count, recipe, tokenizer, options));
  }
  bool any = evaluation->count > 0 || recipe->test_dataset_count > 0;
  TRY(row_filter(evaluation, recipe, longest));
  if (recipe->dataset_exact_deduplication) row_filter_duplicates(evaluation, unique);
  return any ? check_any(evaluation, recipe->test_dataset_count ? "test_datasets" : "val_set_size") : STATUS_OK;
}

static void count_kept(RowSet *set) { set->report.fates[ROW_KEPT] = set->count + set->report.held_out - set->report.fates[ROW_CUT]; }

static const DatasetOptions plain_options = {0};

Status dataset_prepare(RowSet *train, RowSet *evaluation, const Recipe *recipe, const Tokenizer *tokenizer, const DatasetOptions *options) {
  UniqueRows unique = {0};
  *train = *evaluation = (RowSet){0};
  if (!options) options = &plain_options;
  Status status = dataset_is_streamed(recipe) ? STATUS_OK : prepare_training(train, recipe, tokenizer, options, &unique);
  if (status == STATUS_OK) status = prepare_evaluation(evaluation, train, recipe, tokenizer, options, &unique);
  unique_rows_release(&unique);
  count_kept(train);
  count_kept(evaluation);
  return status;
}
