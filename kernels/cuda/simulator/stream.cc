// Streams and events. What is put into a stream waits in its queue until a synchronisation needs it; what other streams have done by then
// is a matter of the schedule: as little as possible, as much as possible, or something between.
#include "kernels/cuda/simulator/internal.h"

#include <algorithm>
#include <ctime>
#include <deque>
#include <functional>
#include <memory>

namespace simulator {

struct EventState {
  uint64_t recorded, done;  // the number of the last record that was put into a stream, and of the last that was reached
  timespec time;
};

struct Work {
  std::function<void()> run;
  std::shared_ptr<EventState> event;  // recorded (when `run` is empty and is_record) or waited for
  uint64_t number;
  bool is_record;
  std::function<bool()> attempt;  // done when it gives true: until then it waits for other processes
};

}  // namespace simulator

struct CUstream_st {
  std::deque<simulator::Work> queue;
  bool is_blocking;  // for the default stream
};
struct CUevent_st {
  std::shared_ptr<simulator::EventState> state;
};

namespace simulator {

static std::vector<CUstream_st *> &streams() {  // the default stream first
  static auto *all = new std::vector<CUstream_st *>{new CUstream_st{{}, true}};
  return *all;
}

static CUstream_st *stream_of(cudaStream_t stream) {
  if (!stream) return streams()[0];
  auto &all = streams();
  return std::find(all.begin(), all.end(), stream) == all.end() ? nullptr : stream;
}

static bool advance(CUstream_st *stream) {
  if (stream->queue.empty()) return false;
  Work &first = stream->queue.front();
  if (first.event && !first.is_record && first.event->done < first.number) return false;
  if (first.attempt && !first.attempt()) return false;
  Work work = std::move(first);
  stream->queue.pop_front();
  if (work.run) work.run();
  if (work.event && work.is_record) {
    work.event->done = work.number;
    clock_gettime(CLOCK_MONOTONIC, &work.event->time);
  }
  return true;
}

// A synchronisation waits for other processes, a query gives up where they are not there.
enum Patience { WAITS, GIVES_UP };

static bool reach(const std::shared_ptr<EventState> &event, uint64_t number, Patience patience);

// Does what the first work of a stream waits for. False: it is another process, and this was a query.
static bool clear_way(CUstream_st *stream, Patience patience) {
  Work first = stream->queue.front();
  if (first.event) return reach(first.event, first.number, patience);
  if (patience == GIVES_UP) return false;
  timespec nap = {0, 50000};
  nanosleep(&nap, nullptr);
  return true;
}

// Does what a waiting stream needs: the stream with the record, up to it.
static bool reach(const std::shared_ptr<EventState> &event, uint64_t number, Patience patience) {
  while (event->done < number) {
    CUstream_st *holder = nullptr;
    for (CUstream_st *stream : streams())
      for (const Work &work : stream->queue)
        if (work.is_record && work.event == event && work.number <= number) holder = stream;
    if (!holder) return true;  // its stream is gone: nothing to wait for
    if (!advance(holder) && !clear_way(holder, patience)) return false;
  }
  return true;
}

// What others do before a stream is waited for.
static void others_go_on(const CUstream_st *stream) {
  ScheduleKind kind = schedule_kind();
  auto &all = streams();
  if (kind == SCHEDULE_FIRST) return;
  for (unsigned left = kind == SCHEDULE_LAST ? ~0u : schedule_random(16); left; left--) {
    bool is_done = true;
    unsigned start = schedule_random(static_cast<unsigned>(all.size()));
    for (size_t i = 0; i < all.size() && is_done; i++) {
      CUstream_st *other = all[kind == SCHEDULE_LAST ? all.size() - 1 - i : (start + i) % all.size()];
      if (other != stream && advance(other)) is_done = false;
    }
    if (is_done) return;
  }
}

// False: it is not done, as another process is missing.
static bool finish(CUstream_st *stream, Patience patience = WAITS) {
  others_go_on(stream);
  while (!stream->queue.empty())
    if (!advance(stream)) {
      if (!clear_way(stream, patience)) return false;
      const Work &first = stream->queue.front();
      if (first.event && first.event->done < first.number) stream->queue.pop_front();
    }
  return true;
}

void finish_all_streams() {
  for (size_t i = 0; i < streams().size(); i++) finish(streams()[i]);
}

// The default stream and those that were not made non-blocking wait for each other.
static void finish_blocking_streams() {
  for (size_t i = 0; i < streams().size(); i++)
    if (streams()[i]->is_blocking) finish(streams()[i]);
}

static cudaError_t put(cudaStream_t handle, Work work) {
  CUstream_st *stream = stream_of(handle);
  if (!stream) return remember(cudaErrorInvalidResourceHandle);
  stream->queue.push_back(std::move(work));
  return cudaSuccess;
}

void schedule_work(cudaStream_t stream, void (*run)(void *), void *work) {
  Lock lock;
  put(stream, {[=] { run(work); }, nullptr, 0, false});
}

cudaError_t schedule_attempts(cudaStream_t stream, std::function<bool()> attempt) {
  Lock lock;
  return put(stream, {nullptr, nullptr, 0, false, std::move(attempt)});
}

cudaError_t launch_call(const Call &call, cudaStream_t stream) {
  Lock lock;
  uint64_t count = static_cast<uint64_t>(call.block.x) * call.block.y * call.block.z;
  bool is_valid = count && count <= MAX_THREADS && call.block.z <= 64 && call.grid.x && call.grid.y && call.grid.z &&
                  call.grid.x <= 0x7fffffffu && call.grid.y <= 65535 && call.grid.z <= 65535 && call.shared <= device_limits().shared_bytes;
  if (!is_valid || !stream_of(stream)) {
    call.release(call.arguments);
    return remember(is_valid ? cudaErrorInvalidResourceHandle : cudaErrorInvalidConfiguration);
  }
  return put(stream, {[call] {
                        run_kernel(call);
                        call.release(call.arguments);
                      },
                      nullptr, 0, false});
}

// Whether a copy's side is what the kind says, and all of it within one allocation.
static bool is_side_valid(const void *address, size_t size, bool is_device) {
  const char *start;
  size_t bytes;
  MemoryKind kind = memory_find(address, &start, &bytes);
  if (kind == MEMORY_PAGEABLE) return !is_device;
  return is_device == (kind == MEMORY_DEVICE) && static_cast<const char *>(address) + size <= start + bytes;
}

static bool is_pageable(const void *address) {
  const char *start;
  size_t bytes;
  return memory_find(address, &start, &bytes) == MEMORY_PAGEABLE;
}

static bool is_device_address(const void *address) {
  const char *start;
  size_t bytes;
  return memory_find(address, &start, &bytes) == MEMORY_DEVICE;
}

// As CUDA does: what comes from pageable memory is taken at once, and what goes there is there on return.
static cudaError_t copy(void *to, const void *from, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  if (size == 0) return cudaSuccess;
  bool to_device = kind == cudaMemcpyDefault ? is_device_address(to) : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  bool from_device = kind == cudaMemcpyDefault ? is_device_address(from) : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (!is_side_valid(to, size, to_device) || !is_side_valid(from, size, from_device)) return remember(cudaErrorInvalidValue);
  if (!from_device && is_pageable(from)) {
    auto staged = std::make_shared<std::vector<char>>(static_cast<const char *>(from), static_cast<const char *>(from) + size);
    return put(stream, {[=] { memcpy(to, staged->data(), size); }, nullptr, 0, false});
  }
  if (cudaError_t error = put(stream, {[=] { memmove(to, from, size); }, nullptr, 0, false})) return error;
  if (!to_device && is_pageable(to)) finish(stream_of(stream));
  return cudaSuccess;
}

}  // namespace simulator

