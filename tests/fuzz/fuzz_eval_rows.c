// Any bytes as a file of rows of an evaluation task: the first byte says of which. What is read has to be whole: a question, choices that
// are not empty, and one that is right. Texts are then judged, with the bytes themselves as the answer.
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/text.h"
#include "eval/generation.h"
#include "eval/math_answer.h"
#include "eval/responses.h"

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

// The same rows as answers that are given: what is taken can be found again.
static void add_responses(const DatasetFile *file) {
  Responses responses = {0};
  for (int64_t i = 0; i < file->count && i < 20; i++) {
    json_t *row;
    if (dataset_file_row(&row, file, i) != STATUS_OK) continue;
    int64_t before = responses.count, index = -1;
    bool taken = responses_add(&responses, row) == STATUS_OK;
    if (responses.count != before + taken) abort();
    if (taken && (!map_get_string(&responses.prompts, json_string_value(json_object_get(row, "prompt")), &index) || index != before))
      abort();
    json_decref(row);
  }
  responses_release(&responses);
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
  if (status == STATUS_OK) add_responses(&file);
  dataset_file_release(&file);
  task_set_release(&set);
  return 0;
}
