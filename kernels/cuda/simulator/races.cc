// Races. The kernels of this build are compiled with -fsanitize=thread, which puts a call before every access to memory; these are those
// calls, in place of the compiler's own library. For every byte of shared and device memory that a kernel touched they know who wrote and
// who read last, and when: two threads of a block that touch a byte, one of them to write, need a barrier between (or a __syncwarp, within
// a warp); two blocks of a launch must not at all. What is not a kernel's to touch, the host's memory, is found on the way.
#ifdef SIMULATOR_RACES
#include "kernels/cuda/simulator/internal.h"

#include <algorithm>
#include <map>

namespace simulator {

bool is_watching;

// Epochs count barriers over all launches, so that 0 is never. Clocks count the __syncwarps of a warp since the last barrier.
struct Mark {
  uint32_t epoch;
  uint16_t thread, clock;
  uint32_t code;  // distance from the start of the library
};
struct Cell {
  Mark write, read, other_read;  // the last, and the last of another thread
  Mark early_read;  // by a block before, of the same launch
};
struct Shadow {
  const char *start;
  size_t size;
  bool is_shared;
  Cell *cells;
};
struct WarpClock {
  uint16_t now;
  uint16_t met[LANES][LANES];  // the clock after the last __syncwarp that both were in
};

static std::map<const char *, Shadow> &shadows() {
  static auto *all = new std::map<const char *, Shadow>;
  return *all;
}
enum { REMEMBERED = 64 };
static Shadow remembered[REMEMBERED];  // by some bits of the address
static uint32_t epoch = 1, launch_epoch, block_epoch;
static WarpClock clocks[MAX_THREADS / LANES];
static const Call *running;

extern "C" __attribute__((visibility("hidden"))) char __ehdr_start, _end;  // of the library, by the linker

void race_launch(const Call &call) {
  running = &call;
  launch_epoch = ++epoch;
}

void race_barrier() {
  epoch++;
  for (WarpClock &clock : clocks)
    if (clock.now) clock = {};
}

void race_block() {
  race_barrier();
  block_epoch = epoch;
}

void race_sync_warp(unsigned warp, unsigned mask) {
  WarpClock *clock = &clocks[warp];
  if (clock->now < UINT16_MAX) clock->now++;
  for (int i = 0; i < LANES; i++)
    for (int j = 0; j < LANES; j++)
      if (mask >> i & mask >> j & 1) clock->met[i][j] = clock->now;
}

void race_forget(const void *memory, size_t) {
  auto found = shadows().find(static_cast<const char *>(memory));
  if (found == shadows().end()) return;
  free(found->second.cells);
  shadows().erase(found);
  memset(remembered, 0, sizeof remembered);
}

// The shadow of the memory that holds the address; NULL where nobody watches. Ends the program when kernels must not go there.
static const Shadow *find_shadow(const char *at, const void *code) {
  Shadow *guess = &remembered[reinterpret_cast<uintptr_t>(at) >> 8 & (REMEMBERED - 1)];
  if (at >= guess->start && at < guess->start + guess->size) return guess;
  if (at >= current->fiber.stack && at < current->fiber.stack + current->fiber.stack_bytes) return nullptr;
  Shadow shadow = {nullptr, 0, false, nullptr};
  for (const SharedBlock &made : shared_blocks)
    if (at >= made.memory && at < made.memory + made.bytes) shadow = {made.memory, made.bytes, true, nullptr};
  if (!shadow.is_shared) {
    if (at >= &__ehdr_start && at < &_end) return nullptr;
    const char *arguments = static_cast<const char *>(running->arguments);
    if (at >= arguments && at < arguments + running->argument_bytes) return nullptr;
    MemoryKind kind = memory_find(at, &shadow.start, &shadow.size);
    if (kind == MEMORY_PINNED) return nullptr;
    if (kind != MEMORY_DEVICE) {
      char place[512];
      describe_address(code, place, sizeof place);
      report(Site(nullptr, 0), "%s touches %p, which is no memory of the device", place, static_cast<const void *>(at));
    }
  }
  Shadow &kept = shadows()[shadow.start];
  if (!kept.cells) {
    kept = shadow;
    kept.cells = static_cast<Cell *>(calloc(shadow.size, sizeof(Cell)));
    if (!kept.cells) report(Site(nullptr, 0), "no memory to watch for races");
  }
  *guess = kept;
  return guess;
}

[[noreturn]] static void report_race(const Shadow *shadow, size_t offset, const Mark &before, const char *what, bool is_write, const void *code) {
  char here[512], there[512];
  describe_address(code, here, sizeof here);
  describe_address(&__ehdr_start + before.code, there, sizeof there);
  bool is_block_before = before.epoch < block_epoch;
  report(Site(nullptr, 0), "a race at byte %zu of %zu of %s memory: it %s at %s, after thread %u%s %s at %s, with no %s between", offset, shadow->size,
         shadow->is_shared ? "shared" : "device", is_write ? "writes" : "reads", here, before.thread, is_block_before ? " of a block before" : "", what,
         there, is_block_before ? "launch" : "barrier");
}

static bool is_race(const Mark &before, const Mark &now, bool is_shared) {
  if (before.epoch < launch_epoch) return false;
  if (before.epoch < block_epoch) return !is_shared;
  if (before.epoch != now.epoch || before.thread == now.thread) return false;
  if (before.thread / LANES != now.thread / LANES) return true;
  return clocks[now.thread / LANES].met[before.thread % LANES][now.thread % LANES] <= before.clock;
}

void race_access(const void *address, size_t size, bool is_write, const void *code) {
  bool before = is_watching;
  is_watching = false;
  const char *at = static_cast<const char *>(address);
  const Shadow *shadow = find_shadow(at, code);
  if (shadow) {
    code = static_cast<const char *>(code) - 1;  // within the call
    Mark now = {epoch, static_cast<uint16_t>(current->number), clocks[current->number / LANES].now,
                static_cast<uint32_t>(static_cast<const char *>(code) - &__ehdr_start)};
    size_t first = static_cast<size_t>(at - shadow->start);
    if (first + size > shadow->size)
      report(Site(nullptr, 0), "an access of %zu bytes at byte %zu of %s memory of %zu", size, first, shadow->is_shared ? "shared" : "device", shadow->size);
    for (size_t i = first; i < first + size; i++) {
      Cell *cell = &shadow->cells[i];
      if (is_race(cell->write, now, shadow->is_shared)) report_race(shadow, i, cell->write, "wrote", is_write, code);
      if (!is_write) {
        if (cell->read.epoch < block_epoch) cell->early_read = cell->read;
        if (cell->read.thread != now.thread) cell->other_read = cell->read;
        cell->read = now;
        continue;
      }
      for (const Mark *read : {&cell->read, &cell->other_read, &cell->early_read})
        if (is_race(*read, now, shadow->is_shared)) report_race(shadow, i, *read, "read", is_write, code);
      cell->write = now;
    }
  }
  is_watching = before;
}

}  // namespace simulator

