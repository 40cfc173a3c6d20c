// Sequences of integers that are kept once: equal sequences have equal numbers, so that sets of states or of stacks are compared by number.
#ifndef RUNTIME_CONSTRAINT_POOL_H
#define RUNTIME_CONSTRAINT_POOL_H

#include "core/map.h"

typedef struct Pool {
  int32_t *words;  // all sequences, one after another
  int64_t word_count, word_capacity;
  int64_t *begins;  // [count + 1]
  int64_t count, capacity;
  Map numbers;  // of each sequence
} Pool;

int32_t pool_intern(Pool *pool, const int32_t *words, int64_t count);  // the sequence's number: 0, 1, ... in order of first use
const int32_t *pool_get(int64_t *count, const Pool *pool, int32_t number);  // until the next pool_intern
void pool_release(Pool *pool);

#endif
