// Sums and gathers between processes by NCCL. The library is not linked: where it is not installed there are none, and whoever needs sums
// sends them through the host's memory (Collectives.library).
// A communicator that does not block begins a call and says ncclInProgress; only when it says something else has the call been put into
// its stream. Environment: LORA_CUDA_NCCL=off does as if the library were not there.
#include "kernels/cuda/collectives.h"
#include "kernels/cuda/memory.h"

#ifdef __CUDACC__
#if __has_include(<nccl.h>)
#include <dlfcn.h>
#include <nccl.h>
#define HAS_NCCL 1
#endif
#else
#include "kernels/cuda/simulator/nccl.h"
#define HAS_NCCL 1
#endif

#ifdef HAS_NCCL
#include <cctype>

#define NCCL_FUNCTIONS(X)                   \
  X(get_version, ncclGetVersion)            \
  X(get_error_string, ncclGetErrorString)   \
  X(get_last_error, ncclGetLastError)       \
  X(get_unique_id, ncclGetUniqueId)         \
  X(init_rank, ncclCommInitRankConfig)      \
  X(get_async_error, ncclCommGetAsyncError) \
  X(finalize, ncclCommFinalize)             \
  X(destroy, ncclCommDestroy)               \
  X(abort, ncclCommAbort)                   \
  X(all_reduce, ncclAllReduce)              \
  X(all_gather, ncclAllGather)

struct Nccl {
#define DECLARE(name, symbol) decltype(&symbol) name;
  NCCL_FUNCTIONS(DECLARE)
#undef DECLARE
  char name[32];  // "NCCL 2.28.9"; "": there is none that will do
};

struct Ranks {
  ncclComm_t communicator;
  bool has_joined;
};

enum { WORDS = sizeof Device::words };
static const int LEAST_VERSION = NCCL_VERSION(2, 14, 0);  // communicators that do not block

