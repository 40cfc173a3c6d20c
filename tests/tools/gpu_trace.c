// Every kernel of a program on a CUDA device, in lines "BEGIN END NAME" of TRACE_OUT (a path), in nanoseconds: for tests/tools/gpu_trace.py. The
// driver loads it where CUDA_INJECTION64_PATH names it (CUPTI's activity records).
#include <cupti.h>
#include <stdio.h>
#include <stdlib.h>

static FILE *out;

static void give_buffer(uint8_t **buffer, size_t *bytes, size_t *most_records) {
  enum { BUFFER_BYTES = 8 << 20 };
  *buffer = aligned_alloc(8, BUFFER_BYTES);
  *bytes = *buffer ? BUFFER_BYTES : 0;
  *most_records = 0;
}

static void take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t filled) {
  (void)context, (void)stream, (void)bytes;
  for (CUpti_Activity *record = NULL; cuptiActivityGetNextRecord(buffer, filled, &record) == CUPTI_SUCCESS;) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const CUpti_ActivityKernel9 *kernel = (const void *)record;
      fprintf(out, "%llu %llu %s\n", (unsigned long long)kernel->start, (unsigned long long)kernel->end, kernel->name);
    }
  }
  free(buffer);
}

static void finish(void) {
  cuptiActivityFlushAll(1);
  fclose(out);
}

int InitializeInjection(void) {
  const char *path = getenv("TRACE_OUT");
  out = path ? fopen(path, "w") : NULL;
  if (!out) return 0;
  atexit(finish);
  return cuptiActivityRegisterCallbacks(give_buffer, take_buffer) == CUPTI_SUCCESS &&
         cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) == CUPTI_SUCCESS;
}
