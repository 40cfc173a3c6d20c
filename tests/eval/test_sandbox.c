// Programs that try to get out, or never to end; and those of HumanEval that are right.
#include "eval/sandbox.h"

#include <dirent.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "data/source/dataset_file.h"
#include "tests/support/test.h"

static SandboxLimits short_limits(void) {
  SandboxLimits limits = sandbox_defaults();
  limits.seconds = 1;
  return limits;
}

// Runs the program, which must end so; its output holds `words`, if given.
static void assert_ends(SandboxEnd end, const char *words, const char *program, SandboxLimits limits) {
  SandboxResult result;
  assert_ok(sandbox_run(&result, program, strlen(program), limits));
  buffer_append(&result.output, "", 1);
  if (result.end != end)
    fail_msg("%s, expected %s: %s\n%s", sandbox_end_name(result.end), sandbox_end_name(end), result.output.data, program);
  if (words && !strstr(result.output.data, words)) fail_msg("it does not say \"%s\": %s", words, result.output.data);
  sandbox_result_release(&result);
}

// The program asks for what it may not have: it must see the refusal itself, and goes on.
static void assert_refuses(const char *attempt) {
  char *program = memory_format(
      "import os, sys, socket, ctypes, signal, threading\n"
      "try:\n    %s\nexcept (PermissionError, OSError) as e:\n    print('refused', e)\nelse:\n    print('NOT REFUSED')\n    sys.exit(1)\n",
      attempt);
  assert_ends(SANDBOX_PASSED, "refused", program, sandbox_defaults());
  free(program);
}

static void a_program_passes_when_its_last_line_is_reached(void **state) {
  (void)state;
  assert_ends(SANDBOX_PASSED, "42", "print(6 * 7)", sandbox_defaults());
  assert_ends(SANDBOX_FAILED, "AssertionError", "assert 1 == 2", sandbox_defaults());
  assert_ends(SANDBOX_FAILED, "SyntaxError", "def f(:", sandbox_defaults());
  assert_ends(SANDBOX_FAILED, NULL, "import sys; sys.exit(0)", sandbox_defaults());
  assert_ends(SANDBOX_FAILED, NULL, "import os; os._exit(0)", sandbox_defaults());
  assert_ends(SANDBOX_FAILED, NULL, "import os; os.abort()", sandbox_defaults());
}

static void what_never_ends_is_killed(void **state) {
  (void)state;
  double start = time_seconds();
  assert_ends(SANDBOX_TIMED_OUT, NULL, "while True: pass", short_limits());
  assert_ends(SANDBOX_TIMED_OUT, NULL, "import time; time.sleep(100)", short_limits());
  assert_ends(SANDBOX_TIMED_OUT, NULL, "import os, time; os.close(1); os.close(2); time.sleep(100)", short_limits());
  assert_ends(SANDBOX_TIMED_OUT, NULL, "import signal, time\nfor s in (1, 2, 15, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
              short_limits());
  assert_ends(SANDBOX_TIMED_OUT, NULL,
              "import threading\ndef f():\n  while True: pass\nfor i in range(8): threading.Thread(target=f).start()\nf()", short_limits());
  assert_true(time_seconds() - start < 20);
}

static void no_process_can_be_made(void **state) {
  (void)state;
  assert_refuses("os.fork()");
  assert_refuses("os.system('true') == 0 or (_ for _ in ()).throw(OSError('no shell'))");
  assert_refuses("__import__('subprocess').run(['true'])");
  assert_refuses("os.posix_spawn('/bin/true', ['true'], {})");
  assert_ends(SANDBOX_PASSED, "no child", "import os\nfor i in range(1000):\n  try: os.fork()\n  except OSError: pass\nprint('no child')",
              sandbox_defaults());
  assert_ends(SANDBOX_PASSED, "in a thread",
              "import threading\nt = threading.Thread(target=lambda: print('in a thread')); t.start(); t.join()", sandbox_defaults());
}

static void the_network_is_refused(void **state) {
  (void)state;
  assert_refuses("socket.socket()");
  assert_refuses("socket.socket(socket.AF_UNIX)");
  assert_refuses("socket.socketpair()");
  assert_refuses("__import__('urllib.request').request.urlopen('http://127.0.0.1:80/')");
  // past what Python itself checks
  assert_refuses("ctypes.CDLL(None, use_errno=True).socket(2, 1, 0) >= 0 or (_ for _ in ()).throw(OSError(ctypes.get_errno()))");
}

static void nothing_can_be_written(void **state) {
  (void)state;
  char *victim = path_join(test_folder, "victim");
  assert_ok(file_write_whole(victim, "whole", 5));
  static const char *const attempts[] = {
      "open('%s', 'w')",
      "open('%s', 'a')",
      "open('%s', 'r+')",
      "open('%s.new', 'x')",
      "os.remove('%s')",
      "os.chmod('%s', 0)",
      "os.rename('%s', '%s.2')",
      "os.symlink('/', '%s.link')",
      "os.link('%s', '%s.hard')",
      "os.mkdir('%s.dir')",
      "os.truncate('%s', 0)",
      "os.utime('%s', (0, 0))",
      "os.mkfifo('%s.fifo')",
      "os.chown('%s', 1, 1)",
      "os.setxattr('%s', 'user.a', b'b')",
  };
  for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++) {
    char *attempt = memory_format(attempts[i], victim, victim);
    assert_refuses(attempt);
    free(attempt);
  }
  assert_refuses("open('own_file', 'w')");
  assert_refuses("open('/dev/shm/lora-test', 'w')");
  assert_refuses("os.memfd_create('m')");
  Buffer text = {0};
  assert_ok(file_read(&text, victim, 100));
  assert_string_equal(text.data, "whole");
  buffer_release(&text);
  free(victim);
}

