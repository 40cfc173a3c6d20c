// Where rows come from: the rows in a file's text by its format, whole or in pieces; a split's slices; the files of a dataset by
// path, folder, split, pattern and data_files; and rows one after another without holding a file.
#include <zlib.h>

#include "core/file.h"
#include "data/source/dataset_file.h"
#include "data/source/dataset_paths.h"
#include "data/source/row_stream.h"
#include "data/source/split.h"
#include "tests/support/test.h"

static Status parse(DatasetFile *file, RowFormat format, const char *text) {
  return dataset_file_parse(file, "f.json", format, text, strlen(text));
}

static void rows_of_lines_and_lists_know_their_lines(void **state) {
  (void)state;
  DatasetFile file;
  const char *lines = "\xEF\xBB\xBF{\"a\": 1}\n\n  {\"a\": \"]\\\"}\"}\r\n{\"a\": 3}";
  const char *list = "\n[ {\"a\":\n 1}, {\"a\": \"],\\\\\\\"[\"}\n,\n{\"a\": [3, [4]]}\n]\n";
  const int64_t line_numbers[] = {1, 3, 4}, list_numbers[] = {2, 3, 5};
  for (int form = 0; form < 2; form++) {
    const char *text = form ? list : lines;
    assert_ok(parse(&file, ROWS_JSON, text));
    assert_int_equal(file.count, 3);
    for (int64_t r = 0; r < 3; r++) {
      json_t *row;
      assert_int_equal(file.rows[r].line, (form ? list_numbers : line_numbers)[r]);
      assert_ok(dataset_file_row(&row, &file, r));
      assert_non_null(json_object_get(row, "a"));
      json_decref(row);
    }
    dataset_file_release(&file);
  }
  static const struct {
    const char *text, *place, *words;
  } wrong[] = {{"[{\"a\": 1},\n{\"a\"", "f.json:2", "cut short"},
               {"[1] 2", "f.json:1", "behind the list"},
               {"[1,\n,2]", "f.json:2", "a row is missing"},
               {"\xFF\xFE{\"a\"", "f.json", "iconv"}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    assert_fails(STATUS_BAD_INPUT, parse(&file, ROWS_JSON, wrong[i].text), wrong[i].place, wrong[i].words);
    dataset_file_release(&file);
  }
}

static void check_split(const char *split, int64_t count, const char *expected) {
  RowRanges ranges;
  Buffer text = {0};
  assert_ok(split_parse(&ranges, split, count));
  buffer_append_string(&text, "");
  for (int64_t i = 0; i < ranges.count; i++) buffer_format(&text, "%d-%d ", (int)ranges.items[i].begin, (int)ranges.items[i].end);
  assert_string_equal(text.data, expected);
  buffer_release(&text);
  free(ranges.items);
}

