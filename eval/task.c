// The table of tasks.
#include "eval/task.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/text.h"
#include "eval/generation.h"

static const char *const gsm8k_stops[] = {"Question:", "</s>", "<|im_end|>", NULL};
static const char *const math_stops[] = {"Problem:", NULL};
static const char *const code_stops[] = {"\nclass", "\ndef", "\n#", "\nif", "\nprint", NULL};
static const char *const no_stops[] = {NULL};

enum { SHOTS_MOST = 100 };

static const Task tasks[] = {
    {.name = "arc_easy", .path = "arc_easy.jsonl", .fill = choices_fill, .question_end = "\nAnswer:", .metrics = {{"acc"}, {"acc_norm"}}},
    {.name = "arc_challenge",
     .path = "arc_challenge.jsonl",
     .fill = choices_fill,
     .question_end = "\nAnswer:",
     .metrics = {{"acc"}, {"acc_norm"}}},
    {.name = "piqa", .path = "piqa.jsonl", .fill = choices_fill, .question_end = "\nAnswer:", .metrics = {{"acc"}, {"acc_norm"}}},
    {.name = "boolq", .path = "boolq.jsonl", .fill = choices_fill, .question_end = "\nAnswer:", .metrics = {{"acc"}}},
    {.name = "openbook_qa", .path = "openbook_qa.jsonl", .fill = choices_fill, .metrics = {{"acc"}, {"acc_norm"}}},
    {.name = "winogrande", .path = "winogrande.jsonl", .fill = options_fill, .metrics = {{"acc"}}},
    {.name = "mmlu", .path = "mmlu", .fill = mmlu_fill, .read = mmlu_read, .shots = 5, .metrics = {{"acc"}}},
    {.name = "lambada",
     .kind = TASK_CONTINUATION,
     .path = "lambada_openai.jsonl",
     .fill = continuation_fill,
     .metrics = {{"acc"}, {"perplexity", true}}},
    {.name = "gsm8k",
     .kind = TASK_TEXT,
     .path = "gsm8k",
     .fill = gsm8k_fill,
     .read = gsm8k_read,
     .shots = 5,
     .metrics = {{"exact_match_strict"}, {"exact_match_flexible"}},
     .stops = gsm8k_stops,
     .max_tokens = 256,
     .judge = gsm8k_judge},
    {.name = "math500",
     .kind = TASK_TEXT,
     .path = "math500.jsonl",
     .fill = math_fill,
     .metrics = {{"exact_match"}, {"exact_match_boxed"}},
     .stops = math_stops,
     .max_tokens = 1024,
     .judge = math_judge},
    {.name = "ifeval",
     .kind = TASK_TEXT,
     .path = "ifeval/input_data.jsonl",
     .fill = ifeval_fill,
     .metrics = {{"prompt_level_strict_acc"}, {"inst_level_strict_acc"}, {"prompt_level_loose_acc"}, {"inst_level_loose_acc"}},
     .stops = no_stops,
     .max_tokens = 1280,
     .judge = ifeval_judge,
     .note = ifeval_note},
    {.name = "humaneval",
     .kind = TASK_TEXT,
     .path = "humaneval/HumanEval.jsonl.gz",
     .fill = humaneval_fill,
     .metrics = {{"pass_at_1"}},
     .stops = code_stops,
     .max_tokens = 1024,
     .judge = humaneval_judge,
     .ask_in_chat = humaneval_ask,
     .runs_code = true},
};
enum { TASK_COUNT = sizeof tasks / sizeof tasks[0] };

// Any file of rows, by what its first row has.
static const Task choices_file = {.name = "choices", .fill = choices_fill, .metrics = {{"acc"}, {"acc_norm"}}};
static const Task continuation_file = {
    .name = "continuation", .kind = TASK_CONTINUATION, .fill = continuation_fill, .metrics = {{"acc"}, {"perplexity", true}}};

int task_count(void) { return TASK_COUNT; }
const Task *task_at(int index) { return &tasks[index]; }

int task_metric_count(const Task *task) {
  int count = 0;
  while (count < METRICS_MAX && task->metrics[count].name) count++;
  return count;
}

static bool is_file_name(const char *name) {
  return strchr(name, '/') || text_ends_with(name, ".jsonl") || text_ends_with(name, ".jsonl.gz");
}

