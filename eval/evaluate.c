#include "eval/evaluate.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/text.h"
#include "runtime/generate.h"

void item_context(Buffer *out, const TaskSet *set, const TaskItem *item, const char *question) {
  const TaskGroup *group = &set->groups[item->group];
  buffer_append_string(out, group->description);
  for (int64_t i = 0; i < group->shot_count; i++) {
    const Shot *shot = &group->shots[i];
    buffer_format(out, "%s%s%s\n\n", shot->question, item_delimiter(set, shot->question, shot->answer), shot->answer);
  }
  buffer_append_string(out, question);
}

static bool ends_in_space(const char *text) {
  size_t length = strlen(text), most = length < 4 ? length : 4;
  for (size_t step = 1; step <= most; step++)
    if (text_space_length(text + length - step, step) == step) return true;
  return false;
}

// The choices of a task always get one, as in the harness; a continuation that is given by itself may bring its own.
const char *item_delimiter(const TaskSet *set, const char *context, const char *continuation) {
  bool has_own = text_space_length(continuation, strlen(continuation)) > 0 || ends_in_space(context);
  return set->task->kind == TASK_CONTINUATION && has_own ? "" : " ";
}

// The two share tokens at the border so that the whole has no more than the context: then the whole's own are taken, and what is scored
// begins where they part.
static void share_border(TokenList *ids, TokenSpan *span, const TokenList *whole) {
  const int32_t *alone = ids->ids + span->begin;
  int64_t common = 0;
  while (common < span->context && common + 1 < whole->count && alone[common] == whole->ids[common]) common++;
  ids->count = (int64_t)span->begin;
  for (int64_t i = 0; i < whole->count; i++) token_list_push(ids, whole->ids[i]);
  span->context = common;
}

Status pair_encode(TokenList *ids, TokenSpan *span, const Tokenizer *tokenizer, const char *context, const char *continuation) {
  size_t length = strlen(context);
  const char *begin = context;
  text_strip(&begin, &length);
  length = length ? (size_t)(begin - context) + length : 0;
  TokenList whole = {0};
  Buffer text = {0};
  *span = (TokenSpan){.begin = (size_t)ids->count};
  buffer_format(&text, "%s%s", context, continuation);
  Status status = generate_encode(ids, tokenizer, context, length);
  span->context = ids->count - (int64_t)span->begin;
  if (status == STATUS_OK) status = generate_encode(&whole, tokenizer, text.data, text.length);
  if (whole.count <= span->context) share_border(ids, span, &whole);
  else
    for (int64_t i = span->context; i < whole.count; i++) token_list_push(ids, whole.ids[i]);
  span->count = ids->count - (int64_t)span->begin;
  buffer_release(&text);
  token_list_release(&whole);
  return status;
}

void sample_write(const TaskSet *set, const TaskItem *item, const Score *scores, const EvaluateOptions *options, json_t *object) {
  if (options->label) json_object_set_new(object, "model", json_string(options->label));
  for (int i = 0; i < task_metric_count(set->task); i++) {
    const Score *score = &scores[i];
    json_object_set_new(object, set->task->metrics[i].name, score->count > 0 ? json_real(score->sum / score->count) : json_null());
  }
  json_t *line = json_pack("{s:s, s:s, s:I}", "task", set->name, "file", item->path, "line", (json_int_t)item->line);
  json_object_set_new(line, "id", json_integer(item->id));
  if (*set->groups[item->group].name) json_object_set_new(line, "group", json_string(set->groups[item->group].name));
  json_object_update(line, object);
  char *text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9));
  file_write(options->samples, text, strlen(text));
  file_write(options->samples, "\n", 1);
  free(text);
  json_decref(line);
  json_decref(object);
}

Status task_evaluate(TaskResult *result, const TaskSet *set, const Scorer *scorer, const EvaluateOptions *options) {
  double start = time_seconds();
  *result = (TaskResult){.scores = memory_new((size_t)set->item_count * METRICS_MAX, sizeof *result->scores)};
  bool is_text = set->task->kind == TASK_TEXT;
  Status status = (is_text ? evaluate_texts : evaluate_choices)(result, set, scorer, options);
  progress_clear();
  result->seconds = time_seconds() - start;
  if (status == STATUS_OK && result->truncated)
    log_warning("%s: %lld items are longer than the context and were cut at their beginning", set->name, (long long)result->truncated);
  return status_context(status, "%s", set->name);
}

void task_result_release(TaskResult *result) {
  free(result->scores);
  *result = (TaskResult){0};
}
