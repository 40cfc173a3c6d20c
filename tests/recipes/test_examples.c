// The recipes under recipes/examples are what a new user copies: each names its own launch command, each validates, and the demo's dataset
// is whole, varied, and holds none of the questions that the demo asks afterwards. Pairs and marked replies all go through, and say the same.
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
  assert_true(each_example(check_validates) >= 6);
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

static json_t *read_rows_of(const char *name) {
  Buffer text = {0};
  char *path = path_join(EXAMPLES, name);
  assert_ok(file_read(&text, path, TEXT_LIMIT));
  free(path);
  json_t *rows = json_array();
  char *rest, *line = strtok_r(text.data, "\n", &rest);
  for (; line; line = strtok_r(NULL, "\n", &rest)) {
    json_error_t error;
    json_t *row = json_loads(line, JSON_REJECT_DUPLICATES, &error);
    if (!row) fail_msg("%s:%d: %s", name, (int)json_array_size(rows) + 1, error.text);
    json_array_append_new(rows, row);
  }
  buffer_release(&text);
  return rows;
}

static json_t *read_rows(void) { return read_rows_of("captain.jsonl"); }

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

// ---- Preference training

enum { BRIEF = 70, LONG_WINDED = 150 };

static void check_new(json_t *seen, const char *text, const char *name, size_t row) {
  if (json_object_get(seen, text)) fail_msg("%s:%d: again: %s", name, (int)row + 1, text);
  json_object_set_new(seen, text, json_true());
}

static const char *reply_of(const json_t *row, const char *field) {
  const json_t *reply = json_object_get(row, field);
  assert_string_equal(json_string_value(json_object_get(reply, "role")), "assistant");
  return json_string_value(json_object_get(reply, "content"));
}

static void the_better_reply_is_the_brief_one(void **state) {
  (void)state;
  json_t *pairs = read_rows_of("brief-pairs.jsonl"), *marks = read_rows_of("brief-marks.jsonl"), *seen = json_object(), *row;
  size_t i, good = 0;
  assert_int_equal(json_array_size(pairs), 60);
  assert_int_equal(json_array_size(marks), 60);
  json_array_foreach(pairs, i, row) {
    check_new(seen, message_content(row, 0, "user"), "brief-pairs.jsonl", i);
    assert_true(strlen(reply_of(row, "chosen")) <= BRIEF);
    assert_true(strlen(reply_of(row, "rejected")) >= LONG_WINDED);
  }
  json_object_clear(seen);
  json_array_foreach(marks, i, row) {
    check_new(seen, message_content(row, 0, "user"), "brief-marks.jsonl", i);
    size_t length = strlen(message_content(row, 1, "assistant"));
    bool is_good = json_is_true(json_object_get(row, "label"));
    assert_true(is_good ? length <= BRIEF : length >= LONG_WINDED);
    good += is_good;
  }
  assert_int_equal(good, 30);
  json_decref(seen), json_decref(pairs), json_decref(marks);
}

// With the tiny model's vocabulary in place of the demo's, which may not be here.
static void check_rows_of(const char *recipe, const char *data, const char *words) {
  Buffer output = {0};
  char *folder = temporary_folder();
  int code = run_program(&output,
                         "preprocess '" EXAMPLES "/%s' --debug 1 --base_model '%s/data/tiny-hf' --datasets.0.path '" EXAMPLES
                         "/%s' --dataset_prepared_path '%s/prepared' --sequence_len 2048",
                         recipe, TESTS_DIR, data, folder);
  if (code != 0 || !strstr(output.data, "rows: 60 read, 54 kept") || !strstr(output.data, words)) fail_msg("%s: %s", recipe, output.data);
  buffer_release(&output);
  assert_ok(directory_remove(folder));
  free(folder);
}

static void preference_examples_use_every_row(void **state) {
  (void)state;
  check_rows_of("dpo.yml", "brief-pairs.jsonl", "assistant\nchosen: [[");
  check_rows_of("kto.yml", "brief-marks.jsonl", "desirable: [[");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_example_validates),
      cmocka_unit_test(each_example_begins_with_its_launch_command),
      cmocka_unit_test(captain_answers_all_have_his_form),
      cmocka_unit_test(captain_is_never_asked_or_answers_the_same_twice),
      cmocka_unit_test(demo_asks_only_questions_that_were_not_trained),
      cmocka_unit_test(the_better_reply_is_the_brief_one),
      cmocka_unit_test(preference_examples_use_every_row),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
