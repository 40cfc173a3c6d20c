// What the values of a tensor are like. Over the finite values x[n]:
//   mean = sum x / n    deviation = sqrt(sum (x - mean)^2 / n)    rms = sqrt(sum x^2 / n)
// Sums are float64, over chunks that are combined in their order (Chan, Golub & LeVeque 1979): bits do not depend on the threads.
#ifndef INSPECT_STATISTICS_H
#define INSPECT_STATISTICS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/thread.h"
#include "formats/block.h"
#include "formats/safetensors.h"

// Where values are read from: blocks of GGUF, or elements of a safetensors type (integers and 8-bit floats too).
typedef struct ValueSource {
  const void *data;  // may be unaligned
  bool is_block;
  BlockType block;
  SafetensorsType element;
  int64_t count;
} ValueSource;

typedef struct Statistics {
  int64_t count;  // finite values
  int64_t zeros, nans, infinities;
  double minimum, maximum, mean, deviation, rms;  // 0 when there is no finite value
} Statistics;

// Values first .. first + count - 1; `first` a multiple of 256, and so is `count` unless they are the last.
void values_read(double *out, const ValueSource *source, int64_t first, int64_t count);
// One for each source. Shows a progress bar where there is much to read.
void statistics_compute(Statistics *out, const ValueSource *sources, int64_t source_count, ThreadPool *pool);

#endif
