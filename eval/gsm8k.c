// GSM8K (Cobbe et al. 2021): word problems whose answer is one number, by the two filters of lm-evaluation-harness.
#include <string.h>

#include "core/file.h"
#include "eval/generation.h"
#include "eval/matches.h"

static const char MARK[] = "#### ";
static const char INVALID[] = "[invalid]";

Status gsm8k_fill(TaskSet *set, TaskItem *item, const json_t *row) {
  TRY(member_text(&item->question, set, row, "question"));
  TRY(member_text(&item->answer, set, row, "answer"));
  if (!strstr(item->answer, MARK)) return status_fail(STATUS_BAD_INPUT, "\"answer\" has no \"%s\" with the number behind it", MARK);
  item->question = arena_format(&set->arena, "Question: %s\nAnswer:", item->question);
  return STATUS_OK;
}

Status gsm8k_read(TaskSet *set, const char *path, int64_t shots) {
  char *train = arena_format(&set->arena, "%s/train.jsonl", path), *test = arena_format(&set->arena, "%s/test.jsonl", path);
  int group = task_group_add(set, "", "");
  TRY(shots_read(set, train, group, shots, gsm8k_fill));
  return rows_read(set, test, group, gsm8k_fill);
}

// What is compared: without "," and "$", all up to the last "#### ", and a full stop at the end; in lower case.
static void normalise(Buffer *out, Text text) {
  Buffer plain = {0};
  for (size_t i = 0; i < text.length; i++)
    if (text.data[i] != ',' && text.data[i] != '$') buffer_append(&plain, &text.data[i], 1);
  Text rest = {plain.data, plain.length};
  for (size_t i = strlen(MARK); i <= plain.length; i++)
    if (memcmp(plain.data + i - strlen(MARK), MARK, strlen(MARK)) == 0) rest = text_part((Text){plain.data, plain.length}, i, plain.length);
  if (rest.length && rest.data[rest.length - 1] == '.') rest.length--;
  text_lower(out, rest);
  buffer_release(&plain);
}

static void judge_one(Score *score, json_t *details, const char *name, Text found, const TaskItem *item) {
  Buffer predicted = {0}, gold = {0};
  normalise(&predicted, found);
  normalise(&gold, text_of(item->answer));
  *score = (Score){strcmp(predicted.data, gold.data) == 0, 1};
  json_object_set_new(details, name, json_stringn(predicted.data, predicted.length));
  buffer_release(&predicted);
  buffer_release(&gold);
}

Status gsm8k_judge(Score *scores, json_t *details, const TaskItem *item, const char *text, size_t length, const JudgeOptions *options) {
  (void)options;
  MatchList strict = {0}, flexible = {0};
  Text answer = {text, length}, first = text_of(INVALID), last = text_of(INVALID);
  Status status = matches_find(&strict, "#### (\\-?[0-9\\.\\,]+)", 0, answer);
  if (status == STATUS_OK) status = matches_find(&flexible, "(-?[$0-9.,]{2,})|(-?[0-9]+)", 0, answer);
  if (strict.count) first = strict.items[0].groups[1];
  if (flexible.count) last = flexible.items[flexible.count - 1].groups[0];
  if (status == STATUS_OK) judge_one(&scores[0], details, "strict", first, item);
  if (status == STATUS_OK) judge_one(&scores[1], details, "flexible", last, item);
  match_list_release(&strict);
  match_list_release(&flexible);
  return status;
}
