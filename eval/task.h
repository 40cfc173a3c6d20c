// Evaluation tasks as rows of data: where a task's rows are, how one becomes an item, what is asked, and how the answer is scored. The
// rules are lm-evaluation-harness's (Gao et al., 0.4): " " between a question and its answer, an empty line between shots.
//
//   TASK_CHOICES       every choice behind the context; the largest log-probability is the answer (eval/multiple_choice.c)
//   TASK_CONTINUATION  the log-probability of one continuation, and whether greedy decoding would write it
//   TASK_TEXT          what the model writes, greedily, is judged (eval/generation.c)
//
// A task set is the rows of one task, read and checked: nothing that is wrong in a file shows only when a model has worked for an hour.
#ifndef EVAL_TASK_H
#define EVAL_TASK_H

#include <jansson.h>

#include "core/memory.h"
#include "data/source/dataset_file.h"
#include "eval/metrics.h"

typedef enum TaskKind { TASK_CHOICES, TASK_CONTINUATION, TASK_TEXT } TaskKind;

typedef struct Shot {
  const char *question, *answer;
} Shot;

// Items with the same shots before them: a subject of MMLU; else all of a task.
typedef struct TaskGroup {
  const char *name;  // "" where a task has one group only
  const char *description;  // text before the shots
  Shot *shots;
  int64_t shot_count;
} TaskGroup;

typedef struct TaskItem {
  int64_t id;  // its number in its file, from 0
  int64_t line;  // in `path`
  const char *path;
  int group;
  const char *question;  // the context, or the prompt; of items with a context for each choice, that of the first
  // TASK_CHOICES, and TASK_CONTINUATION, which has one choice
  const char **contexts;  // [choice_count]: what stands before each choice in the question's place; NULL: the question before all
  const char **choices;  // [choice_count]
  bool *is_gold;  // [choice_count]
  int64_t choice_count;
  const char *answer;  // TASK_TEXT, as a shot shows it; NULL where none can
  json_t *row;  // TASK_TEXT: the row, which the judge knows how to read
} TaskItem;

struct Task;

typedef struct TaskSet {
  const struct Task *task;
  char *name;  // in reports: the task's, or the path that was given
  TaskGroup *groups;
  int64_t group_count, group_capacity;
  TaskItem *items;
  int64_t item_count, item_capacity;
  int64_t limit;  // items of a file; 0: all
  Arena arena;  // strings and arrays of items and groups
} TaskSet;

// Fills the item from a row. STATUS_BAD_INPUT says what is wrong with it, not where it is.
typedef Status (*RowFunction)(TaskSet *set, TaskItem *item, const json_t *row);

// What a judge may use beside the item.
typedef struct JudgeOptions {
  bool allows_code;  // programs that a model wrote may run, in the sandbox (eval/sandbox.h)
  bool is_chat;
} JudgeOptions;

typedef struct Task {
  const char *name;
  TaskKind kind;
  const char *path;  // in the data folder
  const char *question_end;  // behind a query without its trailing white space; NULL: the query as it is
  int64_t shots;
  Metric metrics[METRICS_MAX];  // up to a name that is NULL
  const char *const *stops;  // TASK_TEXT: NULL-terminated
  int64_t max_tokens;
  RowFunction fill;
  // Reads what is at `path` and is more than one file. NULL: it is a file; its shots, where any are asked for, are in NAME.shots.jsonl
  // beside NAME.jsonl.
  Status (*read)(TaskSet *set, const char *path, int64_t shots);
  // TASK_TEXT: scores[METRICS_MAX] of an answer; adds to `details`, an object, what a reader of the sample wants to know.
  Status (*judge)(Score *scores, json_t *details, const TaskItem *item, const char *text, size_t length, const JudgeOptions *options);
  // Appends what the model is asked in a conversation, and what its answer has to begin with. NULL: the question, and nothing.
  void (*ask_in_chat)(Buffer *question, Buffer *answer_start, const TaskItem *item);
  // Adds to `out`, an object of the results, what of the set is not scored. NULL: all is.
  void (*note)(json_t *out, const TaskSet *set);
  bool runs_code;
} Task;

int task_count(void);
const Task *task_at(int index);
int task_metric_count(const Task *task);

// The set of a task by its name, its files in `folder`; or of any JSONL file, where the name has a '/' or ends in .jsonl or .jsonl.gz:
// rows of {query, choices, gold} or {context, continuation}. shots -1: the task's own; limit 0: all items, else the first so many (MMLU:
// of each subject). STATUS_USAGE: no such task, or no such shots. STATUS_BAD_INPUT: FILE:LINE and what is wrong. Release `set` in any
// case.
Status task_set_open(TaskSet *set, const char *name, const char *folder, int64_t shots, int64_t limit);
void task_set_release(TaskSet *set);

// ---- For readers of rows (eval/rows*.c)

// The file's rows become items of the group, those behind the set's limit left out. Messages begin with FILE:LINE. CSV by the path's
// ending.
Status rows_read(TaskSet *set, const char *path, int group, RowFunction fill);
// The same of a file that is open; `file` is not needed afterwards.
Status rows_append(TaskSet *set, const DatasetFile *file, const char *path, int group, RowFunction fill);
// The first `count` rows become the group's shots: the question with its right answer. STATUS_BAD_INPUT when there are fewer.
Status shots_read(TaskSet *set, const char *path, int group, int64_t count, RowFunction fill);
int task_group_add(TaskSet *set, const char *name, const char *description);  // its index

// Members of a row; what they give lives in the set's arena.
Status member_text(const char **out, TaskSet *set, const json_t *row, const char *key);
Status member_texts(const char ***out, int64_t *count, TaskSet *set, const json_t *row, const char *key);  // a list that is not empty
// Which of item->choices are right: an index from 0 (a number, or a string of digits), the text of a choice, or a list of these.
Status member_gold(TaskItem *item, TaskSet *set, const json_t *row, const char *key);

Status choices_fill(TaskSet *set, TaskItem *item, const json_t *row);  // {query, choices, gold}
Status options_fill(TaskSet *set, TaskItem *item, const json_t *row);  // {context_options, continuation, gold}
Status continuation_fill(TaskSet *set, TaskItem *item, const json_t *row);  // {context, continuation}
Status mmlu_fill(TaskSet *set, TaskItem *item, const json_t *row);  // {question, choice0 .. choice3, answer}
Status gsm8k_fill(TaskSet *set, TaskItem *item, const json_t *row);  // {question, answer}
Status math_fill(TaskSet *set, TaskItem *item, const json_t *row);  // {problem, answer}, or {problem, solution} with \boxed
Status ifeval_fill(TaskSet *set, TaskItem *item, const json_t *row);  // {key, prompt, instruction_id_list, kwargs}
Status humaneval_fill(TaskSet *set, TaskItem *item, const json_t *row);  // {task_id, prompt, entry_point, test}

Status mmlu_read(TaskSet *set, const char *path, int64_t shots);  // a folder with dev/SUBJECT_dev.csv and test/SUBJECT_test.csv
Status gsm8k_read(TaskSet *set, const char *path, int64_t shots);  // a folder with test.jsonl and train.jsonl

#endif
