#include "tests/support/shards.h"

#include "formats/gguf.h"
#include "tests/support/test.h"

static void put_split_key(GgufWriter *writer, const char *key, GgufType type, int32_t number, size_t bytes) {
  gguf_put_value(writer, &(GgufValue){.key = key, .type = type, .count = 1, .data = (const uint8_t *)&number, .bytes = bytes});
}

static void write_part(const Gguf *whole, const char *path, int part, int parts, int64_t first, int64_t end, const ShardFaults *faults) {
  GgufWriter writer;
  gguf_writer_new(&writer);
  ShardFaults none = {0};
  if (!faults || part < parts - 1) faults = &none;
  for (int64_t i = 0; part == 0 && i < whole->value_count; i++) gguf_put_value(&writer, &whole->values[i]);
  put_split_key(&writer, "split.no", GGUF_UINT16, part + faults->wrong_number, 2);
  put_split_key(&writer, "split.count", GGUF_UINT16, parts + faults->wrong_count, 2);
  put_split_key(&writer, "split.tensors.count", GGUF_INT32, (int32_t)whole->tensor_count + faults->wrong_tensors, 4);
  if (faults->repeated) first--;
  for (int64_t i = first; i < end; i++) {
    const GgufTensor *tensor = &whole->tensors[faults->repeated && i == first ? 0 : i];
    gguf_declare_tensor(&writer, tensor->name, tensor->type, tensor->dimensions, tensor->shape);
  }
  assert_ok(gguf_writer_open(&writer, path));
  for (int64_t i = first; i < end; i++) {
    const GgufTensor *tensor = &whole->tensors[faults->repeated && i == first ? 0 : i];
    assert_ok(gguf_write_tensor(&writer, tensor->data, tensor->bytes));
  }
  assert_ok(gguf_writer_commit(&writer));
}

char *split_gguf(const char *path, const char *folder, int parts, int bare_first, const ShardFaults *faults) {
  Gguf whole;
  assert_ok(gguf_open(&whole, path));
  int full = parts - bare_first;
  char *result = NULL;
  for (int part = 0; part < parts; part++) {
    int64_t before = part - bare_first < 0 ? 0 : part - bare_first, behind = part - bare_first + 1;
    char *file = memory_format("%s/model-%05d-of-%05d.gguf", folder, part + 1, parts);
    write_part(&whole, file, part, parts, whole.tensor_count * before / full, whole.tensor_count * behind / full, faults);
    if (part == 0) result = file;
    else free(file);
  }
  gguf_close(&whole);
  return result;
}
