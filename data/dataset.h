// From a recipe's datasets to rows of tokens and labels: read, sliced, tokenised, masked, filtered, mixed,
// and parted into training and evaluation rows; nothing is lost in silence, each row that is dropped or
// cut is told in the report.
//
// The order of things is Axolotl's: each dataset's split, then its shard, then shuffle_before_merging_datasets;
// prompts; the merge in the recipe's order; shuffle_merged_datasets (not with curriculum_sampling); too long
// and too short rows, rows with no trained token; dataset_exact_deduplication; and val_set_size takes the tail.
#ifndef DATA_DATASET_H
#define DATA_DATASET_H

#include "core/thread.h"
#include "data/rows.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/recipe.h"

typedef struct DatasetOptions {
  ThreadPool *pool;  // NULL: one thread; the rows are the same
  bool skip_bad_rows;  // count and report rows that cannot be read, instead of stopping
  bool must_cache;  // a cache that cannot be written is an error, not a warning
} DatasetOptions;

// Whether the training rows are read while training goes (data/dataset_stream.h): then the functions below leave them out.
bool dataset_is_streamed(const Recipe *recipe);
// Whether any dataset has a `type`: those without one are tokens already; with rl they may be texts, where the model has a tokenizer.
bool dataset_needs_tokenizer(const Recipe *recipe);
// What the recipe changes of its base's vocabulary: tokens, added_tokens_overrides.
TokenChanges dataset_token_changes(Arena *arena, const Recipe *recipe);
const char *dataset_tokenizer_path(const Recipe *recipe);  // tokenizer_config or base_model
// The tokenizer there, with the recipe's special_tokens.
Status dataset_open_tokenizer(Tokenizer **out, const Recipe *recipe);

// The chat template that the first conversations of the recipe are rendered by, as a new string; NULL where it has none.
Status dataset_chat_template(char **source, const Recipe *recipe, const Tokenizer *tokenizer);

// Fills both sets; release them in any case. `tokenizer` may be NULL when no dataset needs one.
// STATUS_BAD_INPUT, with files and lines: bad rows (unless skipped), no rows at all, all of them dropped.
// `options` may be NULL.
Status dataset_prepare(RowSet *train, RowSet *evaluation, const Recipe *recipe, const Tokenizer *tokenizer, const DatasetOptions *options);

#endif
