// Any bytes as a file of rows of an evaluation task: the first byte says of which. What is read has to be whole: a question, choices that
// are not empty, and one that is right. Texts are then judged, with the bytes themselves as the answer.
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/text.h"
#include "eval/generation.h"
#include "eval/math_answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Kind {
  RowFunction fill;
  RowFormat format;
  Task task;
} Kind;

static const Kind kinds[] = {
    {choices_fill, ROWS_JSON, {.question_end = "\nAnswer:"}},
    {options_fill, ROWS_JSON, {0}},
    {continuation_fill, ROWS_JSON, {.kind = TASK_CONTINUATION}},
    {mmlu_fill, ROWS_CSV, {0}},
    {gsm8k_fill, ROWS_JSON, {.kind = TASK_TEXT, .judge = gsm8k_judge}},
    {math_fill, ROWS_JSON, {.kind = TASK_TEXT, .judge = math_judge}},
    {ifeval_fill, ROWS_JSON, {.kind = TASK_TEXT, .judge = ifeval_judge}},
    {humaneval_fill, ROWS_JSON, {.kind = TASK_TEXT}},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void check_item(const TaskSet *set, const TaskItem *item) {
  int64_t right = 0;
  if (!item->question || item->group != 0 || item->line < 1) abort();
  if (set->task->kind == TASK_TEXT) {
    if (!item->row || item->choice_count != 0) abort();
    return;
  }
  if (item->choice_count < 1) abort();
  for (int64_t i = 0; i < item->choice_count; i++) {
    if (!*item->choices[i] || (item->contexts && !item->contexts[i])) abort();
    right += item->is_gold[i];
  }
  if (right < 1) abort();
}

static void judge_item(const TaskSet *set, const TaskItem *item, const char *text, size_t length) {
  Score scores[METRICS_MAX] = {{0}};
  json_t *details = json_object();
  Status status = set->task->judge(scores, details, item, text, length, &(JudgeOptions){0});
  for (int i = 0; i < METRICS_MAX && status == STATUS_OK; i++)
    if (!(scores[i].sum >= 0 && scores[i].sum <= scores[i].count)) abort();
  json_decref(details);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  log_set_quiet(true);
  const Kind *kind = &kinds[data[0] % KINDS];
  const char *text = (const char *)data + 1;
  DatasetFile file;
  TaskSet set = {.task = &kind->task, .limit = 20};
  int group = task_group_add(&set, "", "");
  Status status = dataset_file_parse(&file, "fuzz.jsonl", kind->format, text, size - 1);
  if (status == STATUS_OK) status = rows_append(&set, &file, "fuzz.jsonl", group, kind->fill);
  if (status != STATUS_OK && strncmp(status_message(), "fuzz.jsonl", 10) != 0) abort();  // every message says where
  for (int64_t i = 0; i < set.item_count; i++) {
    check_item(&set, &set.items[i]);
    bool can_judge = status == STATUS_OK && kind->task.judge && utf8_is_valid(text, size - 1, NULL);
    if (can_judge) judge_item(&set, &set.items[i], text, size - 1);
  }
  dataset_file_release(&file);
  task_set_release(&set);
  return 0;
}
