// Checkpoints under kills, full disks and failing disks.
#define _GNU_SOURCE
#include "tests/trainer/checkpoint_support.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"
#include "tests/support/fault.h"

enum { COUNT = 300 };

static char *output_dir;
static volatile int64_t *finished;  // shared with the child: the last step whose checkpoint_write returned

static int make_folder(void **state) {
  (void)state;
  if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);  // thousands of fsyncs, whose disk is not the point
  output_dir = temporary_folder();
  log_set_quiet(true);
  finished = mmap(NULL, sizeof *finished, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return finished == MAP_FAILED;
}

static int remove_folder(void **state) {
  (void)state;
  directory_remove(output_dir);
  free(output_dir);
  munmap((void *)(uintptr_t)finished, sizeof *finished);
  return 0;
}

static void empty_folder(void) {
  assert_ok(directory_remove(output_dir));
  assert_ok(directory_create(output_dir));
  *finished = 0;
}

// Four checkpoints with pruning, then the last one again in place of itself.
static int write_several(void *argument) {
  (void)argument;
  const int64_t steps[] = {1, 2, 3, 4, 4};
  for (int i = 0; i < 5; i++) {
    if (sample_write(output_dir, steps[i], COUNT) != STATUS_OK) return 1;
    *finished = steps[i];
    if (checkpoint_prune(output_dir, 2, steps[i], -1) != STATUS_OK) return 1;
  }
  return 0;
}

static void assert_no_leftovers(void) {
  for (int step = 1; step <= 4; step++) {
    char *partial = memory_format("%s/checkpoint-%d.partial", output_dir, step);
    char *replaced = memory_format("%s/checkpoint-%d.replaced", output_dir, step);
    assert_false(directory_exists(partial) || directory_exists(replaced));
    free(partial);
    free(replaced);
  }
}

static void a_kill_at_any_write_fsync_or_rename_never_loses_a_finished_checkpoint(void **state) {
  (void)state;
  if (!fault_is_available()) skip_test("no ptrace here");
  int calls = fault_run((Fault){0}, write_several, NULL).calls;
  assert_true(calls > 60);
  for (int at = 1; at <= calls; at++) {
    empty_folder();
    assert_int_equal(fault_run((Fault){.at = at}, write_several, NULL).exit_code, -1);
    int64_t step = resumable_step(output_dir, COUNT);
    if (step < *finished) fail_msg("killed at call %d: %lld was finished, %lld is there", at, (long long)*finished, (long long)step);
    assert_no_leftovers();
  }
}

// Writes checkpoint `*argument` beside those that are there.
static int write_one(void *argument) { return sample_write(output_dir, *(int64_t *)argument, COUNT); }

// With the nth call failing: the status, and that what was there before is whole.
static void check_failures(Fault fault, Status expected, int64_t step) {
  empty_folder();
  assert_ok(sample_write(output_dir, 1, COUNT));
  assert_ok(sample_write(output_dir, 2, COUNT));
  int calls = fault_run((Fault){0}, write_one, &step).calls, failures = 0;
  assert_true(calls > 15);
  for (fault.at = 1; fault.at <= calls; fault.at++) {
    empty_folder();
    assert_ok(sample_write(output_dir, 1, COUNT));
    assert_ok(sample_write(output_dir, 2, COUNT));
    FaultResult result = fault_run(fault, write_one, &step);
    // Only what is done after the checkpoint is whole may fail without failing the call.
    if (result.exit_code != STATUS_OK && result.exit_code != (int)expected)
      fail_msg("call %d of %d: status %d where %d was expected", fault.at, calls, result.exit_code, expected);
    failures += result.exit_code != STATUS_OK;
    int64_t there = resumable_step(output_dir, COUNT);
    assert_true(there >= 2);
    if (result.exit_code == STATUS_OK) assert_int_equal(there, step);
    char *first = path_join(output_dir, "checkpoint-1");
    assert_sample(first, 1, COUNT);
    free(first);
    assert_no_leftovers();
  }
  assert_true(failures > calls / 2);
}

