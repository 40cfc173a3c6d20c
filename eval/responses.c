#include "eval/responses.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/source/dataset_file.h"

static Status find_text(const char **out, Arena *arena, const json_t *row, const char *key) {
  const json_t *value = json_object_get(row, key);
  if (!json_is_string(value)) return status_fail(STATUS_BAD_INPUT, "\"%s\" is missing, or no string", key);
  if (strlen(json_string_value(value)) != json_string_length(value))
    return status_fail(STATUS_BAD_INPUT, "\"%s\" holds a NUL character, which no text has", key);
  *out = arena_copy_string(arena, json_string_value(value));
  return STATUS_OK;
}

Status responses_add(Responses *responses, const json_t *row) {
  const char *prompt = NULL, *text = NULL;
  TRY(find_text(&prompt, &responses->arena, row, "prompt"));
  TRY(find_text(&text, &responses->arena, row, "response"));
  if (map_get_string(&responses->prompts, prompt, NULL)) return status_fail(STATUS_BAD_INPUT, "this \"prompt\" has a response already");
  map_set_string(&responses->prompts, prompt, responses->count);
  ARRAY_PUSH(responses->texts, responses->count, responses->capacity) = text;
  return STATUS_OK;
}

Status responses_read(Responses *responses, const char *path) {
  *responses = (Responses){0};
  DatasetFile file;
  Status status = dataset_file_open(&file, path, ROWS_JSON);
  for (int64_t i = 0; status == STATUS_OK && i < file.count; i++) {
    json_t *row;
    status = dataset_file_row(&row, &file, i);
    if (status == STATUS_OK) status = responses_add(responses, row);
    json_decref(row);
    status = status_context(status, "%s:%" PRId64, path, file.rows[i].line);
  }
  dataset_file_release(&file);
  return status;
}

void responses_release(Responses *responses) {
  map_release(&responses->prompts);
  free(responses->texts);
  arena_release(&responses->arena);
  *responses = (Responses){0};
}
