// NCCL between processes of this machine. They meet in a file in memory that the id names and that is unlinked as soon as all have mapped
// it: for each rank a counter of the pieces that it has written and one of those that it has read, and room for a piece. A rank writes a
// piece when all have read the one before, and reads when all have written: so data pass through at most a piece a rank, and no rank has to
// wait in a call. A call is tried in its stream again and again, by whoever waits for or asks about the stream, until all pieces are through.
// A sum is that of rank 0, 1, 2 ..., in this order. Calls of a communicator run in the order in which they were made, on whatever streams.
#include "kernels/cuda/simulator/nccl.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <ctime>
#include <memory>

#include "kernels/cuda/simulator/internal.h"

namespace simulator {

enum { MOST_RANKS = 64, PIECE = 1 << 20 };
enum CallKind : uint32_t { CALL_SUM, CALL_GATHER };
static const char *const call_names[] = {"a sum", "a gather"};

struct CallShape {
  CallKind kind;
  uint64_t bytes;  // of a rank
};

struct Meeting {
  std::atomic<uint32_t> size;  // what the first to come says
  std::atomic<uint32_t> joined;
  std::atomic<uint32_t> left;  // one more than the rank that aborted; 0: none has
  struct alignas(64) Rank {
    std::atomic<uint32_t> is_taken;
    std::atomic<uint64_t> written, read;  // pieces
    CallShape call;  // of the piece that was written last
  } ranks[MOST_RANKS];
  alignas(4096) char pieces[];  // [size][PIECE]
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free, "they are shared by processes");

struct Communicator {
  Meeting *meeting = nullptr;
  size_t bytes = 0;
  char path[NCCL_UNIQUE_ID_BYTES] = "";
  uint32_t rank = 0, size = 0;
  uint64_t pieces = 0;  // that are through
  int queued = 0;  // calls in streams
  std::atomic<bool> is_aborted{false};
  std::function<void()> begun;  // a call that is made when somebody asks about it
  cudaEvent_t last = nullptr;  // the call before
  ~Communicator() {
    if (last) cudaEventDestroy(last);
    if (meeting) munmap(meeting, bytes);
  }
};

static char last_words[256];

__attribute__((format(printf, 2, 3))) static ncclResult_t fail(ncclResult_t result, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(last_words, sizeof last_words, format, arguments);
  va_end(arguments);
  return result;
}

struct Operation {
  std::shared_ptr<Communicator> communicator;
  CallShape call;
  const char *from;
  char *to;
  uint64_t done;  // bytes
  bool is_written;  // this piece
};

static bool all_have(const Communicator &c, std::atomic<uint64_t> Meeting::Rank::*counter, uint64_t pieces) {
  for (uint32_t r = 0; r < c.size; r++)
    if ((c.meeting->ranks[r].*counter).load(std::memory_order_acquire) < pieces) return false;
  return true;
}

static void write_piece(Operation &operation, uint64_t length) {
  Communicator &c = *operation.communicator;
  Meeting::Rank &own = c.meeting->ranks[c.rank];
  own.call = operation.call;
  if (length) memcpy(c.meeting->pieces + static_cast<size_t>(c.rank) * PIECE, operation.from + operation.done, length);
  own.written.store(c.pieces + 1, std::memory_order_release);
  operation.is_written = true;
}

static void read_piece(Operation &operation, uint64_t length) {
  Communicator &c = *operation.communicator;
  for (uint32_t r = 0; r < c.size; r++) {
    const CallShape &other = c.meeting->ranks[r].call, &own = operation.call;
    if (other.kind != own.kind || other.bytes != own.bytes)
      report(Site(nullptr, 0), "NCCL: rank %u calls %s of %llu bytes, but rank %u %s of %llu", c.rank, call_names[own.kind],
             static_cast<unsigned long long>(own.bytes), r, call_names[other.kind], static_cast<unsigned long long>(other.bytes));
  }
  const char *pieces = c.meeting->pieces;
  if (operation.call.kind == CALL_GATHER) {
    for (uint32_t r = 0; r < c.size && length; r++)
      memcpy(operation.to + r * operation.call.bytes + operation.done, pieces + static_cast<size_t>(r) * PIECE, length);
  } else {
    for (uint64_t i = 0; i < length; i += sizeof(float)) {
      float sum = 0;
      for (uint32_t r = 0; r < c.size; r++) {
        float value;
        memcpy(&value, pieces + static_cast<size_t>(r) * PIECE + i, sizeof value);
        sum = r ? sum + value : value;
      }
      memcpy(operation.to + operation.done + i, &sum, sizeof sum);
    }
  }
  c.meeting->ranks[c.rank].read.store(++c.pieces, std::memory_order_release);
  operation.done += length;
  operation.is_written = false;
}

static int64_t microseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000 + now.tv_nsec / 1000;
}

