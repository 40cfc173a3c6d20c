#include "tests/trainer/checkpoint_support.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "core/log.h"

enum { COUNT = 500 };

static char *output_dir;

static int make_folder(void **state) {
  (void)state;
  output_dir = temporary_folder();
  log_set_quiet(true);
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  directory_remove(output_dir);
  free(output_dir);
  return 0;
}

static char *in_output(const char *name) { return path_join(output_dir, name); }

static const char *const file_names[] = {"state.h5", "manifest.json", "adapter_config.json", "adapter_model.safetensors"};
enum { FILES = sizeof file_names / sizeof *file_names };

static Status damage_status(const char *folder) {
  Sample sample = sample_new(1, COUNT);
  Status status = checkpoint_read(folder, NULL, &sample.state, sample.arrays, 3, &host);
  sample_release(&sample);
  return status;
}

static void state_is_read_back_to_identical_bits(void **state) {
  (void)state;
  const int64_t counts[] = {1, COUNT, SAMPLE_MOST};  // the last one is moved in several pieces
  for (int i = 0; i < 3; i++) {
    assert_ok(sample_write(output_dir, 5 + i, counts[i]));
    char *folder = memory_format("%s/checkpoint-%d", output_dir, 5 + i);
    assert_sample(folder, 5 + i, counts[i]);
    free(folder);
  }
}

static void the_same_state_is_written_as_the_same_bytes(void **state) {
  (void)state;
  char hashes[2][65];
  char *path = in_output("checkpoint-5/manifest.json");
  for (int i = 0; i < 2; i++) {
    assert_ok(sample_write(output_dir, 5, COUNT));  // the second time in place of the first
    assert_ok(sha256_file(hashes[i], path));
    if (i == 0) sleep(1);
  }
  assert_string_equal(hashes[0], hashes[1]);
  free(path);
}

static void flip(const char *path, int64_t offset, int bit) {
  int file = open(path, O_RDWR);
  unsigned char byte;
  assert_int_equal(pread(file, &byte, 1, offset), 1);
  byte ^= (unsigned char)(1 << bit);
  assert_int_equal(pwrite(file, &byte, 1, offset), 1);
  close(file);
}

static int64_t file_size(const char *path) {
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  return info.st_size;
}

static void a_flipped_bit_in_any_file_is_refused(void **state) {
  (void)state;
  assert_ok(sample_write(output_dir, 5, COUNT));
  char *folder = in_output("checkpoint-5");
  for (int i = 0; i < FILES; i++) {
    char *path = path_join(folder, file_names[i]);
    int64_t size = file_size(path), stride = size > 2000 ? size / 1000 : 1;
    for (int64_t offset = 0; offset < size; offset += stride) {
      int bit = (int)(offset % 8);
      flip(path, offset, bit);
      if (damage_status(folder) != STATUS_BAD_INPUT) fail_msg("%s: bit %d of byte %lld", file_names[i], bit, (long long)offset);
      flip(path, offset, bit);
    }
    free(path);
  }
  assert_ok(damage_status(folder));
  free(folder);
}

static void a_truncated_longer_or_missing_file_is_refused(void **state) {
  (void)state;
  for (int i = 0; i < FILES; i++) {
    assert_ok(sample_write(output_dir, 5, COUNT));
    char *folder = in_output("checkpoint-5"), *path = path_join(folder, file_names[i]);
    int64_t size = file_size(path);
    for (int64_t length = size - 1; length >= 0; length -= 1 + size / 20) {
      assert_int_equal(truncate(path, length), 0);
      assert_fails(STATUS_BAD_INPUT, damage_status(folder), file_names[i]);
    }
    assert_ok(sample_write(output_dir, 5, COUNT));
    assert_int_equal(truncate(path, size + 1), 0);
    assert_fails(STATUS_BAD_INPUT, damage_status(folder), file_names[i]);
    assert_int_equal(unlink(path), 0);
    assert_fails(STATUS_BAD_INPUT, damage_status(folder), file_names[i]);
    free(path);
    free(folder);
  }
}

