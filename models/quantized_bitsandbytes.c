// bitsandbytes (Dettmers et al. 2022, 2023), as its layers save themselves.
//   4 bits: weight [n / 2, 1], the high nibble first, blocks over the flattened matrix; weight.quant_map [16]; weight.absmax: float32 by
//           block, or bytes with weight.nested_quant_map [256], weight.nested_absmax and the JSON of weight.quant_state.bitsandbytes__nf4
//           (or fp4), whose nested_offset is added. w = quant_map[q] * absmax in float32 (its dequantize_4bit).
//   8 bits: weight I8 [out, in], SCB [out]. w = q * SCB * (1 / 127), rounded after each product (its int8_vectorwise_dequant).
// NF4 in our own blocks and maps stays where the file has it.
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "models/quantized_parts.h"

typedef struct State {
  int64_t block, nested_block;
  double offset;
  bool is_nf4;
} State;

static int64_t block_count(int64_t n, int64_t block) { return (n + block - 1) / block; }

static Status read_state(State *state, const QuantModule *module) {
  const char *part = "weight.quant_state.bitsandbytes__nf4";
  const SafetensorsTensor *tensor = quant_find(module, part);
  state->is_nf4 = tensor != NULL;
  if (!tensor) tensor = quant_find(module, part = "weight.quant_state.bitsandbytes__fp4");
  if (!tensor) return quant_fail(module, "weight.quant_state.bitsandbytes__nf4", "is missing, and so is __fp4");
  if (tensor->type != ST_U8) return quant_fail(module, part, "is not of bytes");
  json_error_t error;
  json_t *root = json_loadb(tensor->data, tensor->bytes, JSON_REJECT_DUPLICATES, &error), *shape = json_object_get(root, "shape");
  state->block = json_integer_value(json_object_get(root, "blocksize"));
  state->nested_block = json_integer_value(json_object_get(root, "nested_blocksize"));
  state->offset = json_number_value(json_object_get(root, "nested_offset"));
  int64_t rows = json_integer_value(json_array_get(shape, 0)), columns = json_integer_value(json_array_get(shape, 1));
  bool is_object = json_is_object(root);
  json_decref(root);
  if (!is_object) return quant_fail(module, part, "is no JSON object");
  if (rows != module->rows || columns != module->columns)
    return quant_fail(module, part, "says %lld x %lld, and the model's dimensions %lld x %lld", (long long)rows, (long long)columns,
                      (long long)module->rows, (long long)module->columns);
  if (state->block < 1 || state->block > 1 << 20 || state->nested_block < 0 || state->nested_block > 1 << 20 || !isfinite(state->offset))
    return quant_fail(module, part, "has the blocksize %lld, the nested_blocksize %lld and the nested_offset %g, which are not sane",
                      (long long)state->block, (long long)state->nested_block, state->offset);
  return STATUS_OK;
}

static Status read_floats(float *out, const QuantModule *module, const char *part, int64_t count) {
  const SafetensorsTensor *tensor;
  TRY(quant_need(&tensor, module, part, ST_F32, count, 0));
  safetensors_to_float(out, tensor, 0, count);
  for (int64_t i = 0; i < count; i++)
    if (!isfinite(out[i])) return quant_fail(module, part, "holds %g at %lld, which no scale can be", (double)out[i], (long long)i);
  return STATUS_OK;
}

typedef struct Nested {
  const uint8_t *indices;
  float map[256], *scales;  // scales: an array of memory_new
  bool is_nested;
} Nested;

// absmax by block: as float32, or as bytes with what they mean.
static Status read_absmax(Nested *nested, const QuantModule *module, const State *state, int64_t blocks) {
  const SafetensorsTensor *absmax = quant_find(module, "weight.absmax");
  nested->is_nested = absmax && absmax->type == ST_U8;
  if (!nested->is_nested) {
    TRY(quant_need(&absmax, module, "weight.absmax", ST_F32, blocks, 0));
    nested->scales = memory_new((size_t)blocks, sizeof *nested->scales);
    return read_floats(nested->scales, module, "weight.absmax", blocks);
  }
  if (state->nested_block < 1) return quant_fail(module, "weight.absmax", "is of bytes, and its quant_state has no nested_blocksize");
  TRY(quant_need(&absmax, module, "weight.absmax", ST_U8, blocks, 0));
  nested->indices = absmax->data;
  int64_t count = block_count(blocks, state->nested_block);
  TRY(read_floats(nested->map, module, "weight.nested_quant_map", 256));
  nested->scales = memory_new((size_t)count, sizeof *nested->scales);
  return read_floats(nested->scales, module, "weight.nested_absmax", count);
}

static bool are_own_blocks(const State *state, const Nested *nested, const float levels[16]) {
  return state->is_nf4 && nested->is_nested && state->block == NF4_BLOCK && state->nested_block == NF4_NESTED_BLOCK &&
         memcmp(levels, nf4_levels, sizeof nf4_levels) == 0 && memcmp(nested->map, nf4_scale_levels, sizeof nf4_scale_levels) == 0;
}

