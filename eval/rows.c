// Files of rows become items, each row checked when it is read: what is missing, of another type or out of range is refused by FILE:LINE.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "eval/task.h"

int task_group_add(TaskSet *set, const char *name, const char *description) {
  TaskGroup group = {.name = arena_copy_string(&set->arena, name), .description = arena_copy_string(&set->arena, description)};
  ARRAY_PUSH(set->groups, set->group_count, set->group_capacity) = group;
  return (int)set->group_count - 1;
}

static RowFormat format_of(const char *path) {
  return text_ends_with(path, ".csv") || text_ends_with(path, ".csv.gz") ? ROWS_CSV : ROWS_JSON;
}

static Status fill_item(TaskItem *item, TaskSet *set, const DatasetFile *file, const char *path, int64_t index, RowFunction fill) {
  json_t *row;
  *item = (TaskItem){.id = index, .line = file->rows[index].line, .path = path};
  Status status = dataset_file_row(&row, file, index);
  if (status == STATUS_OK && !json_is_object(row)) status = status_fail(STATUS_BAD_INPUT, "the row is no object");
  if (status == STATUS_OK) status = fill(set, item, row);
  if (status == STATUS_OK && set->task->kind == TASK_TEXT) item->row = json_incref(row);
  json_decref(row);
  return status_context(status, "%s:%" PRId64, path, item->line);
}

Status rows_append(TaskSet *set, const DatasetFile *file, const char *path, int group, RowFunction fill) {
  int64_t count = set->limit > 0 && set->limit < file->count ? set->limit : file->count;
  const char *kept = arena_copy_string(&set->arena, path);
  if (count == 0) return status_fail(STATUS_BAD_INPUT, "%s: there are no rows in it", path);
  for (int64_t i = 0; i < count; i++) {
    TaskItem item;
    TRY(fill_item(&item, set, file, kept, i, fill));
    item.group = group;
    ARRAY_PUSH(set->items, set->item_count, set->item_capacity) = item;
  }
  return STATUS_OK;
}

Status rows_read(TaskSet *set, const char *path, int group, RowFunction fill) {
  DatasetFile file;
  Status status = dataset_file_open(&file, path, format_of(path));
  if (status == STATUS_OK) status = rows_append(set, &file, path, group, fill);
  dataset_file_release(&file);
  return status;
}

// The question and the first right answer.
static Shot shot_of(const TaskItem *item) {
  for (int64_t i = 0; i < item->choice_count; i++)
    if (item->is_gold[i]) return (Shot){item->contexts ? item->contexts[i] : item->question, item->choices[i]};
  return (Shot){item->question, item->answer};
}

static Status append_shots(TaskSet *set, const DatasetFile *file, const char *path, TaskGroup *group, int64_t count, RowFunction fill) {
  if (file->count < count)
    return status_fail(STATUS_BAD_INPUT, "%s: %" PRId64 " shots are wanted, and it has %" PRId64 " rows; ask for fewer by --shots", path,
                       count, file->count);
  group->shots = arena_new(&set->arena, (size_t)count, sizeof *group->shots);
  for (int64_t i = 0; i < count; i++) {
    TaskItem item;
    TRY(fill_item(&item, set, file, path, i, fill));
    group->shots[group->shot_count++] = shot_of(&item);
    json_decref(item.row);
  }
  return STATUS_OK;
}

Status shots_read(TaskSet *set, const char *path, int group, int64_t count, RowFunction fill) {
  if (count == 0) return STATUS_OK;
  DatasetFile file;
  Status status = dataset_file_open(&file, path, format_of(path));
  if (status != STATUS_OK) status = status_context(status, "examples for the prompt (--shots 0: none)");
  if (status == STATUS_OK) status = append_shots(set, &file, path, &set->groups[group], count, fill);
  dataset_file_release(&file);
  return status;
}

// ---- Members of a row ----

