// An optimiser that is divided among the ranks (recipe key shard_optimizer): each has the states of its part of the parameters and updates
// that, and then all get the others' parts. A checkpoint holds the whole states, so that another number of ranks can go on from it.
#ifndef TRAINER_DIVIDED_H
#define TRAINER_DIVIDED_H

#include "trainer/run.h"

bool divided_is_on(const Run *run);
// The part of this rank: elements *first .. *last - 1 of the flat buffers; all of them where nothing is divided.
void divided_part(int64_t *first, int64_t *last, const Run *run);
// After a step: the parameters that other ranks have updated.
Status divided_exchange(Run *run);

// The whole states, [adapter->size] floats each in the host's memory: of the first rank only, the others have none and take part.
typedef struct WholeStates {
  float *values[OPTIMIZER_STATE_LIMIT];
} WholeStates;

// Puts them in place of the optimiser's own among a checkpoint's arrays, to be read into.
void divided_expect(WholeStates *states, CheckpointArray *arrays, int count, const Run *run);
// The same with what they are now. The gradients are overwritten.
Status divided_collect(WholeStates *states, CheckpointArray *arrays, int count, Run *run);
// Gives each rank its part of what was read.
Status divided_spread(const WholeStates *states, Run *run);
void divided_release(WholeStates *states);

#endif
