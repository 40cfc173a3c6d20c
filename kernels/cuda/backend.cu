// A CUDA device as a backend: what the program gets when it opens this library (kernels/cuda_library.h). Memory from a pool that counts it,
// one stream for all work of a step, and pinned memory through which what the host holds is sent without waiting.
#include "kernels/cuda/attention_engine.h"
#include "kernels/cuda/collectives.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/weights.h"

extern "C" {
#include "kernels/cuda_library.h"
extern const Kernels kernels_cuda;
CudaBackendOpen cuda_backend_open;
CudaDescribe cuda_describe;
CudaVersions cuda_versions;
}

void device_check(Device *device, cudaError_t error, const char *what) {
  if (error == cudaSuccess || device->error != cudaSuccess) return;
  device->error = error;
  snprintf(device->where, sizeof device->where, "%s", what);
}

void device_fail(Device *device, const char *words, const char *what) {
  if (device->error != cudaSuccess) return;
  device_check(device, cudaErrorUnknown, what);
  snprintf(device->words, sizeof device->words, "%s", words);
}

static Status backend_check(Backend *backend) {
  Device *device = device_of(backend);
  device_wait(device, device->stream);
  device_wait(device, device->side);
  if (device->error == cudaSuccess) return STATUS_OK;
  if (device->error == cudaErrorMemoryAllocation)
    return status_fail(STATUS_NO_SPACE, "cuda:%d: out of memory (%s): a smaller micro_batch_size or sequence_len needs less",
                       device->number, device->where);
  if (device->error == cudaErrorNoKernelImageForDevice)
    return status_fail(STATUS_FAILED, "cuda:%d: this build has no code for the card: configure with -D LORA_CUDA=NATIVE", device->number);
  const char *words = *device->words ? device->words : cudaGetErrorString(device->error);
  return status_fail(STATUS_FAILED, "cuda:%d: %s (%s)", device->number, words, device->where);
}

static Status backend_allocate(void **block, int64_t bytes, const char *purpose, Backend *backend) {
  Device *device = device_of(backend);
  *block = pool_take(device->pool, bytes, purpose);
  if (*block) {
    CHECK(device, cudaMemsetAsync(*block, 0, static_cast<size_t>(bytes), device->stream));
    return STATUS_OK;
  }
  cudaError_t error = pool_error(device->pool);
  if (error != cudaErrorMemoryAllocation)
    return status_fail(STATUS_FAILED, "cuda:%d: %s (memory for %s)", device->number, cudaGetErrorString(error), purpose);
  char need[32], have[32];
  format_bytes(need, static_cast<double>(bytes));
  format_bytes(have, static_cast<double>(pool_available(device->pool)));
  return status_fail(STATUS_NO_SPACE, "cuda:%d: out of memory: %s of %s are needed, and %s are free", device->number, need, purpose, have);
}

static void backend_release(void *block, Backend *backend) { pool_give(device_of(backend)->pool, block); }

static void backend_upload(void *to, const void *host, int64_t bytes, Backend *backend) {
  Device *device = device_of(backend);
  staging_send(device->staging, to, host, bytes, device);
}

static void backend_download(void *host, const void *from, int64_t bytes, Backend *backend) {
  device_read(device_of(backend), host, from, bytes);
}

static int64_t backend_available_bytes(Backend *backend) { return pool_available(device_of(backend)->pool); }
static void backend_describe_memory(Buffer *text, Backend *backend) { pool_describe(text, device_of(backend)->pool); }
static int64_t backend_peak_bytes(Backend *backend) { return pool_peak(device_of(backend)->pool); }

static int64_t backend_workspace_bytes(const Backend *backend) {
  const Device *device = static_cast<const Device *>(backend->state);
  int64_t bytes = 0;
  for (int i = 0; i < WORKSPACE_COUNT; i++) bytes += device->workspace_bytes[i];
  return bytes;
}

static int64_t backend_reserve_workspace(const StepShape *step, int64_t room, Backend *backend) {
  constexpr int64_t PART_BYTES = 64 << 20, CODE_BYTES = 192 << 20;  // parts of sums; code is loaded when a kernel first runs
  Device *device = device_of(backend);
  int64_t own = linear_workspace_bytes(step->tokens, step->columns) + blas_workspace_bytes() + PART_BYTES + CODE_BYTES;
  AttentionCall largest = {};
  largest.type = step->activations, largest.spans = step->spans, largest.span_count = step->span_count, largest.shape = step->attention;
  return own + attention_reserve(&largest, step->attention_calls, room - own, device);
}

void *device_workspace(Device *device, Workspace purpose, int64_t bytes) {
  if (bytes <= device->workspace_bytes[purpose]) return device->workspaces[purpose];
  // Kernels that are under way may read the old block: the pool gives it to later work of the same stream only.
  pool_give(device->pool, device->workspaces[purpose]);
  device->workspaces[purpose] = pool_take(device->pool, bytes, "kernels' workspace");
  device->workspace_bytes[purpose] = device->workspaces[purpose] ? bytes : 0;
  if (!device->workspaces[purpose]) device_check(device, pool_error(device->pool), "workspace of kernels");
  return device->workspaces[purpose];
}

const void *device_stage(Device *device, const void *host, int64_t bytes) { return staging_copy(device->staging, host, bytes, device); }