// Goes on as far as the other ranks are; true when all is through.
static bool try_operation(Operation &operation) {
  Communicator &c = *operation.communicator;
  uint64_t whole = operation.call.bytes * (operation.call.kind == CALL_GATHER ? c.size : 1);
  for (int64_t until = microseconds() + 200;;) {
    uint64_t length = std::min<uint64_t>(operation.call.bytes - operation.done, PIECE);
    if (c.is_aborted) {
      memset(operation.to, 0xff, whole);  // nobody knows what a device would leave
    } else if (!operation.is_written && all_have(c, &Meeting::Rank::read, c.pieces)) {
      write_piece(operation, length);
      continue;
    } else if (operation.is_written && all_have(c, &Meeting::Rank::written, c.pieces + 1)) {
      read_piece(operation, length);
      if (operation.done < operation.call.bytes) continue;
    } else if (microseconds() < until) {
      sched_yield();
      continue;
    } else {
      return false;
    }
    c.queued--;
    return true;
  }
}

// A file of that length, which nothing is written to but by the ranks; NULL and errno when there is no room.
static Meeting *map_meeting(const char *path, size_t bytes) {
  int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return nullptr;
  int error = posix_fallocate(file, 0, static_cast<off_t>(bytes));
  void *memory = error ? MAP_FAILED : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (!error && memory == MAP_FAILED) error = errno;
  close(file);
  errno = error;
  return memory == MAP_FAILED ? nullptr : static_cast<Meeting *>(memory);
}

}  // namespace simulator

struct ncclComm {
  std::shared_ptr<simulator::Communicator> state;
};

using simulator::fail;

ncclResult_t ncclGetVersion(int *version) {
  const char *text = getenv("LORA_SIMULATED_NCCL");
  *version = text ? atoi(text) : NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    case ncclSystemError: return "unhandled system error";
    case ncclInternalError: return "internal error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
  }
  return "unknown result code";
}

const char *ncclGetLastError(ncclComm_t) { return simulator::last_words; }

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  static int count;
  *id = {};
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  snprintf(id->internal, sizeof id->internal, "%s/lora-simulated-nccl-%d-%d-%lld%09ld", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
           static_cast<int>(getpid()), count++, static_cast<long long>(now.tv_sec), now.tv_nsec);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId id, int rank, ncclConfig_t *config) {
  simulator::Lock lock;
  *comm = nullptr;
  if (config->magic != 0xcafebeef || config->size != sizeof *config || config->blocking != 0)
    return fail(ncclInvalidArgument, "the simulated NCCL has communicators that do not block, and no others");
  if (size < 1 || size > simulator::MOST_RANKS || rank < 0 || rank >= size || !memchr(id.internal, 0, sizeof id.internal) ||
      !strstr(id.internal, "/lora-simulated-nccl-"))
    return fail(ncclInvalidArgument, "no communicator of %d ranks has a rank %d, or this is no id", size, rank);
  auto state = std::make_shared<simulator::Communicator>();
  state->rank = static_cast<uint32_t>(rank), state->size = static_cast<uint32_t>(size);
  state->bytes = sizeof(simulator::Meeting) + static_cast<size_t>(size) * simulator::PIECE;
  memcpy(state->path, id.internal, sizeof state->path);
  state->meeting = simulator::map_meeting(state->path, state->bytes);
  if (!state->meeting) return fail(ncclSystemError, "%s: %s", state->path, strerror(errno));
  uint32_t others = 0;
  if (!state->meeting->size.compare_exchange_strong(others, state->size) && others != state->size)
    return fail(ncclInvalidArgument, "rank %d knows of %d ranks, another of %u", rank, size, others);
  if (state->meeting->ranks[rank].is_taken.exchange(1)) return fail(ncclInvalidArgument, "there are two ranks %d", rank);
  if (state->meeting->joined.fetch_add(1) + 1 == state->size) unlink(state->path);
  cudaEventCreateWithFlags(&state->last, cudaEventDisableTiming);
  *comm = new ncclComm{state};
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result) {
  simulator::Lock lock;
  simulator::Communicator &c = *comm->state;
  uint32_t left = c.meeting->left;
  *result = c.meeting->joined < c.size ? ncclInProgress : ncclSuccess;
  if (left) *result = fail(ncclRemoteError, "rank %u has left", left - 1);
  if (*result != ncclSuccess || !c.begun) return ncclSuccess;
  std::function<void()> begun = std::move(c.begun);
  c.begun = nullptr;
  begun();
  return ncclSuccess;
}

