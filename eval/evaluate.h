// One task over one model: what is asked, in which words and tokens, and what comes of it.
//
// Tokens are those of lm-evaluation-harness: white space at a context's end moves to what is scored; the context is tokenised by itself,
// and both together; of these, what is behind as many tokens as the context has alone is scored, behind the context's own. (Where a token
// spans the border, as ": " may, the two are not the tokens of the whole text.) What is longer than the model's context loses tokens at
// its beginning.
#ifndef EVAL_EVALUATE_H
#define EVAL_EVALUATE_H

#include "core/file.h"
#include "data/template/chat_template.h"
#include "data/tokenizer/tokenizer.h"
#include "eval/responses.h"
#include "eval/scorer.h"
#include "eval/task.h"

typedef struct EvaluateOptions {
  const Tokenizer *tokenizer;
  const ChatTemplate *chat;  // tasks whose text is judged are asked in a conversation; NULL: as they are
  const char *const *stops;  // [stop_count]: further texts that end an answer
  int stop_count;
  int64_t max_tokens;  // of an answer; 0: the task's own
  bool allows_code;
  const Responses *responses;  // answers that are given, and no model is asked; NULL: it is
  FileWriter *samples;  // a line of JSON for each item; NULL: none
  const char *label;  // of the model, in samples: "adapter"
} EvaluateOptions;

typedef struct TaskResult {
  Score *scores;  // [items * METRICS_MAX]
  int64_t truncated;  // items whose beginning did not fit
  double seconds;
} TaskResult;

// Shows progress. Release `result` in any case.
Status task_evaluate(TaskResult *result, const TaskSet *set, const Scorer *scorer, const EvaluateOptions *options);
void task_result_release(TaskResult *result);

// The text that is in front of a choice, or what is continued: description, shots, and the item's own question. Appends.
void item_context(Buffer *out, const TaskSet *set, const TaskItem *item, const char *question);
// What stands between a context and its continuation: " ", or nothing where one of the two brings white space itself.
const char *item_delimiter(const TaskSet *set, const char *context, const char *continuation);

// Inside of eval/evaluate*.c: requests for a stretch of items.
typedef struct TokenSpan {
  size_t begin;  // in one list of tokens
  int64_t context, count;
} TokenSpan;

Status pair_encode(TokenList *ids, TokenSpan *span, const Tokenizer *tokenizer, const char *context, const char *continuation);
Status evaluate_choices(TaskResult *result, const TaskSet *set, const Scorer *scorer, const EvaluateOptions *options);
Status evaluate_texts(TaskResult *result, const TaskSet *set, const Scorer *scorer, const EvaluateOptions *options);
// One sample: {"task", "model", "id", "file", "line", ...}; takes `object`.
void sample_write(const TaskSet *set, const TaskItem *item, const Score *scores, const EvaluateOptions *options, json_t *object);

#endif
