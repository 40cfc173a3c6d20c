// What a run's memory is for, of the process; what lies on a device with a memory of its own is told by the device. The sum is what the
// process takes at most. All but the kernels' workspace, which grows
// with the largest call, can be known before the first step.
#ifndef TRAINER_MEMORY_USE_H
#define TRAINER_MEMORY_USE_H

#include "trainer/run.h"

enum { MEMORY_PURPOSES = 9 };

typedef struct MemoryPart {
  const char *purpose;
  int64_t bytes;
} MemoryPart;

// All parts, the largest first; the last is what the process had before the run was opened. Returns their sum.
int64_t memory_use(MemoryPart parts[MEMORY_PURPOSES], const Run *run);
void memory_use_describe(Buffer *text, const Run *run);

#endif
