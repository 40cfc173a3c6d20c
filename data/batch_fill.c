// Filling a micro-batch: ids, positions and shifted targets of its documents, one after another.
#include <stdlib.h>

#include "data/batch.h"

int64_t batch_row_tokens(const TokenRow *row, bool shares_prompts) {
  if (row->rejected == 0) return row->count;
  bool forks = shares_prompts && row->prompt > 1;
  return row->count + (forks ? 1 : row->prompt);  // its last token twice, or all of it
}

void batch_reserve(Batch *batch, const BatchPlan *plan) {
  if (plan->most_tokens > batch->token_capacity) {
    batch->token_capacity = plan->most_tokens;
    size_t tokens = (size_t)plan->most_tokens;
    batch->ids = memory_grow(batch->ids, tokens, sizeof *batch->ids);
    batch->positions = memory_grow(batch->positions, tokens, sizeof *batch->positions);
    batch->targets = memory_grow(batch->targets, tokens, sizeof *batch->targets);
  }
  if (plan->most_documents > batch->document_capacity) {
    batch->document_capacity = plan->most_documents;
    size_t documents = (size_t)plan->most_documents;
    batch->document_begin = memory_grow(batch->document_begin, documents + 1, sizeof *batch->document_begin);
    batch->forks = memory_grow(batch->forks, documents, sizeof *batch->forks);
  }
  if (plan->most_rows > batch->row_capacity) {
    batch->row_capacity = plan->most_rows;
    batch->rows = memory_grow(batch->rows, (size_t)plan->most_rows, sizeof *batch->rows);
    batch->replies = memory_grow(batch->replies, 2 * (size_t)plan->most_rows, sizeof *batch->replies);
  }
}

static void begin_document(Batch *batch) {
  batch->forks[batch->document_count] = (Fork){0};
  batch->document_begin[batch->document_count++] = batch->tokens;
}

// A token and what it predicts: LABEL_MASKED for nothing.
static void add_token(Batch *batch, int32_t id, int64_t position, int32_t label) {
  int64_t t = batch->tokens++;
  batch->ids[t] = id;
  batch->positions[t] = (int32_t)position;
  batch->targets[t] = label == LABEL_MASKED ? -1 : label;
  batch->trained_tokens += label != LABEL_MASKED;
}

// The prompt's tokens but `kept` at its end, which stand before a reply. They predict each other where prompts are trained.
static void add_prompt(Batch *batch, const TokenRow *row, int64_t kept, bool is_trained) {
  for (int64_t i = 0; i + kept < row->prompt; i++)
    add_token(batch, row->ids[i], i, is_trained && i + 1 < row->prompt ? row->ids[i + 1] : LABEL_MASKED);
}

// A row's tokens begin .. end-1 behind the prompt's last `kept` tokens, as a reply.
static void add_reply(Batch *batch, const TokenRow *row, int64_t kept, const TokenRow *from, int64_t begin, int64_t end) {
  Reply *reply = &batch->replies[batch->reply_count++];
  reply->begin = batch->tokens;
  int64_t prompt = row->prompt;
  if (kept) add_token(batch, row->ids[prompt - 1], prompt - 1, begin < end ? from->labels[begin] : LABEL_MASKED);
  for (int64_t i = begin; i < end; i++)
    add_token(batch, from->ids[i], prompt + i - begin, i + 1 < end ? from->labels[i + 1] : LABEL_MASKED);
  reply->end = batch->tokens;
}

static void add_pair(Batch *batch, const TokenRow *row, const BatchPlan *plan) {
  int64_t kept = row->prompt > 0 ? 1 : 0;
  bool forks = plan->shares_prompts && row->prompt > 1;
  begin_document(batch);
  int64_t begin = batch->tokens;
  Fork *fork = &batch->forks[batch->document_count - 1];
  add_prompt(batch, row, kept, plan->trains_prompts);
  int64_t shared = batch->tokens - begin;
  add_reply(batch, row, kept, row, row->prompt, row->rejected);
  if (forks) {
    *fork = (Fork){.shared = shared, .second = batch->tokens - begin};
  } else {
    begin_document(batch);
    add_prompt(batch, row, kept, false);
  }
  add_reply(batch, row, kept, row, row->rejected, row->count);
}

static void add_single(Batch *batch, const TokenRow *row, const TokenRow *from, const BatchPlan *plan) {
  int64_t kept = row->prompt > 0 ? 1 : 0;
  begin_document(batch);
  add_prompt(batch, row, kept, plan->trains_prompts);
  add_reply(batch, row, kept, from, from->prompt, from->count);
}

static void fill(Batch *batch, const BatchPlan *plan, int64_t index, bool is_mismatched) {
  batch_reserve(batch, plan);
  batch->tokens = batch->trained_tokens = batch->document_count = batch->row_count = batch->reply_count = 0;
  int64_t first = plan->sequence_begin[index * plan->micro_batch_size], end_sequence = (index + 1) * plan->micro_batch_size;
  int64_t last = plan->sequence_begin[end_sequence < plan->sequence_count ? end_sequence : plan->sequence_count];
  for (int64_t d = first; d < last; d++) {
    const TokenRow *row = &plan->rows->rows[plan->documents[d]];
    const TokenRow *before = &plan->rows->rows[plan->documents[d > first ? d - 1 : last - 1]];
    batch->rows[batch->row_count++] = plan->documents[d];
    if (row->rejected > 0) add_pair(batch, row, plan);
    else add_single(batch, row, is_mismatched ? before : row, plan);
  }
  batch->document_begin[batch->document_count] = batch->tokens;
  row_set_forget(plan->rows);
}

void batch_fill(Batch *batch, const BatchPlan *plan, int64_t index) { fill(batch, plan, index, false); }

void batch_fill_mismatched(Batch *batch, const BatchPlan *plan, int64_t index) { fill(batch, plan, index, true); }

void batch_release(Batch *batch) {
  free(batch->ids);
  free(batch->positions);
  free(batch->targets);
  free(batch->document_begin);
  free(batch->forks);
  free(batch->rows);
  free(batch->replies);
  *batch = (Batch){0};
}
