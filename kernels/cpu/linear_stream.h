// Products of few rows of x (generation): w is read once, row by row, where it lies, and summed in registers.
#ifndef KERNELS_CPU_LINEAR_STREAM_H
#define KERNELS_CPU_LINEAR_STREAM_H

#include "kernels/cpu/cpu.h"

enum { STREAM_ROWS = 8 };

// All `count` projections at once; with `rounds`, those with quantised weights see x in 8 bits (int8.h).
#define linear_stream ISA_NAME(linear_stream)
void linear_stream(const Projection *projections, int count, Rows x, int64_t n, bool rounds, Backend *backend);

#endif
