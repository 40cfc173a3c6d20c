// The table of element types, and the plain floats among them.
//
// binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits (IEEE 754-2008); bfloat16: the upper half of a
// binary32. Both round to nearest even when written, and a NaN is made quiet, as processors do (F16C, AVX512-BF16).
// Type numbers and names: ggml.h's enum ggml_type; file_type: llama.h's enum llama_ftype.
#include "formats/block.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

#include "core/memory.h"
#include "formats/block_rows.h"

static uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float bits_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

float half_to_float(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 0x3FF;
  if (exponent == 31) return bits_float(sign | 0x7F800000 | (fraction ? 0x400000 : 0) | fraction << 13);
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in binary32
    float magnitude = (float)fraction * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return bits_float(sign | (exponent + 127 - 15) << 23 | fraction << 13);
}

uint16_t half_from_float(float value) {
  uint32_t bits = float_bits(value), magnitude = bits & 0x7FFFFFFF;
  uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
  if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00 | (magnitude >> 13 & 0x1FF));
  if (magnitude >= 0x47800000) return sign | 0x7C00;  // 2^16 and above
  if (magnitude < 0x38800000) {  // below 2^-14: a multiple of 2^-24
    // Adding 0.5 puts the unit in the last place at 2^-24, so that the processor rounds for us.
    return (uint16_t)(sign | (float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f)));
  }
  uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);  // may carry into the exponent, up to infinity
  return (uint16_t)(sign | ((rounded >> 13) - ((127 - 15) << 10)));
}

float bfloat16_to_float(uint16_t value) { return bits_float((uint32_t)value << 16); }

uint16_t bfloat16_from_float(float value) {
  uint32_t bits = float_bits(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static void f32_dequantize(float *out, const void *blocks, int64_t n) { memcpy(out, blocks, (size_t)n * sizeof *out); }
static void f32_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  (void)importance;
  memcpy(blocks, in, (size_t)n * sizeof *in);
}

static uint16_t load_uint16(const void *values, int64_t i) {
  uint16_t value;
  memcpy(&value, (const uint8_t *)values + 2 * i, sizeof value);
  return value;
}

static void f16_dequantize(float *out, const void *blocks, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = half_to_float(load_uint16(blocks, i));
}

static void f16_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  (void)importance;
  for (int64_t i = 0; i < n; i++) store_half((uint8_t *)blocks + 2 * i, in[i]);
}

static void bf16_dequantize(float *out, const void *blocks, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = bfloat16_to_float(load_uint16(blocks, i));
}

static void bf16_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  (void)importance;
  for (int64_t i = 0; i < n; i++) {
    uint16_t value = bfloat16_from_float(in[i]);
    memcpy((uint8_t *)blocks + 2 * i, &value, sizeof value);
  }
}

static const BlockTraits traits[] = {
    {BLOCK_F32, "f32", 1, 4, 0, f32_dequantize, f32_quantize},
    {BLOCK_F16, "f16", 1, 2, 1, f16_dequantize, f16_quantize},
    {BLOCK_BF16, "bf16", 1, 2, 32, bf16_dequantize, bf16_quantize},
    {BLOCK_Q4_0, "q4_0", 32, 2 + 16, 2, q4_0_dequantize, q4_0_quantize},
    {BLOCK_Q4_1, "q4_1", 32, 2 + 2 + 16, 3, q4_1_dequantize, q4_1_quantize},
    {BLOCK_Q5_0, "q5_0", 32, 2 + 4 + 16, 8, q5_0_dequantize, q5_0_quantize},
    {BLOCK_Q5_1, "q5_1", 32, 2 + 2 + 4 + 16, 9, q5_1_dequantize, q5_1_quantize},
    {BLOCK_Q8_0, "q8_0", 32, 2 + 32, 7, q8_0_dequantize, q8_0_quantize},
    {BLOCK_Q2_K, "q2_k", BLOCK_K_ELEMENTS, 16 + 64 + 2 + 2, 10, q2_k_dequantize, q2_k_quantize},
    {BLOCK_Q3_K, "q3_k", BLOCK_K_ELEMENTS, 32 + 64 + 12 + 2, 12, q3_k_dequantize, q3_k_quantize},
    {BLOCK_Q4_K, "q4_k", BLOCK_K_ELEMENTS, 2 + 2 + 12 + 128, 15, q4_k_dequantize, q4_k_quantize},
    {BLOCK_Q5_K, "q5_k", BLOCK_K_ELEMENTS, 2 + 2 + 12 + 32 + 128, 17, q5_k_dequantize, q5_k_quantize},
    {BLOCK_Q6_K, "q6_k", BLOCK_K_ELEMENTS, 128 + 64 + 16 + 2, 18, q6_k_dequantize, q6_k_quantize},
    {BLOCK_Q8_K, "q8_k", BLOCK_K_ELEMENTS, 4 + 256 + 32, -1, q8_k_dequantize, NULL},
    {BLOCK_IQ4_NL, "iq4_nl", 32, 2 + 16, 25, iq4_nl_dequantize, iq4_nl_quantize},
    {BLOCK_IQ4_XS, "iq4_xs", BLOCK_K_ELEMENTS, 2 + 2 + 4 + 128, 30, iq4_xs_dequantize, iq4_xs_quantize},
    {BLOCK_MXFP4, "mxfp4", 32, 1 + 16, 38, mxfp4_dequantize, NULL},
    {BLOCK_TQ1_0, "tq1_0", BLOCK_K_ELEMENTS, 48 + 4 + 2, 36, tq1_0_dequantize, NULL},
    {BLOCK_TQ2_0, "tq2_0", BLOCK_K_ELEMENTS, 64 + 2, 37, tq2_0_dequantize, NULL},
    // Blocks alone do not say what these values are (formats/nf4.h, formats/grouped.h), so they have no functions here.
    {BLOCK_NF4, "nf4", 64, 32, -1, NULL, NULL},
    {BLOCK_GROUPED, "grouped", 32, 32, -1, NULL, NULL},
};

