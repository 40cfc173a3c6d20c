// The types of three levels, x = d (t - 1) with t = 0, 1 or 2 and a binary16 d behind the levels (ggml-common.h: block_tq1_0, block_tq2_0),
// in blocks of 256:
//   TQ1_0  48 bytes of five values each, 4 bytes of four, d
//   TQ2_0  64 bytes of four values each, d
// A byte b of TQ1_0 is the fraction b / 256 in base 3: its digit n, the first after the point being n = 0, is what goes beyond the point in
// 3 (3^n b mod 256) / 256. A digit n of neighbouring bytes are neighbouring values: the first 32 bytes hold values 0 .. 159, digit by
// digit, the next 16 bytes values 160 .. 239, the last 4 bytes values 240 .. 255.
#include "formats/block_rows.h"

static float *ternary_digits(float *out, const uint8_t *bytes, int count, int digits, float d) {
  static const uint8_t powers[] = {1, 3, 9, 27, 81};
  for (int n = 0; n < digits; n++)
    for (int j = 0; j < count; j++) {
      uint8_t fraction = (uint8_t)(bytes[j] * powers[n]);
      *out++ = d * (float)((fraction * 3 >> 8) - 1);
    }
  return out;
}

void tq1_0_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += BLOCK_K_ELEMENTS, block += 54) {
    float d = load_half(block + 52), *at = out + i;
    at = ternary_digits(at, block, 32, 5, d);
    at = ternary_digits(at, block + 32, 16, 5, d);
    ternary_digits(at, block + 48, 4, 4, d);
  }
}

// Bits of 3 are no level that is written; they read as 2.
void tq2_0_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += BLOCK_K_ELEMENTS, block += 66) {
    float d = load_half(block + 64);
    for (int j = 0; j < BLOCK_K_ELEMENTS; j++) out[i + j] = d * (float)(pair_of_bits(block, j) - 1);
  }
}
