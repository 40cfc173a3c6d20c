// Micro-batches: for an epoch, which rows stand together, and their tokens without padding.
//
// A micro-batch is up to micro_batch_size sequences; a sequence is one row or, with sample packing, a bin
// of rows whose lengths sum to at most sequence_len. As attention stays within a document (a row) and
// positions restart there, a micro-batch is simply the concatenation of its documents.
//
// A preference row of two replies is one document that forks: its prompt, of which the last token is left for the replies, then
//   last prompt token, better reply | last prompt token, worse reply
// where the second branch sees the prompt and itself, as if the first were not there. So the prompt is computed once, and every
// token but the last of a branch has one target. Without sharing each reply is a document with a prompt of its own.
//
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
  bool shares_prompts;  // the two replies of a preference row follow one computation of their prompt
  bool trains_prompts;  // prompts of preference rows have targets, too (ORPO), before the better reply
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
  int64_t most_documents, most_rows;
  double efficiency;  // tokens / (sequences * sequence_len) with packing; 1 without
  bool shares_prompts, trains_prompts;
} BatchPlan;

// STATUS_BAD_INPUT when there is no row, or a row that is longer than a bin.
Status batch_plan_create(BatchPlan *plan, const RowSet *rows, const BatchOptions *options, int64_t epoch);
void batch_plan_release(BatchPlan *plan);
int64_t batch_plan_tokens(const BatchPlan *plan, int64_t index);  // of micro-batch `index`

// Where a document forks, as offsets from its beginning: tokens 0 .. shared-1 are seen by both branches, shared .. second-1 are one
// branch and second .. the other. second 0: it does not.
typedef struct Fork {
  int64_t shared, second;
} Fork;

// A reply of a row: its log-probability is over the targets of tokens begin .. end-1.
typedef struct Reply {
  int64_t begin, end;
} Reply;

typedef struct Batch {
  int32_t *ids;  // [tokens]
  int32_t *positions;  // [tokens] 0, 1, ... in each document
  int32_t *targets;  // [tokens] the next token of the document where that is trained; else -1
  int64_t *document_begin;  // [document_count + 1]; document d is tokens document_begin[d] .. document_begin[d + 1] - 1
  Fork *forks;  // [document_count]
  int64_t document_count;
  int64_t *rows;  // [row_count] which rows of the plan's set these are, in order
  Reply *replies;  // [row_count] of rows of one reply, [2 row_count] of pairs: the better one first
  int64_t row_count, reply_count;
  int64_t tokens;
  int64_t trained_tokens;  // targets that are not -1
  int64_t token_capacity, document_capacity, row_capacity;
} Batch;

int64_t batch_row_tokens(const TokenRow *row, bool shares_prompts);  // that a row takes in a micro-batch

// Makes room for every micro-batch of the plan; batch_fill allocates nothing after that.
void batch_reserve(Batch *batch, const BatchPlan *plan);
// Micro-batch `index` (0 .. batch_count - 1) of the plan.
void batch_fill(Batch *batch, const BatchPlan *plan, int64_t index);
// The same with each prompt before the reply of the row that comes before it in the micro-batch (before the first: the last), which KTO's
// estimate of the KL divergence is made of (Ethayarajh et al. 2024, arXiv 2402.01306). Rows have one reply.
void batch_fill_mismatched(Batch *batch, const BatchPlan *plan, int64_t index);
void batch_release(Batch *batch);

#endif
