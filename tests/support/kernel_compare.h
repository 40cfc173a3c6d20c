#ifndef TESTS_SUPPORT_KERNEL_COMPARE_H
#define TESTS_SUPPORT_KERNEL_COMPARE_H

#include "tests/support/kernel_cases.h"

enum { CASES_SEED = 1 };

// The case's outputs [counts] before it runs; and after it ran on the backend. Fails the test on a write outside.
void case_outputs_new(float *out[CASE_OUTPUTS], Arena *arena, const KernelCase *c);
void case_run(float *out[CASE_OUTPUTS], const KernelCase *c, Backend *backend);
// Fails the test when an output is off by more than it may be.
void case_compare(const KernelCase *c, Backend *backend, Arena *arena);
// All cases of an entry with activations of a type, but those of more than most_flop (0: all).
void cases_compare(KernelOp op, FloatType type, int64_t most_flop, Backend *backend);
// Cases of every entry without rows or counts leave outputs as they were.
void cases_of_nothing_write_nothing(Backend *backend);

#endif
