// Sums and gathers between the devices of a run's processes, by a library that knows how the devices are joined (NCCL). Who the processes are
// and how long one waits for another is not known here (parallel/group.h): whoever joins has the same id, which the first rank has made and
// sent to the others by other means.
#ifndef KERNELS_COLLECTIVES_H
#define KERNELS_COLLECTIVES_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

enum { COLLECTIVE_ID_BYTES = 128 };

typedef struct Backend Backend;

typedef struct Collectives {
  // The library's name and version, "NCCL 2.27.7"; NULL where there is none, or none that will do: buffers then go through the host's memory.
  const char *(*library)(Backend *backend);
  // By the first rank, before the others can join.
  Status (*make_id)(uint8_t id[COLLECTIVE_ID_BYTES], Backend *backend);
  // Called by all ranks; returns when all are there. STATUS_FAILED with the library's words.
  Status (*join)(const uint8_t id[COLLECTIVE_ID_BYTES], int rank, int size, Backend *backend);
  // values[count] on every rank become their sum over the ranks, the same bits on each. In the order of the kernels, which the host
  // does not wait for.
  void (*sum)(float *values, int64_t count, Backend *backend);
  // whole[size * bytes] becomes the ranks' part[bytes], one after another; part may lie in its place there. Beside the kernels, as fetch of
  // kernels/backend.h: it comes after the kernels that were called before it, and await_copy of the number that it returns makes later ones wait.
  int64_t (*gather)(void *whole, const void *part, int64_t bytes, Backend *backend);
  // While the host waits for other ranks by other means: what is under way goes on, and what has failed is noticed. Returns at once.
  void (*progress)(Backend *backend);
  // Leaves the others, in order or, where one of them does not answer any more, at once: sums and gathers that are under way then end with
  // whatever is there, and Backend.check fails. While the host waits, in join too, Backend.while_waiting may do this.
  void (*leave)(bool at_once, Backend *backend);
} Collectives;

#endif
