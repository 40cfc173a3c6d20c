// Checkpoints: output_dir/checkpoint-N is written whole or not at all, damage to it is noticed, and it is a PEFT folder too.
//   state.h5        HDF5: the arrays (parameters, optimiser state) and the scalars of TrainerState
//   adapter files   by the caller's function
//   manifest.json   format version, and the size and SHA-256 of every other file; written last
// Everything is written into checkpoint-N.partial: files, their fsync, the manifest, fsync of the folder, rename, fsync of
// output_dir. A kill at any point leaves the checkpoints that were whole before as they were.
#ifndef TRAINER_CHECKPOINT_H
#define TRAINER_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"
#include "formats/hdf5.h"
#include "kernels/backend.h"
#include "optim/optimizer.h"

// SHA-256, in hexadecimal, of what must be the same in a run that goes on from a checkpoint.
typedef struct RunFingerprint {
  char recipe[65], data[65], model[65];
} RunFingerprint;

enum { TRAINER_RNG_STREAMS = 8 };

// The scalars of a run; with the arrays, all that a step depends on.
typedef struct TrainerState {
  int64_t step;  // optimiser steps done, skipped ones too
  double epoch;
  int64_t micro_batch;  // micro-batches consumed of the order in which the data is read
  int64_t accumulation;  // the recipe's gradient_accumulation_steps,
  int64_t ranks;  // the processes that took part,
  int64_t step_batches;  // and the micro-batches of a step of all of them: the two's product, unless the run began with other ones
  int64_t seed;
  int64_t rng_index[TRAINER_RNG_STREAMS];  // Rng.index of each stream, by its RNG_STREAM number
  int64_t updates, skipped, skipped_in_row;  // the Optimizer's
  double optimizer_scalars[OPTIMIZER_SCALARS];  // and its method's
  double loss_scale;  // and its LossScale's
  int64_t loss_scale_steps;
  int64_t tuning[BACKEND_TUNINGS];  // the Backend's
  int64_t tokens, trained_tokens;  // seen since the run began
  double seconds;  // trained since the run began
  double best_metric;
  int64_t best_step;  // -1: no metric yet
  int64_t stale_evaluations, high_losses;  // in a row, just now: no better than the best; above the watchdog's threshold
  RunFingerprint fingerprint;
} TrainerState;

// A flat buffer of the device under the name that it has in state.h5.
typedef struct CheckpointArray {
  const char *name;
  void *data;
  int64_t count;  // of elements
  Hdf5Type type;  // HDF5_F32, which is 0, or HDF5_U8
  bool is_host;  // in the host's memory
} CheckpointArray;

static inline int64_t checkpoint_array_bytes(const CheckpointArray *array) {
  return array->count * (array->type == HDF5_U8 ? 1 : (int64_t)sizeof(float));
}

// Writes the files of a PEFT adapter into `folder`. NULL: none.
typedef Status (*AdapterWriter)(const char *folder, void *context);

// Writes checkpoint-{state->step}, in place of one of that name. With array_count 0 there is no state.h5
// (save_only_model): an adapter to use, not to resume from. STATUS_NO_SPACE on a full disk; what was there before is intact.
Status checkpoint_write(const char *output_dir, const TrainerState *state, const CheckpointArray *arrays, int array_count, Backend *backend,
                        AdapterWriter write_adapter, void *context);

// Reads state and arrays (names and counts must match) of a checkpoint that checkpoint_find found. STATUS_BAD_INPUT for a
// damaged one, and for one whose fingerprint is another than `expected` (NULL: any); then the arrays are undefined.
Status checkpoint_read(const char *folder, const RunFingerprint *expected, TrainerState *state, const CheckpointArray *arrays,
                       int array_count, Backend *backend);

// STATUS_BAD_INPUT unless every byte of every file of the manifest, and of the manifest, is as it was written.
Status checkpoint_verify(const char *folder);

// What to resume from: the newest checkpoint of output_dir that is whole and has state; with `wanted` (a checkpoint's
// folder) that one, or the newest such one before it beside it. Damaged ones are passed over with a warning that says
// what is wrong. *folder is a new string; NULL when output_dir has no checkpoint at all. STATUS_BAD_INPUT when
// there are some but none will do, or `wanted` is no folder. Cleans up as checkpoint_clean.
Status checkpoint_find(char **folder, const char *output_dir, const char *wanted);

// Keeps the `limit` newest checkpoints (<= 0: all) that are not newer than `step`, the one of best_step (-1: none) and in
// any case the two newest whole ones; removes the others.
Status checkpoint_prune(const char *output_dir, int64_t limit, int64_t step, int64_t best_step);

// Removes what a killed run left half-written. Every run does this before it writes its first checkpoint.
Status checkpoint_clean(const char *output_dir);

// The steps of output_dir's checkpoint-N folders, newest first, whole or not; free() it. NULL when there are none.
int64_t *checkpoint_list(int *count, const char *output_dir);

#endif
