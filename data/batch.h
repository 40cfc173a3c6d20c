// Micro-batches: for an epoch, which rows stand together, and their tokens without padding.
//
// A micro-batch is up to micro_batch_size sequences; a sequence is one row or, with sample packing, a bin
// of rows whose lengths sum to at most sequence_len. As attention stays within a document (a row) and
// positions restart there, a micro-batch is simply the concatenation of its documents.
// (epoch, index of the micro-batch) is an exact position in the data: a plan is a function of the rows,
// the options and the epoch alone.
#ifndef DATA_BATCH_H
#define DATA_BATCH_H

#include "data/rows.h"
#include "recipes/recipe.h"

typedef struct BatchOptions {
  bool packing;  // first-fit decreasing within groups of group_size rows
  bool sequentially;  // next-fit instead: rows keep their order
  bool in_order;  // no shuffle
  bool by_length;  // group_by_length: neighbours have similar lengths (without packing)
  int64_t sequence_len;  // of a bin
  int64_t group_size;  // rows packed together
  int64_t bin_size;  // rows in a bin at most
  int64_t micro_batch_size;
  int64_t seed;
} BatchOptions;

// What the recipe says for training, or for evaluation (in order, eval_batch_size, eval_sequence_len, eval_sample_packing).
BatchOptions batch_options_from_recipe(const Recipe *recipe, bool evaluation);

typedef struct BatchPlan {
  const RowSet *rows;  // borrowed
  int64_t *documents;  // [rows->count] row numbers, sequence after sequence
  int64_t *sequence_begin;  // [sequence_count + 1] into documents
  int64_t sequence_count;
  int64_t micro_batch_size;
  int64_t batch_count;  // ceil(sequence_count / micro_batch_size); the last may be smaller
  int64_t largest;  // the first micro-batch with the most tokens
  int64_t most_tokens;  // its own
  int64_t most_documents;
  double efficiency;  // tokens / (sequences * sequence_len) with packing; 1 without
} BatchPlan;

// STATUS_BAD_INPUT when there is no row, or a row that is longer than a bin.
Status batch_plan_create(BatchPlan *plan, const RowSet *rows, const BatchOptions *options, int64_t epoch);
void batch_plan_release(BatchPlan *plan);

typedef struct Batch {
  int32_t *ids;  // [tokens]
  int32_t *positions;  // [tokens] 0, 1, ... in each document
  int32_t *targets;  // [tokens] the next token of the document where that is trained; else -1
  int64_t *document_begin;  // [document_count + 1]; document d is tokens document_begin[d] .. document_begin[d + 1] - 1
  int64_t document_count;
  int64_t tokens;
  int64_t trained_tokens;  // targets that are not -1
  int64_t token_capacity, document_capacity;
} Batch;

// Makes room for every micro-batch of the plan; batch_fill allocates nothing after that.
void batch_reserve(Batch *batch, const BatchPlan *plan);
// Micro-batch `index` (0 .. batch_count - 1) of the plan.
void batch_fill(Batch *batch, const BatchPlan *plan, int64_t index);
void batch_release(Batch *batch);

#endif
