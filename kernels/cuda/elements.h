// Elements in packets, for kernels that are bound by memory: a thread reads some neighbours at once, as float32, and writes them rounded to
// their type. PACKET of them are 16 bytes of the widest type that takes part. Where an address or a step forbids it, they move one by one.
#ifndef KERNELS_CUDA_ELEMENTS_H
#define KERNELS_CUDA_ELEMENTS_H

#include "kernels/cuda/cuda.h"

// Loops over packets are unrolled whole, so that their elements lie in registers.
#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

enum { THREADS = 256, BLOCKS_A_PROCESSOR = 16 };

constexpr size_t widest_of(size_t a, size_t b = 0, size_t c = 0) { return a > b ? (a > c ? a : c) : (b > c ? b : c); }
template <typename... Types>
constexpr int PACKET = static_cast<int>(16 / widest_of(sizeof(Types)...));

template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Elements {
  T at[N];
};

// `from` is a multiple of N elements, or of 16 bytes.
template <int N, typename T>
__device__ __forceinline__ Elements<T, N> load_elements(const T *from) {
  return *reinterpret_cast<const Elements<T, N> *>(from);
}

// The first `count` of N elements, and 0 for the rest; is_packed: whole ones may be read at once.
template <int N, typename T>
__device__ __forceinline__ void load_floats(float (&out)[N], const T *from, int64_t count, bool is_packed) {
  if (is_packed && count >= N) {
    Elements<T, N> elements = load_elements<N>(from);
    UNROLL for (int i = 0; i < N; i++) out[i] = to_float(elements.at[i]);
    return;
  }
  UNROLL for (int i = 0; i < N; i++) out[i] = i < count ? to_float(from[i]) : 0.0f;
}

template <int N, typename T>
__device__ __forceinline__ void store_floats(T *to, const float (&values)[N], int64_t count, bool is_packed) {
  if (is_packed && count >= N) {
    Elements<T, N> elements;
    UNROLL for (int i = 0; i < N; i++) elements.at[i] = from_float<T>(values[i]);
    *reinterpret_cast<Elements<T, N> *>(to) = elements;
    return;
  }
  UNROLL for (int i = 0; i < N; i++) if (i < count) to[i] = from_float<T>(values[i]);
}

// Where a thread begins in a loop over packets of N elements, and how far it goes on each time.
template <int N>
__device__ __forceinline__ int64_t first_element() {
  return (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
}
template <int N>
__device__ __forceinline__ int64_t element_step() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x * N;
}

// Blocks of THREADS for such a loop over `count` elements.
static inline unsigned loop_blocks(const Device *device, int64_t count, int packet) {
  int64_t most = static_cast<int64_t>(device->processors) * BLOCKS_A_PROCESSOR, each = static_cast<int64_t>(THREADS) * packet;
  int64_t wanted = (count + each - 1) / each;
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

static inline unsigned whole_warps(int64_t threads, int64_t most) {
  int64_t wanted = (threads + WARP - 1) / WARP * WARP;
  return static_cast<unsigned>(wanted < most ? (wanted > WARP ? wanted : int64_t(WARP)) : most);
}

// use(A(), B()) for the types of rows of a kernel, and use(A(), B(), C()); of the types of 16 bits, a call has one.
template <typename Use>
void with_types(FloatType a, FloatType b, Use use) {
  with_type(a != FLOAT_32 ? a : b, [&](auto element) {
    using T = decltype(element);
    if (a == b) use(T(), T());
    else if (a == FLOAT_32) use(float(), T());
    else use(T(), float());
  });
}
template <typename Use>
void with_types(FloatType a, FloatType b, FloatType c, Use use) {
  with_type(a != FLOAT_32   ? a
            : b != FLOAT_32 ? b
                            : c,
            [&](auto element) {
              using T = decltype(element);
              auto with_first = [&](auto first) {
                if (b == FLOAT_32) c == FLOAT_32 ? use(first, float(), float()) : use(first, float(), T());
                else c == FLOAT_32 ? use(first, T(), float()) : use(first, T(), T());
              };
              a == FLOAT_32 ? with_first(float()) : with_first(T());
            });
}

#endif