static void a_manifest_cannot_point_outside_its_folder(void **state) {
  (void)state;
  const char *names[] = {"../x", "/x", ".", "..", "a/b", ""};
  char *folder = in_output("checkpoint-5"), *path = in_output("checkpoint-5/manifest.json");
  assert_ok(directory_create(folder));
  for (int i = 0; i < 6; i++) {
    char *text = memory_format(
        "{\n  \"format\": \"lora.c checkpoint\",\n  \"version\": 1,\n  \"files\": {\n    \"%s\": {\"size\": 0, \"sha256\": "
        "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"}\n  }\n}\n",
        names[i]);
    assert_ok(file_write_whole(path, text, strlen(text)));
    assert_fails(STATUS_BAD_INPUT, checkpoint_verify(folder), "manifest.json", "damaged");
    free(text);
  }
  free(path);
  free(folder);
}

static void a_damaged_checkpoint_falls_back_to_the_newest_whole_one(void **state) {
  (void)state;
  assert_int_equal(resumable_step(output_dir, COUNT), 0);
  for (int step = 8; step <= 11; step++) assert_ok(sample_write(output_dir, step, COUNT));
  assert_int_equal(resumable_step(output_dir, COUNT), 11);
  char *file = in_output("checkpoint-11/state.h5"), *manifest = in_output("checkpoint-10/manifest.json"), *found;
  flip(file, 3000, 0);
  assert_int_equal(resumable_step(output_dir, COUNT), 10);
  unlink(manifest);
  assert_int_equal(resumable_step(output_dir, COUNT), 9);
  char *wanted = in_output("checkpoint-10/"), *older = in_output("checkpoint-8"), *missing = in_output("checkpoint-7");
  assert_ok(checkpoint_find(&found, "", wanted));
  assert_string_equal(path_name(found), "checkpoint-9");
  free(found);
  assert_ok(checkpoint_find(&found, "", older));
  assert_string_equal(found, older);
  free(found);
  assert_fails(STATUS_BAD_INPUT, checkpoint_find(&found, "", missing), "checkpoint-7", "no such checkpoint");
  for (int step = 8; step <= 9; step++) {
    char *path = memory_format("%s/checkpoint-%d/state.h5", output_dir, step);
    flip(path, 3000, 0);
    free(path);
  }
  assert_fails(STATUS_BAD_INPUT, checkpoint_find(&found, output_dir, NULL), "none of its checkpoints");
  assert_fails(STATUS_BAD_INPUT, checkpoint_find(&found, "", wanted), "checkpoint-10", "damaged");
  free(missing);
  free(older);
  free(wanted);
  free(manifest);
  free(file);
}

static void a_checkpoint_of_another_run_is_refused_and_says_what_differs(void **state) {
  (void)state;
  assert_ok(sample_write(output_dir, 5, COUNT));
  char *folder = in_output("checkpoint-5");
  Sample sample = sample_new(5, COUNT);
  const RunFingerprint same = sample.state.fingerprint;
  RunFingerprint other = same;
  hash_of(other.data, "other data");
  assert_fails(STATUS_BAD_INPUT, checkpoint_read(folder, &other, &sample.state, sample.arrays, 3, &host), "checkpoint-5", "training data");
  other = same;
  hash_of(other.recipe, "other recipe");
  assert_fails(STATUS_BAD_INPUT, checkpoint_read(folder, &other, &sample.state, sample.arrays, 3, &host), "another recipe");
  other = same;
  hash_of(other.model, "other model");
  assert_fails(STATUS_BAD_INPUT, checkpoint_read(folder, &other, &sample.state, sample.arrays, 3, &host), "base model");
  sample.arrays[1].count--;
  assert_fails(STATUS_BAD_INPUT, checkpoint_read(folder, &same, &sample.state, sample.arrays, 3, &host), "'m'", "500", "499");
  sample.arrays[1].count++;
  sample.arrays[1].name = "momentum";
  assert_fails(STATUS_BAD_INPUT, checkpoint_read(folder, &same, &sample.state, sample.arrays, 3, &host), "'momentum'");
  sample_release(&sample);
  free(folder);
}

static void a_model_only_checkpoint_is_whole_but_not_resumed_from(void **state) {
  (void)state;
  assert_ok(sample_write(output_dir, 4, COUNT));
  Sample sample = sample_new(5, COUNT);
  assert_ok(checkpoint_write(output_dir, &sample.state, NULL, 0, &host, write_adapter, NULL));
  char *folder = in_output("checkpoint-5");
  assert_ok(checkpoint_verify(folder));
  assert_fails(STATUS_BAD_INPUT, damage_status(folder), "save_only_model");
  assert_int_equal(resumable_step(output_dir, COUNT), 4);
  free(folder);
  sample_release(&sample);
}

