// How the host waits for the device: in the driver, or, where there is something to do meanwhile, by asking again and again.
#include <sched.h>

#include <ctime>

#include "kernels/cuda/collectives.h"

static const int64_t SPIN_NS = 100000, NAP_NS = 50000, CALL_NS = 1000000;

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

void device_pause(Device *device, Pause *pause) {
  int64_t now = nanoseconds();
  if (!pause->begun_ns) pause->begun_ns = pause->called_ns = now;
  if (now - pause->called_ns >= CALL_NS) {
    pause->called_ns = now;
    ranks_watch(device);
    if (device->backend->while_waiting) device->backend->while_waiting(device->backend->waiting_context);
  } else if (now - pause->begun_ns < SPIN_NS) {
    sched_yield();  // most work is about to end
  } else {
    struct timespec nap = {0, static_cast<long>(NAP_NS)};
    nanosleep(&nap, NULL);
  }
}

// Other processes may never come: who waits for them in the driver cannot be called back.
static bool is_asking(const Device *device) { return device->ranks || device->backend->while_waiting; }

template <typename Query>
static cudaError_t ask(Device *device, Query query) {
  Pause pause = {};
  cudaError_t error;
  while ((error = query()) == cudaErrorNotReady) device_pause(device, &pause);
  if (pause.begun_ns) (void)cudaGetLastError();  // "not ready" counts as an error there
  return error;
}

void device_wait(Device *device, cudaStream_t stream) {
  if (is_asking(device)) CHECK(device, ask(device, [=] { return cudaStreamQuery(stream); }));
  else CHECK(device, cudaStreamSynchronize(stream));
}

void device_wait_event(Device *device, cudaEvent_t event) {
  if (is_asking(device)) CHECK(device, ask(device, [=] { return cudaEventQuery(event); }));
  else CHECK(device, cudaEventSynchronize(event));
}

void device_read(Device *device, void *host, const void *from, int64_t bytes) {
  // A copy to memory that is not pinned waits in the driver.
  if (is_asking(device)) device_wait(device, device->stream);
  if (bytes > 0) CHECK(device, cudaMemcpyAsync(host, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, device->stream));
  device_wait(device, device->stream);
}
