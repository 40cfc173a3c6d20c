#define _GNU_SOURCE
#include "eval/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"

enum { EXIT_PASSED = 91, EXIT_SETUP = 92, DESCRIPTORS = 64 };

static const char PROGRAM[] = "program.py";
// Behind the program: sys.exit, or an exit handler of its own, can't stand for it.
static const char LAST_LINE[] = "\nimport os as _o; _o._exit(91)\n";

SandboxLimits sandbox_defaults(void) { return (SandboxLimits){.seconds = 3, .memory = (int64_t)1 << 30}; }

const char *sandbox_end_name(SandboxEnd end) {
  static const char *const names[] = {"passed", "failed", "timed out"};
  return names[end];
}

void sandbox_result_release(SandboxResult *result) { buffer_release(&result->output); }

// ---- The child, between fork and exec: nothing but system calls ----

typedef enum SetupStep { STEP_FOLDER, STEP_INPUT, STEP_OUTPUT, STEP_CAPABILITIES, STEP_LIMITS, STEP_FILTER, STEP_EXEC } SetupStep;
static const char *const step_names[] = {"entering its folder", "its input",          "its output", "dropping capabilities",
                                         "setting limits",      "the seccomp filter", "starting it"};

typedef struct SetupReport {
  SetupStep step;
  int error;
} SetupReport;

typedef struct Child {
  const char *python, *folder;
  int output;  // the pipe's end
  int report;  // closed by exec
  SandboxLimits limits;
} Child;

static void limit(int resource, uint64_t value, int *error) {
  struct rlimit bound = {.rlim_cur = (rlim_t)value, .rlim_max = (rlim_t)value};
  if (setrlimit((__rlimit_resource_t)resource, &bound) != 0) *error = errno;
}

static int set_limits(const SandboxLimits *limits) {
  int error = 0;
  limit(RLIMIT_CPU, (uint64_t)limits->seconds + 1, &error);
  limit(RLIMIT_AS, (uint64_t)limits->memory, &error);
  limit(RLIMIT_FSIZE, 0, &error);
  limit(RLIMIT_CORE, 0, &error);
  limit(RLIMIT_NOFILE, DESCRIPTORS, &error);
  return error;  // no RLIMIT_NPROC: it counts all that its user runs, and the filter refuses processes altogether
}

static int drop_capabilities(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct none[2] = {{0}};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
  return syscall(SYS_capset, &header, none) == 0 ? 0 : errno;
}

static void close_from(int first) {
  if (syscall(436 /* close_range */, first, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */) == 0) return;
  for (int descriptor = first; descriptor < 4096; descriptor++) fcntl(descriptor, F_SETFD, FD_CLOEXEC);
}

static _Noreturn void give_up(const Child *child, SetupStep step, int error) {
  SetupReport report = {step, error};
  ssize_t ignored = write(child->report, &report, sizeof report);
  (void)ignored;
  _exit(EXIT_SETUP);
}

static _Noreturn void run_child(const Child *child) {
  static char *const environment[] = {"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "OPENBLAS_NUM_THREADS=1", NULL};
  // -I: nothing of its environment or folder; -B: no bytecode files; -u: what it says before it is killed is not lost
  char *const words[] = {(char *)child->python, "-I", "-B", "-u", (char *)PROGRAM, NULL};
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // it does not outlive who waits for it
  signal(SIGPIPE, SIG_DFL);
  // Where that is not permitted the filter stands alone.
  if (unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) != 0) errno = 0;
  int nothing = open("/dev/null", O_RDONLY);
  if (nothing < 0 || dup2(nothing, STDIN_FILENO) < 0) give_up(child, STEP_INPUT, errno);
  if (chdir(child->folder) != 0) give_up(child, STEP_FOLDER, errno);
  if (dup2(child->output, STDOUT_FILENO) < 0 || dup2(child->output, STDERR_FILENO) < 0) give_up(child, STEP_OUTPUT, errno);
  close_from(STDERR_FILENO + 1);
  int error = drop_capabilities();
  if (error) give_up(child, STEP_CAPABILITIES, error);
  if ((error = set_limits(&child->limits))) give_up(child, STEP_LIMITS, error);
  if ((error = sandbox_filter())) give_up(child, STEP_FILTER, error);
  execve(child->python, words, environment);
  give_up(child, STEP_EXEC, errno);
}

// ---- The parent ----

static char *python_path;  // NULL: there is none

// The python3 of PATH may be a script that starts another program (pyenv), which it could not do inside: the interpreter itself is asked
// where it is, once, and outside.
static void find_python(void) {
  FILE *pipe = popen("python3 -I -c 'import sys; print(sys.executable)' 2>/dev/null", "r");
  char line[4096] = "";
  if (!pipe) return;
  if (fgets(line, sizeof line, pipe)) line[strcspn(line, "\n")] = 0;
  pclose(pipe);
  if (*line == '/' && access(line, X_OK) == 0) python_path = memory_copy_string(line);
}

