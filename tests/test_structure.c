// The house stays as planned: which folder includes which (the table in docs/design.md is the rule, and this test reads it there),
// includes written from the root, and no source file over MAX_LINES lines.
#include "tests/support/test.h"

#include <dirent.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/text.h"

enum { MAX_FOLDERS = 32, MAX_LINES = 900, PAGE_LIMIT = 1 << 24 };

typedef struct House {
  Arena arena;
  char *names[MAX_FOLDERS];
  bool may_include[MAX_FOLDERS][MAX_FOLDERS];  // [from][to]
  int count;
} House;

static int find_folder(const House *house, const char *name, size_t length) {
  for (int i = 0; i < house->count; i++)
    if (strlen(house->names[i]) == length && memcmp(house->names[i], name, length) == 0) return i;
  return -1;
}

// The next word of a comma-separated list, NULL at its end.
static const char *next_word(const char **cursor, size_t *length) {
  *cursor += strspn(*cursor, ", ");
  const char *word = *cursor;
  *length = strcspn(word, ", ");
  *cursor += *length;
  return *length ? word : NULL;
}

// One table row "| `folder/` | what it holds | what it includes from |"; false for any other line.
static bool split_row(char *line, char **name, char **includes) {
  if (!text_starts_with(line, "| `")) return false;
  *name = line + 3;
  char *slash = strstr(*name, "/` | ");
  if (!slash) return false;
  *slash = 0;
  char *cell = strstr(slash + 5, " | ");
  if (!cell) return false;
  *includes = cell + 3;
  char *end = strstr(*includes, " |");
  if (!end) return false;
  *end = 0;
  return true;
}

static void house_parse(House *house, const char *page) {
  *house = (House){0};
  char *rows[MAX_FOLDERS];
  char *text = arena_copy_string(&house->arena, page), *rest;
  for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    char *name, *includes;
    if (!split_row(line, &name, &includes)) continue;
    assert_true(house->count < MAX_FOLDERS);
    rows[house->count] = includes;
    house->names[house->count++] = name;
  }
  for (int from = 0; from < house->count; from++) {
    house->may_include[from][from] = true;
    bool all = strcmp(rows[from], "every folder") == 0;
    if (all || strcmp(rows[from], "nothing") == 0) {
      for (int to = 0; all && to < house->count; to++) house->may_include[from][to] = true;
      continue;
    }
    size_t length;
    for (const char *word, *cursor = rows[from]; (word = next_word(&cursor, &length));) {
      int to = find_folder(house, word, length);
      if (to < 0)
        fail_msg("docs/design.md: %s includes from \"%.*s\", which is no folder of the table", house->names[from], (int)length, word);
      house->may_include[from][to] = true;
    }
  }
}

static void house_read(House *house) {
  Buffer page = {0};
  assert_ok(file_read(&page, SOURCE_DIR "/docs/design.md", PAGE_LIMIT));
  house_parse(house, page.data);
  buffer_release(&page);
}

static void check_include(const House *house, int from, const char *path, int line, const char *target, size_t length, Buffer *faults) {
  const char *slash = memchr(target, '/', length);
  if (!slash) {
    buffer_format(faults, "%s:%d: \"%.*s\": write the include from the root, with its folder\n", path, line, (int)length, target);
    return;
  }
  int to = find_folder(house, target, (size_t)(slash - target));
  if (to >= 0 && house->may_include[from][to]) return;
  buffer_format(faults, "%s:%d: folder %s may not include %.*s\n", path, line, house->names[from], (int)(slash - target), target);
}

static void check_file(const House *house, const char *root, const char *path, Buffer *faults) {
  size_t folder_length = strcspn(path, "/");
  int from = find_folder(house, path, folder_length);
  if (from < 0) {
    buffer_format(faults, "%s:1: folder %.*s is not in the table of docs/design.md\n", path, (int)folder_length, path);
    return;
  }
  char *full = path_join(root, path);
  Buffer source = {0};
  assert_ok(file_read(&source, full, PAGE_LIMIT));
  free(full);
  int lines = 0;
  for (const char *line = source.data; line && *line;) {
    lines++;
    const char *word = line + strspn(line, " \t"), *end = line + strcspn(line, "\n");
    if (*word == '#') {
      word += 1 + strspn(word + 1, " \t");
      if (text_starts_with(word, "include")) {
        word += 7 + strspn(word + 7, " \t");
        if (*word == '"') check_include(house, from, path, lines, word + 1, strcspn(word + 1, "\"\n"), faults);
      }
    }
    line = *end ? end + 1 : end;
  }
  if (text_ends_with(path, ".c") && lines > MAX_LINES)
    buffer_format(faults, "%s:%d: %d lines; a source file has at most %d\n", path, MAX_LINES + 1, lines, MAX_LINES);
  buffer_release(&source);
}

// What the build and a user leave in the checkout is not the project's source.
static bool is_skipped(const char *relative, const char *name) {
  return name[0] == '.' || (!*relative && (text_starts_with(name, "build") || strcmp(name, "demo") == 0));
}