static bool find_functions(Nccl *nccl) {
#ifdef __CUDACC__
  void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (!library) return false;
#define FIND(name, symbol)                                                      \
  nccl->name = reinterpret_cast<decltype(nccl->name)>(dlsym(library, #symbol)); \
  if (!nccl->name) return false;
  NCCL_FUNCTIONS(FIND)
#undef FIND
#else
#define TAKE(name, symbol) nccl->name = symbol;
  NCCL_FUNCTIONS(TAKE)
#undef TAKE
#endif
  return true;
}

static Nccl open_nccl(void) {
  Nccl nccl = {};
  const char *wanted = getenv("LORA_CUDA_NCCL");
  int version = 0;
  if ((wanted && strcmp(wanted, "off") == 0) || !find_functions(&nccl)) return nccl;
  if (nccl.get_version(&version) != ncclSuccess || version < LEAST_VERSION) return nccl;
  snprintf(nccl.name, sizeof nccl.name, "NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
  return nccl;
}

// Never closed: it has threads of its own.
static const Nccl *the_nccl(void) {
  static const Nccl nccl = open_nccl();
  return &nccl;
}

static const char *ranks_library(Backend *) { return *the_nccl()->name ? the_nccl()->name : NULL; }

// "NCCL 2.28.9: unhandled system error: connect to 10.0.0.2 failed"
static void describe(char words[WORDS], ncclResult_t result, ncclComm_t communicator) {
  const Nccl *nccl = the_nccl();
  const char *last = nccl->get_last_error(communicator);
  snprintf(words, WORDS, "%s: %s%s%s", nccl->name, nccl->get_error_string(result), last && *last ? ": " : "", last ? last : "");
  for (size_t length = strlen(words); length && isspace(static_cast<unsigned char>(words[length - 1])); length--) words[length - 1] = 0;
}

static void leave_at_once(Device *device) {
  Ranks *ranks = device->ranks;
  device->ranks = NULL;
  if (ranks->communicator) (void)the_nccl()->abort(ranks->communicator);
  free(ranks);
}

// Waits until the call that gave `result` has been made. False where it was not, or where the others were left meanwhile (device->ranks is
// NULL then): `words` say why.
static bool finish_call(char words[WORDS], ncclResult_t result, Device *device) {
  Pause pause = {};
  while (result == ncclInProgress) {
    ncclResult_t asked = the_nccl()->get_async_error(device->ranks->communicator, &result);
    if (asked != ncclSuccess) result = asked;
    if (result == ncclInProgress) device_pause(device, &pause);
    if (device->ranks) continue;
    snprintf(words, WORDS, "the other processes were left before they had come");
    return false;
  }
  if (result != ncclSuccess) describe(words, result, device->ranks->communicator);
  return result == ncclSuccess;
}

void ranks_watch(Device *device) {
  Ranks *ranks = device->ranks;
  if (!ranks || !ranks->has_joined) return;  // join looks for itself
  ncclResult_t result = ncclSuccess, asked = the_nccl()->get_async_error(ranks->communicator, &result);
  if (asked != ncclSuccess) result = asked;
  if (result == ncclSuccess || result == ncclInProgress) return;
  char words[WORDS];
  describe(words, result, ranks->communicator);
  device_fail(device, words, "ncclCommGetAsyncError");
  leave_at_once(device);
}

void ranks_close(Device *device) {
  if (device->ranks) leave_at_once(device);
}

static Status ranks_make_id(uint8_t id[COLLECTIVE_ID_BYTES], Backend *backend) {
  static_assert(sizeof(ncclUniqueId) == COLLECTIVE_ID_BYTES, "it is sent as bytes");
  Device *device = device_of(backend);
  if (!ranks_library(backend)) return status_fail(STATUS_FAILED, "cuda:%d: there is no NCCL", device->number);
  ncclUniqueId made;
  ncclResult_t result = the_nccl()->get_unique_id(&made);
  char words[WORDS];
  if (result != ncclSuccess) {
    describe(words, result, NULL);
    return status_fail(STATUS_FAILED, "cuda:%d: %s", device->number, words);
  }
  memcpy(id, &made, sizeof made);
  return STATUS_OK;
}

static Status ranks_join(const uint8_t id[COLLECTIVE_ID_BYTES], int rank, int size, Backend *backend) {
  Device *device = device_of(backend);
  if (!ranks_library(backend)) return status_fail(STATUS_FAILED, "cuda:%d: there is no NCCL", device->number);
  if (device->ranks) return status_fail(STATUS_FAILED, "cuda:%d: it has joined other processes already", device->number);
  CHECK(device, cudaSetDevice(device->number));  // whatever thread this is
  ncclUniqueId made;
  memcpy(&made, id, sizeof made);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  Ranks *ranks = static_cast<Ranks *>(memory_new(1, sizeof *ranks));
  device->ranks = ranks;
  char words[WORDS];
  if (finish_call(words, the_nccl()->init_rank(&ranks->communicator, size, made, rank, &config), device)) {
    ranks->has_joined = true;
    return STATUS_OK;
  }
  ranks_close(device);
  return status_fail(STATUS_FAILED, "cuda:%d: rank %d of %d cannot join the others: %s", device->number, rank, size, words);
}

static bool has_joined(Device *device, const char *what) {
  if (device->ranks) return true;
  device_fail(device, "the device has joined no other processes, or has left them", what);
  return false;
}

static void ranks_sum(float *values, int64_t count, Backend *backend) {
  Device *device = device_of(backend);
  char words[WORDS];
  if (count == 0 || !has_joined(device, "a sum")) return;
  ncclResult_t result =
      the_nccl()->all_reduce(values, values, static_cast<size_t>(count), ncclFloat32, ncclSum, device->ranks->communicator, device->stream);
  if (!finish_call(words, result, device)) device_fail(device, words, "ncclAllReduce");
}

static int64_t ranks_gather(void *whole, const void *part, int64_t bytes, Backend *backend) {
  Device *device = device_of(backend);
  char words[WORDS];
  cudaStream_t stream = copies_begin(device);
  if (bytes > 0 && has_joined(device, "a gather")) {
    ncclResult_t result = the_nccl()->all_gather(part, whole, static_cast<size_t>(bytes), ncclUint8, device->ranks->communicator, stream);
    if (!finish_call(words, result, device)) device_fail(device, words, "ncclAllGather");
  }
  return copies_end(device);
}

static void ranks_progress(Backend *backend) {
  Device *device = device_of(backend);
  if (!device->ranks) return;
  (void)cudaStreamQuery(device->stream);
  (void)copies_are_busy(device);
  (void)cudaGetLastError();  // "not ready" counts as an error there
  ranks_watch(device);
}

static void ranks_leave(bool at_once, Backend *backend) {
  Device *device = device_of(backend);
  char words[WORDS] = "";
  if (!device->ranks) return;
  if (at_once || device->error != cudaSuccess) {
    // What is under way ends, with whatever is there.
    bool is_busy = cudaStreamQuery(device->stream) == cudaErrorNotReady;
    is_busy = copies_are_busy(device) || is_busy;
    if (is_busy && device->ranks->has_joined) {
      (void)cudaGetLastError();
      device_fail(device, "the other processes were left while work with them was under way", "leave");
    }
    leave_at_once(device);
    return;
  }
  device_wait(device, device->stream);
  copies_wait(device);
  // Waiting may have left them.
  if (device->ranks && !finish_call(words, the_nccl()->finalize(device->ranks->communicator), device))
    device_fail(device, words, "ncclCommFinalize");
  if (!device->ranks) return;
  if (*words) return leave_at_once(device);
  Ranks *ranks = device->ranks;
  device->ranks = NULL;
  ncclResult_t result = the_nccl()->destroy(ranks->communicator);
  if (result != ncclSuccess) describe(words, result, NULL);
  if (*words) device_fail(device, words, "ncclCommDestroy");
  free(ranks);
}
#else
static const char *ranks_library(Backend *) { return NULL; }
static Status ranks_make_id(uint8_t[COLLECTIVE_ID_BYTES], Backend *) { return status_fail(STATUS_FAILED, "this build has no NCCL"); }
static Status ranks_join(const uint8_t[COLLECTIVE_ID_BYTES], int, int, Backend *) {
  return status_fail(STATUS_FAILED, "this build has no NCCL");
}
static void ranks_sum(float *, int64_t, Backend *backend) { device_fail(device_of(backend), "this build has no NCCL", "a sum"); }
static int64_t ranks_gather(void *, const void *, int64_t, Backend *backend) {
  device_fail(device_of(backend), "this build has no NCCL", "a gather");
  (void)copies_begin(device_of(backend));
  return copies_end(device_of(backend));
}
static void ranks_progress(Backend *) {}
static void ranks_leave(bool, Backend *) {}
void ranks_watch(Device *) {}
void ranks_close(Device *) {}
#endif

const Collectives cuda_collectives = {ranks_library, ranks_make_id, ranks_join, ranks_sum, ranks_gather, ranks_progress, ranks_leave};