// The names that the compiler calls.
#define WATCHED(name, size, is_write)                                                                                   \
  __attribute__((visibility("hidden"))) void __tsan_##name(void *address) {                                             \
    if (simulator::is_watching) simulator::race_access(address, size, is_write, __builtin_return_address(0));           \
  }
#define WATCHED_RANGE(name, is_write)                                                                                   \
  __attribute__((visibility("hidden"))) void __tsan_##name(void *address, unsigned long size) {                         \
    if (simulator::is_watching && size) simulator::race_access(address, size, is_write, __builtin_return_address(0));   \
  }
#define ATOMIC(T, bits)                                                                                                              \
  __attribute__((visibility("hidden"))) T __tsan_atomic##bits##_load(const volatile T *at, int) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); } \
  __attribute__((visibility("hidden"))) void __tsan_atomic##bits##_store(volatile T *at, T x, int) { __atomic_store_n(at, x, __ATOMIC_SEQ_CST); } \
  __attribute__((visibility("hidden"))) T __tsan_atomic##bits##_exchange(volatile T *at, T x, int) {                                 \
    return __atomic_exchange_n(at, x, __ATOMIC_SEQ_CST);                                                                             \
  }                                                                                                                                  \
  __attribute__((visibility("hidden"))) T __tsan_atomic##bits##_fetch_add(volatile T *at, T x, int) {                                \
    return __atomic_fetch_add(at, x, __ATOMIC_SEQ_CST);                                                                              \
  }                                                                                                                                  \
  __attribute__((visibility("hidden"))) int __tsan_atomic##bits##_compare_exchange_strong(volatile T *at, T *expected, T x, int, int) { \
    return __atomic_compare_exchange_n(at, expected, x, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                      \
  }
#define HIDDEN __attribute__((visibility("hidden")))
extern "C" {
HIDDEN void __tsan_init() {}
HIDDEN void __tsan_func_entry(void *) {}
HIDDEN void __tsan_func_exit() {}
HIDDEN void __tsan_vptr_update(void **, void *) {}
HIDDEN void __tsan_vptr_read(void **) {}
HIDDEN void __tsan_atomic_thread_fence(int) {}
HIDDEN void __tsan_atomic_signal_fence(int) {}
WATCHED(read1, 1, false)
WATCHED(read2, 2, false)
WATCHED(read4, 4, false)
WATCHED(read8, 8, false)
WATCHED(read16, 16, false)
WATCHED(write1, 1, true)
WATCHED(write2, 2, true)
WATCHED(write4, 4, true)
WATCHED(write8, 8, true)
WATCHED(write16, 16, true)
WATCHED(unaligned_read2, 2, false)
WATCHED(unaligned_read4, 4, false)
WATCHED(unaligned_read8, 8, false)
WATCHED(unaligned_read16, 16, false)
WATCHED(unaligned_write2, 2, true)
WATCHED(unaligned_write4, 4, true)
WATCHED(unaligned_write8, 8, true)
WATCHED(unaligned_write16, 16, true)
WATCHED_RANGE(read_range, false)
WATCHED_RANGE(write_range, true)
ATOMIC(uint8_t, 8)
ATOMIC(uint16_t, 16)
ATOMIC(uint32_t, 32)
ATOMIC(uint64_t, 64)
}
#endif
