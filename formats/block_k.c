// The K types: blocks of 256 values in groups whose scales are integers of the block's own binary16 scale
// (ggml-common.h: block_q2_K to block_q8_K).
//   Q2_K  16 bytes of scales, 64 bytes of pairs of bits, d, dmin           x = d s q - dmin m    groups of 16
//   Q3_K  32 bytes of high bits, 64 bytes low, 12 bytes of scales, d       x = d s (q - 4)       groups of 16
//   Q4_K  d, dmin, 12 bytes of scales, 128 bytes of nibbles                x = d s q - dmin m    groups of 32
//   Q5_K  d, dmin, 12 bytes of scales, 32 bytes of high bits, 128 bytes    the same, q of 5 bits
//   Q6_K  128 bytes low, 64 bytes high, 16 signed scales, d                x = d s (q - 32)      groups of 16
//   Q8_K  d in binary32, 256 signed bytes, 32 bytes of sums                x = d q
// The products d s, dmin m and (d s) q are each rounded to binary32, in this order.
#include "formats/block_rows.h"

enum { GROUPS = 8, GROUP = BLOCK_K_ELEMENTS / GROUPS };

// A byte for each 16 values: the scale s below, the minimum m above.
void q2_k_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += BLOCK_K_ELEMENTS, block += 84) {
    float d = load_half(block + 80), dmin = load_half(block + 82);
    for (int j = 0; j < BLOCK_K_ELEMENTS; j++) {
      float step = d * (float)(block[j / 16] & 15), offset = dmin * (float)(block[j / 16] >> 4);
      out[i + j] = step * (float)pair_of_bits(block + 16, j) - offset;
    }
  }
}

// Bit g of high byte j % 32 is the third bit of value j in group g of 32. Sixteen 6-bit scales, 32 too large, in 12 bytes: four bits of
// scale t are in byte t % 8 (below for t < 8), the upper two in byte 8 + t % 4 at bit 2 (t / 4).
void q3_k_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += BLOCK_K_ELEMENTS, block += 110) {
    const uint8_t *packed = block + 96;
    float d = load_half(block + 108);
    for (int j = 0; j < BLOCK_K_ELEMENTS; j++) {
      int t = j / 16, scale = (packed[t % 8] >> 4 * (t / 8) & 15) | (packed[8 + t % 4] >> 2 * (t / 4) & 3) << 4;
      int q = pair_of_bits(block + 32, j) | (block[j % 32] >> j / 32 & 1) << 2;
      float step = d * (float)(scale - 32);
      out[i + j] = step * (float)(q - 4);
    }
  }
}

// Eight 6-bit scales and eight 6-bit minima in 12 bytes: groups 0 to 3 have theirs whole in the low bits of bytes
// 0..3 and 4..7; groups 4 to 7 have four bits in bytes 8..11 (scale below, minimum above), the upper two in the top of 0..7.
static void unpack_scales(uint8_t scale[GROUPS], uint8_t minimum[GROUPS], const uint8_t packed[12]) {
  for (int g = 0; g < 4; g++) {
    scale[g] = packed[g] & 63;
    minimum[g] = packed[g + 4] & 63;
    scale[g + 4] = (uint8_t)((packed[g + 8] & 15) | packed[g] >> 6 << 4);
    minimum[g + 4] = (uint8_t)(packed[g + 8] >> 4 | packed[g + 4] >> 6 << 4);
  }
}

// Nibbles run in strips of 32 bytes: group 2s is strip s's low nibbles, group 2s + 1 its high ones.
// `high` is NULL for Q4_K; else bit g of its byte j is the fifth bit of value j in group g.
static void dequantize_groups(float *out, const uint8_t *block, const uint8_t *high, const uint8_t *low) {
  float d = load_half(block), dmin = load_half(block + 2);
  uint8_t scale[GROUPS], minimum[GROUPS];
  unpack_scales(scale, minimum, block + 4);
  for (int g = 0; g < GROUPS; g++) {
    float step = d * (float)scale[g], offset = dmin * (float)minimum[g];
    const uint8_t *strip = low + g / 2 * GROUP;
    for (int j = 0; j < GROUP; j++) {
      int q = strip[j] >> 4 * (g % 2) & 15;
      if (high) q |= (high[j] >> g & 1) << 4;
      out[g * GROUP + j] = step * (float)q - offset;
    }
  }
}

void q4_k_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += BLOCK_K_ELEMENTS, block += 144) dequantize_groups(out + i, block, NULL, block + 16);
}

void q5_k_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += BLOCK_K_ELEMENTS, block += 176) dequantize_groups(out + i, block, block + 16, block + 48);
}

// Each half of 128 values: 64 bytes low (values 0..63 in the low nibbles, 64..127 in the high ones) and 32 bytes
// high, pairs of bits.
void q6_k_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += BLOCK_K_ELEMENTS, block += 210) {
    const uint8_t *scales = block + 192;
    float d = load_half(block + 208);
    for (int j = 0; j < BLOCK_K_ELEMENTS; j++) {
      int half = j / 128, k = j % 128;
      int low = block[64 * half + k % 64] >> 4 * (k / 64) & 15;
      int high = pair_of_bits(block + 128, j);
      float step = d * (float)(int8_t)scales[j / 16];
      out[i + j] = step * (float)((low | high << 4) - 32);
    }
  }
}

void q8_k_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += BLOCK_K_ELEMENTS, block += 292) {
    float d;
    memcpy(&d, block, sizeof d);
    for (int j = 0; j < BLOCK_K_ELEMENTS; j++) out[i + j] = d * (float)(int8_t)block[4 + j];
  }
}
