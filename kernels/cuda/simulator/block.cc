// A kernel's blocks, one after another, and the threads of a block: who goes on, barriers, and what a warp does together.
#include "kernels/cuda/simulator/internal.h"

#include <cstdarg>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace simulator {

Thread *current;
const void *current_kernel;
std::vector<SharedBlock> shared_blocks;

// What some lanes of a warp do together. Several may be under way, each with a mask of its own: lanes that went another way may come to
// this one later.
struct Operation {
  unsigned mask, arrived;
  const char *what;
  Site site;
  unsigned first;  // the lane that came first
  void *left[LANES];
};
struct Warp {
  Operation operations[LANES];
  unsigned under_way;  // a bit an operation
  unsigned present, ended;  // lanes
};

static Thread threads[MAX_THREADS];
static Warp warps[MAX_THREADS / LANES];
static Fiber outside;
static const Call *running;
static char *dynamic_memory;

static struct Block {
  unsigned size, ended;
  unsigned ready[MAX_THREADS], first_ready, ready_count;  // a ring
  unsigned arrived, first_arrived;
  Barrier kind;
  int any, all, count, result;
} block;

void report(Site site, const char *format, ...) {
  fflush(stdout);
  char name[512] = "";
  fprintf(stderr, "simulated device");
  if (current_kernel) {
    describe_address(current_kernel, name, sizeof name);
    fprintf(stderr, ": kernel %s, block (%u, %u, %u)", name, blockIdx.x, blockIdx.y, blockIdx.z);
  }
  if (current) fprintf(stderr, ", thread (%u, %u, %u)", current->index.x, current->index.y, current->index.z);
  if (site.file) fprintf(stderr, ", %s:%d", site.file, site.line);
  fprintf(stderr, ": ");
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\n");
  fflush(stderr);
  abort();
}

void trap(Site site) { report(site, "__trap"); }

static bool is_same(Site a, Site b) { return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0); }

static void make_ready(Thread *thread) {
  thread->waiting = WAITS_FOR_NOTHING;
  block.ready[(block.first_ready + block.ready_count++) % MAX_THREADS] = thread->number;
}

static Thread *next_ready() {
  unsigned last = (block.first_ready + block.ready_count - 1) % MAX_THREADS, number;
  block.ready_count--;
  switch (schedule_kind()) {
    case SCHEDULE_FIRST:
      number = block.ready[block.first_ready];
      block.first_ready = (block.first_ready + 1) % MAX_THREADS;
      break;
    case SCHEDULE_RANDOM: {
      unsigned taken = (block.first_ready + schedule_random(block.ready_count + 1)) % MAX_THREADS;
      number = block.ready[taken];
      block.ready[taken] = block.ready[last];
      break;
    }
    default: number = block.ready[last];
  }
  return &threads[number];
}

// All threads that are left wait, and nobody can wake them: names one of each kind.
[[noreturn]] static void report_standstill() {
  const Thread *at_barrier = nullptr, *in_warp = nullptr;
  for (unsigned i = 0; i < block.size; i++) {
    if (threads[i].waiting == WAITS_AT_BARRIER) at_barrier = &threads[i];
    if (threads[i].waiting == WAITS_IN_WARP) in_warp = &threads[i];
  }
  current = nullptr;
  if (!in_warp) report(at_barrier->site, "thread %u waits at a barrier that %u threads never reach", at_barrier->number, block.ended);
  const Warp *warp = &warps[in_warp->number / LANES];
  const Operation *operation = nullptr;
  for (unsigned left = warp->under_way; left; left &= left - 1) {
    const Operation *candidate = &warp->operations[__builtin_ctz(left)];
    if (candidate->arrived >> in_warp->number % LANES & 1) operation = candidate;
  }
  unsigned missing = operation ? operation->mask & ~operation->arrived : 0;
  const Thread *absent = missing ? &threads[in_warp->number / LANES * LANES + static_cast<unsigned>(__builtin_ctz(missing))] : nullptr;
  report(in_warp->site, "thread %u waits in %s for the lanes %08x; thread %u waits at %s:%d", in_warp->number, in_warp->what, missing,
         absent ? absent->number : 0, absent ? absent->site.file : "?", absent ? absent->site.line : 0);
}

