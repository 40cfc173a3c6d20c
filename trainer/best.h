// load_best_model_at_end: the values of the best evaluation, put back when the run has ended. They come from its checkpoint; with
// save_only_model, whose checkpoints have adapters alone, from a copy in the host's memory.
#ifndef TRAINER_BEST_H
#define TRAINER_BEST_H

#include "trainer/run.h"

typedef struct Best {
  void *copies[RUN_ARRAYS];  // of run_checkpoint_arrays
} Best;

// At each evaluation that is the best so far.
void best_keep(Best *best, const Run *run);
// At the end: what training left is overwritten. *is_taken: false where the last step is the best, or the recipe does not ask for it.
Status best_take(bool *is_taken, const Best *best, Run *run, const TrainerState *state);
void best_release(Best *best);

#endif
