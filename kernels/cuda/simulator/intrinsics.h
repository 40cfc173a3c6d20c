// What every thread of a kernel may call: where it is, barriers, exchanges within a warp, atomics, and arithmetic. A call tells its line
// by default arguments, so that threads which meet at different places are found.
#ifndef KERNELS_CUDA_SIMULATOR_INTRINSICS_H
#define KERNELS_CUDA_SIMULATOR_INTRINSICS_H

#include <math.h>

#include "kernels/cuda/simulator/types.h"

namespace simulator {
struct Site {  // of a call in a kernel's source
  const char *file;
  int line;
  constexpr Site(const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()) : file(file_), line(line_) {}
};
}  // namespace simulator

#pragma GCC visibility push(hidden)

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static constexpr int warpSize = 32;

namespace simulator {

enum Barrier { BARRIER, BARRIER_OR, BARRIER_AND, BARRIER_COUNT };
int barrier(Barrier kind, int value, Site site);

enum Exchange { SHUFFLE, SHUFFLE_XOR, SHUFFLE_DOWN, SHUFFLE_UP };
uint64_t shuffle(Exchange kind, unsigned mask, uint64_t value, int which, int width, Site site);
enum Vote { VOTE_BALLOT, VOTE_ANY, VOTE_ALL };
unsigned vote(Vote kind, unsigned mask, int value, Site site);
void sync_warp(unsigned mask, Site site);
void ldmatrix(uint32_t r[4], const void *row, bool transposed, Site site);
void mma(float d[4], const uint32_t a[4], const uint32_t b[2], bool is_bf16, Site site);
void cp_async(void *shared, const void *global, bool is_there, Site site);
void cp_async_commit();
void cp_async_wait(unsigned newest);
[[noreturn]] void trap(Site site);

// Runs without being watched for races: what is atomic cannot race.
template <typename T>
T atomic_exchange(T *at, T value, T (*combine)(T, T));
extern template int atomic_exchange(int *, int, int (*)(int, int));
extern template unsigned atomic_exchange(unsigned *, unsigned, unsigned (*)(unsigned, unsigned));
extern template unsigned long long atomic_exchange(unsigned long long *, unsigned long long,
                                                   unsigned long long (*)(unsigned long long, unsigned long long));

}  // namespace simulator

#pragma GCC visibility pop

inline void __syncthreads(simulator::Site site = {}) { simulator::barrier(simulator::BARRIER, 0, site); }
inline int __syncthreads_or(int value, simulator::Site site = {}) { return simulator::barrier(simulator::BARRIER_OR, value, site); }
inline int __syncthreads_and(int value, simulator::Site site = {}) { return simulator::barrier(simulator::BARRIER_AND, value, site); }
inline int __syncthreads_count(int value, simulator::Site site = {}) { return simulator::barrier(simulator::BARRIER_COUNT, value, site); }
inline void __syncwarp(unsigned mask = 0xffffffffu, simulator::Site site = {}) { simulator::sync_warp(mask, site); }
inline void __threadfence() {}
inline void __threadfence_block() {}
[[noreturn]] inline void __trap(simulator::Site site = {}) { simulator::trap(site); }

#define SIMULATED_SHUFFLE(name, kind, Which, T, Bits)                                                                                     \
  inline T name(unsigned mask, T value, Which which, int width = warpSize, simulator::Site site = {}) {                                   \
    Bits bits = static_cast<Bits>(simulator::shuffle(kind, mask, simulator::bits_as<Bits>(value), static_cast<int>(which), width, site)); \
    return simulator::bits_as<T>(bits);                                                                                                   \
  }
#define SIMULATED_SHUFFLES(name, kind, Which)                        \
  SIMULATED_SHUFFLE(name, kind, Which, int, uint32_t)                \
  SIMULATED_SHUFFLE(name, kind, Which, unsigned, uint32_t)           \
  SIMULATED_SHUFFLE(name, kind, Which, float, uint32_t)              \
  SIMULATED_SHUFFLE(name, kind, Which, long, uint64_t)               \
  SIMULATED_SHUFFLE(name, kind, Which, unsigned long, uint64_t)      \
  SIMULATED_SHUFFLE(name, kind, Which, long long, uint64_t)          \
  SIMULATED_SHUFFLE(name, kind, Which, unsigned long long, uint64_t) \
  SIMULATED_SHUFFLE(name, kind, Which, double, uint64_t)