static Status find_file_task(const Task **task, const char *path) {
  DatasetFile file;
  json_t *row = NULL;
  Status status = dataset_file_open(&file, path, ROWS_JSON);
  if (status == STATUS_OK && file.count == 0) status = status_fail(STATUS_BAD_INPUT, "%s: there are no rows in it", path);
  if (status == STATUS_OK) status = status_context(dataset_file_row(&row, &file, 0), "%s:1", path);
  if (status == STATUS_OK) *task = json_object_get(row, "continuation") ? &continuation_file : &choices_file;
  json_decref(row);
  dataset_file_release(&file);
  return status;
}

static Status find_task(const Task **task, const char *name) {
  const char *names[TASK_COUNT];
  Buffer list = {0};
  for (int i = 0; i < TASK_COUNT; i++) {
    names[i] = tasks[i].name;
    if (strcmp(names[i], name) == 0) *task = &tasks[i];
    buffer_format(&list, "%s%s", i ? ", " : "", names[i]);
  }
  const char *nearest = nearest_name(name, names, TASK_COUNT);
  Status status = STATUS_OK;
  if (!*task && nearest) status = status_fail(STATUS_USAGE, "unknown task \"%s\"; did you mean %s?", name, nearest);
  else if (!*task)
    status = status_fail(STATUS_USAGE, "unknown task \"%s\": there are %s, and any file of rows, as a path that ends in .jsonl", name,
                         list.data);
  buffer_release(&list);
  return status;
}

// NAME.shots.jsonl beside NAME.jsonl or NAME.jsonl.gz; a new string.
static char *shots_path(const char *path) {
  size_t length = strlen(path);
  if (text_ends_with(path, ".gz")) length -= strlen(".gz");
  if (length > 6 && strncmp(path + length - 6, ".jsonl", 6) == 0) length -= 6;
  return memory_format("%.*s.shots.jsonl", (int)length, path);
}

static Status read_file(TaskSet *set, const char *path, int64_t shots) {
  char *beside = shots_path(path);
  Status status = STATUS_OK;
  int group = task_group_add(set, "", "");
  bool has_answers = set->task->kind != TASK_TEXT || set->task->shots > 0;
  if (shots > 0 && !has_answers)
    status = status_fail(STATUS_USAGE, "%s is asked without shots: there are none for it; leave --shots away", set->name);
  else if (shots > 0 && !file_exists(beside))
    status = status_fail(STATUS_USAGE, "%s has no shots of its own: put %s there, with rows like those of the task, or leave --shots away",
                         set->name, beside);
  if (status == STATUS_OK) status = shots_read(set, beside, group, shots, set->task->fill);
  if (status == STATUS_OK) status = rows_read(set, path, group, set->task->fill);
  free(beside);
  return status;
}

Status task_set_open(TaskSet *set, const char *name, const char *folder, int64_t shots, int64_t limit) {
  *set = (TaskSet){.limit = limit};
  set->name = arena_copy_string(&set->arena, name);
  bool is_file = is_file_name(name);
  TRY(is_file ? find_file_task(&set->task, name) : find_task(&set->task, name));
  if (!is_file && !folder) return status_fail(STATUS_USAGE, "eval: --data FOLDER is missing: where the rows of the task %s are", name);
  if (shots > SHOTS_MOST) return status_fail(STATUS_USAGE, "eval: %d shots are the most", SHOTS_MOST);
  if (shots < 0) shots = set->task->shots;
  char *path = is_file ? memory_copy_string(name) : path_join(folder, set->task->path);
  Status status = STATUS_OK;
  if (!is_file && !set->task->read && !file_exists(path))
    status = status_fail(STATUS_BAD_INPUT,
                         "%s: not there, where %s has its rows; give the folder that has it by --data (docs/evaluation.md)", path, name);
  if (status == STATUS_OK) status = set->task->read ? set->task->read(set, path, shots) : read_file(set, path, shots);
  free(path);
  return status;
}

void task_set_release(TaskSet *set) {
  for (int64_t i = 0; i < set->item_count; i++) json_decref(set->items[i].row);
  free(set->items);
  free(set->groups);
  arena_release(&set->arena);
  *set = (TaskSet){0};
}