static void a_full_disk_at_any_call_is_reported_and_leaves_the_others_whole(void **state) {
  (void)state;
  if (!fault_is_available()) skip_test("no ptrace here");
  check_failures((Fault){.error = ENOSPC, .lasting = true}, STATUS_NO_SPACE, 3);
  check_failures((Fault){.error = ENOSPC}, STATUS_NO_SPACE, 2);  // in place of one that is there
}

static void a_failing_disk_at_any_call_is_reported_and_leaves_the_others_whole(void **state) {
  (void)state;
  if (!fault_is_available()) skip_test("no ptrace here");
  check_failures((Fault){.error = EIO}, STATUS_FAILED, 3);
  check_failures((Fault){.error = EIO}, STATUS_FAILED, 2);
}

static void a_kill_at_a_random_time_leaves_one_to_resume_from(void **state) {
  (void)state;
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  for (int round = 0; round < 8; round++) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
      int64_t step = *finished;
      while (sample_write(output_dir, ++step, COUNT) == STATUS_OK && checkpoint_prune(output_dir, 2, step, -1) == STATUS_OK)
        *finished = step;
      _exit(1);
    }
    while (round == 0 && *finished == 0) sched_yield();
    struct timespec pause = {.tv_nsec = (long)rng_below(&rng, 60000000)};
    nanosleep(&pause, NULL);
    kill(child, SIGKILL);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    int64_t step = resumable_step(output_dir, COUNT);
    assert_true(step >= *finished && step > 0);
    *finished = step;  // the next child goes on from there
  }
}

// In a process of its own, whose stderr goes to a file: HDF5 must not print its own messages, nor when it ends.
static int write_until_full(const char *folder, const char *stderr_path) {
  int file = open(stderr_path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
  dup2(file, STDERR_FILENO);
  Status status = STATUS_OK;
  for (int64_t step = 1; status == STATUS_OK && step < 1000; step++) {
    status = sample_write(folder, step, 20000);
    if (status == STATUS_OK) *finished = step;
  }
  return status == STATUS_NO_SPACE && strstr(status_message(), "checkpoint-") && strstr(status_message(), "untouched") ? 0 : 1;
}

static void a_full_file_system_is_reported_quietly_and_can_go_on_after_room_is_made(void **state) {
  (void)state;
  static char *folder, *messages;  // where the leak checker of a child that exits here still finds them
  folder = path_join(output_dir, "small");
  messages = path_join(output_dir, "stderr");
  assert_ok(directory_create(folder));
  if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
      mount("tmpfs", folder, "tmpfs", 0, "size=1m") != 0) {
    free(folder);
    free(messages);
    skip_test("no right to mount a small file system");
  }
  fflush(NULL);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) exit(write_until_full(folder, messages));
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
  struct stat info;
  assert_int_equal(stat(messages, &info), 0);
  assert_int_equal(info.st_size, 0);
  assert_true(*finished >= 3);
  assert_int_equal(resumable_step(folder, 20000), *finished);
  assert_ok(checkpoint_prune(folder, 2, *finished, -1));
  assert_ok(sample_write(folder, *finished + 1, 20000));
  assert_int_equal(resumable_step(folder, 20000), *finished + 1);
  assert_int_equal(umount(folder), 0);
  free(folder);
  free(messages);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
  const struct CMUnitTest tests[] = {
      TEST(a_kill_at_any_write_fsync_or_rename_never_loses_a_finished_checkpoint),
      TEST(a_full_disk_at_any_call_is_reported_and_leaves_the_others_whole),
      TEST(a_failing_disk_at_any_call_is_reported_and_leaves_the_others_whole),
      TEST(a_kill_at_a_random_time_leaves_one_to_resume_from),
      TEST(a_full_file_system_is_reported_quietly_and_can_go_on_after_room_is_made),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
