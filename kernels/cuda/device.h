// All that kernels use of a CUDA device, and the one place where its instructions are written out: no kernel has `asm` in it. Under nvcc
// these are the device's own; elsewhere the simulator (kernels/cuda/simulator) gives every name here a meaning on the CPU, so that the very
// same sources compile as C++ and run under test where there is no card.
//
// What a kernel may use beside: threadIdx, blockIdx, blockDim, gridDim (x, y, z), warpSize; __syncthreads, __syncthreads_or, __syncwarp;
// __shfl_sync, __shfl_xor_sync, __shfl_down_sync, __shfl_up_sync (int, unsigned, float), __ballot_sync, __any_sync, __all_sync;
// atomicAdd, atomicMax on int and unsigned (never on floats: sums have one order); float2, float4, int2, int4, uint2, uint4 and their
// make_*; __ldg, __ldcs, __stcs; __float_as_uint, __uint_as_float, __popc, __clz, __ffs; fmaf, __fmaf_rn, __fmul_rn, __fadd_rn, exp2f,
// expf, logf, log2f, tanhf, sqrtf, rsqrtf, sinf, cosf, sincosf, fabsf, fminf, fmaxf, copysignf, isfinite, isnan, min, max; double.
// __expf, __logf and __fdividef are for places where their error is bounded by a test.
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "kernels/cuda/simulator/simulator.h"
#endif

typedef __nv_bfloat16 bf16;
typedef __half fp16;

enum { WARP = 32, WHOLE_WARP = -1 };  // the mask of all lanes: WHOLE_WARP as unsigned

#ifdef __CUDACC__

// Shared memory of a block: SHARED(float, sums, [8][32]) declares `sums`; one array of run-time size (launch's `shared`) is declared by
// DYNAMIC_SHARED(uint8_t, memory), 16-byte aligned.
#define SHARED(type, name, extent) __shared__ type name extent
#define DYNAMIC_SHARED(type, name)                                 \
  extern __shared__ __align__(16) unsigned char dynamic_shared_[]; \
  type *name = reinterpret_cast<type *>(dynamic_shared_)

// 16 bytes from global to shared memory, both 16-byte aligned, without a register between (sm_80; before, an ordinary copy). Where
// `is_there` is false nothing is read and zeros are written. Copies up to a commit are a group; cp_async_wait<N> waits until at most the N
// newest groups of this thread are under way; then a barrier makes them visible to the other threads.
__device__ __forceinline__ void cp_async16(void *shared, const void *global, bool is_there = true) {
#if __CUDA_ARCH__ >= 800
  unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(is_there ? 16 : 0) : "memory");
#else
  *static_cast<uint4 *>(shared) = is_there ? *static_cast<const uint4 *>(global) : make_uint4(0, 0, 0, 0);
#endif
}
__device__ __forceinline__ void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}
template <int N>
__device__ __forceinline__ void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
#endif
}

// Four 8x8 matrices of 16-bit elements, whose rows are 16 bytes of shared memory: lane l gives the address of row l % 8 of matrix l / 8, and
// gets from matrix i, in r[i], the elements (l / 4, l % 4 * 2) and the next; transposed: (l % 4 * 2, l / 4) and that of the next row.
__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row) {
  unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *row) {
  unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}

// d[16, 8] += a[16, 16] b[16, 8], float32 sums, by a warp (PTX ISA, "Matrix Fragments for mma.m16n8k16"). With g = lane / 4, t = lane % 4:
// a: {(g, 2t) (g, 2t+1)}, {(g+8, 2t) ..}, {(g, 2t+8) ..}, {(g+8, 2t+8) ..}; b: {(2t, g) (2t+1, g)}, {(2t+8, g) (2t+9, g)};
// d: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1). The lower half of a register is the element that is named first.
// T: bf16 (sm_80), or fp16, which sm_75 multiplies in two halves of k.
template <typename T>
__device__ __forceinline__ void mma_16x8x16(float d[4], const uint32_t a[4], const uint32_t b[2]);
template <>
__device__ __forceinline__ void mma_16x8x16<bf16>(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();  // such a device has no instruction for it: whoever chooses a type asks peak_flops
#endif
}
template <>
__device__ __forceinline__ void mma_16x8x16<fp16>(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  for (int half = 0; half < 2; half++)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}

// Four products of signed bytes, added to `sum`.
__device__ __forceinline__ int dot_bytes(int a, int b, int sum) { return __dp4a(a, b, sum); }

// kernel<<<grid, block, shared, stream>>>(arguments...). Returns what the runtime says of the launch.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, Arguments... arguments) {
  if (shared > 48 << 10) {
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared, config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

#endif

// Elements of activations and weights.
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(fp16 x) { return __half2float(x); }
template <typename T>
__device__ __forceinline__ T from_float(float x);  // to nearest even
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ fp16 from_float<fp16>(float x) {
  return __float2half_rn(x);
}

// Two 16-bit elements in a register, `low` first in memory.
template <typename T>
__device__ __forceinline__ uint32_t pack_two(float low, float high) {
  static_assert(sizeof(T) == 2, "of 16-bit elements");
  T pair[2] = {from_float<T>(low), from_float<T>(high)};
  uint32_t packed;
  memcpy(&packed, pair, sizeof packed);
  return packed;
}
#ifdef __CUDACC__  // one instruction, which the compiler does not make of two conversions
template <>
__device__ __forceinline__ uint32_t pack_two<bf16>(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t packed;
  memcpy(&packed, &pair, sizeof packed);
  return packed;
}
template <>
__device__ __forceinline__ uint32_t pack_two<fp16>(float low, float high) {
  __half2 pair = __floats2half2_rn(low, high);
  uint32_t packed;
  memcpy(&packed, &pair, sizeof packed);
  return packed;
}
#endif

// The two values of a word, the lower half first.
template <typename T>
__device__ __forceinline__ float2 unpack_two(uint32_t word) {
  T two[2];
  memcpy(two, &word, sizeof two);
  return make_float2(to_float(two[0]), to_float(two[1]));
}

// 16 bytes of elements, moved at once; the address is a multiple of 16.
template <typename T>
struct alignas(16) Packet {
  static constexpr int COUNT = 16 / sizeof(T);
  T at[COUNT];
};
template <typename T>
__device__ __forceinline__ Packet<T> load_packet(const T *from) {
  return *reinterpret_cast<const Packet<T> *>(from);
}
template <typename T>
__device__ __forceinline__ void store_packet(T *to, const Packet<T> &packet) {
  *reinterpret_cast<Packet<T> *>(to) = packet;
}

// Sums and maxima over a warp, the same in all lanes and always added in one order.
__device__ __forceinline__ float warp_sum(float x) {
  for (int step = WARP / 2; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  for (int step = WARP / 2; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
// The same over a block of whole warps, at most 1024 threads in x alone; `room` is shared memory for a value a warp. Begins and ends with
// a barrier, so that `room` may be used again.
template <typename T>
__device__ __forceinline__ T block_sum(T x, T *room) {
  for (int step = WARP / 2; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  __syncthreads();
  if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
  __syncthreads();
  T sum = 0;
  for (int warp = 0; warp < (int)(blockDim.x / WARP); warp++) sum += room[warp];
  __syncthreads();
  return sum;
}
__device__ __forceinline__ float block_max(float x, float *room) {
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
  __syncthreads();
  float largest = room[0];
  for (int warp = 1; warp < (int)(blockDim.x / WARP); warp++) largest = fmaxf(largest, room[warp]);
  __syncthreads();
  return largest;
}

#endif
