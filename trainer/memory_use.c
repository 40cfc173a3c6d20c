#include "trainer/memory_use.h"

#include <stdlib.h>

#include "core/log.h"

static int compare_parts(const void *a, const void *b) {
  const MemoryPart *x = a, *y = b;
  return x->bytes < y->bytes ? 1 : x->bytes > y->bytes ? -1 : 0;
}

int64_t memory_use(MemoryPart parts[MEMORY_PURPOSES], const Run *run) {
  int64_t values = run->adapter->size * (int64_t)sizeof(float), sum = 0;
  bool is_own = !run->backend->describe_memory;  // else the device has a table of its own
  const MemoryPart all[MEMORY_PURPOSES] = {
      {"base weights", model_host_bytes(run->model) + (is_own ? run->adapter->residual_bytes : 0)},
      {"adapter", is_own ? values * (1 + (run->average.values != NULL) + (run->preference && run->preference->start)) : 0},
      {"adapter's gradients", is_own ? values : 0},
      {"optimiser", is_own ? optimizer_state_bytes(run->optimizer) : 0},
      {"activations and their gradients", is_own ? run->step.tape.block_bytes : 0},
      {"activations offloaded to the host", run->step.tape.host_block_bytes},
      {"kernels' workspace", is_own ? run->backend->workspace_bytes(run->backend) : 0},
      {"rows and vocabulary", run->rows_bytes},
      {"program and libraries", run->program_bytes},
  };
  for (int i = 0; i < MEMORY_PURPOSES; i++) {
    parts[i] = all[i];
    sum += all[i].bytes;
  }
  qsort(parts, MEMORY_PURPOSES, sizeof *parts, compare_parts);
  return sum;
}

void memory_use_describe(Buffer *text, const Run *run) {
  MemoryPart parts[MEMORY_PURPOSES];
  char bytes[32];
  int64_t sum = memory_use(parts, run);
  for (int i = 0; i < MEMORY_PURPOSES && parts[i].bytes > 0; i++)
    buffer_format(text, "%-36s %12s %5.1f%%\n", parts[i].purpose, format_bytes(bytes, (double)parts[i].bytes),
                  100 * (double)parts[i].bytes / (double)sum);
  buffer_format(text, "%-36s %12s\n", "together", format_bytes(bytes, (double)sum));
  buffer_format(text, "%-36s %12s\n", "the process at its largest", format_bytes(bytes, (double)memory_peak_bytes()));
  Backend *backend = run->backend;
  if (!backend->describe_memory) return;
  buffer_append_string(text, "\non the device:\n");
  backend->describe_memory(text, backend);
  buffer_format(text, "%-36s %12s\n", "at its largest", format_bytes(bytes, (double)backend->peak_bytes(backend)));
}