static float block_scale(const Nested *nested, const State *state, int64_t block) {
  if (!nested->is_nested) return nested->scales[block];
  float product = nested->map[nested->indices[block]] * nested->scales[block / state->nested_block];
  return product + (float)state->offset;
}

static int64_t common_divisor(int64_t a, int64_t b) { return b ? common_divisor(b, a % b) : a; }

static Status put_grouped(Matrix *out, const QuantModule *module, const State *state, const Nested *nested, const float levels[16],
                          const uint8_t *codes) {
  int64_t columns = module->columns;
  // A block that runs on into the next row is cut where rows end: pieces of a size that divides both.
  int64_t group = common_divisor(state->block, columns), groups = columns / group;
  float *scales = quant_new(module, module->rows * groups, sizeof *scales), *own = quant_new(module, 16, sizeof *own);
  memcpy(own, levels, 16 * sizeof *own);
  for (int64_t i = 0; i < module->rows * groups; i++) scales[i] = block_scale(nested, state, i * group / state->block);
  Grouped grouped = {.codes = codes,
                     .bits = 4,
                     .high_first = true,
                     .levels = own,
                     .scales = scales,
                     .scale_type = BLOCK_F32,
                     .rounding = BLOCK_F32,
                     .groups = groups,
                     .group = group};
  return quant_finish(out, module, &grouped);
}

static Status read_4bit(Matrix *out, const QuantModule *module, const SafetensorsTensor *weight) {
  int64_t n = module->rows * module->columns;
  float levels[16];
  State state = {0};
  Nested nested = {0};
  TRY(read_state(&state, module));
  // The bytes may be stored as any type (bnb_4bit_quant_storage).
  if ((int64_t)weight->bytes != (n + 1) / 2)
    return quant_fail(module, "weight", "has %zu bytes, and %lld values of 4 bits %lld", weight->bytes, (long long)n,
                      (long long)(n + 1) / 2);
  TRY(read_floats(levels, module, "weight.quant_map", 16));
  Status status = read_absmax(&nested, module, &state, block_count(n, state.block));
  if (status == STATUS_OK && are_own_blocks(&state, &nested, levels)) {
    int64_t count = block_count(block_count(n, NF4_BLOCK), NF4_NESTED_BLOCK);
    float *scales = memcpy(quant_new(module, count, sizeof *scales), nested.scales, (size_t)count * sizeof *scales);
    quant_count_mapped(module, (n + 1) / 2 + block_count(n, NF4_BLOCK));
    *out = (Matrix){.type = BLOCK_NF4,
                    .rows = module->rows,
                    .columns = module->columns,
                    .nf4 = {(uint8_t *)(uintptr_t)weight->data, (uint8_t *)(uintptr_t)nested.indices, scales, (float)state.offset}};
  } else if (status == STATUS_OK) {
    quant_count_mapped(module, (n + 1) / 2);
    status = put_grouped(out, module, &state, &nested, levels, weight->data);
  }
  free(nested.scales);
  return status;
}

static Status read_8bit(Matrix *out, const QuantModule *module, const SafetensorsTensor *weight) {
  const SafetensorsTensor *format = quant_find(module, "weight_format"), *scales;
  if (format && (format->type != ST_U8 || format->count != 1 || *(const uint8_t *)format->data != 0))
    return quant_fail(module, "weight_format", "is not 0, by rows; save the model again with a newer bitsandbytes");
  TRY(quant_need(&weight, module, "weight", ST_I8, module->rows, module->columns));
  TRY(quant_need(&scales, module, "SCB", ST_F32, module->rows, 0));
  Grouped grouped = {.bits = 8,
                     .levels = grouped_signed_levels,
                     .rounding = BLOCK_F32,
                     .factor = 7.874015718698502e-3f,
                     .groups = 1,
                     .group = module->columns};
  TRY(quant_scale_type(&grouped.scale_type, module, "SCB", scales));
  grouped.codes = quant_in_place(module, weight);
  grouped.scales = quant_in_place(module, scales);
  return quant_finish(out, module, &grouped);
}

Status quant_read_bitsandbytes(Matrix *out, const QuantModule *module, const SafetensorsTensor *weight) {
  if (!weight) return quant_fail(module, "weight", "is missing");
  bool is_8bit = quant_find(module, "SCB") != NULL || (weight->type == ST_I8 && !quant_find(module, "weight.absmax"));
  if (is_8bit != module->config->is_8bit)
    return quant_fail(module, "weight", "is of %d bits, and config.json says load_in_%dbit", is_8bit ? 8 : 4, is_8bit ? 4 : 8);
  return is_8bit ? read_8bit(out, module, weight) : read_4bit(out, module, weight);
}
