#include "trainer/divided.h"

#include <stdlib.h>
#include <string.h>

bool divided_is_on(const Run *run) { return run->recipe->shard_optimizer && run->group->size > 1; }

void divided_part(int64_t *first, int64_t *last, const Run *run) {
  int64_t size = run->adapter->size, part = divided_is_on(run) ? group_part(size, run->group) : size;
  int64_t begin = divided_is_on(run) ? run->group->rank * part : 0;
  *first = begin < size ? begin : size;
  *last = begin + part < size ? begin + part : size;
}

// Every rank's part of a flat buffer, which has room for whole parts.
static Status gather_parts(float *buffer, const char *doing, Run *run) {
  int64_t part = group_part(run->adapter->size, run->group), number;
  run->group->doing = doing;
  TRY(group_gather(&number, buffer, buffer + run->group->rank * part, part * (int64_t)sizeof *buffer, run->group));
  return group_await_gather(number, doing, run->group);
}

Status divided_exchange(Run *run) {
  return divided_is_on(run) ? gather_parts(run->adapter->data, "the adapter after a step", run) : STATUS_OK;
}

void divided_expect(WholeStates *states, CheckpointArray *arrays, int count, const Run *run) {
  *states = (WholeStates){{NULL}};
  if (!divided_is_on(run)) return;
  for (int i = 0; i < run->optimizer->method->state_count; i++) {
    if (group_is_first(run->group)) states->values[i] = memory_new((size_t)run->adapter->size, sizeof(float));
    for (int a = 0; a < count; a++)
      if (strcmp(arrays[a].name, run->optimizer->method->states[i].name) == 0)
        arrays[a] = (CheckpointArray){arrays[a].name, states->values[i], run->adapter->size, HDF5_F32, true};
  }
}

Status divided_collect(WholeStates *states, CheckpointArray *arrays, int count, Run *run) {
  divided_expect(states, arrays, count, run);
  if (!divided_is_on(run)) return STATUS_OK;
  Backend *backend = run->backend;
  float *all = run->adapter->gradient;  // which the step has read
  for (int i = 0; i < run->optimizer->method->state_count; i++) {
    if (run->optimizer->count)
      backend->kernels->copy(all + run->optimizer->first, run->optimizer->state[i], run->optimizer->count, backend);
    TRY(gather_parts(all, "the optimiser's state", run));
    if (states->values[i]) backend->download(states->values[i], all, run->adapter->size * (int64_t)sizeof *all, backend);
  }
  return STATUS_OK;
}

Status divided_spread(const WholeStates *states, Run *run) {
  if (!divided_is_on(run)) return STATUS_OK;
  float *all = memory_new((size_t)run->adapter->size, sizeof *all);
  Status status = STATUS_OK;
  for (int i = 0; status == STATUS_OK && i < run->optimizer->method->state_count; i++) {
    if (states->values[i]) memcpy(all, states->values[i], (size_t)run->adapter->size * sizeof *all);
    status = group_broadcast(all, run->adapter->size * (int64_t)sizeof *all, "the optimiser's state", run->group);
    if (status == STATUS_OK && run->optimizer->count)
      run->backend->upload(run->optimizer->state[i], all + run->optimizer->first, run->optimizer->count * (int64_t)sizeof *all,
                           run->backend);
  }
  free(all);
  return status;
}

void divided_release(WholeStates *states) {
  for (int i = 0; i < OPTIMIZER_STATE_LIMIT; i++) free(states->values[i]);
}
