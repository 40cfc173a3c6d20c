#define _GNU_SOURCE
#include "tests/support/fault.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
typedef struct user_regs_struct Registers;
static long call_number(const Registers *r) { return (long)r->orig_rax; }
static uint64_t call_argument(const Registers *r, int i) { return i == 0 ? r->rdi : i == 1 ? r->rsi : r->rdx; }
static void call_cancel(Registers *r) { r->orig_rax = (unsigned long long)-1; }
static void call_result(Registers *r, int error) { r->rax = (unsigned long long)-error; }
#define FAULT_KNOWS_MACHINE 1
#else
#define FAULT_KNOWS_MACHINE 0
#endif

#if FAULT_KNOWS_MACHINE
typedef enum CallKind { CALL_OTHER, CALL_FILE, CALL_SPACE } CallKind;

static CallKind call_kind(const Registers *r) {
  switch (call_number(r)) {
    case SYS_write:
    case SYS_writev:
    case SYS_pwrite64: return call_argument(r, 0) > 2 ? CALL_SPACE : CALL_OTHER;
    case SYS_open: return call_argument(r, 1) & O_CREAT ? CALL_SPACE : CALL_OTHER;
    case SYS_openat: return call_argument(r, 2) & O_CREAT ? CALL_SPACE : CALL_OTHER;
    case SYS_mkdir:
    case SYS_mkdirat: return CALL_SPACE;
    case SYS_fsync:
    case SYS_fdatasync:
    case SYS_ftruncate:
    case SYS_rename:
    case SYS_renameat:
    case SYS_renameat2:
    case SYS_unlink:
    case SYS_unlinkat:
    case SYS_rmdir: return CALL_FILE;
    default: return CALL_OTHER;
  }
}

static void registers_get(pid_t child, Registers *registers) {
  struct iovec part = {registers, sizeof *registers};
  if (ptrace(PTRACE_GETREGSET, child, (void *)NT_PRSTATUS, &part) != 0) abort();
}

static void registers_set(pid_t child, Registers *registers) {
  struct iovec part = {registers, sizeof *registers};
  if (ptrace(PTRACE_SETREGSET, child, (void *)NT_PRSTATUS, &part) != 0) abort();
}

// Lets the child run until its next stop at a system call; false when it has ended, with *status set.
static bool run_to_call(pid_t child, int *status) {
  for (int signal = 0;;) {
    if (ptrace(PTRACE_SYSCALL, child, NULL, (void *)(intptr_t)signal) != 0) abort();
    if (waitpid(child, status, 0) != child) abort();
    if (WIFEXITED(*status) || WIFSIGNALED(*status)) return false;
    if (WSTOPSIG(*status) == (SIGTRAP | 0x80)) return true;
    signal = WSTOPSIG(*status);
  }
}

static pid_t start_child(int (*function)(void *argument), void *argument) {
  fflush(NULL);
  pid_t child = fork();
  if (child < 0) abort();
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(120);
    raise(SIGSTOP);
    _exit(function(argument));
  }
  return child;
}

FaultResult fault_run(Fault fault, int (*function)(void *argument), void *argument) {
  FaultResult result = {.exit_code = -2};
  pid_t child = start_child(function, argument);
  int status;
  if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return result;
  ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL));
  while (run_to_call(child, &status)) {
    Registers registers;
    registers_get(child, &registers);
    CallKind kind = call_kind(&registers);
    if (kind != CALL_OTHER) result.calls++;
    bool here = kind != CALL_OTHER && result.calls == fault.at;
    bool later = kind == CALL_SPACE && fault.lasting && fault.at > 0 && result.calls > fault.at;
    if (here && fault.error == 0) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      result.exit_code = -1;
      return result;
    }
    if (here || later) {
      call_cancel(&registers);
      registers_set(child, &registers);
    }
    if (!run_to_call(child, &status)) break;  // the call's end
    if (here || later) {
      registers_get(child, &registers);
      call_result(&registers, fault.error);
      registers_set(child, &registers);
    }
  }
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

static int do_nothing(void *argument) {
  (void)argument;
  return 7;
}

bool fault_is_available(void) { return fault_run((Fault){0}, do_nothing, NULL).exit_code == 7; }
#else
FaultResult fault_run(Fault fault, int (*function)(void *argument), void *argument) {
  (void)fault, (void)function, (void)argument;
  return (FaultResult){.exit_code = -2};
}

bool fault_is_available(void) { return false; }
#endif
