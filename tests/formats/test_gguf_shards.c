// Split GGUF models: what the files of the test's own splitter and of gguf-py (tests/tools/compare_gguf_split.py) are as one file.
#include "tests/support/test.h"

#include <unistd.h>

#include "core/file.h"
#include "core/shard_name.h"
#include "formats/gguf.h"
#include "tests/support/shards.h"

static const char tiny[] = TESTS_DIR "/data/tiny.gguf";

typedef struct Shards {
  char *folder, *path;
} Shards;

static Shards shards_new(int parts, int bare_first, const ShardFaults *faults) {
  Shards shards = {.folder = temporary_folder()};
  shards.path = split_gguf(tiny, shards.folder, parts, bare_first, faults);
  return shards;
}

static void shards_end(Shards *shards) {
  assert_ok(directory_remove(shards->folder));
  free(shards->folder), free(shards->path);
}

static char *beside(const Shards *shards, const char *name) { return path_join(shards->folder, name); }

static void assert_same_model(const Gguf *a, const Gguf *b) {
  assert_int_equal(a->value_count, b->value_count);
  for (int64_t i = 0; i < a->value_count; i++) {
    assert_string_equal(a->values[i].key, b->values[i].key);
    assert_ptr_equal(gguf_find(b, a->values[i].key), &b->values[i]);
    assert_int_equal(a->values[i].bytes, b->values[i].bytes);
    assert_memory_equal(a->values[i].data, b->values[i].data, a->values[i].bytes);
  }
  assert_int_equal(a->tensor_count, b->tensor_count);
  for (int64_t i = 0; i < a->tensor_count; i++) {
    const GgufTensor *x = &a->tensors[i], *y = &b->tensors[i];
    assert_string_equal(x->name, y->name);
    assert_ptr_equal(gguf_find_tensor(b, x->name), y);
    assert_int_equal(x->type, y->type);
    assert_int_equal(x->dimensions, y->dimensions);
    assert_memory_equal(x->shape, y->shape, sizeof x->shape);
    assert_int_equal(x->bytes, y->bytes);
    assert_memory_equal(x->data, y->data, x->bytes);
  }
}

static void split_model_is_the_whole_one(void **state) {
  (void)state;
  Gguf whole, split;
  assert_ok(gguf_open(&whole, tiny));
  for (int parts = 2; parts <= 5; parts++)
    for (int bare_first = 0; bare_first < 2; bare_first++) {
      Shards shards = shards_new(parts, bare_first, NULL);
      assert_ok(gguf_open(&split, shards.path));
      assert_int_equal(split.shard_count, parts);
      assert_string_equal(split.shard_paths[0], shards.path);
      assert_same_model(&whole, &split);
      assert_null(gguf_find(&split, "split.count"));
      gguf_close(&split);
      shards_end(&shards);
    }
  gguf_close(&whole);
}

// As gguf-split --merge leaves a file.
static void count_of_0_or_1_is_a_whole_file(void **state) {
  (void)state;
  Shards shards = {.folder = temporary_folder()};
  Gguf gguf;
  for (uint32_t count = 0; count < 2; count++) {
    char *path = beside(&shards, "any name.gguf");
    GgufWriter writer;
    gguf_writer_new(&writer);
    gguf_put_uint32(&writer, "split.count", count);
    gguf_put_uint32(&writer, "some.key", 7);
    assert_ok(gguf_writer_open(&writer, path));
    assert_ok(gguf_writer_commit(&writer));
    assert_ok(gguf_open(&gguf, path));
    assert_int_equal(gguf.value_count, 1);
    assert_int_equal(gguf.shard_count, 0);
    assert_non_null(gguf_find(&gguf, "some.key"));
    gguf_close(&gguf);
    free(path);
  }
  shards_end(&shards);
}

static void missing_files_are_named_all_at_once(void **state) {
  (void)state;
  Shards shards = shards_new(4, 0, NULL);
  static const char *const gone[] = {"model-00002-of-00004.gguf", "model-00004-of-00004.gguf"};
  for (int i = 0; i < 2; i++) {
    char *path = beside(&shards, gone[i]);
    unlink(path);
    free(path);
  }
  Gguf gguf;
  assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, shards.path), shards.path, gone[0], gone[1], "fetch");
  shards_end(&shards);
}

