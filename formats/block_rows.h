// What formats/block.c's table is made of: one pair of functions for each block type. Blocks are the bytes of
// a little-endian GGUF, not necessarily aligned; n is a multiple of the block's elements.
#ifndef FORMATS_BLOCK_ROWS_H
#define FORMATS_BLOCK_ROWS_H

#include <stdint.h>
#include <string.h>

#include "formats/block.h"

enum { BLOCK_K_ELEMENTS = 256 };  // of a K block

// formats/block_32.c
void q4_0_dequantize(float *out, const void *blocks, int64_t n);
void q4_1_dequantize(float *out, const void *blocks, int64_t n);
void q5_0_dequantize(float *out, const void *blocks, int64_t n);
void q5_1_dequantize(float *out, const void *blocks, int64_t n);
void q8_0_dequantize(float *out, const void *blocks, int64_t n);
void q4_0_quantize(void *blocks, const float *in, const float *importance, int64_t n);
void q4_1_quantize(void *blocks, const float *in, const float *importance, int64_t n);
void q5_0_quantize(void *blocks, const float *in, const float *importance, int64_t n);
void q5_1_quantize(void *blocks, const float *in, const float *importance, int64_t n);
void q8_0_quantize(void *blocks, const float *in, const float *importance, int64_t n);

// formats/block_k.c
void q2_k_dequantize(float *out, const void *blocks, int64_t n);
void q3_k_dequantize(float *out, const void *blocks, int64_t n);
void q4_k_dequantize(float *out, const void *blocks, int64_t n);
void q5_k_dequantize(float *out, const void *blocks, int64_t n);
void q6_k_dequantize(float *out, const void *blocks, int64_t n);
void q8_k_dequantize(float *out, const void *blocks, int64_t n);

// formats/block_codebook.c
void iq4_nl_dequantize(float *out, const void *blocks, int64_t n);
void iq4_xs_dequantize(float *out, const void *blocks, int64_t n);
void mxfp4_dequantize(float *out, const void *blocks, int64_t n);

// formats/block_ternary.c
void tq1_0_dequantize(float *out, const void *blocks, int64_t n);
void tq2_0_dequantize(float *out, const void *blocks, int64_t n);

// formats/quantize_32.c: with a search, which those of block_32.c do when they are given an importance
void q4_0_search(void *blocks, const float *in, const float *importance, int64_t n);
void q4_1_search(void *blocks, const float *in, const float *importance, int64_t n);
void q5_0_search(void *blocks, const float *in, const float *importance, int64_t n);
void q5_1_search(void *blocks, const float *in, const float *importance, int64_t n);
void iq4_nl_quantize(void *blocks, const float *in, const float *importance, int64_t n);

// formats/quantize_k.c
void q2_k_quantize(void *blocks, const float *in, const float *importance, int64_t n);
void q3_k_quantize(void *blocks, const float *in, const float *importance, int64_t n);
void q4_k_quantize(void *blocks, const float *in, const float *importance, int64_t n);
void q5_k_quantize(void *blocks, const float *in, const float *importance, int64_t n);
void q6_k_quantize(void *blocks, const float *in, const float *importance, int64_t n);
void iq4_xs_quantize(void *blocks, const float *in, const float *importance, int64_t n);

// The two bits of value i in 64 bytes: each half of 128 values has 32 bytes, value j's bits in byte j % 32 at bit 2 (j / 32).
static inline int pair_shift(int i) { return 2 * (i % 128 / 32); }
static inline int pair_of_bits(const uint8_t *pairs, int i) { return pairs[i / 128 * 32 + i % 32] >> pair_shift(i) & 3; }
static inline uint8_t *pair_byte(uint8_t *pairs, int i) { return &pairs[i / 128 * 32 + i % 32]; }

// 32 levels: byte j of the nibbles holds value j's lower four bits below and value j + 16's above; bit j of the fifth bits is value j's.
static inline void pack_nibbles(uint8_t *nibbles, const uint8_t q[32]) {
  for (int j = 0; j < 16; j++) nibbles[j] = (uint8_t)((q[j] & 15) | q[j + 16] << 4);
}

static inline void pack_fifth_bits(uint8_t *bits, const uint8_t q[32]) {
  memset(bits, 0, 4);
  for (int j = 0; j < 32; j++) bits[j / 8] |= (uint8_t)((q[j] >> 4) << j % 8);
}

// The number of a level in its book, which is ascending and has it.
static inline uint8_t book_index(const int8_t book[16], int level) {
  uint8_t index = 0;
  for (int i = 1; i < 16; i++) index += book[i] <= level;
  return index;
}

static inline float load_half(const uint8_t *bytes) {
  uint16_t half;
  memcpy(&half, bytes, sizeof half);
  return half_to_float(half);
}

static inline void store_half(uint8_t *bytes, float value) {
  uint16_t half = half_from_float(value);
  memcpy(bytes, &half, sizeof half);
}

#endif
