#define _GNU_SOURCE
// Messages by MPI (MPI Forum, "MPI: A Message-Passing Interface Standard", version 3.1). Every wait is for a non-blocking collective that is
// tested again and again, for only so can a wait have an end. Who is missing then is found by a roll call: point-to-point messages, in a
// communicator of their own, that every rank which waits answers. Until somebody is late none is sent.
#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/log.h"
#include "core/memory.h"
#include "parallel/messages.h"

MessagesOpen messages_open;
MessagesLibrary messages_library;

enum { TAG_CALL = 1, TAG_HERE = 2 };

typedef struct Mpi {
  MPI_Comm data, control;
  MPI_Request gathers[GROUP_GATHERS];
  int64_t gather_count;
  double last_poll, polled_since, last_done;  // of waits for devices
  bool *is_here;  // [size] that have answered the present roll call
  void *piece;  // of an array that is summed
} Mpi;

static Status check(int code, const char *what) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  if (code == MPI_SUCCESS) return STATUS_OK;
  MPI_Error_string(code, text, &length);
  return status_fail(STATUS_FAILED, "MPI: %s: %.*s", what, length, text);
}

static void nap(double seconds) { nanosleep(&(struct timespec){.tv_nsec = (long)(1e9 * seconds)}, NULL); }

// Sends a word that is on its way when this returns: it fits into what MPI sends without waiting for the receiver.
static void send_word(int to, int tag, const Mpi *mpi) {
  static int word;
  MPI_Request request;
  if (MPI_Isend(&word, 1, MPI_INT, to, tag, mpi->control, &request) == MPI_SUCCESS) MPI_Request_free(&request);
}

// Takes one word of a kind, if there is any; its sender, or -1.
static int take_word(int tag, const Mpi *mpi) {
  int is_there = 0, word;
  MPI_Status status;
  if (MPI_Iprobe(MPI_ANY_SOURCE, tag, mpi->control, &is_there, &status) != MPI_SUCCESS || !is_there) return -1;
  MPI_Recv(&word, 1, MPI_INT, status.MPI_SOURCE, tag, mpi->control, MPI_STATUS_IGNORE);
  return status.MPI_SOURCE;
}

static void answer(const Mpi *mpi) {
  for (int caller; (caller = take_word(TAG_CALL, mpi)) >= 0;) send_word(caller, TAG_HERE, mpi);
}

// Asks all ranks whether they are waiting as this one is; STATUS_FAILED names those that do not say so.
static Status call_roll(Group *group) {
  const double answer_seconds = 5;
  Mpi *mpi = group->state;
  int missing = group->size - 1;
  memset(mpi->is_here, 0, (size_t)group->size * sizeof *mpi->is_here);
  while (take_word(TAG_HERE, mpi) >= 0) continue;  // late answers to an earlier call
  for (int r = 0; r < group->size; r++)
    if (r != group->rank) send_word(r, TAG_CALL, mpi);
  for (double start = time_seconds(); missing > 0 && time_seconds() - start < answer_seconds; nap(1e-3)) {
    answer(mpi);
    for (int from; (from = take_word(TAG_HERE, mpi)) >= 0; mpi->is_here[from] = true) missing -= !mpi->is_here[from];
  }
  if (missing == 0) return STATUS_OK;
  Buffer names = {0};
  for (int r = 0; r < group->size; r++)
    if (r != group->rank && !mpi->is_here[r]) buffer_format(&names, "%s%s", names.length ? ", " : "", group_rank_name(group, r));
  Status status = status_fail(STATUS_FAILED,
                              "%s did not come to %s within %g seconds (ddp_timeout), and %s no answer: dead, stopped, or much slower than "
                              "the others; the last checkpoint is whole, and --resume goes on from it",
                              names.data, group->doing, group->timeout, missing == 1 ? "gives" : "give");
  buffer_release(&names);
  return status;
}

// In a short wait the processor has nothing better to do; in a long one the others may need it.
static void pause_between(double waited) {
  const double busy = 5e-3, brisk = 2;
  if (waited < busy) sched_yield();
  else nap(waited < brisk ? 2e-4 : 1e-3);
}

static Status await_request(MPI_Request *request, Group *group) {
  const double patient = 0.5;  // before that nobody else can be late
  Mpi *mpi = group->state;
  double start = time_seconds(), deadline = start + group->timeout;
  bool was_late = false;
  for (;;) {
    int is_done = 0;
    TRY(check(MPI_Test(request, &is_done, MPI_STATUS_IGNORE), group->doing));
    double now = time_seconds();
    if (is_done) {
      mpi->last_done = now;
      return STATUS_OK;
    }
    // Others may wait for what this rank's device has still to do for them.
    if (group->backend && group->backend->collectives) group->backend->collectives->progress(group->backend);
    pause_between(now - start);
    if (now - start < patient && now < deadline) continue;
    answer(mpi);
    if (now < deadline) continue;
    if (was_late)
      return status_fail(STATUS_FAILED, "all ranks are waiting in %s, and it does not end: the network between them has failed",
                         group->doing);
    TRY(call_roll(group));
    was_late = true;  // all are there: once more
    deadline = time_seconds() + group->timeout;
  }
}

