// Tensor element types: plain floats and the quantised blocks of GGUF and bitsandbytes, with the
// scalar reference that turns each into float32 and back. Values of BlockType below 1000 are GGUF's
// own numbers (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
#ifndef FORMATS_BLOCK_H
#define FORMATS_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

typedef enum BlockType {
  BLOCK_F32 = 0,
  BLOCK_F16 = 1,
  BLOCK_Q4_0 = 2,
  BLOCK_Q4_1 = 3,
  BLOCK_Q5_0 = 6,
  BLOCK_Q5_1 = 7,
  BLOCK_Q8_0 = 8,
  BLOCK_Q4_K = 12,
  BLOCK_Q5_K = 13,
  BLOCK_Q6_K = 14,
  BLOCK_BF16 = 30,
  BLOCK_NF4 = 1000,  // bitsandbytes NF4, double-quantised; its scales live apart: formats/nf4.h
  BLOCK_GROUPED = 1001,  // codes in groups of columns, the form of quantised Hugging Face folders: formats/grouped.h
} BlockType;

typedef struct BlockTraits {
  BlockType type;
  const char *name;  // "q4_1"
  int elements;  // of a block: 1 for plain floats
  int bytes;  // of a block
  int file_type;  // general.file_type of a GGUF whose matrices are mostly of this type; -1: none
  void (*dequantize)(float *out, const void *blocks, int64_t n);  // n a multiple of `elements`
  void (*quantize)(void *blocks, const float *in, int64_t n);  // NULL where we do not write the type
} BlockTraits;

const BlockTraits *block_traits(BlockType type);  // NULL when the type is not supported
const BlockTraits *block_traits_by_name(const char *name);  // "q4_k" and "Q4_K" alike; NULL when unknown
const char *block_type_name_any(uint32_t gguf_type);  // also names GGUF types that are not supported ("iq2_xxs"); NULL when unknown to GGUF
int64_t block_row_bytes(BlockType type, int64_t columns);  // columns must be a multiple of the block's elements

float half_to_float(uint16_t half);  // IEEE binary16
uint16_t half_from_float(float value);  // to nearest even
float bfloat16_to_float(uint16_t value);
uint16_t bfloat16_from_float(float value);  // to nearest even; NaN stays NaN

#endif
