// The device's properties and memory. Device memory is the host's, of exactly the size that was asked for and NaN at first, so that ASan
// sees the ends and nobody relies on zeros.
#include "kernels/cuda/simulator/internal.h"

#include <map>
#include <mutex>

namespace simulator {

struct Allocation {
  size_t size;
  MemoryKind kind;
  bool is_owned;  // not registered
};

// Never destroyed: what the program has not freed at its end is reachable.
static std::map<const char *, Allocation> &allocations() {
  static auto *all = new std::map<const char *, Allocation>;
  return *all;
}
static size_t used_bytes;
static cudaError_t last_error;

static std::recursive_mutex &mutex() {
  static auto *one = new std::recursive_mutex;
  return *one;
}
Lock::Lock() { mutex().lock(); }
Lock::~Lock() { mutex().unlock(); }

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

const Limits &device_limits() {
  static Limits limits;
  if (!limits.major) {
    const char *capability = getenv("LORA_SIMULATED_CAPABILITY"), *memory = getenv("LORA_SIMULATED_MEMORY");
    int number = capability ? atoi(capability) : 80;
    limits.major = number / 10, limits.minor = number % 10;
    limits.shared_bytes = number < 80 ? 65536 : number < 90 ? 166912 : 232448;
    if (number == 86 || number == 89) limits.shared_bytes = 101376;
    limits.memory_bytes = memory ? strtoull(memory, nullptr, 10) : static_cast<size_t>(24) << 30;
  }
  return limits;
}

MemoryKind memory_find(const void *address, const char **start, size_t *size) {
  const char *at = static_cast<const char *>(address);
  auto next = allocations().upper_bound(at);
  if (next == allocations().begin()) return MEMORY_PAGEABLE;
  --next;
  if (at >= next->first + next->second.size) return MEMORY_PAGEABLE;
  *start = next->first, *size = next->second.size;
  return next->second.kind;
}

bool is_on_device(const void *address, size_t size) {
  const char *start;
  size_t bytes;
  MemoryKind kind = memory_find(address, &start, &bytes);
  return kind == MEMORY_DEVICE && static_cast<const char *>(address) + size <= start + bytes;
}

static cudaError_t allocate(void **pointer, size_t size, MemoryKind kind) {
  Lock lock;
  *pointer = nullptr;
  if (size == 0) return cudaSuccess;
  if (kind == MEMORY_DEVICE && (size > device_limits().memory_bytes || used_bytes > device_limits().memory_bytes - size))
    return remember(cudaErrorMemoryAllocation);
  if (posix_memalign(pointer, 256, size)) return remember(cudaErrorMemoryAllocation);
  memset(*pointer, 0xff, size);
  allocations()[static_cast<char *>(*pointer)] = {size, kind, true};
  if (kind == MEMORY_DEVICE) used_bytes += size;
  return cudaSuccess;
}

static cudaError_t release(void *pointer, MemoryKind kind, bool is_owned) {
  if (!pointer) return cudaSuccess;
  Lock lock;
  finish_all_streams();
  auto found = allocations().find(static_cast<char *>(pointer));
  if (found == allocations().end() || found->second.kind != kind || found->second.is_owned != is_owned) return remember(cudaErrorInvalidValue);
  if (kind == MEMORY_DEVICE) used_bytes -= found->second.size;
  race_forget(pointer, found->second.size);
  allocations().erase(found);
  if (is_owned) free(pointer);
  return cudaSuccess;
}

}  // namespace simulator

using simulator::remember;

cudaError_t cudaMalloc(void **pointer, size_t size) { return simulator::allocate(pointer, size, simulator::MEMORY_DEVICE); }
cudaError_t cudaFree(void *pointer) { return simulator::release(pointer, simulator::MEMORY_DEVICE, true); }
cudaError_t cudaMallocHost(void **pointer, size_t size) { return simulator::allocate(pointer, size, simulator::MEMORY_PINNED); }
cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned) { return cudaMallocHost(pointer, size); }
cudaError_t cudaFreeHost(void *pointer) { return simulator::release(pointer, simulator::MEMORY_PINNED, true); }
cudaError_t cudaHostRegister(void *pointer, size_t size, unsigned) {
  simulator::Lock lock;
  simulator::allocations()[static_cast<char *>(pointer)] = {size, simulator::MEMORY_PINNED, false};
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *pointer) { return simulator::release(pointer, simulator::MEMORY_PINNED, false); }
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  *total = simulator::device_limits().memory_bytes;
  *available = *total - simulator::used_bytes;
  return cudaSuccess;
}

// A process uses one of its devices: they only differ in number.
static int device_count() {
  const char *text = getenv("LORA_SIMULATED_DEVICES");
  int count = text ? atoi(text) : 1;
  return count > 0 ? count : 1;
}
static int used_device;

cudaError_t cudaGetDeviceCount(int *count) {
  *count = device_count();
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= device_count()) return remember(cudaErrorInvalidDevice);
  used_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
  *device = used_device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
  if (device < 0 || device >= device_count()) return remember(cudaErrorInvalidDevice);
  const simulator::Limits &limits = simulator::device_limits();
  *properties = {};
  strcpy(properties->name, "simulated device");
  properties->totalGlobalMem = limits.memory_bytes;
  properties->sharedMemPerBlock = 48 << 10;
  properties->sharedMemPerBlockOptin = limits.shared_bytes;
  properties->sharedMemPerMultiprocessor = limits.shared_bytes + 1024;
  properties->warpSize = simulator::LANES;
  properties->maxThreadsPerBlock = simulator::MAX_THREADS;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->multiProcessorCount = 4;
  properties->major = limits.major, properties->minor = limits.minor;
  properties->l2CacheSize = 4 << 20;
  properties->memoryBusWidth = 128;
  properties->asyncEngineCount = properties->concurrentKernels = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (cudaError_t error = cudaGetDeviceProperties(&properties, device)) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = properties.maxThreadsPerBlock; break;
    case cudaDevAttrWarpSize: *value = properties.warpSize; break;
    case cudaDevAttrClockRate: *value = 1000000; break;  // kHz
    case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
    case cudaDevAttrMemoryClockRate: *value = 1000000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = properties.memoryBusWidth; break;
    case cudaDevAttrL2CacheSize: *value = properties.l2CacheSize; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = properties.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = static_cast<int>(properties.sharedMemPerMultiprocessor); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(properties.sharedMemPerBlockOptin); break;
    default: return remember(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }
cudaError_t simulator_function_attribute(cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > simulator::device_limits().shared_bytes) return remember(cudaErrorInvalidValue);
  return cudaSuccess;
}

cudaError_t cudaPeekAtLastError() { return simulator::last_error; }
cudaError_t cudaGetLastError() {
  cudaError_t error = simulator::last_error;
  simulator::last_error = cudaSuccess;
  return error;
}

static const struct {
  cudaError_t error;
  const char *name, *text;
} error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};
const char *cudaGetErrorName(cudaError_t error) {
  for (const auto &each : error_texts)
    if (each.error == error) return each.name;
  return "cudaErrorUnknown";
}
const char *cudaGetErrorString(cudaError_t error) {
  for (const auto &each : error_texts)
    if (each.error == error) return each.text;
  return "unknown error";
}