SIMULATED_SHUFFLES(__shfl_sync, simulator::SHUFFLE, int)
SIMULATED_SHUFFLES(__shfl_xor_sync, simulator::SHUFFLE_XOR, int)
SIMULATED_SHUFFLES(__shfl_down_sync, simulator::SHUFFLE_DOWN, unsigned)
SIMULATED_SHUFFLES(__shfl_up_sync, simulator::SHUFFLE_UP, unsigned)
#undef SIMULATED_SHUFFLES
#undef SIMULATED_SHUFFLE

inline unsigned __ballot_sync(unsigned mask, int value, simulator::Site site = {}) {
  return simulator::vote(simulator::VOTE_BALLOT, mask, value, site);
}
inline int __any_sync(unsigned mask, int value, simulator::Site site = {}) {
  return static_cast<int>(simulator::vote(simulator::VOTE_ANY, mask, value, site));
}
inline int __all_sync(unsigned mask, int value, simulator::Site site = {}) {
  return static_cast<int>(simulator::vote(simulator::VOTE_ALL, mask, value, site));
}

// On integers alone: a sum of floats has one order.
#define SIMULATED_ATOMIC(name, T, expression)                                                  \
  inline T name(T *at, T value) {                                                              \
    return simulator::atomic_exchange<T>(at, value, [](T a, T b) -> T { return expression; }); \
  }
#define SIMULATED_ATOMICS(T)                    \
  SIMULATED_ATOMIC(atomicMax, T, a > b ? a : b) \
  SIMULATED_ATOMIC(atomicMin, T, a < b ? a : b) \
  SIMULATED_ATOMIC(atomicOr, T, a | b)          \
  SIMULATED_ATOMIC(atomicAnd, T, a &b)          \
  SIMULATED_ATOMIC(atomicExch, T, ((void)a, b))
SIMULATED_ATOMICS(int)
SIMULATED_ATOMICS(unsigned)
SIMULATED_ATOMICS(unsigned long long)
SIMULATED_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
SIMULATED_ATOMIC(atomicAdd, unsigned, a + b)
SIMULATED_ATOMIC(atomicAdd, unsigned long long, a + b)
#undef SIMULATED_ATOMICS
#undef SIMULATED_ATOMIC

template <typename T>
inline T __ldg(const T *from) {
  return *from;
}
template <typename T>
inline T __ldcs(const T *from) {
  return *from;
}
template <typename T>
inline T __ldcg(const T *from) {
  return *from;
}
template <typename T>
inline void __stcs(T *to, T value) {
  *to = value;
}
template <typename T>
inline void __stcg(T *to, T value) {
  *to = value;
}

inline unsigned __float_as_uint(float x) { return simulator::bits_as<unsigned>(x); }
inline int __float_as_int(float x) { return simulator::bits_as<int>(x); }
inline float __uint_as_float(unsigned x) { return simulator::bits_as<float>(x); }
inline float __int_as_float(int x) { return simulator::bits_as<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    unsigned byte = static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8) & 0xff;
    if (selector >> 4 * i & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << 8 * i;
  }
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
inline int dot_bytes(int a, int b, int sum) {
  for (int i = 0; i < 4; i++)
    sum += static_cast<int8_t>(static_cast<unsigned>(a) >> 8 * i) * static_cast<int8_t>(static_cast<unsigned>(b) >> 8 * i);
  return sum;
}

inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __saturatef(float x) { return x > 1 ? 1.0f : x > 0 ? x : 0.0f; }
inline float rsqrtf(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline int __float2int_rn(float x) { return static_cast<int>(lrintf(x)); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
// Macros, as the C library has functions of these names for itself.
#define __expf(x) expf(x)
#define __exp2f(x) exp2f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)

// The overloads that CUDA has, no more: what is ambiguous there is so here.
#define SIMULATED_MINIMUM(A, B, T)                                                                                 \
  inline T min(A a, B b) { return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); } \
  inline T max(A a, B b) { return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); }
#define SIMULATED_MINIMA(S, U) \
  SIMULATED_MINIMUM(S, S, S)   \
  SIMULATED_MINIMUM(U, U, U)   \
  SIMULATED_MINIMUM(S, U, U)   \
  SIMULATED_MINIMUM(U, S, U)
SIMULATED_MINIMA(int, unsigned)
SIMULATED_MINIMA(long, unsigned long)
SIMULATED_MINIMA(long long, unsigned long long)
#undef SIMULATED_MINIMA
#undef SIMULATED_MINIMUM
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(static_cast<double>(a), b); }
inline double max(float a, double b) { return fmax(static_cast<double>(a), b); }
inline double min(double a, float b) { return fmin(a, static_cast<double>(b)); }
inline double max(double a, float b) { return fmax(a, static_cast<double>(b)); }

#endif
