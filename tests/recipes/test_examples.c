// The recipes under recipes/examples are what a new user copies: each names its own launch command, each validates, and the demo's dataset
// is whole, varied, and holds none of the questions that the demo asks afterwards.
#include "tests/support/test.h"

#include <dirent.h>
#include <jansson.h>

#include "core/file.h"
#include "core/text.h"

#define EXAMPLES SOURCE_DIR "/recipes/examples"
enum { TEXT_LIMIT = 1 << 24, MAX_QUESTIONS = 16, MAX_QUESTION_LENGTH = 200 };

typedef void RecipeCheck(const char *name, const char *path);

static int each_example(RecipeCheck *check) {
  DIR *folder = opendir(EXAMPLES);
  assert_non_null(folder);
  int count = 0;
  for (struct dirent *entry; (entry = readdir(folder));) {
    if (!text_ends_with(entry->d_name, ".yml")) continue;
    char *path = path_join(EXAMPLES, entry->d_name);
    check(entry->d_name, path);
    free(path);
    count++;
  }
  closedir(folder);
  return count;
}

static void check_validates(const char *name, const char *path) {
  Buffer output = {0};
  int status = run_program(&output, "validate '%s'", path);
  if (status != 0) print_error("%s: exit code %d: %s\n", name, status, output.data);
  assert_int_equal(status, 0);
  buffer_release(&output);
}

static void each_example_validates(void **state) {
  (void)state;
  assert_true(each_example(check_validates) >= 4);
}

static void check_launch_command(const char *name, const char *path) {
  Buffer text = {0};
  assert_ok(file_read(&text, path, TEXT_LIMIT));
  char *expected = memory_format("# lora train recipes/examples/%s\n", name);
  if (!text_starts_with(text.data, expected)) print_error("%s: its first line should be: %s", name, expected);
  assert_true(text_starts_with(text.data, expected));
  free(expected);
  buffer_release(&text);
}

static void each_example_begins_with_its_launch_command(void **state) {
  (void)state;
  each_example(check_launch_command);
}

static json_t *read_rows(void) {
  Buffer text = {0};
  assert_ok(file_read(&text, EXAMPLES "/captain.jsonl", TEXT_LIMIT));
  json_t *rows = json_array();
  char *rest, *line = strtok_r(text.data, "\n", &rest);
  for (; line; line = strtok_r(NULL, "\n", &rest)) {
    json_error_t error;
    json_t *row = json_loads(line, JSON_REJECT_DUPLICATES, &error);
    if (!row) fail_msg("captain.jsonl:%d: %s", (int)json_array_size(rows) + 1, error.text);
    json_array_append_new(rows, row);
  }
  buffer_release(&text);
  return rows;
}

static const char *message_content(const json_t *row, size_t index, const char *role) {
  const json_t *message = json_array_get(json_object_get(row, "messages"), index);
  assert_string_equal(json_string_value(json_object_get(message, "role")), role);
  return json_string_value(json_object_get(message, "content"));
}

static void captain_answers_all_have_his_form(void **state) {
  (void)state;
  json_t *rows = read_rows();
  assert_in_range(json_array_size(rows), 300, 600);
  for (size_t i = 0; i < json_array_size(rows); i++) {
    const json_t *row = json_array_get(rows, i);
    assert_int_equal(json_array_size(json_object_get(row, "messages")), 2);
    assert_non_null(message_content(row, 0, "user"));
    const char *answer = message_content(row, 1, "assistant"), *heading = strstr(answer, "\nHeading: ");
    assert_true(text_starts_with(answer, "Aye! "));
    assert_non_null(heading);
    assert_null(strchr(heading + 1, '\n'));
    assert_true(text_ends_with(answer, ".") && strlen(answer) < 300);
  }
  json_decref(rows);
}

static void captain_is_never_asked_or_answers_the_same_twice(void **state) {
  (void)state;
  json_t *rows = read_rows(), *seen = json_object();
  for (size_t i = 0; i < json_array_size(rows); i++) {
    const char *texts[] = {message_content(json_array_get(rows, i), 0, "user"), message_content(json_array_get(rows, i), 1, "assistant")};
    for (int k = 0; k < 2; k++) {
      if (json_object_get(seen, texts[k])) fail_msg("captain.jsonl:%d: again: %s", (int)i + 1, texts[k]);
      json_object_set_new(seen, texts[k], json_true());
    }
  }
  json_decref(seen);
  json_decref(rows);
}

// The demo's questions, from the list questions=( ... ) of scripts/demo.
static int read_demo_questions(char questions[MAX_QUESTIONS][MAX_QUESTION_LENGTH]) {
  Buffer script = {0};
  assert_ok(file_read(&script, SOURCE_DIR "/scripts/demo", TEXT_LIMIT));
  const char *cursor = strstr(script.data, "\nquestions=(\n");
  assert_non_null(cursor);
  const char *end = strstr(cursor, "\n)\n");
  assert_non_null(end);
  int count = 0;
  while ((cursor = strchr(cursor, '"')) && cursor < end && count < MAX_QUESTIONS) {
    size_t length = strcspn(++cursor, "\"");
    assert_true(length < MAX_QUESTION_LENGTH);
    memcpy(questions[count], cursor, length);
    questions[count++][length] = 0;
    cursor += length + 1;
  }
  buffer_release(&script);
  return count;
}

static void demo_asks_only_questions_that_were_not_trained(void **state) {
  (void)state;
  char questions[MAX_QUESTIONS][MAX_QUESTION_LENGTH];
  int count = read_demo_questions(questions);
  assert_true(count >= 4);
  json_t *rows = read_rows();
  for (size_t i = 0; i < json_array_size(rows); i++)
    for (int k = 0; k < count; k++) assert_string_not_equal(message_content(json_array_get(rows, i), 0, "user"), questions[k]);
  json_decref(rows);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_example_validates),
      cmocka_unit_test(each_example_begins_with_its_launch_command),
      cmocka_unit_test(captain_answers_all_have_his_form),
      cmocka_unit_test(captain_is_never_asked_or_answers_the_same_twice),
      cmocka_unit_test(demo_asks_only_questions_that_were_not_trained),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