static Status make_folder(char **folder, const char *program, size_t length) {
  const char *parent = getenv("TMPDIR");
  *folder = path_join(parent && *parent ? parent : "/tmp", "lora-sandbox-XXXXXX");
  if (!mkdtemp(*folder)) {
    Status status = status_errno(STATUS_FAILED, errno, "the sandbox: no folder can be made as %s", *folder);
    **folder = 0;
    return status;
  }
  Buffer text = {0};
  buffer_append(&text, program, length);
  buffer_append_string(&text, LAST_LINE);
  char *file = path_join(*folder, PROGRAM);
  Status status = file_write_whole(file, text.data, text.length);
  free(file);
  buffer_release(&text);
  return status;
}

// Keeps the first bytes; false when the pipe has ended.
static bool read_output(Buffer *output, int pipe) {
  char bytes[1 << 12];
  ssize_t got = read(pipe, bytes, sizeof bytes);
  if (got <= 0) return got < 0 && (errno == EINTR || errno == EAGAIN);
  size_t room = SANDBOX_OUTPUT - output->length;
  buffer_append(output, bytes, (size_t)got < room ? (size_t)got : room);
  return true;
}

// Reads and waits until the program ends or its time has passed; then it is killed. *status: waitpid's.
static bool watch(SandboxResult *result, int *status, pid_t process, int pipe, double seconds) {
  enum { TICK = 5 };  // milliseconds
  double end = time_seconds() + seconds;
  bool is_open = true, is_late = false;
  while (waitpid(process, status, WNOHANG) == 0) {
    if (!is_late && time_seconds() >= end) {
      is_late = true;
      kill(process, SIGKILL);
    }
    struct pollfd wait = {.fd = pipe, .events = POLLIN};
    if (poll(&wait, is_open, TICK) > 0) is_open = read_output(&result->output, pipe);
  }
  fcntl(pipe, F_SETFL, O_NONBLOCK);
  for (size_t before = SIZE_MAX; is_open && result->output.length != before;) {
    before = result->output.length;
    is_open = read_output(&result->output, pipe);
  }
  return is_late;
}

static void judge_end(SandboxResult *result, int status, bool is_late) {
  result->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  result->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  bool is_killed = result->signal == SIGKILL || result->signal == SIGXCPU;  // by the limit of processor time
  result->end = is_late || is_killed ? SANDBOX_TIMED_OUT : result->exit_code == EXIT_PASSED ? SANDBOX_PASSED : SANDBOX_FAILED;
}

static Status report_setup(const SetupReport *report) {
  const char *step = step_names[report->step];
  if (report->step == STEP_FILTER)
    return status_errno(STATUS_USAGE, report->error,
                        "the sandbox: this kernel has no seccomp filter, without which no program of a model is run (%s)", step);
  return status_errno(STATUS_FAILED, report->error, "the sandbox: %s", step);
}

static Status run_in(SandboxResult *result, const char *folder, SandboxLimits limits) {
  int output[2], report[2];
  if (pipe(output) != 0) return status_errno(STATUS_FAILED, errno, "the sandbox: no pipe");
  if (pipe(report) != 0) {
    close(output[0]), close(output[1]);
    return status_errno(STATUS_FAILED, errno, "the sandbox: no pipe");
  }
  Child child = {.python = python_path, .folder = folder, .output = output[1], .report = report[1], .limits = limits};
  pid_t process = fork();
  int error = errno, ended = 0;
  if (process == 0) run_child(&child);
  close(output[1]);
  close(report[1]);
  SetupReport setup;
  bool is_started = process > 0 && read(report[0], &setup, sizeof setup) != sizeof setup;
  bool is_late = process > 0 && watch(result, &ended, process, output[0], limits.seconds);
  close(output[0]);
  close(report[0]);
  if (process < 0) return status_errno(STATUS_FAILED, error, "the sandbox: no process");
  if (!is_started) return report_setup(&setup);
  judge_end(result, ended, is_late);
  return STATUS_OK;
}

Status sandbox_run(SandboxResult *result, const char *program, size_t length, SandboxLimits limits) {
  *result = (SandboxResult){.end = SANDBOX_FAILED};
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, find_python);
  char *folder = NULL;
  if (!python_path) return status_fail(STATUS_USAGE, "there is no python3 in PATH, which runs the programs of this task");
  Status status = make_folder(&folder, program, length);
  if (status == STATUS_OK) status = run_in(result, folder, limits);
  if (*folder) directory_remove(folder);
  free(folder);
  return status;
}
