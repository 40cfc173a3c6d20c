// A CUDA device on the CPU, for tests: what kernels/cuda/device.h names means here what it means on a card, but for time. The threads of a
// block are fibers of one thread of the system, so that a run is repeatable; blocks run one after another. Errors that a card would pass
// over in silence end the program with a message: threads that meet at different barriers, lanes that are missing from an operation of
// their warp, copies that nobody waits for; under ASan accesses beyond a buffer, and in the build for races (races.cc) accesses of two
// threads with nothing between. Shared and device memory begin as NaN.
// Environment: LORA_SIMULATED_SCHEDULE = first | last | random:SEED, the order in which threads and streams go on;
// LORA_SIMULATED_CAPABILITY = 80; LORA_SIMULATED_MEMORY = bytes; LORA_SIMULATED_DEVICES = 1, how many there are, of which a process uses one;
// LORA_SIMULATED_NCCL = 22809, the version that NCCL says it has (nccl.h).
#ifndef KERNELS_CUDA_SIMULATOR_SIMULATOR_H
#define KERNELS_CUDA_SIMULATOR_SIMULATOR_H

#include <new>
#include <tuple>

#include "kernels/cuda/simulator/intrinsics.h"
#include "kernels/cuda/simulator/runtime.h"
#include "kernels/cuda/simulator/types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// 0: threads go on in the order in which they came; 1: the last first; from 2 on at random, with this seed. Exported.
extern "C" __attribute__((visibility("default"))) void simulator_set_schedule(int schedule);

#pragma GCC visibility push(hidden)

namespace simulator {

// Storage of the block for the declaration that `key` stands for; of the same bytes for all threads of the block.
void *shared_memory(const void *key, size_t size, size_t alignment);
void *dynamic_shared_memory();

// A kernel with its arguments, copied when it was launched.
struct Call {
  const void *kernel;
  const void *arguments;
  size_t argument_bytes;
  void (*run)(const void *kernel, const void *arguments);
  void (*release)(const void *arguments);
  dim3 grid, block;
  size_t shared;
};
cudaError_t launch_call(const Call &call, cudaStream_t stream);

}  // namespace simulator

#pragma GCC visibility pop

// A struct around the array takes an __align__ in `type`, and has the alignment that the device would give: that of the elements.
#define SHARED(type, name, extent) \
  struct name##_shared_ {          \
    type name extent;              \
  };                               \
  static char name##_key_;         \
  auto &name =                     \
      static_cast<name##_shared_ *>(simulator::shared_memory(&name##_key_, sizeof(name##_shared_::name), alignof(name##_shared_)))->name
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(simulator::dynamic_shared_memory())

inline void cp_async16(void *shared, const void *global, bool is_there = true, simulator::Site site = {}) {
  simulator::cp_async(shared, global, is_there, site);
}
inline void cp_async_commit() { simulator::cp_async_commit(); }
template <int N>
inline void cp_async_wait() {
  simulator::cp_async_wait(N);
}

inline void ldmatrix_x4(uint32_t r[4], const void *row, simulator::Site site = {}) { simulator::ldmatrix(r, row, false, site); }
inline void ldmatrix_x4_trans(uint32_t r[4], const void *row, simulator::Site site = {}) { simulator::ldmatrix(r, row, true, site); }

template <typename T>
inline void mma_16x8x16(float d[4], const uint32_t a[4], const uint32_t b[2], simulator::Site site = {}) {
  static_assert(sizeof(T) == 2, "of bf16 or fp16");
  simulator::mma(d, a, b, std::is_same<T, __nv_bfloat16>::value, site);
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, Arguments... arguments) {
  typedef std::tuple<Parameters...> Copies;
  simulator::Call call = {};
  call.kernel = reinterpret_cast<const void *>(kernel);
  call.arguments = new Copies(static_cast<Parameters>(arguments)...);
  call.argument_bytes = sizeof(Copies);
  call.run = [](const void *function, const void *copies) {
    std::apply(reinterpret_cast<void (*)(Parameters...)>(const_cast<void *>(function)), *static_cast<const Copies *>(copies));
  };
  call.release = [](const void *copies) { delete static_cast<const Copies *>(copies); };
  call.grid = grid, call.block = block, call.shared = shared;
  return simulator::launch_call(call, stream);
}

#endif
