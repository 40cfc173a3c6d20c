#define _GNU_SOURCE  // memfd_create
#include "core/shared_memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static void *map(int descriptor, int64_t bytes) {
  void *block = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (block == MAP_FAILED) return NULL;
  madvise(block, (size_t)bytes, MADV_HUGEPAGE);  // where the system gives shared memory any
  return block;
}

void *memory_share_new(int *descriptor, int64_t bytes) {
  *descriptor = memfd_create("lora", MFD_CLOEXEC);
  void *block = *descriptor >= 0 && ftruncate(*descriptor, bytes) == 0 ? map(*descriptor, bytes) : NULL;
  if (block) return block;
  if (*descriptor >= 0) close(*descriptor);
  *descriptor = -1;
  return NULL;
}

void *memory_share_open(int64_t process, int descriptor, int64_t bytes) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%lld/fd/%d", (long long)process, descriptor);
  int own = open(path, O_RDWR | O_CLOEXEC);
  if (own < 0) return NULL;
  void *block = map(own, bytes);
  close(own);
  return block;
}

void memory_unshare(void *block, int64_t bytes) {
  if (block) munmap(block, (size_t)bytes);
}
