// Memory that the ranks of one machine share.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/shared_memory.h"
#include "parallel/messages.h"

// The first rank of this one's machine.
static int first_here(const Group *group) {
  int rank = 0;
  while (strcmp(group->places[rank].machine, group->places[group->rank].machine) != 0) rank++;
  return rank;
}

Status group_shared_block(void **block, int64_t bytes, Group *group) {
  *block = NULL;
  if (group->size == 1) return STATUS_OK;
  int64_t *descriptors = memory_new((size_t)group->size, sizeof *descriptors);
  int descriptor = -1, owner = first_here(group);
  bool is_shared = group->local_size > 1;
  if (is_shared && group->local_rank == 0) *block = memory_share_new(&descriptor, bytes);
  descriptors[group->rank] = descriptor;
  Status status = group_exchange(descriptors, sizeof *descriptors, "the shared memory", group);
  if (status == STATUS_OK && is_shared && group->local_rank > 0 && descriptors[owner] >= 0)
    *block = memory_share_open(group->places[owner].process, (int)descriptors[owner], bytes);
  double failed = is_shared && !*block;
  if (status == STATUS_OK) status = group_sum(&failed, 1, "the shared memory", group);
  if (descriptor >= 0) close(descriptor);
  if (status == STATUS_OK && failed > 0) {  // one of them has to keep its own: then all do
    memory_unshare(*block, bytes);
    *block = NULL;
  }
  free(descriptors);
  return status;
}