static void splits_slice_as_hugging_face_datasets_does(void **state) {
  (void)state;
  check_split(NULL, 10, "0-10 ");
  check_split("train", 10, "0-10 ");
  check_split("train[:3]", 10, "0-3 ");
  check_split("train[8:]", 10, "8-10 ");
  check_split("train[-2:]", 10, "8-10 ");
  check_split("train[2:-3]", 10, "2-7 ");
  check_split("train[:500]", 10, "0-10 ");
  check_split("train[:5%]", 999, "0-50 ");  // 49.95
  check_split("train[:25%]", 10, "0-2 ");  // 2.5, to the even one
  check_split("train[:75%]", 10, "0-8 ");  // 7.5
  check_split("train[-10%:]", 10, "9-10 ");
  check_split("train[:1]+train[-1:]", 10, "0-1 9-10 ");
  check_split("train[5:2]", 10, "");
  RowRanges ranges;
  assert_fails(STATUS_USAGE, split_parse(&ranges, "train+test", 10), "train+test", "a dataset entry for each");
  static const char *const wrong[] = {"train[", "train[1]", "train[:5", "train[a:]", "train[:5%]x", "train[:200%]"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    assert_fails(STATUS_USAGE, split_parse(&ranges, wrong[i], 10), wrong[i], "train[:5%]");
}

// The rows of a text as JSON, one a line, each after its line number; bad ones by their message.
static char *rows_as_text(const DatasetFile *file) {
  Buffer out = {0};
  buffer_append_string(&out, "");
  for (int64_t r = 0; r < file->count; r++) {
    json_t *row;
    Status status = dataset_file_row(&row, file, r);
    char *text = status == STATUS_OK ? json_dumps(row, JSON_COMPACT) : memory_copy_string(status_message());
    buffer_format(&out, "%d %s\n", (int)file->rows[r].line, text);
    free(text);
    if (status == STATUS_OK) json_decref(row);
  }
  return out.data;
}

static void assert_file_rows(RowFormat format, const char *text, const char *expected) {
  DatasetFile file;
  assert_ok(parse(&file, format, text));
  char *rows = rows_as_text(&file);
  assert_string_equal(rows, expected);
  free(rows);
  dataset_file_release(&file);
}

static void rows_over_several_lines_are_told_how_to_be_written(void **state) {
  (void)state;
  DatasetFile file;
  json_t *row;
  assert_ok(parse(&file, ROWS_JSON, "{\n \"a\": 1\n}\n"));
  assert_fails(STATUS_BAD_INPUT, dataset_file_row(&row, &file, 0), "not JSON", "one list [...]");
  dataset_file_release(&file);
}

// As Python's csv module reads these (excel and excel-tab dialects), but for empty fields.
static void csv_fields_may_hold_separators_quotes_and_newlines(void **state) {
  (void)state;
  assert_file_rows(ROWS_CSV, "\xEF\xBB\xBFq,a\r\n1,two\r\n\r\n\"x, \"\"y\"\"\nz\",\"\"\nlast,\n",
                   "2 {\"q\":\"1\",\"a\":\"two\"}\n4 {\"q\":\"x, \\\"y\\\"\\nz\",\"a\":\"\"}\n6 {\"q\":\"last\",\"a\":null}\n");
  assert_file_rows(ROWS_CSV, "q,a\nb\"c\",\"d\"e\nshort", "2 {\"q\":\"b\\\"c\\\"\",\"a\":\"de\"}\n3 {\"q\":\"short\",\"a\":null}\n");
  assert_file_rows(ROWS_CSV, "q\n1,2\n", "2 it has more fields than the first record's 1 columns\n");
  assert_file_rows(ROWS_CSV, "q\n\xFF\n", "2 column \"q\" is not UTF-8\n");
  assert_file_rows(ROWS_TSV, "q\ta\n1,5\t2", "2 {\"q\":\"1,5\",\"a\":\"2\"}\n");
  assert_file_rows(ROWS_CSV, "", "");
  assert_file_rows(ROWS_CSV, "q,a\n", "");
  DatasetFile file;
  assert_fails(STATUS_BAD_INPUT, parse(&file, ROWS_CSV, "q,a\n1,\"open\n"), "f.json:2", "quoted field");
  dataset_file_release(&file);
  assert_fails(STATUS_BAD_INPUT, parse(&file, ROWS_CSV, "q,q\n1,2\n"), "f.json:1", "\"q\" stands twice");
  dataset_file_release(&file);
}

static void text_is_a_row_a_line(void **state) {
  (void)state;
  assert_file_rows(ROWS_TEXT, "one \r\n\n  two\n[3]", "1 {\"text\":\"one \"}\n3 {\"text\":\"  two\"}\n4 {\"text\":\"[3]\"}\n");
}

// ---- Files of a dataset

typedef struct Tree {
  char *folder;
  Recipe recipe;
} Tree;

static void tree_add(const Tree *tree, const char *name, const char *text) {
  char *path = path_join(tree->folder, name), *parent = path_parent(path);
  assert_ok(directory_create(parent));
  assert_ok(file_write_whole(path, text, strlen(text)));
  free(path), free(parent);
}

// The recipe stands in the folder, so paths are given relative to it.
static Tree tree_start(void) {
  Tree tree = {.folder = temporary_folder()};
  tree.recipe.path = path_join(tree.folder, "recipe.yml");
  return tree;
}

static void tree_end(Tree *tree) {
  assert_ok(directory_remove(tree->folder));
  free(tree->recipe.path);
  free(tree->folder);
}

static void assert_paths(const Tree *tree, const DatasetRecipe *dataset, const char *expected) {
  PathList paths;
  Buffer out = {0};
  assert_ok(dataset_paths(&paths, dataset, &tree->recipe));
  for (int64_t i = 0; i < paths.count; i++) buffer_format(&out, "%s%s", i ? " " : "", paths.items[i].path + strlen(tree->folder) + 1);
  assert_string_equal(out.data, expected);
  buffer_release(&out);
  path_list_release(&paths);
}

// The rules are those of hub/, whose tests hold them against Hugging Face's datasets.
static void files_of_a_folder_belong_to_splits_by_their_names(void **state) {
  (void)state;
  Tree tree = tree_start();
  static const char *const names[] = {"a/data/train-00000.jsonl",
                                      "a/data/train-00001.jsonl.gz",
                                      "a/data/validation.jsonl",
                                      "a/README.md",
                                      "a/dataset_info.json",
                                      "a/.cache/train.jsonl",
                                      "a/notes.txt",
                                      "b/test/x.json",
                                      "b/train/y.json",
                                      "c/one.txt",
                                      "c/two.txt",
                                      "d/train_sft.jsonl",
                                      "d/train_gen.jsonl",
                                      "e/x.parquet",
                                      "f/en/train.jsonl",
                                      "f/de/train.jsonl"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) tree_add(&tree, names[i], "");
  tree_add(&tree, "g/README.md", "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: rows/*.jsonl\n---\n");
  tree_add(&tree, "g/rows/1.jsonl", "");
  tree_add(&tree, "g/2.jsonl", "");
  assert_paths(&tree, &(DatasetRecipe){.path = "a"}, "a/data/train-00000.jsonl a/data/train-00001.jsonl.gz");
  assert_paths(&tree, &(DatasetRecipe){.path = "a", .split = "validation[:5%]"}, "a/data/validation.jsonl");
  assert_paths(&tree, &(DatasetRecipe){.path = "b", .split = "test"}, "b/test/x.json");
  assert_paths(&tree, &(DatasetRecipe){.path = "c"}, "c/one.txt c/two.txt");
  assert_paths(&tree, &(DatasetRecipe){.path = "f", .name = "de"}, "f/de/train.jsonl");
  assert_paths(&tree, &(DatasetRecipe){.path = "g"}, "g/rows/1.jsonl");
  PathList paths;
  assert_fails(STATUS_BAD_INPUT, dataset_paths(&paths, &(DatasetRecipe){.path = "c", .split = "test"}, &tree.recipe), "\"test\"", "split");
  assert_fails(STATUS_BAD_INPUT, dataset_paths(&paths, &(DatasetRecipe){.path = "e"}, &tree.recipe), "x.parquet", "to_json");
  tree_end(&tree);
}

static void patterns_and_data_files_name_files(void **state) {
  (void)state;
  Tree tree = tree_start();
  static const char *const names[] = {"a/1.jsonl", "a/2.jsonl", "a/b/3.jsonl", "a/b/c/4.csv", "5.json"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) tree_add(&tree, names[i], "");
  assert_paths(&tree, &(DatasetRecipe){.path = "a/*.jsonl"}, "a/1.jsonl a/2.jsonl");
  assert_paths(&tree, &(DatasetRecipe){.path = "a/[13].jsonl"}, "a/1.jsonl");
  assert_paths(&tree, &(DatasetRecipe){.path = "a/**/*.*"}, "a/1.jsonl a/2.jsonl a/b/3.jsonl a/b/c/4.csv");
  assert_paths(&tree, &(DatasetRecipe){.path = "*/b/?.jsonl"}, "a/b/3.jsonl");
  char *inside[] = {"2.jsonl", "b/*.jsonl"}, *beside[] = {"5.json", "a/1.jsonl"};
  assert_paths(&tree, &(DatasetRecipe){.path = "a", .data_files = {inside, 2}}, "a/2.jsonl a/b/3.jsonl");
  assert_paths(&tree, &(DatasetRecipe){.path = "json", .data_files = {beside, 2}}, "5.json a/1.jsonl");
  assert_paths(&tree, &(DatasetRecipe){.data_files = {beside, 2}}, "5.json a/1.jsonl");
  PathList paths;
  assert_fails(STATUS_BAD_INPUT, dataset_paths(&paths, &(DatasetRecipe){.path = "a/*.txt"}, &tree.recipe), "*.txt", "1.jsonl");
  assert_fails(STATUS_BAD_INPUT, dataset_paths(&paths, &(DatasetRecipe){.path = "none.jsonl"}, &tree.recipe), "none.jsonl: no such file");
  assert_fails(STATUS_BAD_INPUT, dataset_paths(&paths, &(DatasetRecipe){.path = "https://a.b/c.jsonl"}, &tree.recipe), "curl -LO");
  tree_end(&tree);
}

static void formats_follow_ds_type_then_the_name(void **state) {
  (void)state;
  Tree tree = tree_start();
  static const struct {
    const char *name, *ds_type;
    RowFormat format;
  } cases[] = {{"a.json", NULL, ROWS_JSON},   {"a.jsonl.gz", NULL, ROWS_JSON}, {"a.csv", NULL, ROWS_CSV},    {"a.tsv", NULL, ROWS_TSV},
               {"a.txt.gz", NULL, ROWS_TEXT}, {"a", NULL, ROWS_JSON},          {"b.txt", "json", ROWS_JSON}, {"b.tsv", "csv", ROWS_TSV},
               {"b.data", "csv", ROWS_CSV},   {"b.md", "text", ROWS_TEXT}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    PathList paths;
    tree_add(&tree, cases[i].name, "");
    DatasetRecipe dataset = {.path = (char *)(uintptr_t)cases[i].name, .ds_type = (char *)(uintptr_t)cases[i].ds_type};
    assert_ok(dataset_paths(&paths, &dataset, &tree.recipe));
    assert_int_equal(paths.items[0].format, cases[i].format);
    path_list_release(&paths);
  }
  static const char *const refused[][2] = {{"x.parquet", "to_json"}, {"x.arrow", "to_json"}, {"x.jsonl.zst", "unzstd"}, {"x.zip", "unzip"}};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    PathList paths;
    tree_add(&tree, refused[i][0], "");
    DatasetRecipe dataset = {.path = (char *)(uintptr_t)refused[i][0]};
    assert_fails(STATUS_BAD_INPUT, dataset_paths(&paths, &dataset, &tree.recipe), refused[i][0], refused[i][1]);
  }
  tree_end(&tree);
}