static void later_part_says_which_to_give(void **state) {
  (void)state;
  Shards shards = shards_new(3, 1, NULL);
  char *path = beside(&shards, "model-00003-of-00003.gguf");
  Gguf gguf;
  assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, path), "part 3", "give the first", "model-00001-of-00003.gguf");
  free(path);
  shards_end(&shards);
}

static void renamed_parts_are_refused(void **state) {
  (void)state;
  Shards shards = shards_new(2, 0, NULL);
  Gguf gguf;
  static const char *const names[] = {"model.gguf", "model-00002-of-00009.gguf", "-00001-of-00002.gguf", "model-00000-of-00002.gguf"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char *path = beside(&shards, names[i]);
    assert_int_equal(rename(shards.path, path), 0);
    assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, path), path, "name", "back");
    assert_int_equal(rename(path, shards.path), 0);
    free(path);
  }
  char *second = beside(&shards, "model-00002-of-00002.gguf");
  assert_int_equal(rename(shards.path, second), 0);  // the first in place of the second
  free(shards.path);
  shards.path = split_gguf(tiny, shards.folder, 3, 0, NULL);
  char *other = beside(&shards, "model-00002-of-00003.gguf");
  assert_int_equal(rename(second, other), 0);
  assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, shards.path), other, "part 1 of 2", "part 2 of 3");
  free(second), free(other);
  shards_end(&shards);
}

static void what_parts_say_must_agree(void **state) {
  (void)state;
  static const struct {
    ShardFaults faults;
    const char *words[2];
  } cases[] = {
      {{.wrong_number = 1}, {"part 4 of 3", "part 3 of 3"}}, {{.wrong_number = -1}, {"part 2 of 3", "part 3 of 3"}},
      {{.wrong_count = -1}, {"part 3 of 2", "part 3 of 3"}}, {{.wrong_tensors = 1}, {"tensors in all", "fetch"}},
      {{.repeated = 1}, {"more than the", "split.tensors"}},
  };
  Gguf gguf;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Shards shards = shards_new(3, 0, &cases[i].faults);
    assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, shards.path), "model-00003-of-00003.gguf", cases[i].words[0], cases[i].words[1]);
    shards_end(&shards);
  }
}

// One tensor in a file, `last` in the second; both files say `tensors`.
static void write_pair(const Shards *shards, const char *last, uint32_t tensors) {
  for (int part = 0; part < 2; part++) {
    char *path = memory_format("%s/pair-%05d-of-00002.gguf", shards->folder, part + 1);
    GgufWriter writer;
    gguf_writer_new(&writer);
    gguf_put_uint32(&writer, "split.no", (uint32_t)part);
    gguf_put_uint32(&writer, "split.count", 2);
    gguf_put_uint32(&writer, "split.tensors.count", tensors);
    gguf_declare_tensor(&writer, part ? last : "a", BLOCK_F32, 1, (int64_t[]){1});
    assert_ok(gguf_writer_open(&writer, path));
    assert_ok(gguf_write_tensor(&writer, "1234", 4));
    assert_ok(gguf_writer_commit(&writer));
    free(path);
  }
}

static void tensors_are_counted_and_in_one_file_only(void **state) {
  (void)state;
  Shards shards = {.folder = temporary_folder()};
  shards.path = beside(&shards, "pair-00001-of-00002.gguf");
  Gguf gguf;
  write_pair(&shards, "b", 2);
  assert_ok(gguf_open(&gguf, shards.path));
  assert_int_equal(gguf.tensor_count, 2);
  gguf_close(&gguf);
  write_pair(&shards, "a", 2);
  assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, shards.path), "pair-00002-of-00002.gguf", "'a'", "before it");
  write_pair(&shards, "b", 3);
  assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, shards.path), "hold 2 tensors", "says 3");
  write_pair(&shards, "b", 1);
  assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, shards.path), "pair-00002-of-00002.gguf", "more than the 1");
  write_pair(&shards, "b", 0);
  assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, shards.path), "more tensors than the 0");
  shards_end(&shards);
}

