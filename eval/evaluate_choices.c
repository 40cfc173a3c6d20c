// Choices and continuations: log-probabilities, a block of items at a time. acc takes the choice of the largest log-probability (the first
// of equal ones), acc_norm that of the largest by character of Unicode. What items have in common, shots and a context before four
// choices, the scorer finds by itself.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/text.h"
#include "eval/evaluate.h"

enum { BLOCK = 256 };  // items whose tokens are in memory at once

typedef struct Block {
  TokenList ids;
  TokenSpan *spans;
  int64_t count, capacity;  // requests
  int64_t first, items;
  const TaskSet *set;
} Block;

static void block_release(Block *block) {
  token_list_release(&block->ids);
  free(block->spans);
}

// The end of a request that is too long: at least one token of context stays. The last token is scored and not read, so there may be one
// more.
static Status cut(TokenSpan *span, bool *is_cut, int64_t context) {
  int64_t most = context + 1;
  int64_t extra = span->count - most;
  if (extra <= 0) return STATUS_OK;
  if (extra >= span->context)
    return status_fail(STATUS_BAD_INPUT,
                       "what is to be scored has %" PRId64 " tokens, and the context is %" PRId64 "; choose a larger --context",
                       span->count - span->context, context);
  *span = (TokenSpan){span->begin + (size_t)extra, span->context - extra, most};
  *is_cut = true;
  return STATUS_OK;
}

// An empty context is the token that texts begin with.
static Status begin_empty(TokenList *ids, TokenSpan *span, const Tokenizer *tokenizer) {
  int32_t first = tokenizer_bos(tokenizer) >= 0 ? tokenizer_bos(tokenizer) : tokenizer_eos(tokenizer);
  if (span->context > 0) return STATUS_OK;
  if (first < 0) return status_fail(STATUS_BAD_INPUT, "the context is empty, and the vocabulary has no token that could begin a text");
  token_list_push(ids, 0);
  memmove(ids->ids + span->begin + 1, ids->ids + span->begin, (size_t)span->count * sizeof *ids->ids);
  ids->ids[span->begin] = first;
  *span = (TokenSpan){span->begin, 1, span->count + 1};
  return STATUS_OK;
}

static Status encode_choice(Block *block, const TaskItem *item, int64_t choice, bool *is_cut, const Scorer *scorer,
                            const Tokenizer *tokenizer) {
  Buffer context = {0}, continuation = {0};
  TokenSpan span = {0};
  const char *question = item->contexts ? item->contexts[choice] : item->question, *text = item->choices[choice];
  item_context(&context, block->set, item, question);
  buffer_format(&continuation, "%s%s", item_delimiter(block->set, context.data, text), text);
  Status status = pair_encode(&block->ids, &span, tokenizer, context.data, continuation.data);
  if (status == STATUS_OK) status = begin_empty(&block->ids, &span, tokenizer);
  if (status == STATUS_OK) status = cut(&span, is_cut, scorer->most_tokens);
  ARRAY_PUSH(block->spans, block->count, block->capacity) = span;
  buffer_release(&context);
  buffer_release(&continuation);
  return status;
}

static Status encode_block(Block *block, int64_t *truncated, const Scorer *scorer, const Tokenizer *tokenizer) {
  for (int64_t i = 0; i < block->items; i++) {
    const TaskItem *item = &block->set->items[block->first + i];
    bool is_cut = false;
    for (int64_t c = 0; c < item->choice_count; c++)
      TRY(status_context(encode_choice(block, item, c, &is_cut, scorer, tokenizer), "%s:%" PRId64, item->path, item->line));
    *truncated += is_cut;
  }
  return STATUS_OK;
}

