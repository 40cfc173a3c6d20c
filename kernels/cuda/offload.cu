// Copies beside the kernels (backend.h), between pinned memory of the host and the device, in a stream of their own: in the side stream a
// panel of weights would wait for them. An event makes each wait for the kernels before it, and another is what await_copy makes later
// kernels wait for.
#include "kernels/cuda/memory.h"

// Events are used in turn: one that has been recorded anew stands for a later copy of the same stream, so that waiting for it covers the
// earlier one, too.
enum { COPY_EVENTS = 16 };

struct Copies {
  cudaStream_t stream;
  cudaEvent_t reached;  // in the kernels' stream
  cudaEvent_t done[COPY_EVENTS];
  int64_t count;  // of all copies so far
};

Copies *copies_new(Device *device) {
  Copies *copies = static_cast<Copies *>(memory_new(1, sizeof *copies));
  CHECK(device, cudaStreamCreateWithFlags(&copies->stream, cudaStreamNonBlocking));
  CHECK(device, cudaEventCreateWithFlags(&copies->reached, cudaEventDisableTiming));
  for (int i = 0; i < COPY_EVENTS; i++) CHECK(device, cudaEventCreateWithFlags(&copies->done[i], cudaEventDisableTiming));
  return copies;
}

void copies_free(Copies *copies) {
  cudaEventDestroy(copies->reached);
  for (int i = 0; i < COPY_EVENTS; i++) cudaEventDestroy(copies->done[i]);
  cudaStreamDestroy(copies->stream);
  free(copies);
}

cudaStream_t copies_begin(Device *device) {
  Copies *copies = device->copies;
  CHECK(device, cudaEventRecord(copies->reached, device->stream));
  CHECK(device, cudaStreamWaitEvent(copies->stream, copies->reached, 0));
  return copies->stream;
}

int64_t copies_end(Device *device) {
  Copies *copies = device->copies;
  CHECK(device, cudaEventRecord(copies->done[copies->count % COPY_EVENTS], copies->stream));
  return copies->count++;
}

bool copies_are_busy(Device *device) { return cudaStreamQuery(device->copies->stream) == cudaErrorNotReady; }
void copies_wait(Device *device) { device_wait(device, device->copies->stream); }

static int64_t copy_beside(void *to, const void *from, int64_t bytes, cudaMemcpyKind kind, Device *device) {
  cudaStream_t stream = copies_begin(device);
  if (bytes > 0) CHECK(device, cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, stream));
  return copies_end(device);
}

int64_t copies_offload(void *host, const void *from, int64_t bytes, Backend *backend) {
  return copy_beside(host, from, bytes, cudaMemcpyDeviceToHost, device_of(backend));
}

int64_t copies_fetch(void *to, const void *host, int64_t bytes, Backend *backend) {
  return copy_beside(to, host, bytes, cudaMemcpyHostToDevice, device_of(backend));
}

void copies_await(int64_t copy, Backend *backend) {
  Device *device = device_of(backend);
  CHECK(device, cudaStreamWaitEvent(device->stream, device->copies->done[copy % COPY_EVENTS], 0));
}

// The driver would take pages that other programs need: what the machine has free is asked first.
Status copies_allocate_host(void **block, int64_t bytes, const char *purpose, Backend *backend) {
  *block = NULL;
  int64_t available = memory_available_bytes();
  if (bytes <= available && cudaMallocHost(block, static_cast<size_t>(bytes)) == cudaSuccess) return STATUS_OK;
  (void)cudaGetLastError();  // it is told below
  *block = NULL;
  char need[32], have[32];
  format_bytes(need, static_cast<double>(bytes));
  format_bytes(have, static_cast<double>(available));
  return status_fail(STATUS_NO_SPACE, "cuda:%d: %s of the host's memory cannot be pinned for %s (%s are free)", device_of(backend)->number,
                     need, purpose, have);
}

void copies_release_host(void *block, Backend *backend) {
  Device *device = device_of(backend);
  copies_wait(device);
  CHECK(device, cudaFreeHost(block));
}
