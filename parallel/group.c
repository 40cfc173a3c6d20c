#include "parallel/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "core/library.h"
#include "core/log.h"
#include "parallel/messages.h"

enum { DEFAULT_TIMEOUT = 1800 };

static Library library = {.file = "liblora_mpi.so",
                          .variable = "LORA_MPI_LIBRARY",
                          .what = "the part that several processes need",
                          .remedy = "install Open MPI (libopenmpi-dev, openmpi-bin), run scripts/build, or start one process"};

Group group_alone(void) { return (Group){.size = 1, .local_size = 1, .machines = 1, .timeout = DEFAULT_TIMEOUT}; }

Status group_library(const char **name) {
  MessagesLibrary *messages_library = NULL;
  TRY(library_find(&messages_library, &library, MESSAGES_LIBRARY));
  *name = messages_library();
  return STATUS_OK;
}

static int environment_number(const char *name) {
  const char *text = getenv(name);
  return text && *text ? atoi(text) : 0;
}

// How many processes a launcher says that it has started; 0: there is none. PMIx, which srun speaks, names no number here.
static int launched(bool *is_launched) {
  static const char *const numbers[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PALS_SIZE"};
  *is_launched = getenv("PMIX_RANK") != NULL;
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    int number = environment_number(numbers[i]);
    *is_launched |= number > 0;
    if (number > 0) return number;
  }
  return environment_number("SLURM_STEP_NUM_TASKS");
}

// LORA_MACHINE stands for a machine's name, and "each" for one of every rank's own: so tests have several machines.
static void find_place(Place *place, int rank) {
  const char *forced = getenv("LORA_MACHINE");
  Buffer boot = {0};
  if (gethostname(place->host, sizeof place->host - 1) != 0) snprintf(place->host, sizeof place->host, "unknown");
  if (file_read(&boot, "/proc/sys/kernel/random/boot_id", 1 << 10) == STATUS_OK) boot.data[strcspn(boot.data, "\n")] = 0;
  if (forced && strcmp(forced, "each") == 0) snprintf(place->machine, sizeof place->machine, "rank %d", rank);
  else if (forced && *forced) snprintf(place->machine, sizeof place->machine, "%s", forced);
  else snprintf(place->machine, sizeof place->machine, "%s %.60s", place->host, boot.data ? boot.data : "");
  place->process = getpid();
  buffer_release(&boot);
}

static Status find_places(Group *group) {
  group->places = memory_new((size_t)group->size, sizeof *group->places);
  Place *own = &group->places[group->rank];
  find_place(own, group->rank);
  TRY(group_exchange(group->places, sizeof *group->places, "the start", group));
  group->local_size = group->machines = 0;
  for (int r = 0; r < group->size; r++) {
    bool is_new = true;
    for (int other = 0; other < r; other++) is_new &= strcmp(group->places[other].machine, group->places[r].machine) != 0;
    group->machines += is_new;
    if (strcmp(group->places[r].machine, own->machine) != 0) continue;
    if (r < group->rank) group->local_rank++;
    group->local_size++;
  }
  return STATUS_OK;
}

Status group_open(Group *group) {
  *group = group_alone();
  bool is_launched;
  int expected = launched(&is_launched);
  if (!is_launched && expected > 1)
    return status_fail(STATUS_USAGE,
                       "srun has started %d processes that cannot find each other; use `srun --mpi=pmix` (`srun --mpi=list` tells what "
                       "there is), or mpirun within the job",
                       expected);
  if (!is_launched) return STATUS_OK;
  MessagesOpen *open_messages = NULL;
  TRY(library_find(&open_messages, &library, MESSAGES_OPEN));
  TRY(open_messages(group, expected));
  log_set_silent(group->rank > 0);
  return find_places(group);
}

void group_close(Group *group) {
  if (group->backend && group->backend->collectives && group->size > 1) group->backend->collectives->leave(false, group->backend);
  if (group->backend) group->backend->while_waiting = NULL;
  if (group->messages) group->messages->close(group);
  free(group->places);
  *group = group_alone();
}

void group_abort(Group *group, Status status) {
  enum { FIRST_SPEAKS = 2 };  // seconds in which the first rank may say the same
  if (!group->messages) return;
  char *message = memory_copy_string(status_message());
  if (group->rank > 0) sleep(FIRST_SPEAKS);
  progress_clear();
  fprintf(stderr, "lora: %s%s%s\n", group->size > 1 ? group_rank_name(group, group->rank) : "", group->size > 1 ? ": " : "", message);
  fflush(stderr);
  if (group->backend && group->backend->collectives && group->size > 1) group->backend->collectives->leave(true, group->backend);
  group->messages->abort(status, group);
}

const char *group_rank_name(const Group *group, int rank) {
  static char text[128];
  if (!group->places) snprintf(text, sizeof text, "rank %d", rank);
  else snprintf(text, sizeof text, "rank %d (%s, process %lld)", rank, group->places[rank].host, (long long)group->places[rank].process);
  return text;
}

Status group_sum(double *values, int64_t count, const char *doing, Group *group) {
  if (group->size == 1) return STATUS_OK;
  group->doing = doing;
  return group->messages->sum_doubles(values, count, group);
}

Status group_barrier(const char *doing, Group *group) {
  double nothing = 0;
  return group_sum(&nothing, 1, doing, group);
}

Status group_broadcast(void *bytes, int64_t length, const char *doing, Group *group) {
  if (group->size == 1) return STATUS_OK;
  group->doing = doing;
  return group->messages->broadcast(bytes, length, group);
}

Status group_exchange(void *all, int64_t bytes, const char *doing, Group *group) {
  if (group->size == 1) return STATUS_OK;
  int64_t number;
  group->doing = doing;
  TRY(group->messages->gather(&number, all, bytes, group));
  return group->messages->wait(number, group);
}

static int line_length(const char *text) { return (int)strcspn(text, "\n"); }

static Status tell_difference(const char *what, const char *own, const char *first, const Group *group) {
  while (*own && line_length(own) == line_length(first) && strncmp(own, first, (size_t)line_length(own)) == 0) {
    own += line_length(own), first += line_length(first);
    own += *own == '\n', first += *first == '\n';
  }
  return status_fail(STATUS_USAGE, "another %s than rank 0's on %s: \"%.*s\", where that has \"%.*s\"; all ranks need the same", what,
                     group->places[0].host, line_length(own), own, line_length(first), first);
}

Status group_compare(const char *what, const char *text, Group *group) {
  if (group->size == 1) return STATUS_OK;
  int64_t length = (int64_t)strlen(text);
  TRY(group_broadcast(&length, sizeof length, what, group));
  char *first = memory_new((size_t)length + 1, 1);
  if (group_is_first(group)) memcpy(first, text, (size_t)length);
  Status status = group_broadcast(first, length, what, group);
  if (status == STATUS_OK && strcmp(first, text) != 0) status = tell_difference(what, text, first, group);
  free(first);
  return status;
}

Status group_in_turns(Status (*work)(void *context), void *context, const char *doing, Group *group) {
  int own = group_is_first(group) ? 0 : group->local_rank == 0 ? 1 : 2;
  for (int turn = 0; turn < 3; turn++) {
    if (turn == own) TRY(work(context));
    TRY(group_barrier(doing, group));
  }
  return STATUS_OK;
}