static void backend_close(Backend *backend) {
  Device *device = device_of(backend);
  ranks_close(device);
  cudaDeviceSynchronize();
  products_close(device);
  attention_close(device);
  for (int i = 0; i < WORKSPACE_COUNT; i++) pool_give(device->pool, device->workspaces[i]);
  if (device->copies) copies_free(device->copies);
  if (device->staging) staging_free(device->staging);
  if (device->pool) pool_free_all(device->pool);
  if (device->blas) cublasLtDestroy(device->blas);
  if (device->side) cudaStreamDestroy(device->side);
  if (device->stream) cudaStreamDestroy(device->stream);
  free(device);
}

// The figures are those of docs/cuda.md until `lora doctor` has measured on this card.
static Device::Thresholds default_thresholds(const cudaDeviceProp *properties) {
  bool is_large = properties->major >= 9;  // the more a card multiplies for each byte it reads, the sooner a pass of its own pays
  Device::Thresholds thresholds = {};
  thresholds.fused_rows = is_large ? 64 : properties->major == 8 && properties->minor == 0 ? 128 : 256;
  thresholds.gemv_rows = 4;
  return thresholds;
}

static Status open_device(Device *device, int number) {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return status_fail(STATUS_USAGE, "the CUDA driver says: %s; use the device cpu", cudaGetErrorString(error));
  if (number >= count) return status_fail(STATUS_USAGE, "this machine has %d CUDA devices, counted from 0", count);
  cudaDeviceProp properties;
  device->number = number;
  CHECK(device, cudaSetDevice(number));
  CHECK(device, cudaGetDeviceProperties(&properties, number));
  if (device->error != cudaSuccess) return status_fail(STATUS_FAILED, "%s (%s)", cudaGetErrorString(device->error), device->where);
  device->capability = properties.major * 10 + properties.minor;
  if (device->capability < 75)
    return status_fail(STATUS_USAGE, "%s is of compute capability %d.%d; 7.5 (Turing) is the least that this program has kernels for",
                       properties.name, properties.major, properties.minor);
  device->processors = properties.multiProcessorCount;
  device->shared_bytes = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  device->thresholds = default_thresholds(&properties);
  CHECK(device, cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking));
  CHECK(device, cudaStreamCreateWithFlags(&device->side, cudaStreamNonBlocking));
  if (cublasLtCreate(&device->blas) != CUBLAS_STATUS_SUCCESS) return status_fail(STATUS_FAILED, "cuBLASLt could not be opened");
  device->pool = pool_new_device();
  device->staging = staging_new(device);
  device->copies = copies_new(device);
  if (device->error == cudaSuccess) return attention_open(device);
  return status_fail(STATUS_FAILED, "%s (%s)", cudaGetErrorString(device->error), device->where);
}

Status cuda_backend_open(Backend *backend, int number) {
  Device *device = static_cast<Device *>(memory_new(1, sizeof *device));
  ThreadPool *pool = backend->pool;
  *backend = Backend();
  backend->kernels = &kernels_cuda;
  backend->pool = pool;
  backend->allocate = backend_allocate;
  backend->release = backend_release;
  backend->upload = backend_upload;
  backend->download = backend_download;
  backend->allocate_host = copies_allocate_host;
  backend->release_host = copies_release_host;
  backend->offload = copies_offload;
  backend->fetch = copies_fetch;
  backend->await_copy = copies_await;
  backend->upload_matrix = weights_upload;
  backend->matrix_bytes = weights_bytes;
  backend->release_matrix = weights_release;
  backend->check = backend_check;
  backend->available_bytes = backend_available_bytes;
  backend->peak_bytes = backend_peak_bytes;
  backend->describe_memory = backend_describe_memory;
  backend->workspace_bytes = backend_workspace_bytes;
  backend->reserve_workspace = backend_reserve_workspace;
  backend->close = backend_close;
  backend->collectives = &cuda_collectives;
  backend->state = device;
  device->backend = backend;
  backend->tuning = &device->thresholds.fused_rows;
  static_assert(sizeof device->thresholds == TUNING_COUNT * sizeof device->thresholds.fused_rows, "a name for each");
  backend->tuning_count = sizeof device->thresholds / sizeof device->thresholds.fused_rows;
  Status status = open_device(device, number);
  if (status != STATUS_OK) backend_close(backend);
  return status;
}

Status cuda_describe(Buffer *text, int *count) {
  cudaError_t error = cudaGetDeviceCount(count);
  if (error != cudaSuccess) return status_fail(STATUS_FAILED, "%s", cudaGetErrorString(error));
  for (int i = 0; i < *count; i++) {
    cudaDeviceProp properties;
    error = cudaGetDeviceProperties(&properties, i);
    if (error != cudaSuccess) return status_fail(STATUS_FAILED, "cuda:%d: %s", i, cudaGetErrorString(error));
    char bytes[32];
    buffer_format(text, "cuda:%d: %s, compute capability %d.%d, %s, %d multiprocessors\n", i, properties.name, properties.major,
                  properties.minor, format_bytes(bytes, static_cast<double>(properties.totalGlobalMem)), properties.multiProcessorCount);
  }
  return STATUS_OK;
}

void cuda_versions(int *runtime, int *driver) {
  if (cudaRuntimeGetVersion(runtime) != cudaSuccess) *runtime = 0;
  if (cudaDriverGetVersion(driver) != cudaSuccess) *driver = 0;
}
