// What the lanes of a warp do together, and asynchronous copies.
#include "kernels/cuda/simulator/internal.h"

#ifdef SIMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace simulator {

struct ShuffleLane {
  uint64_t value, result;
  unsigned source;
};

static void do_shuffle(void *const lanes[LANES], unsigned mask) {
  for (unsigned i = 0; i < LANES; i++) {
    if (!(mask >> i & 1)) continue;
    ShuffleLane *lane = static_cast<ShuffleLane *>(lanes[i]);
    if (!(mask >> lane->source & 1)) report(Site(nullptr, 0), "a shuffle: lane %u asks lane %u, which is not in the mask %08x", i, lane->source, mask);
    lane->result = static_cast<const ShuffleLane *>(lanes[lane->source])->value;
  }
}

uint64_t shuffle(Exchange kind, unsigned mask, uint64_t value, int which, int width, Site site) {
  static const char *const names[] = {"__shfl_sync", "__shfl_xor_sync", "__shfl_down_sync", "__shfl_up_sync"};
  if (width < 1 || width > LANES || width & (width - 1)) report(site, "%s: a width of %d", names[kind], width);
  int lane = static_cast<int>(current->number % LANES), first = lane & ~(width - 1), source = lane;
  switch (kind) {
    case SHUFFLE: source = first + (which & (width - 1)); break;
    case SHUFFLE_XOR: source = lane ^ which; break;
    case SHUFFLE_DOWN: source = lane + which; break;
    case SHUFFLE_UP: source = lane - which; break;
  }
  // Beyond its part of the warp a lane gets its own; xor may reach into parts before.
  if (source >= first + width || (kind == SHUFFLE_UP && source < first)) source = lane;
  ShuffleLane left = {value, 0, static_cast<unsigned>(source)};
  warp_operation(names[kind], mask, &left, do_shuffle, site);
  return left.result;
}

struct VoteLane {
  bool value;
  unsigned ballot;
};

static void do_vote(void *const lanes[LANES], unsigned mask) {
  unsigned ballot = 0;
  for (unsigned i = 0; i < LANES; i++)
    if (mask >> i & 1 && static_cast<const VoteLane *>(lanes[i])->value) ballot |= 1u << i;
  for (unsigned i = 0; i < LANES; i++)
    if (mask >> i & 1) static_cast<VoteLane *>(lanes[i])->ballot = ballot;
}

unsigned vote(Vote kind, unsigned mask, int value, Site site) {
  static const char *const names[] = {"__ballot_sync", "__any_sync", "__all_sync"};
  VoteLane left = {value != 0, 0};
  warp_operation(names[kind], mask, &left, do_vote, site);
  return kind == VOTE_BALLOT ? left.ballot : kind == VOTE_ANY ? left.ballot != 0 : left.ballot == mask;
}

void sync_warp(unsigned mask, Site site) {
  warp_operation("__syncwarp", mask, nullptr, [](void *const *, unsigned lanes) { race_sync_warp(current->number / LANES, lanes); }, site);
}

struct RowLane {
  uint16_t row[8];
  uint32_t *result;
};

template <bool TRANSPOSED>
static void do_ldmatrix(void *const lanes[LANES], unsigned) {
  for (int lane = 0; lane < LANES; lane++)
    for (int i = 0; i < 4; i++) {
      uint32_t pair[2];
      for (int j = 0; j < 2; j++) {
        int row = lane / 4, column = lane % 4 * 2 + j;
        if (TRANSPOSED) row = column, column = lane / 4;
        pair[j] = static_cast<const RowLane *>(lanes[8 * i + row])->row[column];
      }
      static_cast<RowLane *>(lanes[lane])->result[i] = pair[0] | pair[1] << 16;
    }
}

static const SharedBlock *find_shared(const void *address, size_t size) {
  const char *at = static_cast<const char *>(address);
  for (const SharedBlock &made : shared_blocks)
    if (at >= made.memory && at + size <= made.memory + made.bytes) return &made;
  return nullptr;
}

static void check_shared(const char *what, const void *address, Site site) {
  if (!find_shared(address, 16)) report(site, "%s: 16 bytes at this address are not within one array of shared memory", what);
  if (reinterpret_cast<uintptr_t>(address) % 16)
    report(site, "%s: the address in shared memory is no multiple of 16 (an array is aligned to its elements: give its type __align__(16))", what);
}

