// The processes ("ranks") of one run: who they are, and what they tell each other. A launcher (mpirun, srun) starts them; without one there is
// a single rank, and every function here does what is left to do then, which is mostly nothing. Messages go by MPI, from a library that is
// opened under a launcher only (parallel/mpi); buffers of devices go by the device's own library where it has one (kernels/collectives.h).
//
// All ranks call the same functions in the same order. Whoever waits for another waits at most `timeout` seconds: then it asks who is there,
// and the ranks that do not answer are named in the message of STATUS_FAILED.
#ifndef PARALLEL_GROUP_H
#define PARALLEL_GROUP_H

#include "kernels/backend.h"

typedef struct Group {
  int rank, size;
  int local_rank, local_size;  // among the ranks of this machine
  int machines;
  double timeout;  // seconds
  const char *doing;  // what the ranks are about, for messages: "the sums of a step"
  int64_t gathered_bytes;  // that gathers have brought to this rank from others
  Backend *backend;  // whose buffers they share (group_join_devices); NULL before
  // private
  const struct Messages *messages;  // NULL: a single rank
  struct Place *places;  // [size]: where each rank is
  void *state;  // of the messages
} Group;

// What runs of several processes go by, "Open MPI v4.1.4". STATUS_USAGE where there is none.
Status group_library(const char **name);
Group group_alone(void);  // of a process that nobody launched

// Finds the other ranks, if a launcher has started this process; group_alone otherwise. STATUS_USAGE: the launcher and MPI do not fit.
Status group_open(Group *group);
// After a run that ended in order on every rank.
void group_close(Group *group);
// After one that failed here, whatever the others do: prints the message, in the name of this rank, and ends all of them, with the status as
// exit code; does not return. What all ranks have found the first one tells. Of a single rank: nothing is done.
void group_abort(Group *group, Status status);

static inline bool group_is_first(const Group *group) { return group->rank == 0; }
// Of `count` elements that the ranks divide: how many each has, but for the last ones.
static inline int64_t group_part(int64_t count, const Group *group) {
  enum { UNIT = 64 };
  int64_t part = (count + group->size - 1) / group->size;
  return (part + UNIT - 1) / UNIT * UNIT;
}
const char *group_rank_name(const Group *group, int rank);  // "rank 1 (host, process 123)"; good until the next call

// Every value becomes its sum over the ranks, the same bits on each. `doing` is for messages.
Status group_sum(double *values, int64_t count, const char *doing, Group *group);
Status group_barrier(const char *doing, Group *group);
Status group_broadcast(void *bytes, int64_t length, const char *doing, Group *group);  // the first rank's
// all[size * bytes] gets what each rank has at all + rank * bytes.
Status group_exchange(void *all, int64_t bytes, const char *doing, Group *group);
// STATUS_USAGE on every rank whose text is another than the first one's, with the first line that differs. what: "recipe".
Status group_compare(const char *what, const char *text, Group *group);
// The same of what is in files, each rank's own of these paths.
Status group_compare_files(const char *what, const char *const *paths, int count, Group *group);
// The first rank works, then the first of each other machine, then the rest: who comes later finds what those before have left on disk.
Status group_in_turns(Status (*work)(void *context), void *context, const char *doing, Group *group);

// Zeroed memory that all ranks of this machine see, each machine its own; core/shared_memory.h's memory_unshare gives it back. *block is NULL
// where the machine has one rank, or the system lets no process see another's: then each has to have its own.
Status group_shared_block(void **block, int64_t bytes, Group *group);

// The processors that are this rank's share of its machine become those that this process runs on, unless the launcher was told where to put
// it. Called before threads are made.
void group_share_processors(const Group *group);
// "cuda" is, among several ranks, the device of this rank's number on its machine; a new string. STATUS_USAGE: a device that all would share.
Status group_device(char **device, const char *wanted, const Group *group);

// Before the buffers of `backend` are shared. Waits for all ranks.
Status group_join_devices(Backend *backend, Group *group);
// values[count] of the device become their sum over the ranks, in the order of its kernels.
Status group_sum_floats(float *values, int64_t count, const char *doing, Group *group);
Status group_broadcast_device(void *block, int64_t bytes, const char *doing, Group *group);  // the first rank's
// whole[size * bytes] of the device becomes the ranks' part[bytes], beside the kernels (as Backend.fetch); before they are read,
// group_await_gather. At most GROUP_GATHERS are under way.
enum { GROUP_GATHERS = 4 };
Status group_gather(int64_t *number, void *whole, const void *part, int64_t bytes, Group *group);
void group_progress(Group *group);  // lets gathers under way go on where only this process can do that: while it computes, now and then
Status group_await_gather(int64_t number, const char *doing, Group *group);

#endif