// ---- Rows one after another

static void write_gzip(const Tree *tree, const char *name, const char *text, size_t length) {
  char *path = path_join(tree->folder, name);
  gzFile file = gzopen(path, "wb");
  assert_int_equal(gzwrite(file, text, (unsigned)length), length);
  gzclose(file);
  free(path);
}

// Rows of growing length; the last ones are longer than what is read at once.
static char *long_rows(int count, const char *open, const char *close, const char *separator) {
  Buffer text = {0};
  buffer_append_string(&text, open);
  for (int r = 0; r < count; r++) {
    buffer_format(&text, "%s{\"text\": \"%d ", r ? separator : "", r);
    for (int i = 0; i < (r < count - 2 ? r * 50 : 400000); i++) buffer_append_string(&text, "abc, ]");
    buffer_append_string(&text, "\"}");
  }
  buffer_append_string(&text, close);
  return text.data;
}

static void assert_streams_as_read(const Tree *tree, const DatasetRecipe *dataset, int64_t piece) {
  RowStream stream;
  PathList paths;
  assert_ok(dataset_paths(&paths, dataset, &tree->recipe));
  assert_ok(row_stream_open(&stream, dataset, &tree->recipe));
  for (int pass = 0; pass < 2; pass++) {
    DatasetFile chunk = {0};
    int64_t at = 0;
    for (int64_t f = 0; f < paths.count; f++) {
      DatasetFile file;
      assert_ok(dataset_file_open(&file, paths.items[f].path, paths.items[f].format));
      for (int64_t r = 0; r < file.count; r++, at++) {
        if (at >= chunk.count) {
          dataset_file_release(&chunk);
          assert_ok(row_stream_take(&chunk, &stream, piece));
          at = 0;
        }
        json_t *expected, *actual;
        assert_true(chunk.count > at);
        assert_string_equal(chunk.scan.path, file.scan.path);
        assert_int_equal(chunk.rows[at].line, file.rows[r].line);
        assert_ok(dataset_file_row(&expected, &file, r));
        assert_ok(dataset_file_row(&actual, &chunk, at));
        assert_true(json_equal(expected, actual));
        json_decref(expected), json_decref(actual);
      }
      dataset_file_release(&file);
    }
    assert_int_equal(at, chunk.count);
    dataset_file_release(&chunk);
    assert_ok(row_stream_take(&chunk, &stream, piece));
    assert_int_equal(chunk.count, 0);
    dataset_file_release(&chunk);
    row_stream_rewind(&stream);
  }
  row_stream_close(&stream);
  path_list_release(&paths);
}

