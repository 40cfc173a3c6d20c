// The CPU as a backend: the process's own memory, a thread pool, scratch, and the table of kernels that the
// processor (CPUID) or LORA_CPU chooses. Other devices come from libraries of their own (cuda_library.c).
#include "kernels/backend.h"

#include <stdlib.h>
#include <string.h>

#ifdef LORA_HAS_AVX2
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/memory.h"
#include "kernels/cuda_library.h"

typedef struct CpuState {
  char *scratch;  // [threads][KERNEL_SCRATCH_BYTES]; not zeroed, so that pages nobody uses cost nothing
  void *shared_block;
  int64_t shared_bytes;
} CpuState;

static bool always_available(void) { return true; }

#ifdef LORA_HAS_AVX2
static bool avx2_available(void) {
  unsigned eax, ebx, ecx, edx;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

#ifdef LORA_HAS_AVX512
static bool avx512_available(void) {
  return avx2_available() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

#ifdef LORA_HAS_AMX
// A process has to ask Linux for the tiles' state before it first uses them (Linux, Documentation/arch/x86/xstate.rst).
static bool amx_available(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  const unsigned bfloat16_tiles = 1u << 22, tiles = 1u << 24, bfloat16_vectors = 1u << 5, vnni = 1u << 11;
  unsigned eax, ebx, ecx, edx;
  if (!avx512_available() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if (!(edx & bfloat16_tiles) || !(edx & tiles) || !(ecx & vnni)) return false;
  if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) || !(eax & bfloat16_vectors)) return false;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif

// Best first.
static const struct {
  const Kernels *kernels;
  bool (*is_available)(void);
} cpu_tables[] = {
#ifdef LORA_HAS_AMX
    {&kernels_amx, amx_available},
#endif
#ifdef LORA_HAS_AVX512
    {&kernels_avx512, avx512_available},
#endif
#ifdef LORA_HAS_AVX2
    {&kernels_avx2, avx2_available},
#endif
    {&kernels_scalar, always_available},
};

enum { CPU_TABLES = sizeof cpu_tables / sizeof *cpu_tables };

const Kernels *backend_cpu_kernels(int index) {
  for (int i = 0; i < CPU_TABLES; i++)
    if (cpu_tables[i].is_available() && index-- == 0) return cpu_tables[i].kernels;
  return NULL;
}

static Status choose_kernels(const Kernels **out) {
  const char *forced = getenv("LORA_CPU");
  *out = backend_cpu_kernels(0);
  if (!forced || !*forced) return STATUS_OK;
  char names[256] = "";
  for (int i = 0; backend_cpu_kernels(i); i++) {
    const char *name = backend_cpu_kernels(i)->name;
    if (strcmp(name, forced) == 0) {
      *out = backend_cpu_kernels(i);
      return STATUS_OK;
    }
    if (i > 0) strncat(names, ", ", sizeof names - strlen(names) - 1);
    strncat(names, name, sizeof names - strlen(names) - 1);
  }
  for (int i = 0; i < CPU_TABLES; i++)
    if (strcmp(cpu_tables[i].kernels->name, forced) == 0)
      return status_fail(STATUS_USAGE, "LORA_CPU=%s: this processor does not have it; unset LORA_CPU or use one of: %s", forced, names);
  return status_fail(STATUS_USAGE, "LORA_CPU=%s: no kernels of this build are called that; unset LORA_CPU or use one of: %s", forced,
                     names);
}

static Status cpu_allocate(void **block, int64_t bytes, const char *purpose, Backend *backend) {
  (void)backend;
  return memory_try(block, (size_t)bytes, purpose);
}

static void cpu_release(void *block, Backend *backend) {
  (void)backend;
  free(block);
}

static void cpu_copy(void *to, const void *from, int64_t bytes, Backend *backend) {
  (void)backend;
  if (bytes > 0) memcpy(to, from, (size_t)bytes);
}

// There is nothing beside which it could run: it is done at once.
static int64_t cpu_copy_beside(void *to, const void *from, int64_t bytes, Backend *backend) {
  cpu_copy(to, from, bytes, backend);
  return 0;
}

static void cpu_await_copy(int64_t copy, Backend *backend) {
  (void)copy;
  (void)backend;
}

static Status cpu_check(Backend *backend) {
  (void)backend;
  return STATUS_OK;
}

static int64_t cpu_available_bytes(Backend *backend) {
  (void)backend;
  return memory_available_bytes();
}

static int64_t cpu_peak_bytes(Backend *backend) {
  (void)backend;
  return memory_peak_bytes();
}

static int64_t cpu_workspace_bytes(const Backend *backend) {
  const CpuState *state = backend->state;
  return (int64_t)pool_threads(backend->pool) * KERNEL_SCRATCH_BYTES + state->shared_bytes;
}

static int64_t cpu_reserve_workspace(const StepShape *step, int64_t room, Backend *backend) {
  (void)step;
  (void)room;
  return (int64_t)pool_threads(backend->pool) * KERNEL_SCRATCH_BYTES + KERNEL_SHARED_BYTES;
}

static void cpu_close(Backend *backend) {
  CpuState *state = backend->state;
  free(state->shared_block);
  free(state->scratch);
  free(state);
}

static Status cpu_open(Backend *backend) {
  const Kernels *kernels;
  TRY(choose_kernels(&kernels));
  size_t bytes = (size_t)pool_threads(backend->pool) * KERNEL_SCRATCH_BYTES;
  char *scratch = memory_pages(bytes);
  if (!scratch) return status_fail(STATUS_NO_SPACE, "out of memory: %zu bytes for the threads' scratch; use fewer --threads", bytes);
  CpuState *state = memory_new(1, sizeof *state);
  state->scratch = scratch;
  *backend = (Backend){
      .kernels = kernels,
      .pool = backend->pool,
      .allocate = cpu_allocate,
      .release = cpu_release,
      .upload = cpu_copy,
      .download = cpu_copy,
      .allocate_host = cpu_allocate,
      .release_host = cpu_release,
      .offload = cpu_copy_beside,
      .fetch = cpu_copy_beside,
      .await_copy = cpu_await_copy,
      .check = cpu_check,
      .available_bytes = cpu_available_bytes,
      .peak_bytes = cpu_peak_bytes,
      .workspace_bytes = cpu_workspace_bytes,
      .reserve_workspace = cpu_reserve_workspace,
      .close = cpu_close,
      .state = state,
  };
  return STATUS_OK;
}

Status backend_new(Backend **out, const char *device, int threads) {
  *out = NULL;
  bool is_cpu = !device || strcmp(device, "cpu") == 0;
  if (!is_cpu && strncmp(device, "cuda", 4) != 0)
    return status_fail(STATUS_USAGE, "device %s: no device is called that; use cpu, cuda or cuda:N", device);
  Backend *backend = memory_new(1, sizeof *backend);
  backend->pool = pool_new(threads);
  Status status = is_cpu ? cpu_open(backend) : cuda_library_open(backend, device);
  if (status == STATUS_OK) {
    *out = backend;
  } else {
    pool_free(backend->pool);
    free(backend);
  }
  return status;
}

void backend_free(Backend *backend) {
  if (!backend) return;
  backend->close(backend);
  pool_free(backend->pool);
  free(backend);
}

void *backend_scratch(Backend *backend, int thread) {
  CpuState *state = backend->state;
  return state->scratch + (size_t)thread * KERNEL_SCRATCH_BYTES;
}

void *backend_shared_scratch(Backend *backend, int64_t bytes) {
  CpuState *state = backend->state;
  if (bytes > state->shared_bytes || !state->shared_block) {
    free(state->shared_block);
    state->shared_block = memory_pages((size_t)bytes);
    if (!state->shared_block) memory_exhausted((size_t)bytes);
    state->shared_bytes = bytes;
  }
  return state->shared_block;
}
