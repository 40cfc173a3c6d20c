// Any bytes as a safetensors file: refused with a message, or every tensor's bytes are really there.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;  // keeps the reads

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Safetensors st;
  Status status = safetensors_parse(&st, "fuzz.safetensors", data, size);
  if (status != STATUS_OK) {
    if (status != STATUS_BAD_INPUT) abort();
    return 0;
  }
  for (int64_t i = 0; i < st.tensor_count; i++) {
    const SafetensorsTensor *tensor = &st.tensors[i];
    float out[16];
    int64_t count = tensor->count < 16 ? tensor->count : 16;
    safetensors_to_float(out, tensor, 0, count);
    safetensors_to_float(out, tensor, tensor->count - count, count);
    unsigned sum = 0;
    for (size_t j = 0; j < tensor->bytes; j++) sum += ((const uint8_t *)tensor->data)[j];
    sink = sum;
    if (safetensors_find(&st, tensor->name) != tensor) abort();
  }
  safetensors_close(&st);
  return 0;
}
