// Runs a Python program that nobody has read: what a model wrote. Linux alone. The program is a process of its own that
//   - may make no socket, no other process (threads it may), send no signal, trace or look into nothing, and change no file anywhere:
//     opening one for writing, making, renaming or removing one are refused by the kernel (a seccomp filter, which can't be taken off;
//     where the kernel has none the program does not run);
//   - is alone in a network without links, on top of the filter, where namespaces of users are permitted;
//   - has no capabilities, no inherited descriptors, an environment of a few words, an empty folder of its own to stand in, and no input;
//   - is limited in processor time, address space, descriptors, and by the clock: then it is killed, with all its threads;
//   - may read what its user may read. It can tell nobody: of its output the first SANDBOX_OUTPUT bytes come back, and no more is kept.
// It has passed when its last line was reached: sandbox_run puts a line behind the program that ends it with a code of its own, so a
// program that ends itself early has not.
#ifndef EVAL_SANDBOX_H
#define EVAL_SANDBOX_H

#include "core/memory.h"
#include "core/status.h"

enum { SANDBOX_OUTPUT = 1 << 14 };

typedef enum SandboxEnd {
  SANDBOX_PASSED,
  SANDBOX_FAILED,  // an exception, another exit code, or a signal
  SANDBOX_TIMED_OUT,
} SandboxEnd;

typedef struct SandboxLimits {
  double seconds;  // by the clock, and of processor time (rounded up)
  int64_t memory;  // bytes of address space
} SandboxLimits;

typedef struct SandboxResult {
  SandboxEnd end;
  int exit_code, signal;  // of the interpreter; signal 0: none
  Buffer output;  // stdout and stderr as they came
} SandboxResult;

SandboxLimits sandbox_defaults(void);  // 3 seconds, 1 GiB

// STATUS_USAGE when there is no python3, or the kernel can't keep the program in. Release `result` in any case.
Status sandbox_run(SandboxResult *result, const char *program, size_t length, SandboxLimits limits);
void sandbox_result_release(SandboxResult *result);
const char *sandbox_end_name(SandboxEnd end);  // "passed", "failed", "timed out"

// eval/sandbox_filter.c: takes from the calling thread, for good, what the list above says. 0, or an errno value. Calls the kernel alone,
// so that it may stand between fork and exec.
int sandbox_filter(void);

#endif
