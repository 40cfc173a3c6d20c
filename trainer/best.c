#include "trainer/best.h"

#include <stdlib.h>

#include "core/log.h"

void best_keep(Best *best, const Run *run) {
  if (!run->recipe->load_best_model_at_end || !run->recipe->save_only_model) return;
  CheckpointArray arrays[RUN_ARRAYS];
  int count = run_checkpoint_arrays(arrays, run);
  for (int i = 0; i < count; i++) {
    if (!best->copies[i]) best->copies[i] = memory_new((size_t)checkpoint_array_bytes(&arrays[i]), 1);
    run->backend->download(best->copies[i], arrays[i].data, checkpoint_array_bytes(&arrays[i]), run->backend);
  }
}

static Status read_checkpoint(Run *run, const TrainerState *state) {
  char *folder = memory_format("%s/checkpoint-%lld", run->recipe->output_dir, (long long)state->best_step);
  TrainerState best = *state;
  Status status = run_read_checkpoint(&best, run, folder);
  free(folder);
  return status;
}

static void read_copies(const Best *best, const Run *run) {
  CheckpointArray arrays[RUN_ARRAYS];
  int count = run_checkpoint_arrays(arrays, run);
  for (int i = 0; i < count; i++) run->backend->upload(arrays[i].data, best->copies[i], checkpoint_array_bytes(&arrays[i]), run->backend);
}

Status best_take(bool *is_taken, const Best *best, Run *run, const TrainerState *state) {
  *is_taken = run->recipe->load_best_model_at_end && state->best_step >= 0 && state->best_step != state->step;
  if (!*is_taken) return STATUS_OK;
  if (run->recipe->save_only_model) read_copies(best, run);
  else TRY(read_checkpoint(run, state));
  log_info("the best evaluation was that of step %lld: its values are taken", (long long)state->best_step);
  return STATUS_OK;
}

void best_release(Best *best) {
  for (int i = 0; i < RUN_ARRAYS; i++) free(best->copies[i]);
  *best = (Best){0};
}
