// Any bytes as a quantised folder: config.json up to the first NUL, then a safetensors file with one module, m. Refused with a message,
// or every value of its matrix can be read.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/matrix.h"
#include "models/quantized_parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 64, COLUMNS = 96 };
static volatile float sink;  // keeps the reads

static Status read_module(Model *model, const uint8_t *data, size_t size, const uint8_t *end) {
  QuantizedFolder folder = {0};
  Matrix matrix;
  bool is_quantized;
  TRY(quant_config_parse(&folder.config, &is_quantized, (const char *)data, (size_t)(end - data), "fuzz.json", &model->arena));
  if (!is_quantized) return STATUS_OK;
  TRY(safetensors_parse(&model->safetensors, "fuzz.safetensors", end + 1, size - (size_t)(end + 1 - data)));
  model->quantized = &folder;
  Status status = quantized_folder_matrix(&matrix, &is_quantized, model, "m", ROWS, COLUMNS);
  for (int64_t row = 0; status == STATUS_OK && is_quantized && row < ROWS; row++) {
    float values[COLUMNS];
    matrix_dequantize(values, &matrix, row, 0, COLUMNS);
    sink = values[row % COLUMNS];
  }
  quantized_folder_close(model);
  model->quantized = NULL;
  safetensors_close(&model->safetensors);
  return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static Backend *backend;
  if (!backend && backend_new(&backend, NULL, 1) != STATUS_OK) abort();
  const uint8_t *end = memchr(data, 0, size);
  if (!end) return 0;
  char path[] = "fuzz";
  Model model = {.path = path, .backend = backend};
  Status status = read_module(&model, data, size, end);
  arena_release(&model.arena);
  if (status != STATUS_OK && status != STATUS_BAD_INPUT) abort();
  return 0;
}