static const char *type_name(const json_t *value) {
  static const char *const names[] = {"an object", "a list", "a string", "a whole number", "a number", "true", "false", "null"};
  return names[json_typeof(value)];
}

static Status copy_text(const char **out, TaskSet *set, const json_t *value, const char *key) {
  if (!json_is_string(value)) return status_fail(STATUS_BAD_INPUT, "\"%s\" must be a string, and is %s", key, type_name(value));
  if (strlen(json_string_value(value)) != json_string_length(value))
    return status_fail(STATUS_BAD_INPUT, "\"%s\" holds a NUL character, which no text has", key);
  *out = arena_copy_string(&set->arena, json_string_value(value));
  return STATUS_OK;
}

static Status find_member(const json_t **out, const json_t *row, const char *key) {
  *out = json_object_get(row, key);
  return *out ? STATUS_OK : status_fail(STATUS_BAD_INPUT, "\"%s\" is missing; docs/evaluation.md shows what a row has", key);
}

Status member_text(const char **out, TaskSet *set, const json_t *row, const char *key) {
  const json_t *value;
  TRY(find_member(&value, row, key));
  return copy_text(out, set, value, key);
}

Status member_texts(const char ***out, int64_t *count, TaskSet *set, const json_t *row, const char *key) {
  const json_t *list;
  TRY(find_member(&list, row, key));
  if (!json_is_array(list) || json_array_size(list) == 0)
    return status_fail(STATUS_BAD_INPUT, "\"%s\" must be a list of strings%s%s", key, json_is_array(list) ? ", and is empty" : ", and is ",
                       json_is_array(list) ? "" : type_name(list));
  *count = (int64_t)json_array_size(list);
  *out = arena_new(&set->arena, (size_t)*count, sizeof **out);
  for (int64_t i = 0; i < *count; i++) {
    TRY(copy_text(&(*out)[i], set, json_array_get(list, (size_t)i), key));
    if (!*(*out)[i]) return status_fail(STATUS_BAD_INPUT, "\"%s\"[%" PRId64 "] is empty, and nothing can be scored of it", key, i);
  }
  return STATUS_OK;
}

// The index of the choice that a string names: its own text first, for a choice may be a number.
static int64_t choice_named(const TaskItem *item, const char *name) {
  for (int64_t i = 0; i < item->choice_count; i++)
    if (strcmp(item->choices[i], name) == 0) return i;
  char *end;
  long long index = strtoll(name, &end, 10);
  return *name && !*end && index >= 0 ? index : -1;
}

static Status mark_gold(TaskItem *item, const json_t *value, const char *key) {
  int64_t index = -1;
  if (json_is_integer(value)) index = json_integer_value(value);
  else if (json_is_string(value)) index = choice_named(item, json_string_value(value));
  else
    return status_fail(STATUS_BAD_INPUT, "\"%s\" must be the index of a choice, its text, or a list of these, and is %s", key,
                       type_name(value));
  if (index < 0 && json_is_string(value))
    return status_fail(STATUS_BAD_INPUT, "\"%s\" is \"%s\", which is none of the choices", key, json_string_value(value));
  if (index < 0 || index >= item->choice_count)
    return status_fail(STATUS_BAD_INPUT, "\"%s\" is %" PRId64 ", and there are %" PRId64 " choices, counted from 0", key, index,
                       item->choice_count);
  item->is_gold[index] = true;
  return STATUS_OK;
}

Status member_gold(TaskItem *item, TaskSet *set, const json_t *row, const char *key) {
  const json_t *value;
  item->is_gold = arena_new(&set->arena, (size_t)item->choice_count, sizeof *item->is_gold);
  TRY(find_member(&value, row, key));
  if (!json_is_array(value)) return mark_gold(item, value, key);
  if (json_array_size(value) == 0) return status_fail(STATUS_BAD_INPUT, "\"%s\" is an empty list: no choice would be right", key);
  for (size_t i = 0; i < json_array_size(value); i++) TRY(mark_gold(item, json_array_get(value, i), key));
  return STATUS_OK;
}
