// Rows whose choices or continuations are scored: {query, choices, gold}, {context_options, continuation, gold}, {context, continuation},
// and the records of MMLU.
#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/text.h"
#include "eval/task.h"

// Where the white space at the text's end begins, as Python's rstrip sees it.
static size_t stripped_length(const char *text) {
  const char *begin = text;
  size_t length = strlen(text);
  text_strip(&begin, &length);
  return length ? (size_t)(begin - text) + length : 0;
}

Status choices_fill(TaskSet *set, TaskItem *item, const json_t *row) {
  const char *end = set->task->question_end;
  TRY(member_text(&item->question, set, row, "query"));
  if (end) item->question = arena_format(&set->arena, "%.*s%s", (int)stripped_length(item->question), item->question, end);
  TRY(member_texts(&item->choices, &item->choice_count, set, row, "choices"));
  return member_gold(item, set, row, "gold");
}

Status options_fill(TaskSet *set, TaskItem *item, const json_t *row) {
  const char *continuation;
  TRY(member_texts(&item->choices, &item->choice_count, set, row, "context_options"));
  TRY(member_text(&continuation, set, row, "continuation"));
  TRY(member_gold(item, set, row, "gold"));
  item->contexts = item->choices;
  item->choices = arena_new(&set->arena, (size_t)item->choice_count, sizeof *item->choices);
  for (int64_t i = 0; i < item->choice_count; i++) item->choices[i] = continuation;
  item->question = item->contexts[0];
  return STATUS_OK;
}

Status continuation_fill(TaskSet *set, TaskItem *item, const json_t *row) {
  item->choice_count = 1;
  item->choices = arena_new(&set->arena, 1, sizeof *item->choices);
  item->is_gold = arena_new(&set->arena, 1, sizeof *item->is_gold);
  item->is_gold[0] = true;
  TRY(member_text(&item->question, set, row, "context"));
  TRY(member_text(&item->choices[0], set, row, "continuation"));
  return *item->choices[0] ? STATUS_OK : status_fail(STATUS_BAD_INPUT, "\"continuation\" is empty, and nothing can be scored of it");
}

// ---- MMLU (Hendrycks et al. 2021): a subject's test beside its own five shots ----

enum { MMLU_CHOICES = 4 };

Status mmlu_fill(TaskSet *set, TaskItem *item, const json_t *row) {
  static const char *const letters[MMLU_CHOICES] = {"A", "B", "C", "D"};
  Buffer text = {0};
  const char *question, *choice;
  TRY(member_text(&question, set, row, "question"));
  size_t length = strlen(question);
  text_strip(&question, &length);
  buffer_append(&text, question, length);
  Status status = STATUS_OK;
  for (int i = 0; i < MMLU_CHOICES && status == STATUS_OK; i++) {
    char key[] = {'c', 'h', 'o', 'i', 'c', 'e', (char)('0' + i), 0};
    status = member_text(&choice, set, row, key);
    if (status == STATUS_OK) buffer_format(&text, "\n%s. %s", letters[i], choice);
  }
  buffer_append_string(&text, "\nAnswer:");
  item->question = arena_copy_string(&set->arena, text.data);
  buffer_release(&text);
  TRY(status);
  item->choice_count = MMLU_CHOICES;
  item->choices = arena_new(&set->arena, MMLU_CHOICES, sizeof *item->choices);
  memcpy(item->choices, letters, sizeof letters);
  return member_gold(item, set, row, "answer");
}

static Status read_subject(TaskSet *set, const char *folder, const char *subject, int64_t shots) {
  char *words = arena_copy_string(&set->arena, subject);
  for (char *p = words; *p; p++)
    if (*p == '_') *p = ' ';
  char *preamble = arena_format(&set->arena, "The following are multiple choice questions (with answers) about %s.\n\n", words);
  char *dev = arena_format(&set->arena, "%s/dev/%s_dev.csv", folder, subject);
  char *test = arena_format(&set->arena, "%s/test/%s_test.csv", folder, subject);
  int group = task_group_add(set, subject, preamble);
  TRY(shots_read(set, dev, group, shots, mmlu_fill));
  return rows_read(set, test, group, mmlu_fill);
}

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// The subjects that have a test, in alphabetical order; new strings.
static Status list_subjects(char ***names, int *count, const char *folder) {
  static const char ending[] = "_test.csv";
  char *path = path_join(folder, "test");
  DIR *files = opendir(path);
  int capacity = 0;
  for (struct dirent *entry; files && (entry = readdir(files));) {
    if (!text_ends_with(entry->d_name, ending)) continue;
    ARRAY_PUSH(*names, *count, capacity) = memory_format("%.*s", (int)(strlen(entry->d_name) - strlen(ending)), entry->d_name);
  }
  if (files) closedir(files);
  Status status = *count ? STATUS_OK : status_fail(STATUS_BAD_INPUT, "%s: there are no files SUBJECT%s in it", path, ending);
  free(path);
  if (*count) qsort(*names, (size_t)*count, sizeof **names, compare_names);
  return status;
}

Status mmlu_read(TaskSet *set, const char *path, int64_t shots) {
  char **subjects = NULL;
  int count = 0;
  Status status = list_subjects(&subjects, &count, path);
  for (int i = 0; i < count; i++) {
    if (status == STATUS_OK) status = read_subject(set, path, subjects[i], shots);
    free(subjects[i]);
  }
  free(subjects);
  return status;
}