static void score_choices(Score *scores, const TaskItem *item, const Likelihood *found) {
  int64_t best = 0, best_norm = 0;
  double largest_norm = 0;
  for (int64_t c = 0; c < item->choice_count; c++) {
    double norm = found[c].log_probability / (double)utf8_count(item->choices[c], strlen(item->choices[c]));
    if (found[c].log_probability > found[best].log_probability) best = c;
    if (c == 0 || norm > largest_norm) best_norm = c, largest_norm = norm;
  }
  scores[0] = (Score){item->is_gold[best], 1};
  scores[1] = (Score){item->is_gold[best_norm], 1};
}

static void score_continuation(Score *scores, const Likelihood *found) {
  scores[0] = (Score){found->is_greedy, 1};
  scores[1] = (Score){-found->log_probability, 1};
}

static json_t *choices_json(const TaskItem *item, const Likelihood *found) {
  json_t *list = json_array();
  for (int64_t c = 0; c < item->choice_count; c++) {
    json_t *choice = json_pack("{s:s, s:f, s:b, s:b}", "text", item->choices[c], "log_probability", found[c].log_probability, "is_greedy",
                               (int)found[c].is_greedy, "is_gold", (int)item->is_gold[c]);
    if (item->contexts) json_object_set_new(choice, "context", json_string(item->contexts[c]));
    json_array_append_new(list, choice);
  }
  return list;
}

static void score_item(TaskResult *result, const Block *block, int64_t index, const Likelihood *found, const EvaluateOptions *options) {
  const TaskItem *item = &block->set->items[index];
  Score *scores = result->scores + index * METRICS_MAX;
  if (block->set->task->kind == TASK_CONTINUATION) score_continuation(scores, found);
  else score_choices(scores, item, found);
  if (!options->samples) return;
  Buffer prompt = {0};
  item_context(&prompt, block->set, item, item->question);
  json_t *object = json_pack("{s:s, s:o}", "prompt", prompt.data, "choices", choices_json(item, found));
  sample_write(block->set, item, scores, options, object);
  buffer_release(&prompt);
}

typedef struct Bar {
  const TaskSet *set;
  int64_t first, items, requests;
} Bar;

static void show(int64_t done, void *context) {
  const Bar *bar = context;
  progress_show(bar->first + done * bar->items / bar->requests, bar->set->item_count, "%s", bar->set->name);
}

static Status check_numbers(const Block *block, const Likelihood *found) {
  for (int64_t i = 0; i < block->count; i++)
    if (!(found[i].log_probability <= 0 && found[i].log_probability > -1e300))  // NaN, too
      return status_fail(STATUS_FAILED, "the model's log-probability is %g, which is none", found[i].log_probability);
  return STATUS_OK;
}

static Status run_block(TaskResult *result, Block *block, const Scorer *scorer, const EvaluateOptions *options) {
  TRY(encode_block(block, &result->truncated, scorer, options->tokenizer));
  LikelihoodRequest *requests = memory_new((size_t)block->count, sizeof *requests);
  Likelihood *found = memory_new((size_t)block->count, sizeof *found);
  for (int64_t i = 0; i < block->count; i++)
    requests[i] = (LikelihoodRequest){block->ids.ids + block->spans[i].begin, block->spans[i].context, block->spans[i].count};
  Bar bar = {block->set, block->first, block->items, block->count};
  Status status = scorer->log_likelihoods(found, scorer->context, requests, block->count, (ScorerProgress){show, &bar});
  if (status == STATUS_OK) status = check_numbers(block, found);
  for (int64_t i = 0, at = 0; i < block->items && status == STATUS_OK; at += block->set->items[block->first + i].choice_count, i++)
    score_item(result, block, block->first + i, found + at, options);
  free(requests);
  free(found);
  return status;
}

Status evaluate_choices(TaskResult *result, const TaskSet *set, const Scorer *scorer, const EvaluateOptions *options) {
  Status status = STATUS_OK;
  for (int64_t first = 0; first < set->item_count && status == STATUS_OK; first += BLOCK) {
    Block block = {.set = set, .first = first, .items = set->item_count - first < BLOCK ? set->item_count - first : BLOCK};
    status = run_block(result, &block, scorer, options);
    block_release(&block);
  }
  return status;
}