static void go_on_with(Thread *next, bool is_done) {
  Thread *before = current;
  if (next == before) return;
  current = next;
  threadIdx = next->index;
  fiber_switch(&before->fiber, &next->fiber, is_done);
}

static void wait_for_others() {
  if (!block.ready_count) report_standstill();
  go_on_with(next_ready(), false);
}

static void thread_ends() {
  Quiet quiet;
  Thread *thread = current;
  Warp *warp = &warps[thread->number / LANES];
  unsigned lane = 1u << thread->number % LANES;
  if (thread->copies.size())
    report(thread->copies.back().site, "the thread ends, but nobody waited for this copy (cp_async_commit, cp_async_wait<0>)");
  if (block.arrived) {
    const Thread *other = &threads[block.first_arrived];
    report(other->site, "the thread ends, but thread %u waits for it at this barrier", other->number);
  }
  for (unsigned left = warp->under_way; left; left &= left - 1) {
    const Operation *operation = &warp->operations[__builtin_ctz(left)];
    if (operation->mask & lane)
      report(operation->site, "the thread ends, but lane %u of its warp waits for it in %s", operation->first, operation->what);
  }
  warp->ended |= lane;
  block.ended++;
  thread->waiting = HAS_ENDED;
  if (block.ready_count) go_on_with(next_ready(), true);
  if (block.ended < block.size) report_standstill();
  current = nullptr;
  fiber_switch(&thread->fiber, &outside, true);
}

static void thread_begins() {
  fiber_begin();
#ifdef SIMULATOR_RACES
  is_watching = true;
#endif
  running->run(running->kernel, running->arguments);
  thread_ends();
}

int barrier(Barrier kind, int value, Site site) {
  Quiet quiet;
  if (block.ended) report(site, "a barrier, but %u threads of the block have ended", block.ended);
  if (!block.arrived) {
    block.first_arrived = current->number, block.kind = kind;
    block.any = 0, block.all = 1, block.count = 0;
  } else {
    const Thread *other = &threads[block.first_arrived];
    if (block.kind != kind || !is_same(other->site, site))
      report(site, "this barrier meets another: thread %u waits at %s:%d", other->number, other->site.file, other->site.line);
  }
  current->site = site, current->what = "a barrier";
  block.any |= value != 0, block.all &= value != 0, block.count += value != 0;
  current->waiting = WAITS_AT_BARRIER;
  if (++block.arrived == block.size) {
    block.arrived = 0;
    block.result = kind == BARRIER_OR ? block.any : kind == BARRIER_AND ? block.all : block.count;
    race_barrier();
    for (unsigned i = 0; i < block.size; i++) make_ready(&threads[i]);
  }
  wait_for_others();
  return block.result;
}

void warp_operation(const char *what, unsigned mask, void *left, LaneWork *work, Site site) {
  Quiet quiet;
  unsigned lane = current->number % LANES;
  Warp *warp = &warps[current->number / LANES];
  if (!(mask >> lane & 1)) report(site, "%s: lane %u is not in its own mask %08x", what, lane, mask);
  if (mask & ~warp->present) report(site, "%s: the mask %08x has lanes that the block does not have", what, mask);
  if (mask & warp->ended) report(site, "%s: lanes %08x of the mask have ended", what, mask & warp->ended);
  Operation *operation = nullptr;
  for (unsigned left = warp->under_way; left && !operation; left &= left - 1)
    if (warp->operations[__builtin_ctz(left)].mask == mask) operation = &warp->operations[__builtin_ctz(left)];
  if (!operation) {
    unsigned slot = static_cast<unsigned>(__builtin_ctz(~warp->under_way));
    operation = &warp->operations[slot];
    operation->mask = mask, operation->what = what, operation->site = site, operation->first = lane;
    warp->under_way |= 1u << slot;
  } else if (operation->what != what || !is_same(operation->site, site)) {
    report(site, "%s, mask %08x: lane %u waits in %s at %s:%d", what, mask, operation->first, operation->what, operation->site.file,
           operation->site.line);
  }
  current->site = site, current->what = what;
  operation->left[lane] = left;
  operation->arrived |= 1u << lane;
  if (operation->arrived != mask) {
    current->waiting = WAITS_IN_WARP;
    wait_for_others();
    return;
  }
  work(operation->left, mask);
  operation->arrived = 0;
  warp->under_way &= ~(1u << (operation - warp->operations));
  Thread *lanes = &threads[current->number - lane];
  for (unsigned i = 0; i < LANES; i++)
    if (i != lane && mask >> i & 1) make_ready(&lanes[i]);
  if (schedule_kind() == SCHEDULE_RANDOM && schedule_random(2)) {
    make_ready(current);
    wait_for_others();
  }
}

