// What cases are built of: for the files that make them.
#ifndef TESTS_SUPPORT_CASE_PARTS_H
#define TESTS_SUPPORT_CASE_PARTS_H

#include "tests/support/kernel_cases.h"

KernelCase *case_new(Arena *arena, KernelOp op);
float *normals(Arena *arena, Rng *rng, int64_t n, double deviation);
void put_input(KernelCase *c, int index, const void *data, int64_t bytes);
float *put_normals(KernelCase *c, int index, Arena *arena, Rng *rng, int64_t n);
void put_output(KernelCase *c, int output, int64_t count, float *initial);

#endif