void ldmatrix(uint32_t r[4], const void *row, bool transposed, Site site) {
  check_shared("ldmatrix", row, site);
  RowLane left;
  memcpy(left.row, row, sizeof left.row);
  left.result = r;
  race_access(row, sizeof left.row, false, __builtin_return_address(0));
  if (transposed) warp_operation("ldmatrix_x4_trans", 0xffffffffu, &left, do_ldmatrix<true>, site);
  else warp_operation("ldmatrix_x4", 0xffffffffu, &left, do_ldmatrix<false>, site);
}

struct FragmentLane {
  float *d;
  const uint32_t *a, *b;
};

template <bool IS_BF16>
static float element(uint32_t bits) {
  if (IS_BF16) return __bfloat162float({static_cast<uint16_t>(bits)});
  return __half2float({static_cast<uint16_t>(bits)});
}

typedef float Row __attribute__((vector_size(32)));

// Products of two 16-bit floats are exact in float32; sums in order of k.
template <bool IS_BF16>
static void do_mma(void *const lanes[LANES], unsigned) {
  float a[16][16];
  Row b[16], d[16];
  for (int lane = 0; lane < LANES; lane++) {
    const FragmentLane *left = static_cast<const FragmentLane *>(lanes[lane]);
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++)
      for (int j = 0; j < 2; j++) {
        a[g + i % 2 * 8][2 * t + i / 2 * 8 + j] = element<IS_BF16>(left->a[i] >> 16 * j);
        if (i < 2) b[2 * t + 8 * i + j][g] = element<IS_BF16>(left->b[i] >> 16 * j);
        if (i < 2) d[g + 8 * i][2 * t + j] = left->d[2 * i + j];
      }
  }
  for (int half = 0; half < 16; half += 8) {  // eight sums in registers
    Row sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) sums[i] = d[half + i];
    for (int k = 0; k < 16; k++) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) sums[i] += a[half + i][k] * b[k];
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) d[half + i] = sums[i];
  }
  for (int lane = 0; lane < LANES; lane++)
    for (int i = 0; i < 4; i++) static_cast<const FragmentLane *>(lanes[lane])->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

void mma(float d[4], const uint32_t a[4], const uint32_t b[2], bool is_bf16, Site site) {
  FragmentLane left = {d, a, b};
  if (is_bf16 && device_limits().major < 8) report(site, "mma_16x8x16<bf16>: compute capability 7.5 has no such instruction");
  if (is_bf16) warp_operation("mma_16x8x16<bf16>", 0xffffffffu, &left, do_mma<true>, site);
  else warp_operation("mma_16x8x16<fp16>", 0xffffffffu, &left, do_mma<false>, site);
}

// The destination is NaN, and poisoned under ASan, until its thread waits for the copy.
void cp_async(void *shared, const void *global, bool is_there, Site site) {
  Quiet quiet;
  check_shared("cp_async16", shared, site);
  if (reinterpret_cast<uintptr_t>(global) % 16) report(site, "cp_async16: the address in global memory is no multiple of 16");
  if (is_there && !is_on_device(global, 16)) report(site, "cp_async16: 16 bytes at %p are not within device memory", global);
  const void *code = __builtin_return_address(0);
  race_access(shared, 16, true, code);
  if (is_there) race_access(global, 16, false, code);
  memset(shared, 0xff, 16);
#ifdef SIMULATOR_ASAN
  __asan_poison_memory_region(shared, 16);
#endif
  current->copies.push_back({shared, global, is_there, current->groups, site});
}

void cp_async_commit() { current->groups++; }

void cp_async_wait(unsigned newest) {
  Quiet quiet;
  std::vector<AsyncCopy> &copies = current->copies;
  size_t done = 0;
  for (; done < copies.size() && copies[done].group + newest < current->groups; done++) {
    const AsyncCopy &copy = copies[done];
#ifdef SIMULATOR_ASAN
    __asan_unpoison_memory_region(copy.shared, 16);
#endif
    race_access(copy.shared, 16, true, __builtin_return_address(0));
    if (copy.is_there) memcpy(copy.shared, copy.global, 16);
    else memset(copy.shared, 0, 16);
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(done));
}

template <typename T>
T atomic_exchange(T *at, T value, T (*combine)(T, T)) {
  Quiet quiet;
  T before = *at;
  *at = combine(before, value);
  return before;
}
template int atomic_exchange(int *, int, int (*)(int, int));
template unsigned atomic_exchange(unsigned *, unsigned, unsigned (*)(unsigned, unsigned));
template unsigned long long atomic_exchange(unsigned long long *, unsigned long long, unsigned long long (*)(unsigned long long, unsigned long long));

}  // namespace simulator