using simulator::remember;
using simulator::stream_of;

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  simulator::Lock lock;
  return simulator::copy(to, from, size, kind, stream);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind kind) {
  simulator::Lock lock;
  simulator::finish_blocking_streams();
  cudaError_t error = simulator::copy(to, from, size, kind, nullptr);
  simulator::finish_blocking_streams();
  return error;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t stream) {
  simulator::Lock lock;
  if (size == 0) return cudaSuccess;
  if (!simulator::is_side_valid(to, size, true)) return remember(cudaErrorInvalidValue);
  return simulator::put(stream, {[=] { memset(to, value, size); }, nullptr, 0, false});
}
cudaError_t cudaMemset(void *to, int value, size_t size) {
  simulator::Lock lock;
  simulator::finish_blocking_streams();
  cudaError_t error = cudaMemsetAsync(to, value, size, nullptr);
  simulator::finish_blocking_streams();
  return error;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  simulator::Lock lock;
  *stream = new CUstream_st{{}, !(flags & cudaStreamNonBlocking)};
  simulator::streams().push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  simulator::Lock lock;
  if (!stream || !stream_of(stream)) return remember(cudaErrorInvalidResourceHandle);
  simulator::finish(stream);
  auto &all = simulator::streams();
  all.erase(std::find(all.begin(), all.end(), stream));
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  simulator::Lock lock;
  if (!stream_of(stream)) return remember(cudaErrorInvalidResourceHandle);
  if (stream) simulator::finish(stream);
  else simulator::finish_blocking_streams();
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  simulator::Lock lock;
  if (!stream_of(stream)) return remember(cudaErrorInvalidResourceHandle);
  return simulator::finish(stream_of(stream), simulator::GIVES_UP) ? cudaSuccess : remember(cudaErrorNotReady);  // who asks again must get on
}
cudaError_t cudaDeviceSynchronize() {
  simulator::Lock lock;
  simulator::finish_all_streams();
  return cudaSuccess;
}
cudaError_t cudaDeviceReset() { return cudaDeviceSynchronize(); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
  simulator::Lock lock;
  *event = new CUevent_st{std::make_shared<simulator::EventState>()};
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  simulator::Lock lock;
  if (!event) return remember(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  simulator::Lock lock;
  if (!event) return remember(cudaErrorInvalidResourceHandle);
  return simulator::put(stream, {nullptr, event->state, ++event->state->recorded, true});
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  simulator::Lock lock;
  if (!event) return remember(cudaErrorInvalidResourceHandle);
  return simulator::put(stream, {nullptr, event->state, event->state->recorded, false});
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  simulator::Lock lock;
  if (!event) return remember(cudaErrorInvalidResourceHandle);
  simulator::reach(event->state, event->state->recorded, simulator::WAITS);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  simulator::Lock lock;
  if (!event) return remember(cudaErrorInvalidResourceHandle);
  bool is_done = simulator::reach(event->state, event->state->recorded, simulator::GIVES_UP);
  return is_done ? cudaSuccess : remember(cudaErrorNotReady);
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
  simulator::Lock lock;
  if (!start || !end || !start->state->recorded || !end->state->recorded) return remember(cudaErrorInvalidResourceHandle);
  if (start->state->done < start->state->recorded || end->state->done < end->state->recorded) return remember(cudaErrorNotReady);
  const timespec &from = start->state->time, &to = end->state->time;
  *milliseconds = static_cast<float>(static_cast<double>(to.tv_sec - from.tv_sec) * 1e3 + static_cast<double>(to.tv_nsec - from.tv_nsec) * 1e-6);
  return cudaSuccess;
}