static void split_keys_are_checked(void **state) {
  (void)state;
  Shards shards = {.folder = temporary_folder()};
  shards.path = beside(&shards, "m-00001-of-00002.gguf");
  static const char *const keys[] = {"split.count", "split.no", "split.tensors.count"};
  Gguf gguf;
  for (int bad = 0; bad < 3; bad++)
    for (int kind = 0; kind < 3; kind++) {
      if (bad == 0 && kind == 0) continue;  // without a count it is no split model
      GgufWriter writer;
      gguf_writer_new(&writer);
      for (int i = 0; i < 3; i++) {
        if (i != bad) gguf_put_uint32(&writer, keys[i], i == 0 ? 2 : 0);
        else if (kind == 1) gguf_put_uint32(&writer, keys[i], UINT32_MAX);
        else if (kind == 2) gguf_put_string(&writer, keys[i], "two", 3);
      }
      assert_ok(gguf_writer_open(&writer, shards.path));
      assert_ok(gguf_writer_commit(&writer));
      assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, shards.path), "m-00001-of-00002.gguf", keys[bad]);
    }
  shards_end(&shards);
}

static void every_truncation_of_a_later_part_is_refused(void **state) {
  (void)state;
  Shards shards = {.folder = temporary_folder()};
  shards.path = beside(&shards, "pair-00001-of-00002.gguf");
  write_pair(&shards, "b", 2);
  char *second = beside(&shards, "pair-00002-of-00002.gguf");
  Buffer bytes = {0};
  Gguf gguf;
  assert_ok(file_read(&bytes, second, 1 << 20));
  size_t needed = bytes.length - 28;  // behind the tensor's 4 bytes there is padding
  for (size_t length = 0; length < needed; length++) {
    assert_ok(file_write_whole(second, bytes.data, length));
    assert_fails(STATUS_BAD_INPUT, gguf_open(&gguf, shards.path), "pair-00002-of-00002.gguf");
  }
  assert_ok(file_write_whole(second, bytes.data, needed));
  assert_ok(gguf_open(&gguf, shards.path));
  gguf_close(&gguf);
  buffer_release(&bytes);
  free(second);
  shards_end(&shards);
}

static void failed_opening_leaves_what_was_read_to_who_examines(void **state) {
  (void)state;
  Shards shards = shards_new(3, 1, NULL);
  char *second = beside(&shards, "model-00002-of-00003.gguf");
  unlink(second);
  Gguf gguf;
  assert_fails(STATUS_BAD_INPUT, gguf_examine(&gguf, shards.path), "model-00002-of-00003.gguf");
  assert_non_null(gguf_find(&gguf, "general.architecture"));
  gguf_close(&gguf);
  free(second);
  shards_end(&shards);
}

static void shard_names_are_read_and_made(void **state) {
  (void)state;
  ShardName shard;
  const char *path = "a/b-00002-of-00003/m-00001-of-00012.gguf";
  assert_true(shard_name_parse(&shard, path));
  assert_int_equal(shard.number, 1);
  assert_int_equal(shard.count, 12);
  char *made = shard_name_make(&shard, path, 11);
  assert_string_equal(made, "a/b-00002-of-00003/m-00011-of-00012.gguf");
  free(made);
  static const char *const others[] = {"",
                                       "m.gguf",
                                       "-00001-of-00002.gguf",
                                       "a/-00001-of-00002.gguf",
                                       "m-0001-of-00002.gguf",
                                       "m-00001-of-00002.GGUF",
                                       "m-00001_of_00002.gguf",
                                       "m-00003-of-00002.gguf",
                                       "m-00000-of-00002.gguf",
                                       "m-0000x-of-00002.gguf",
                                       "m-00001-of-99999.gguf",
                                       "m-00001-of-00002.gguf.part"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (shard_name_parse(&shard, others[i])) fail_msg("'%s' is taken for a part's name", others[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(split_model_is_the_whole_one),
      cmocka_unit_test(count_of_0_or_1_is_a_whole_file),
      cmocka_unit_test(missing_files_are_named_all_at_once),
      cmocka_unit_test(later_part_says_which_to_give),
      cmocka_unit_test(renamed_parts_are_refused),
      cmocka_unit_test(what_parts_say_must_agree),
      cmocka_unit_test(tensors_are_counted_and_in_one_file_only),
      cmocka_unit_test(split_keys_are_checked),
      cmocka_unit_test(every_truncation_of_a_later_part_is_refused),
      cmocka_unit_test(failed_opening_leaves_what_was_read_to_who_examines),
      cmocka_unit_test(shard_names_are_read_and_made),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
