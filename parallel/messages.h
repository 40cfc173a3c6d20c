// What a library of messages between processes does for a group: parallel/mpi. It is a shared object of its own, for a program that nobody
// launches needs no MPI.
#ifndef PARALLEL_MESSAGES_H
#define PARALLEL_MESSAGES_H

#include "parallel/group.h"

// Where a rank is.
typedef struct Place {
  char machine[128];  // the same for all ranks of one machine, and for no other
  char host[64];  // its name, for people
  int64_t process;
} Place;

// Buffers are the host's. Each waits for the other ranks as parallel/group.h says.
typedef struct Messages {
  Status (*sum_doubles)(double *values, int64_t count, Group *group);
  Status (*sum_floats)(float *values, int64_t count, Group *group);
  Status (*broadcast)(void *bytes, int64_t length, Group *group);
  // all[size * bytes], this rank's part in its place. Returns at once; *number is what `wait` is told.
  Status (*gather)(int64_t *number, void *all, int64_t bytes, Group *group);
  Status (*wait)(int64_t number, Group *group);
  void (*progress)(Group *group);  // of what is under way; returns at once
  // While the host waits for something else: answers who asks, and after the timeout asks, and ends the run if somebody is not there.
  void (*poll)(Group *group);
  void (*close)(Group *group);
  void (*abort)(int code, Group *group);  // does not return
} Messages;

// What the shared object exports. Sets rank, size, messages and state of a group whose launcher has started `expected` processes.
typedef Status MessagesOpen(Group *group, int expected);
#define MESSAGES_OPEN "messages_open"
typedef const char *MessagesLibrary(void);  // "Open MPI v4.1.4"
#define MESSAGES_LIBRARY "messages_library"

#endif