static Status fail_adapter(const char *folder, void *context) {
  (void)context;
  return status_fail(STATUS_FAILED, "%s: no adapter today", folder);
}

static void a_failing_adapter_writer_leaves_no_checkpoint(void **state) {
  (void)state;
  assert_ok(sample_write(output_dir, 5, COUNT));
  Sample sample = sample_new(6, COUNT);
  assert_fails(STATUS_FAILED, checkpoint_write(output_dir, &sample.state, sample.arrays, 3, &host, fail_adapter, NULL), "checkpoint-6",
               "no adapter today");
  sample_release(&sample);
  char *partial = in_output("checkpoint-6.partial");
  assert_false(directory_exists(partial));
  assert_int_equal(resumable_step(output_dir, COUNT), 5);
  free(partial);
}

static void assert_steps(int count, const int64_t *expected) {
  int found;
  int64_t *steps = checkpoint_list(&found, output_dir);
  assert_int_equal(found, count);
  for (int i = 0; i < count; i++) assert_int_equal(steps[i], expected[i]);
  free(steps);
}

static void pruning_keeps_the_limit_the_best_and_the_two_newest_whole_ones(void **state) {
  (void)state;
  const int64_t all[] = {90, 6, 5, 4, 3, 2, 1};
  for (int i = 6; i >= 0; i--) assert_ok(sample_write(output_dir, all[i], COUNT));
  assert_ok(checkpoint_prune(output_dir, 0, 6, -1));  // no limit
  assert_steps(7, all);
  assert_ok(checkpoint_prune(output_dir, 4, 6, 1));  // 90 is of another run, 1 is the best
  assert_steps(6, (const int64_t[]){90, 6, 5, 4, 3, 1});
  for (int step = 4; step <= 6; step++) {
    char *path = memory_format("%s/checkpoint-%d/state.h5", output_dir, step);
    flip(path, 3000, 0);
    free(path);
  }
  assert_ok(checkpoint_prune(output_dir, 1, 6, -1));  // 6 is within the limit, 3 and 1 are the whole ones
  assert_steps(4, (const int64_t[]){90, 6, 3, 1});
}

static void leftovers_are_cleaned_and_a_replaced_checkpoint_comes_back(void **state) {
  (void)state;
  assert_ok(sample_write(output_dir, 3, COUNT));
  assert_ok(sample_write(output_dir, 4, COUNT));
  char *three = in_output("checkpoint-3"), *aside = in_output("checkpoint-3.replaced"), *four = in_output("checkpoint-4.replaced"),
       *partial = in_output("checkpoint-5.partial/deep"), *other = in_output("checkpoint-x.partial");
  assert_int_equal(rename(three, aside), 0);  // killed between the two renames
  assert_ok(directory_create(four));  // killed before the old one was removed
  assert_ok(directory_create(partial));
  assert_ok(directory_create(other));  // not ours
  assert_ok(checkpoint_clean(output_dir));
  assert_sample(three, 3, COUNT);
  DIR *listing = opendir(output_dir);
  int entries = 0;
  while (readdir(listing)) entries++;
  closedir(listing);
  assert_int_equal(entries, 2 + 3);
  free(three);
  free(aside);
  free(four);
  free(partial);
  free(other);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
  const struct CMUnitTest tests[] = {
      TEST(state_is_read_back_to_identical_bits),
      TEST(the_same_state_is_written_as_the_same_bytes),
      TEST(a_flipped_bit_in_any_file_is_refused),
      TEST(a_truncated_longer_or_missing_file_is_refused),
      TEST(a_manifest_cannot_point_outside_its_folder),
      TEST(a_damaged_checkpoint_falls_back_to_the_newest_whole_one),
      TEST(a_checkpoint_of_another_run_is_refused_and_says_what_differs),
      TEST(a_model_only_checkpoint_is_whole_but_not_resumed_from),
      TEST(a_failing_adapter_writer_leaves_no_checkpoint),
      TEST(pruning_keeps_the_limit_the_best_and_the_two_newest_whole_ones),
      TEST(leftovers_are_cleaned_and_a_replaced_checkpoint_comes_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