// A device works for this rank alone or for all: who is late by the same clock is asked, and nobody is blamed for a long step.
static void poll_ranks(Group *group) {
  const double gap = 0.5;
  Mpi *mpi = group->state;
  double now = time_seconds();
  answer(mpi);
  if (now - mpi->last_poll > gap || mpi->polled_since < mpi->last_done) mpi->polled_since = now;
  mpi->last_poll = now;
  if (now - mpi->polled_since < group->timeout) return;
  Status status = call_roll(group);
  if (status != STATUS_OK) group_abort(group, status);
  mpi->polled_since = mpi->last_poll = time_seconds();
}

enum { MOST = 1 << 28 };  // bytes of one call, whose counts are ints

// Not in place: of what is, Open MPI's own choice sends the whole array up a tree and down again, however large it is.
static Status sum_values(void *values, int64_t count, MPI_Datatype type, int64_t size, Group *group) {
  enum { PIECE = 16 << 20 };
  Mpi *mpi = group->state;
  int64_t most = PIECE / size;
  if (!mpi->piece) mpi->piece = memory_new(PIECE, 1);
  for (int64_t at = 0, length; at < count; at += length) {
    char *place = (char *)values + at * size;
    length = count - at < most ? count - at : most;
    memcpy(mpi->piece, place, (size_t)(length * size));
    MPI_Request request;
    TRY(check(MPI_Iallreduce(mpi->piece, place, (int)length, type, MPI_SUM, mpi->data, &request), group->doing));
    TRY(await_request(&request, group));
  }
  return STATUS_OK;
}

static Status sum_doubles(double *values, int64_t count, Group *group) {
  return sum_values(values, count, MPI_DOUBLE, sizeof *values, group);
}

static Status sum_floats(float *values, int64_t count, Group *group) { return sum_values(values, count, MPI_FLOAT, sizeof *values, group); }

static Status broadcast(void *bytes, int64_t length, Group *group) {
  Mpi *mpi = group->state;
  for (int64_t at = 0, part; at < length; at += part) {
    part = length - at < MOST ? length - at : MOST;
    MPI_Request request;
    TRY(check(MPI_Ibcast((char *)bytes + at, (int)part, MPI_BYTE, 0, mpi->data, &request), group->doing));
    TRY(await_request(&request, group));
  }
  return STATUS_OK;
}

static Status gather(int64_t *number, void *all, int64_t bytes, Group *group) {
  Mpi *mpi = group->state;
  *number = mpi->gather_count++;
  if (bytes > INT32_MAX) return status_fail(STATUS_FAILED, "%s: more than 2 GiB of one rank at once", group->doing);
  MPI_Request *request = &mpi->gathers[*number % GROUP_GATHERS];
  return check(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_BYTE, all, (int)bytes, MPI_BYTE, mpi->data, request), "a gather");
}

static Status wait_gather(int64_t number, Group *group) {
  Mpi *mpi = group->state;
  return await_request(&mpi->gathers[number % GROUP_GATHERS], group);
}

// MPI moves bytes whenever it is called.
static void progress(Group *group) { answer(group->state); }

static void close_messages(Group *group) {
  Mpi *mpi = group->state;
  answer(mpi);
  MPI_Comm_free(&mpi->data);
  MPI_Comm_free(&mpi->control);
  MPI_Finalize();
  free(mpi->is_here);
  free(mpi->piece);
  free(mpi);
}

static void abort_all(int code, Group *group) {
  (void)group;
  MPI_Abort(MPI_COMM_WORLD, code);
}

static const Messages messages = {.sum_doubles = sum_doubles,
                                  .sum_floats = sum_floats,
                                  .broadcast = broadcast,
                                  .gather = gather,
                                  .wait = wait_gather,
                                  .progress = progress,
                                  .poll = poll_ranks,
                                  .close = close_messages,
                                  .abort = abort_all};

// What Open MPI 4.1 chooses for non-blocking collectives takes longer than these (docs/scaling.md). A ring is as good as a tree for small sums
// only among few.
static void choose_algorithms(int size) {
  enum { FEW = 8 };
  bool is_power_of_two = size > 0 && (size & (size - 1)) == 0;
  if (size <= FEW) setenv("OMPI_MCA_coll_libnbc_iallreduce_algorithm", "1", 0);  // ring
  if (is_power_of_two) setenv("OMPI_MCA_coll_libnbc_iallgather_algorithm", "2", 0);  // recursive doubling
}

Status messages_open(Group *group, int expected) {
  int provided, rank, size;
  choose_algorithms(expected);
  if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
    return status_fail(STATUS_FAILED, "MPI cannot be started; see what it says above");
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (expected > 0 && size != expected)
    return status_fail(STATUS_USAGE,
                       "the launcher has started %d processes, and MPI finds %d: it belongs to another MPI than the Open MPI that this "
                       "program was built with; use that one's mpirun",
                       expected, size);
  Mpi *mpi = memory_new(1, sizeof *mpi);
  group->rank = rank, group->size = size;
  group->messages = &messages;
  group->state = mpi;
  mpi->is_here = memory_new((size_t)size, sizeof *mpi->is_here);
  TRY(check(MPI_Comm_dup(MPI_COMM_WORLD, &mpi->data), "the ranks' communicator"));
  TRY(check(MPI_Comm_dup(MPI_COMM_WORLD, &mpi->control), "the ranks' communicator"));
  MPI_Comm_set_errhandler(mpi->data, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(mpi->control, MPI_ERRORS_RETURN);
  return STATUS_OK;
}

const char *messages_library(void) {
  static char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  text[strcspn(text, ",\n")] = 0;
  return text;
}