// Shared memory. A declaration aligns to its elements only: what needs more must not find it by luck.
static SharedBlock shared_allocate(const void *key, size_t size, size_t alignment) {
  size_t shift = alignment < 16 ? alignment : 0;
  SharedBlock made = {key, nullptr, nullptr, size};
  void *memory;
  if (posix_memalign(&memory, alignment < 16 ? 16 : alignment, size + shift + !size)) abort();
  made.allocation = static_cast<char *>(memory);
  made.memory = made.allocation + shift;
  memset(made.memory, 0xff, size);
  return made;
}

void *shared_memory(const void *key, size_t size, size_t alignment) {
  Quiet quiet;
  size_t total = size;
  for (const SharedBlock &made : shared_blocks) {
    if (made.key == key) return made.memory;
    total += made.bytes;
  }
  if (total > device_limits().shared_bytes) report(Site(nullptr, 0), "%zu bytes of shared memory are more than a block has", total);
  shared_blocks.push_back(shared_allocate(key, size, alignment));
  return shared_blocks.back().memory;
}

void *dynamic_shared_memory() { return dynamic_memory; }

static void run_block() {
  unsigned size = block.size;
  block = {};
  block.size = size;
  for (SharedBlock &made : shared_blocks) memset(made.memory, 0xff, made.bytes);
  race_block();
  for (unsigned warp = 0; warp * LANES < size; warp++) {
    unsigned lanes = size - warp * LANES;
    warps[warp].present = lanes >= LANES ? 0xffffffffu : (1u << lanes) - 1;
    warps[warp].ended = warps[warp].under_way = 0;
  }
  for (unsigned i = 0; i < size; i++) {
    Thread *thread = &threads[i];
    thread->number = i;
    thread->index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    thread->groups = 0;
    thread->site = Site(nullptr, 0);
    fiber_prepare(&thread->fiber, static_cast<int>(i), thread_begins);
    make_ready(thread);
  }
  current = next_ready();
  threadIdx = current->index;
  fiber_switch(&outside, &current->fiber, false);
}

void run_kernel(const Call &call) {
  running = &call;
  current_kernel = call.kernel;
  outside = {};  // this thread of the program may be another than the last time
  gridDim = call.grid, blockDim = call.block;
  block.size = call.block.x * call.block.y * call.block.z;
  race_launch(call);
  SharedBlock dynamic = shared_allocate(nullptr, call.shared, 16);
  dynamic_memory = dynamic.memory;
  shared_blocks.push_back(dynamic);
  for (unsigned z = 0; z < call.grid.z; z++)
    for (unsigned y = 0; y < call.grid.y; y++)
      for (unsigned x = 0; x < call.grid.x; x++) {
        blockIdx = {x, y, z};
        run_block();
      }
  for (const SharedBlock &made : shared_blocks) {
    race_forget(made.memory, made.bytes);
    free(made.allocation);
  }
  shared_blocks.clear();
  dynamic_memory = nullptr;
  current_kernel = nullptr;
}

}  // namespace simulator
