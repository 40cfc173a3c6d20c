// A run from recipe to exported adapter.
#ifndef TRAINER_TRAIN_H
#define TRAINER_TRAIN_H

#include "kernels/backend.h"
#include "parallel/group.h"
#include "recipes/recipe.h"

typedef struct TrainOptions {
  const char *resume;  // a checkpoint folder; "" the newest in output_dir; NULL: from the beginning, or as the recipe says
  bool profile;  // at the end, tell time by operation and memory by purpose
  volatile int *signal;  // set by the caller's signal handler: checkpoint and stop (may be NULL)
} TrainOptions;

// Trains what the recipe says, and leaves its output_dir as the README of the adapter there describes.
// STATUS_INTERRUPTED or STATUS_TERMINATED after a signal's checkpoint; STATUS_GUARD when the run stopped itself.
// All ranks of a group train together, and the first one writes. The group is closed before that writes what the run leaves, and after a
// signal's checkpoint, of which the first rank tells; after a failure it is still open (group_abort).
Status train(const Recipe *recipe, TrainOptions options, Backend *backend, Group *group);

#endif