const BlockTraits *block_traits(BlockType type) {
  for (size_t i = 0; i < sizeof traits / sizeof *traits; i++)
    if (traits[i].type == type) return &traits[i];
  return NULL;
}

const BlockTraits *block_traits_by_name(const char *name) {
  for (size_t i = 0; i < sizeof traits / sizeof *traits; i++)
    if (strcasecmp(traits[i].name, name) == 0) return &traits[i];
  return NULL;
}

char *block_type_names(bool written) {
  Buffer names = {0};
  for (size_t i = 0; i < sizeof traits / sizeof *traits; i++)
    if (written ? traits[i].quantize != NULL : traits[i].dequantize != NULL)
      buffer_format(&names, "%s%s", names.length ? ", " : "", traits[i].name);
  return names.data;
}

// Types that are not read. (Some numbers of types that GGUF once had belong to none.)
static const struct {
  uint32_t type;
  BlockLayout layout;
} unread[] = {
    {9, {"q8_1", 32, 2 + 2 + 32}},
    {16, {"iq2_xxs", 256, 2 + 64}},
    {17, {"iq2_xs", 256, 2 + 64 + 8}},
    {18, {"iq3_xxs", 256, 2 + 64 + 32}},
    {19, {"iq1_s", 256, 2 + 32 + 16}},
    {21, {"iq3_s", 256, 2 + 64 + 8 + 32 + 4}},
    {22, {"iq2_s", 256, 2 + 64 + 8 + 8}},
    {24, {"i8", 1, 1}},
    {25, {"i16", 1, 2}},
    {26, {"i32", 1, 4}},
    {27, {"i64", 1, 8}},
    {28, {"f64", 1, 8}},
    {29, {"iq1_m", 256, 32 + 16 + 8}},
    {40, {"nvfp4", 64, 4 + 32}},
    {41, {"q1_0", 128, 2 + 16}},
};

bool block_layout_any(BlockLayout *layout, uint32_t gguf_type) {
  const BlockTraits *row = gguf_type < BLOCK_GGUF_END ? block_traits((BlockType)gguf_type) : NULL;
  if (row) {
    *layout = (BlockLayout){row->name, row->elements, row->bytes};
    return true;
  }
  for (size_t i = 0; i < sizeof unread / sizeof *unread; i++) {
    if (unread[i].type != gguf_type) continue;
    *layout = unread[i].layout;
    return true;
  }
  return false;
}

const char *block_type_name_any(uint32_t gguf_type) {
  BlockLayout layout;
  return block_layout_any(&layout, gguf_type) ? layout.name : NULL;
}

int64_t block_row_bytes(BlockType type, int64_t columns) {
  const BlockTraits *row = block_traits(type);
  assert(row && columns % row->elements == 0);
  return columns / row->elements * row->bytes;
}
