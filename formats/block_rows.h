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
void q4_0_quantize(void *blocks, const float *in, int64_t n);
void q4_1_quantize(void *blocks, const float *in, int64_t n);
void q5_0_quantize(void *blocks, const float *in, int64_t n);
void q5_1_quantize(void *blocks, const float *in, int64_t n);
void q8_0_quantize(void *blocks, const float *in, int64_t n);

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

// The two bits of value i in 64 bytes: each half of 128 values has 32 bytes, value j's bits in byte j % 32 at bit 2 (j / 32).
static inline int pair_of_bits(const uint8_t *pairs, int i) { return pairs[i / 128 * 32 + i % 32] >> 2 * (i % 128 / 32) & 3; }

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
