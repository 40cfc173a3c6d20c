// Recipes in the manner of the wild: those of data/good validate with the notices that their last line names, and each
// of data/bad.txt has one fault, reported at its place.
#include <dirent.h>
#include <stdlib.h>

#include "core/file.h"
#include "core/text.h"
#include "tests/support/recipe.h"
#include "tests/support/test.h"

enum { TEXT_LIMIT = 1 << 20 };

// "# Notices: key key ...", the last line of a good recipe; a line of "# Notices:" alone means none.
static void check_good(const char *name, const char *text) {
  static const char mark[] = "\n# Notices:";
  if (parse_recipe(name, text, NULL) != STATUS_OK) fail_msg("%s: %s", name, status_message());
  const char *wanted = strstr(text, mark);
  if (!wanted) fail_msg("%s has no line \"# Notices: ...\"", name);
  wanted += sizeof mark - 1;
  Buffer told = {0};
  for (int i = 0; i < recipe.remark_count; i++) buffer_format(&told, " %s", recipe.remarks[i].key);
  buffer_append_string(&told, "\n");
  if (strcmp(told.data, wanted) != 0) fail_msg("%s: the notices are of%sand should be of%s", name, told.data, wanted);
  buffer_release(&told);
}

static void good_recipes_validate_with_just_their_notices(void **state) {
  (void)state;
  static const char folder[] = TESTS_DIR "/recipes/data/good";
  DIR *directory = opendir(folder);
  assert_non_null(directory);
  int count = 0;
  for (struct dirent *entry; (entry = readdir(directory));) {
    if (entry->d_name[0] == '.') continue;
    char *path = path_join(folder, entry->d_name);
    Buffer text = {0};
    assert_ok(file_read(&text, path, TEXT_LIMIT));
    check_good(entry->d_name, text.data);
    buffer_release(&text);
    free(path);
    count++;
  }
  closedir(directory);
  assert_true(count >= 56);
}

// What validates here also reads back from output_dir/recipe.yml, with nothing new to say.
static void good_recipes_come_back_from_their_resolved_text(void **state) {
  (void)state;
  static const char folder[] = TESTS_DIR "/recipes/data/good";
  DIR *directory = opendir(folder);
  assert_non_null(directory);
  for (struct dirent *entry; (entry = readdir(directory));) {
    if (entry->d_name[0] == '.') continue;
    char *path = path_join(folder, entry->d_name);
    recipe_release(&recipe);
    assert_ok(recipe_load(&recipe, path, NULL, 0));
    char *resolved = memory_copy_string(recipe.resolved);
    assert_ok(parse_recipe("resolved.yml", resolved, NULL));
    assert_string_equal(recipe.resolved, resolved);
    free(resolved);
    free(path);
  }
  closedir(directory);
}

// --- one fault each ---

// The base without the lines of `dropped` ("key key"), each of which begins a line of its own.
static char *base_without(const char *base, char *dropped) {
  char *text = memory_copy_string(base);
  for (char *save, *key = strtok_r(dropped, " ", &save); key; key = strtok_r(NULL, " ", &save)) {
    char *mark = memory_format("\n%s:", key), *at = strstr(text, mark);
    assert_non_null(at);
    char *end = strchr(at + 1, '\n');
    assert_non_null(end);
    memmove(at, end, strlen(end) + 1);
    free(mark);
  }
  return text;
}

static int count_lines(const char *text) {
  int lines = 0;
  for (; *text; text++) lines += *text == '\n';
  return lines;
}

// `block`: "LINE:COL: key: words\n[without: key key\n]lines to append". LINE counts from the first appended line; 0:COL
// is the file as a whole, 1:1.
static void check_bad(const char *base, char *block) {
  char *body = strchr(block, '\n'), dropped[256] = "";
  assert_non_null(body);
  *body++ = 0;
  static const char without[] = "without: ";
  if (text_starts_with(body, without)) {
    char *end = strchr(body, '\n');
    snprintf(dropped, sizeof dropped, "%.*s", (int)(end - body - (int)sizeof without + 1), body + sizeof without - 1);
    body = end + 1;
  }
  char *head = base_without(base, dropped), *text = memory_format("%s%s", head, body), *rest;
  long line = strtol(block, &rest, 10);
  char *wanted = memory_format("r.yml:%ld%s", line ? line + count_lines(head) : 1, rest);
  if (parse_recipe("r.yml", text, NULL) != STATUS_USAGE) fail_msg("not refused: %s", block);
  if (!strstr(status_message(), wanted)) fail_msg("wanted %s\nin %s", wanted, status_message());
  if (recipe.problem_count > 1) fail_msg("more than one problem for %s: %s", block, status_message());
  free(wanted);
  free(text);
  free(head);
}

static void bad_recipes_are_refused_at_the_place_of_their_fault(void **state) {
  (void)state;
  Buffer text = {0};
  assert_ok(file_read(&text, TESTS_DIR "/recipes/data/bad.txt", TEXT_LIMIT));
  static const char mark[] = "\n>>> ";
  char *base = strstr(text.data, mark), *block;
  assert_non_null(base);
  base += sizeof mark - 1;
  base = strchr(base, '\n') + 1;
  block = strstr(base, mark);
  block[1] = 0;
  int count = 0;
  while (block) {
    char *next = strstr(block + sizeof mark - 1, mark);
    if (next) next[1] = 0;
    check_bad(base, block + sizeof mark - 1);
    block = next;
    count++;
  }
  assert_true(count >= 80);
  buffer_release(&text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(good_recipes_validate_with_just_their_notices),
      cmocka_unit_test(good_recipes_come_back_from_their_resolved_text),
      cmocka_unit_test(bad_recipes_are_refused_at_the_place_of_their_fault),
  };
  return cmocka_run_group_tests(tests, recipe_set_up, recipe_tear_down);
}
