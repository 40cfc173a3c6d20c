// Panels of dequantised weights, in two places by turns: the next is made in the side stream while the one before is used in device->stream,
// once what read its place before is done.
#ifndef KERNELS_CUDA_PANELS_H
#define KERNELS_CUDA_PANELS_H

#include "kernels/cuda/cuda.h"

enum { PANELS_START, PANELS_FREED, PANELS_READY = PANELS_FREED + 2 };
static_assert(PANELS_READY + 2 <= sizeof Device::panel_events / sizeof *Device::panel_events, "an event for each");

// make(place, stream), which dequantises the next panel, and use(place), for panels in their order; place is 0 or 1, of one panel 0.
template <typename Make, typename Use>
void panels_in_turns(int64_t count, Device *device, Make make, Use use) {
  cudaEvent_t *events = device->panel_events;
  for (cudaEvent_t &event : device->panel_events)
    if (count > 1 && !event) CHECK(device, cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  if (count > 1) CHECK(device, cudaEventRecord(events[PANELS_START], device->stream));
  if (count > 0) make(0, device->stream);
  for (int64_t i = 0; i < count; i++) {
    int place = static_cast<int>(i % 2);
    bool has_next = i + 1 < count;
    if (has_next) {
      CHECK(device, cudaStreamWaitEvent(device->side, events[i == 0 ? int(PANELS_START) : PANELS_FREED + 1 - place], 0));
      make(1 - place, device->side);
      CHECK(device, cudaEventRecord(events[PANELS_READY + 1 - place], device->side));
    }
    if (i > 0) CHECK(device, cudaStreamWaitEvent(device->stream, events[PANELS_READY + place], 0));
    use(place);
    if (has_next) CHECK(device, cudaEventRecord(events[PANELS_FREED + place], device->stream));
  }
}

#endif
