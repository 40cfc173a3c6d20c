// Faults in system calls: a child process runs a function under ptrace, and its Nth call that changes a file either fails
// with an error of the test's choice or is where the child is killed. Deterministic, and with no hook in the code under test.
#ifndef TESTS_SUPPORT_FAULT_H
#define TESTS_SUPPORT_FAULT_H

#include <stdbool.h>

// Calls counted: write, writev, pwrite64, fsync, fdatasync, ftruncate, rename*, mkdir*, unlink*, rmdir, and open* with O_CREAT;
// writes to stdout and stderr are not.
typedef struct Fault {
  int at;  // 1: the first such call; 0: none, to count them
  int error;  // errno to fail with; 0: SIGKILL instead of the call
  bool lasting;  // every later call that takes space (write, mkdir, open with O_CREAT) fails too, as on a full disk
} Fault;

typedef struct FaultResult {
  int calls;  // counted calls until the child ended
  int exit_code;  // what `function` returned, -1 when the child was killed by the fault, -2 for any other signal
} FaultResult;

// Whether this machine lets a test trace its child (x86-64 Linux, ptrace permitted).
bool fault_is_available(void);
FaultResult fault_run(Fault fault, int (*function)(void *argument), void *argument);

#endif