// No call may be made while another is only begun.
static void check_idle(const simulator::Communicator &c, const char *name) {
  if (c.begun || c.meeting->joined < c.size) simulator::report(simulator::Site(nullptr, 0), "NCCL: %s while a call is in progress", name);
}

static ncclResult_t begin(simulator::CallShape call, const void *from, void *to, ncclComm_t comm, cudaStream_t stream, const char *name) {
  simulator::Lock lock;
  const std::shared_ptr<simulator::Communicator> &state = comm->state;
  check_idle(*state, name);
  if (call.bytes == 0) return ncclSuccess;
  size_t whole = call.bytes * (call.kind == simulator::CALL_GATHER ? state->size : 1);
  if (!simulator::is_on_device(from, call.bytes) || !simulator::is_on_device(to, whole))
    return fail(ncclInvalidArgument, "%s: a buffer is not within device memory", name);
  const char *part = static_cast<const char *>(from), *end = static_cast<const char *>(to) + whole;
  bool is_in_place = part == static_cast<const char *>(to) + (call.kind == simulator::CALL_GATHER ? state->rank * call.bytes : 0);
  if (!is_in_place && part < end && part + call.bytes > to)
    simulator::report(simulator::Site(nullptr, 0), "NCCL: %s overlaps its result, but not in its place", name);
  simulator::Operation operation = {state, call, part, static_cast<char *>(to), 0, false};
  state->queued++;
  state->begun = [operation, stream] {
    cudaEvent_t last = operation.communicator->last;
    cudaStreamWaitEvent(stream, last);
    simulator::schedule_attempts(stream, [operation]() mutable { return simulator::try_operation(operation); });
    cudaEventRecord(last, stream);
  };
  return ncclInProgress;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  if (type != ncclFloat32 || op != ncclSum) return fail(ncclInvalidArgument, "the simulated NCCL adds float32, and does nothing else");
  return begin({simulator::CALL_SUM, count * sizeof(float)}, from, to, comm, stream, "ncclAllReduce");
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream) {
  size_t size = type == ncclFloat32 ? sizeof(float) : 1;
  return begin({simulator::CALL_GATHER, count * size}, from, to, comm, stream, "ncclAllGather");
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  simulator::Lock lock;
  check_idle(*comm->state, "ncclCommFinalize");
  if (comm->state->queued) simulator::report(simulator::Site(nullptr, 0), "NCCL: ncclCommFinalize before all calls have run");
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  simulator::Lock lock;
  check_idle(*comm->state, "ncclCommDestroy");
  delete comm;
  return ncclSuccess;
}

// Without the lock: another thread may be waiting for the stream.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  simulator::Communicator &c = *comm->state;
  uint32_t nobody = 0;
  c.meeting->left.compare_exchange_strong(nobody, c.rank + 1);
  c.is_aborted = true;
  if (c.meeting->joined < c.size) unlink(c.path);
  simulator::Lock lock;
  c.begun = nullptr;
  delete comm;
  return ncclSuccess;
}