static void others_cannot_be_reached(void **state) {
  (void)state;
  char *attempt = memory_format("os.kill(%d, 9)", (int)getpid());
  assert_refuses(attempt);
  free(attempt);
  attempt = memory_format("open('/proc/%d/mem', 'r+b')", (int)getpid());
  assert_refuses(attempt);
  free(attempt);
  attempt = memory_format("ctypes.CDLL(None, use_errno=True).ptrace(16, %d, 0, 0) == 0 or (_ for _ in ()).throw(OSError('refused'))",
                          (int)getpid());
  assert_refuses(attempt);
  free(attempt);
  attempt = memory_format("__import__('resource').prlimit(%d, 0, (1, 1))", (int)getpid());
  assert_refuses(attempt);
  free(attempt);
}

static void memory_and_output_are_bounded(void **state) {
  (void)state;
  assert_ends(SANDBOX_FAILED, "MemoryError", "a = bytearray(1 << 31)", sandbox_defaults());
  assert_ends(SANDBOX_FAILED, "MemoryError", "a = []\nwhile True: a.append(bytearray(1 << 24))", sandbox_defaults());
  SandboxResult result;
  const char *flood = "while True: print('x' * 1000)";
  assert_ok(sandbox_run(&result, flood, strlen(flood), short_limits()));
  assert_int_equal(result.end, SANDBOX_TIMED_OUT);
  assert_int_equal(result.output.length, SANDBOX_OUTPUT);
  sandbox_result_release(&result);
}

static void it_inherits_nothing_and_leaves_nothing(void **state) {
  (void)state;
  setenv("LORA_TEST_SECRET", "secret", 1);
  FILE *open_file = fopen(SOURCE_DIR "/LICENSE", "r");
  assert_non_null(open_file);
  assert_ends(
      SANDBOX_PASSED, "[0, 1, 2] False",
      "import os\nfds = [d for d in range(256) if os.path.exists(f'/proc/self/fd/{d}')]\nprint(fds, 'LORA_TEST_SECRET' in os.environ)",
      sandbox_defaults());
  fclose(open_file);
  assert_ends(SANDBOX_PASSED, "['program.py'] ''", "import os, sys; print(os.listdir('.'), repr(sys.stdin.read()))", sandbox_defaults());
  DIR *folder = opendir(test_folder);
  for (struct dirent *entry; (entry = readdir(folder));) assert_false(text_starts_with(entry->d_name, "lora-sandbox"));
  closedir(folder);
}

static int make_own_folder(void **state) {
  make_test_folder(state);
  return setenv("TMPDIR", test_folder, 1);
}

static int remove_own_folder(void **state) {
  unsetenv("TMPDIR");
  return remove_test_folder(state);
}

#define unit_test_in_own_folder(test) cmocka_unit_test_setup_teardown(test, make_own_folder, remove_own_folder)

// ---- HumanEval ----

static const char *member(const json_t *row, const char *key) { return json_string_value(json_object_get(row, key)); }

static void the_solutions_of_humaneval_pass(void **state) {
  (void)state;
  char *path = shared_path("data/eval/humaneval/HumanEval.jsonl.gz");
  if (!path) skip_test("HumanEval is not beside the checkout");
  DatasetFile file;
  assert_ok(dataset_file_open(&file, path, ROWS_JSON));
  assert_true(file.count > 0);
  for (int64_t i = 0; i < file.count; i++) {
    json_t *row;
    assert_ok(dataset_file_row(&row, &file, i));
    char *program = memory_format("%s%s\n%s\ncheck(%s)", member(row, "prompt"), member(row, "canonical_solution"), member(row, "test"),
                                  member(row, "entry_point"));
    SandboxLimits limits = sandbox_defaults();
    limits.seconds *= 4;  // machines that run tests are busy
    assert_ends(SANDBOX_PASSED, NULL, program, limits);
    free(program);
    if (i == 0) {
      program = memory_format("%s    return None\n%s\ncheck(%s)", member(row, "prompt"), member(row, "test"), member(row, "entry_point"));
      assert_ends(SANDBOX_FAILED, "AssertionError", program, limits);
      free(program);
    }
    json_decref(row);
  }
  dataset_file_release(&file);
  free(path);
}

int main(void) {
  SandboxResult result;
  Status status = sandbox_run(&result, "", 0, sandbox_defaults());
  if (status == STATUS_USAGE) {
    printf("SKIPPED: %s\nALL TESTS SKIPPED\n", status_message());
    return 0;
  }
  sandbox_result_release(&result);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_program_passes_when_its_last_line_is_reached),
      cmocka_unit_test(what_never_ends_is_killed),
      cmocka_unit_test(no_process_can_be_made),
      cmocka_unit_test(the_network_is_refused),
      unit_test_in_folder(nothing_can_be_written),
      cmocka_unit_test(others_cannot_be_reached),
      cmocka_unit_test(memory_and_output_are_bounded),
      unit_test_in_own_folder(it_inherits_nothing_and_leaves_nothing),
      cmocka_unit_test(the_solutions_of_humaneval_pass),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
