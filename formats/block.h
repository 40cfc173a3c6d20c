// Tensor element types: plain floats and the quantised blocks of GGUF and bitsandbytes, with the
// scalar reference that turns each into float32 and back. Values of BlockType below 1000 are GGUF's
// own numbers (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
#ifndef FORMATS_BLOCK_H
#define FORMATS_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef enum BlockType {
  BLOCK_F32 = 0,
  BLOCK_F16 = 1,
  BLOCK_Q4_0 = 2,
  BLOCK_Q4_1 = 3,
  BLOCK_Q5_0 = 6,
  BLOCK_Q5_1 = 7,
  BLOCK_Q8_0 = 8,
  BLOCK_Q2_K = 10,
  BLOCK_Q3_K = 11,
  BLOCK_Q4_K = 12,
  BLOCK_Q5_K = 13,
  BLOCK_Q6_K = 14,
  BLOCK_Q8_K = 15,
  BLOCK_IQ4_NL = 20,
  BLOCK_IQ4_XS = 23,
  BLOCK_BF16 = 30,
  BLOCK_TQ1_0 = 34,
  BLOCK_TQ2_0 = 35,
  BLOCK_MXFP4 = 39,
  BLOCK_NF4 = 1000,  // bitsandbytes NF4, double-quantised; its scales live apart: formats/nf4.h
  BLOCK_GROUPED = 1001,  // codes in groups of columns, the form of quantised Hugging Face folders: formats/grouped.h
  BLOCK_DEVICE = 1002,  // a quantised matrix in the form that a device with a memory of its own gave it: Backend.upload_matrix
} BlockType;

enum { BLOCK_GGUF_END = BLOCK_MXFP4 + 1 };  // GGUF's own numbers, of the types above, are below

typedef struct BlockTraits {
  BlockType type;
  const char *name;  // "q4_1"
  int elements;  // of a block: 1 for plain floats
  int bytes;  // of a block
  int file_type;  // general.file_type of a GGUF whose matrices are mostly of this type; -1: none
  void (*dequantize)(float *out, const void *blocks, int64_t n);  // n a multiple of `elements`
  // NULL where we do not write the type. importance[n]: how much each value's error counts, the mean squared activation of its column;
  // NULL: all alike. `in` is a row, or several without importance.
  void (*quantize)(void *blocks, const float *in, const float *importance, int64_t n);
} BlockTraits;

const BlockTraits *block_traits(BlockType type);  // NULL when the type is not supported
const BlockTraits *block_traits_by_name(const char *name);  // "q4_k" and "Q4_K" alike; NULL when unknown
char *block_type_names(bool written);  // "f32, f16, ...": the types that a GGUF may have, or those that we write; the caller frees it
// What is known of every type of GGUF, also of those that are not read; false when the type is unknown to GGUF.
typedef struct BlockLayout {
  const char *name;
  int elements, bytes;  // of a block
} BlockLayout;
bool block_layout_any(BlockLayout *layout, uint32_t gguf_type);
const char *block_type_name_any(uint32_t gguf_type);  // also names GGUF types that are not supported ("iq2_xxs"); NULL when unknown to GGUF
int64_t block_row_bytes(BlockType type, int64_t columns);  // columns must be a multiple of the block's elements

// What the nibbles of IQ4_NL and IQ4_XS, and those of MXFP4, stand for (formats/block_codebook.c).
extern const int8_t iq4_book[16], mxfp4_book[16];

// Of an MXFP4 block: 2^(exponent - 128); the two smallest are subnormal. E8M0's NaN, 255, is 2^127 here as it is in llama.cpp.
static inline float mxfp4_scale(uint8_t exponent) {
  uint32_t bits = exponent < 2 ? UINT32_C(0x00200000) << exponent : (uint32_t)(exponent - 1) << 23;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

float half_to_float(uint16_t half);  // IEEE binary16
uint16_t half_from_float(float value);  // to nearest even
float bfloat16_to_float(uint16_t value);
uint16_t bfloat16_from_float(float value);  // to nearest even; NaN stays NaN

#endif
