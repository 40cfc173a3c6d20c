// What the files of quantized_folder share: the folder's settings, and the parts of a quantised module.
#ifndef MODELS_QUANTIZED_PARTS_H
#define MODELS_QUANTIZED_PARTS_H

#include <string.h>

#include "core/map.h"
#include "models/quantized_folder.h"

typedef enum QuantMethod { QUANT_BITSANDBYTES, QUANT_GPTQ, QUANT_AWQ, QUANT_FP8, QUANT_COMPRESSED } QuantMethod;

// How some modules' weights are quantised; compressed-tensors may have several schemes.
typedef struct QuantScheme {
  int64_t bits, group_size;  // group_size: -1 is a row
  bool is_float, is_symmetric;
  int64_t block[2];  // rows and columns that share a scale; 0: no blocks
} QuantScheme;

enum { QUANT_SCHEMES = 16 };

typedef struct QuantConfig {
  QuantMethod method;
  const char *name;  // quant_method
  QuantScheme schemes[QUANT_SCHEMES];
  int scheme_count;
  bool is_8bit;  // bitsandbytes: LLM.int8
  bool is_activation_ordered;  // GPTQ's desc_act
  bool has_overrides;  // GPTQ's dynamic: modules of other bits
  bool stores_zero_less_one;  // GPTQ's first version
  const char **skipped;  // modules that are not converted
  int64_t skipped_count;
  BlockType float_type;  // of the model's float weights: what merged values are written as
} QuantConfig;

typedef struct QuantizedFolder {
  QuantConfig config;
  Map matrices;  // module to its index in `read`
  Matrix **read;
  int64_t count, capacity;
} QuantizedFolder;

// Fills *config from config.json's (or quantize_config.json's) object; *found: there is one. quantized_config.c.
Status quant_config_read(QuantConfig *config, bool *found, const char *folder, Arena *arena);
// The same of config.json's text.
Status quant_config_parse(QuantConfig *config, bool *found, const char *text, size_t length, const char *path, Arena *arena);

// A module that is being read.
typedef struct QuantModule {
  Model *model;
  const QuantConfig *config;
  const char *name;
  int64_t rows, columns;
} QuantModule;

const SafetensorsTensor *quant_find(const QuantModule *module, const char *part);  // "qweight"; NULL when absent
// The same, which must be there, of this type and shape (1 or 2 dimensions; columns 0: one dimension of `rows`).
Status quant_need(const SafetensorsTensor **out, const QuantModule *module, const char *part, SafetensorsType type, int64_t rows,
                  int64_t columns);
Status quant_fail(const QuantModule *module, const char *part, const char *format, ...) PRINTF_LIKE(3, 4);
void *quant_new(const QuantModule *module, int64_t count, size_t size);  // in the model's arena, and counted as a copy of its own
void quant_count_mapped(const QuantModule *module, int64_t bytes);
// Bytes of a tensor in place, or copied where they are not aligned to its elements.
const void *quant_in_place(const QuantModule *module, const SafetensorsTensor *tensor);
// F32, F16 or BF16 as a block type; checks that all are finite.
Status quant_scale_type(BlockType *type, const QuantModule *module, const char *part, const SafetensorsTensor *tensor);
// Puts the finished form into the matrix.
Status quant_finish(Matrix *out, const QuantModule *module, const Grouped *grouped);

Status quant_read_packed(Matrix *out, const QuantModule *module);  // quantized_packed.c: GPTQ and AWQ
Status quant_read_compressed(Matrix *out, const QuantModule *module);  // quantized_compressed.c: weight_packed
Status quant_read_scaled(Matrix *out, const QuantModule *module, const SafetensorsTensor *weight);  // FP8 and 8-bit integers with scales
Status quant_read_bitsandbytes(Matrix *out, const QuantModule *module, const SafetensorsTensor *weight);  // quantized_bitsandbytes.c

// Columns' groups by an index [columns] of int32; *group_of NULL: they are contiguous, of `group` columns each.
Status quant_read_index(const int32_t **group_of, const QuantModule *module, const SafetensorsTensor *index, const char *part,
                        int64_t groups, int64_t group);

// Value `index` of `bits` bits in a dense stream of little-endian 32-bit words, `step` words apart.
static inline uint32_t quant_bits(const uint8_t *words, int64_t step, int64_t index, int bits) {
  int64_t first = index * bits / 32, shift = index * bits % 32;
  uint32_t low, high = 0;
  memcpy(&low, words + 4 * first * step, sizeof low);
  if (shift + bits > 32) memcpy(&high, words + 4 * (first + 1) * step, sizeof high);
  return (uint32_t)(((uint64_t)high << 32 | low) >> shift) & ((1u << bits) - 1);
}

#endif