// Checks every .c and .h under root/relative; returns how many it read.
static int check_tree(const House *house, const char *root, const char *relative, Buffer *faults) {
  char *folder = *relative ? path_join(root, relative) : memory_copy_string(root);
  DIR *stream = opendir(folder);
  assert_non_null(stream);
  int files = 0;
  for (struct dirent *entry; (entry = readdir(stream));) {
    if (is_skipped(relative, entry->d_name)) continue;
    char *path = path_join(relative, entry->d_name), *full = path_join(root, path);
    struct stat information;
    bool is_folder = lstat(full, &information) == 0 && S_ISDIR(information.st_mode);
    if (is_folder) files += check_tree(house, root, path, faults);
    if (!is_folder && (text_ends_with(path, ".c") || text_ends_with(path, ".h"))) files++, check_file(house, root, path, faults);
    free(path), free(full);
  }
  closedir(stream);
  free(folder);
  return files;
}

static void each_folder_includes_only_what_it_stands_on(void **state) {
  (void)state;
  House house;
  house_read(&house);
  Buffer faults = {0};
  int files = check_tree(&house, SOURCE_DIR, "", &faults);
  if (faults.length) print_error("%s", faults.data);
  assert_true(files > 20);
  assert_int_equal(faults.length, 0);
  buffer_release(&faults);
  arena_release(&house.arena);
}

static bool house_allows(const House *house, const char *from, const char *to) {
  int source = find_folder(house, from, strlen(from)), target = find_folder(house, to, strlen(to));
  assert_true(source >= 0 && target >= 0);
  return house->may_include[source][target];
}

static void table_of_design_page_has_the_edges_of_the_plan(void **state) {
  (void)state;
  House house;
  house_read(&house);
  assert_int_equal(house.count, 18);
  assert_false(house_allows(&house, "trainer", "runtime"));
  assert_false(house_allows(&house, "runtime", "trainer"));
  assert_false(house_allows(&house, "recipes", "formats"));
  assert_true(house_allows(&house, "recipes", "core"));
  assert_true(house_allows(&house, "data", "recipes"));
  assert_true(house_allows(&house, "tests", "cli"));
  arena_release(&house.arena);
}

// No folder includes, over however many steps, one that includes it: the rows can be put in an order.
static void table_has_no_cycle(void **state) {
  (void)state;
  House house;
  house_read(&house);
  bool placed[MAX_FOLDERS] = {0};
  for (int round = 0; round < house.count; round++)
    for (int from = 0; from < house.count; from++) {
      bool is_free = strcmp(house.names[from], "tests") != 0;  // tests and cli see each other by "every folder"
      for (int to = 0; to < house.count; to++)
        if (to != from && house.may_include[from][to] && !placed[to] && strcmp(house.names[to], "tests") != 0) is_free = false;
      if (is_free) placed[from] = true;
    }
  for (int i = 0; i < house.count; i++)
    if (!placed[i] && strcmp(house.names[i], "tests") != 0) fail_msg("%s stands on a folder that stands on it", house.names[i]);
  arena_release(&house.arena);
}

static void write_source(const char *root, const char *path, const char *text) {
  char *full = path_join(root, path), *parent = path_parent(full);
  assert_ok(directory_create(parent));
  assert_ok(file_write_whole(full, text, strlen(text)));
  free(parent), free(full);
}

static void forbidden_include_is_named_with_file_and_line(void **state) {
  (void)state;
  House house;
  house_read(&house);
  char *root = temporary_folder();
  Buffer long_source = {0}, faults = {0};
  for (int i = 0; i <= MAX_LINES; i++) buffer_append_string(&long_source, "\n");
  write_source(root, "core/long.c", long_source.data);
  write_source(root, "core/good.c", "#include <stdio.h>\n#include \"core/status.h\"\n// #include \"trainer/train.h\"\n");
  write_source(root, "kernels/cpu/bad.c", "// A comment.\n#include \"formats/gguf.h\"\n#  include \"models/llama.h\"\n");
  write_source(root, "trainer/bad.h", "#include \"runtime/generate.h\"\n#include \"train.h\"\n");
  write_source(root, "attic/old.c", "int x;\n");
  write_source(root, "build/made.c", "#include \"trainer/train.h\"\n");
  assert_int_equal(check_tree(&house, root, "", &faults), 5);
  const char *expected[] = {"core/long.c:901: 901 lines; a source file has at most 900\n",
                            "kernels/cpu/bad.c:3: folder kernels may not include models\n",
                            "trainer/bad.h:1: folder trainer may not include runtime\n",
                            "trainer/bad.h:2: \"train.h\": write the include from the root, with its folder\n",
                            "attic/old.c:1: folder attic is not in the table of docs/design.md\n"};
  size_t total = 0;
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
    assert_non_null(strstr(faults.data, expected[i]));
    total += strlen(expected[i]);
  }
  assert_int_equal(faults.length, total);
  assert_ok(directory_remove(root));
  free(root);
  buffer_release(&long_source), buffer_release(&faults);
  arena_release(&house.arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_folder_includes_only_what_it_stands_on),
      cmocka_unit_test(table_of_design_page_has_the_edges_of_the_plan),
      cmocka_unit_test(table_has_no_cycle),
      cmocka_unit_test(forbidden_include_is_named_with_file_and_line),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
