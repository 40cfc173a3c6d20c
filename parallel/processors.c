#define _GNU_SOURCE
// Which processors and which device of its machine a rank takes.
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "kernels/cuda_library.h"
#include "parallel/group.h"

typedef struct Processor {
  int number, package, core;
} Processor;

// A line of the kernel's description of a processor (Linux, Documentation/admin-guide/cputopology.rst); `otherwise` where there is none.
static int topology(int processor, const char *name, int otherwise) {
  char path[128];
  Buffer text = {0};
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", processor, name);
  int value = file_exists(path) && file_read(&text, path, 1 << 10) == STATUS_OK ? atoi(text.data) : otherwise;
  buffer_release(&text);
  return value;
}

static int compare_processors(const void *a, const void *b) {
  const Processor *x = a, *y = b;
  if (x->package != y->package) return x->package < y->package ? -1 : 1;
  if (x->core != y->core) return x->core < y->core ? -1 : 1;
  return (x->number > y->number) - (x->number < y->number);
}

// The set's processors, so that threads of one core are neighbours, and so are cores of one package. Returns how many.
static int list_processors(Processor list[CPU_SETSIZE], const cpu_set_t *set) {
  int count = 0;
  for (int i = 0; i < CPU_SETSIZE; i++)
    if (CPU_ISSET(i, set)) list[count++] = (Processor){i, topology(i, "physical_package_id", 0), topology(i, "core_id", i)};
  qsort(list, (size_t)count, sizeof *list, compare_processors);
  return count;
}

// Whether whoever started the ranks said where each of them is to run; Open MPI binds each to one core if nobody does.
static bool is_placed_by_launcher(void) {
  const char *policy = getenv("OMPI_MCA_hwloc_base_binding_policy");
  bool is_mpirun = getenv("OMPI_COMM_WORLD_SIZE") != NULL;
  return is_mpirun ? policy && strcmp(policy, "none") != 0 : getenv("SLURM_CPU_BIND") != NULL;
}

void group_share_processors(const Group *group) {
  cpu_set_t all;
  if (group->size == 1 || is_placed_by_launcher()) return;
  // The kernel leaves of these what this process may have at all.
  memset(&all, 0xff, sizeof all);
  if (sched_setaffinity(0, sizeof all, &all) != 0 || sched_getaffinity(0, sizeof all, &all) != 0) return;
  static Processor list[CPU_SETSIZE];
  int processors = list_processors(list, &all);
  int begin = group->local_rank * processors / group->local_size, end = (group->local_rank + 1) * processors / group->local_size;
  if (end == begin) end = begin + 1;  // more ranks than processors
  cpu_set_t share;
  CPU_ZERO(&share);
  for (int i = begin; i < end; i++) CPU_SET(list[i].number, &share);
  (void)sched_setaffinity(0, sizeof share, &share);  // all of them are as good, but slower
}

Status group_device(char **device, const char *wanted, const Group *group) {
  *device = wanted ? memory_copy_string(wanted) : NULL;
  bool is_numbered = wanted && strncmp(wanted, "cuda:", 5) == 0;
  if (group->size == 1 || !wanted || (strcmp(wanted, "cuda") != 0 && !is_numbered)) return STATUS_OK;
  if (is_numbered && group->local_size > 1)
    return status_fail(STATUS_USAGE, "device %s: %d ranks of this machine would share it; set device: cuda, and each takes its own", wanted,
                       group->local_size);
  if (is_numbered) return STATUS_OK;
  Buffer ignored = {0};
  int devices = 0;
  Status status = cuda_library_describe(&ignored, &devices);
  buffer_release(&ignored);
  if (status != STATUS_OK) return status_context(status, "device cuda");
  free(*device);
  // Where each rank has been given one device of its own to see, all are number 0.
  *device = memory_format("cuda:%d", devices > 0 ? group->local_rank % devices : 0);
  return STATUS_OK;
}
