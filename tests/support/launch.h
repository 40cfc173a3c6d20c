// Whole runs of the program as several processes, started by mpirun, in the test's folder.
#ifndef TESTS_SUPPORT_LAUNCH_H
#define TESTS_SUPPORT_LAUNCH_H

#include "tests/support/test.h"

// Open MPI asks an administrator for a word of his own, and wants to be told that there are more ranks than processors.
#define MPIRUN "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe "

// Waits in a line of the shell until a run in the folder that is given for %s has made some steps.
#define UNTIL_IT_RUNS "for i in $(seq 600); do [ $(cat %s/out/metrics.jsonl 2>/dev/null | wc -l) -gt 2 ] && break; sleep 0.1; done; "

// Runs a line of the shell; returns its exit status; what it says is appended to *output (may be NULL).
int run_shell(Buffer *output, const char *format, ...) PRINTF_LIKE(2, 3);
void need_mpirun(void);  // skips the test where there is no MPI
// `train` of that many ranks (1: without a launcher), which has to end well. environment: "-x NAME=VALUE ..." of mpirun.
void train_ranks(int ranks, const char *environment, const char *recipe, const char *more);
// All lines of two runs' metrics.jsonl have the same counts, and losses, figures and norms within 1e-5 relative.
void assert_same_losses(const char *one, const char *other);
double adapter_difference(const char *one, const char *other);  // the largest of two runs' adapters' values, by the largest value

#endif
