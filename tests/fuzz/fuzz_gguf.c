// Any bytes as a GGUF file: refused with a message, or every tensor's and every string's bytes are really there.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "formats/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;  // keeps the reads

static void read_bytes(const void *bytes, size_t count) {
  unsigned sum = 0;
  for (size_t i = 0; i < count; i++) sum += ((const uint8_t *)bytes)[i];
  sink = sum;
}

static void read_values(const Gguf *gguf) {
  for (int64_t i = 0; i < gguf->value_count; i++) {
    const GgufValue *value = &gguf->values[i];
    read_bytes(value->data, value->bytes);
    for (uint64_t j = 0; j < value->count; j++) {
      int64_t integer;
      double number;
      if (value->strings) read_bytes(value->strings[j].data, value->strings[j].length);
      else if (gguf_array_integer(value, j, &integer) && !gguf_array_float(value, j, &number)) abort();
    }
    if (gguf_find(gguf, value->key) != value) abort();
  }
}

// All blocks, one by one: each must keep to its own bytes.
static void read_blocks(const BlockTraits *traits, const GgufTensor *tensor) {
  float out[256];
  uint8_t block[512];
  for (size_t at = 0; at < tensor->bytes; at += (size_t)traits->bytes) {
    uint8_t *exact = block + sizeof block - traits->bytes;  // ends where the array does
    memcpy(exact, (const uint8_t *)tensor->data + at, (size_t)traits->bytes);
    traits->dequantize(out, exact, traits->elements);
    read_bytes(out, (size_t)traits->elements * sizeof *out);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Gguf gguf;
  Status status = gguf_parse(&gguf, "fuzz.gguf", data, size);
  if (status != STATUS_OK) {
    if (status != STATUS_BAD_INPUT) abort();
    return 0;
  }
  read_values(&gguf);
  for (int64_t i = 0; i < gguf.tensor_count; i++) {
    const GgufTensor *tensor = &gguf.tensors[i];
    read_bytes(tensor->data, tensor->bytes);
    if (gguf_find_tensor(&gguf, tensor->name) != tensor) abort();
    const BlockTraits *traits = block_traits((BlockType)tensor->type);
    if (traits) read_blocks(traits, tensor);
  }
  gguf_close(&gguf);
  return 0;
}
