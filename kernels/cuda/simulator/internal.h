// What the simulator's own files share.
#ifndef KERNELS_CUDA_SIMULATOR_INTERNAL_H
#define KERNELS_CUDA_SIMULATOR_INTERNAL_H

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "kernels/cuda/simulator/simulator.h"

#if defined(__SANITIZE_ADDRESS__)
#define SIMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMULATOR_ASAN 1
#endif
#endif

#pragma GCC visibility push(hidden)

namespace simulator {

// fiber.cc: stacks, and the switch between them.
struct Fiber {
  void *saved;  // the stack pointer, or a ucontext_t
  char *stack;
  size_t stack_bytes;
  void *fake_stack;  // ASan's
};
void fiber_prepare(Fiber *fiber, int number, void (*entry)());  // `number` chooses one of the stacks that are kept
void fiber_switch(Fiber *from, Fiber *to, bool from_is_done);
void fiber_begin();  // the first call of an entry

// schedule.cc: which of several goes on.
enum ScheduleKind { SCHEDULE_FIRST, SCHEDULE_LAST, SCHEDULE_RANDOM };
ScheduleKind schedule_kind();
unsigned schedule_random(unsigned count);  // below count

// block.cc: a block's threads.
enum { MAX_THREADS = 1024, LANES = 32 };
enum Waiting { WAITS_FOR_NOTHING, WAITS_AT_BARRIER, WAITS_IN_WARP, HAS_ENDED };
struct AsyncCopy {
  void *shared;
  const void *global;
  bool is_there;
  unsigned group;
  Site site;
};
struct Thread {
  Fiber fiber;
  unsigned number;  // in the block
  uint3 index;
  Waiting waiting;
  Site site;  // of what it waits for
  const char *what;
  std::vector<AsyncCopy> copies;
  unsigned groups;  // of copies, that were committed
};
extern Thread *current;  // NULL outside of kernels
struct SharedBlock {
  const void *key;
  char *memory;  // `bytes` and not one more, so that ASan sees the end
  char *allocation;
  size_t bytes;
};
extern std::vector<SharedBlock> shared_blocks;
extern const void *current_kernel;
void run_kernel(const Call &call);

// Says what a kernel did wrong, with its name and the thread, and ends the program.
[[noreturn]] void report(Site site, const char *format, ...) __attribute__((format(printf, 2, 3)));
void describe_address(const void *code, char *text, size_t size);  // the function, and the line where it is known

// Every lane of `mask` calls; the last to come does `work` on what all have left, by lane; then all return.
typedef void LaneWork(void *const lanes[LANES], unsigned mask);
void warp_operation(const char *what, unsigned mask, void *left, LaneWork *work, Site site);

// device.cc: what is allocated. Threads of the program call the runtime at any time: each call holds the lock, and runs what it runs in its
// own thread.
struct Lock {
  Lock();
  ~Lock();
};
enum MemoryKind { MEMORY_PAGEABLE, MEMORY_PINNED, MEMORY_DEVICE };
// The allocation that holds the address; MEMORY_PAGEABLE when none does.
MemoryKind memory_find(const void *address, const char **start, size_t *size);
bool is_on_device(const void *address, size_t size);
void schedule_work(cudaStream_t stream, void (*run)(void *), void *work);  // `run` releases it
// Work that may have to wait for other processes: it is tried until it gives true, and never blocks for long.
cudaError_t schedule_attempts(cudaStream_t stream, std::function<bool()> attempt);
cudaError_t remember(cudaError_t error);
void finish_all_streams();
struct Limits {
  int major, minor;
  size_t shared_bytes, memory_bytes;
};
const Limits &device_limits();

// races.cc; elsewhere these do nothing. A kernel's accesses are watched while `is_watching`.
#ifdef SIMULATOR_RACES
extern bool is_watching;
void race_launch(const Call &call);
void race_block();
void race_barrier();
void race_sync_warp(unsigned warp, unsigned mask);
void race_access(const void *address, size_t size, bool is_write, const void *code);
void race_forget(const void *memory, size_t size);  // it was freed
struct Quiet {
  bool before;
  Quiet() : before(is_watching) { is_watching = false; }
  ~Quiet() { is_watching = before; }
};
#else
inline void race_launch(const Call &) {}
inline void race_block() {}
inline void race_barrier() {}
inline void race_sync_warp(unsigned, unsigned) {}
inline void race_access(const void *, size_t, bool, const void *) {}
inline void race_forget(const void *, size_t) {}
struct Quiet {
  Quiet() {}
};
#endif

}  // namespace simulator

#pragma GCC visibility pop

#endif
