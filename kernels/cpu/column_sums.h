// Sums over rows by parts: a task sums some rows into a part of its own, and the parts are added in their order. How rows are divided
// depends on their number alone, and so do the bits.
#ifndef KERNELS_CPU_COLUMN_SUMS_H
#define KERNELS_CPU_COLUMN_SUMS_H

#include "kernels/cpu/typed.h"

typedef struct ColumnParts {
  float *sums;  // [count][step], in the scratch that threads share
  int64_t count, rows, step;  // of parts; of rows in a part; of elements from a part to the next
} ColumnParts;

#define column_parts_new ISA_NAME(column_parts_new)
ColumnParts column_parts_new(int64_t n, int64_t columns, Backend *backend);  // all zero
#define column_parts_add ISA_NAME(column_parts_add)
void column_parts_add(float *sums, const ColumnParts *parts, int64_t columns, Backend *backend);  // sums[columns] += each part

#endif