static void streams_give_the_rows_of_the_whole_files(void **state) {
  (void)state;
  Tree tree = tree_start();
  char *lines = long_rows(120, "", "\n", "\n"), *list = long_rows(120, " [", "]\n", " ,\n");
  assert_true(strlen(lines) > 5 << 20);
  tree_add(&tree, "a/1.jsonl", lines);
  write_gzip(&tree, "a/2.json.gz", list, strlen(list));
  tree_add(&tree, "a/3.csv", "text,n\n\"one\ntwo\",2\nthree,\n");
  tree_add(&tree, "a/4.jsonl", "");
  for (int64_t piece = 1; piece < 200; piece = piece * 5 + 2) assert_streams_as_read(&tree, &(DatasetRecipe){.path = "a"}, piece);
  free(lines), free(list);
  tree_end(&tree);
}

static void a_damaged_stream_is_named(void **state) {
  (void)state;
  Tree tree = tree_start();
  RowStream stream;
  DatasetFile chunk;
  char *lines = long_rows(60, "", "\n", "\n");
  write_gzip(&tree, "a.jsonl.gz", lines, strlen(lines));
  Buffer whole = {0};
  char *path = path_join(tree.folder, "a.jsonl.gz");
  FileMap map;
  assert_ok(file_map(&map, path));
  buffer_append(&whole, map.data, map.size / 2);
  file_unmap(&map);
  assert_ok(file_write_whole(path, whole.data, whole.length));
  buffer_release(&whole);
  assert_ok(row_stream_open(&stream, &(DatasetRecipe){.path = "a.jsonl.gz"}, &tree.recipe));
  assert_fails(STATUS_BAD_INPUT, row_stream_take(&chunk, &stream, 1000), "a.jsonl.gz");
  dataset_file_release(&chunk);
  row_stream_close(&stream);
  free(path), free(lines);
  tree_end(&tree);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_of_lines_and_lists_know_their_lines),
      cmocka_unit_test(rows_over_several_lines_are_told_how_to_be_written),
      cmocka_unit_test(csv_fields_may_hold_separators_quotes_and_newlines),
      cmocka_unit_test(text_is_a_row_a_line),
      cmocka_unit_test(splits_slice_as_hugging_face_datasets_does),
      cmocka_unit_test(files_of_a_folder_belong_to_splits_by_their_names),
      cmocka_unit_test(patterns_and_data_files_name_files),
      cmocka_unit_test(formats_follow_ds_type_then_the_name),
      cmocka_unit_test(streams_give_the_rows_of_the_whole_files),
      cmocka_unit_test(a_damaged_stream_is_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
