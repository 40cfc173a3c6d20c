// The types whose 4 bits are the number of a level in a book of 16 (ggml-common.h: block_iq4_nl, block_iq4_xs, block_mxfp4):
//   IQ4_NL  d, 16 bytes of nibbles                                      x = d level[q]        blocks of 32
//   IQ4_XS  d, 2 bytes of high bits, 4 bytes of low bits, 128 bytes     x = d s level[q]      256, in groups of 32
//   MXFP4   e, 16 bytes of nibbles                                      x = 2^(e-128) level[q]  blocks of 32
// d is a binary16, e an 8-bit exponent (OCP Microscaling Formats 1.0: E8M0, its bias 127; the levels here are twice those of E2M1, so
// that they are integers). The products d s and (d s) level are each rounded to binary32, in this order. Of 16 bytes, byte j holds value
// j below and value j + 16 above.
#include "formats/block_rows.h"

enum { ELEMENTS = 32, HALF = ELEMENTS / 2 };

const int8_t iq4_book[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const int8_t mxfp4_book[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void dequantize_nibbles(float *out, const uint8_t *nibbles, const int8_t *levels, float step) {
  for (int j = 0; j < HALF; j++) {
    out[j] = step * (float)levels[nibbles[j] & 15];
    out[j + HALF] = step * (float)levels[nibbles[j] >> 4];
  }
}

void iq4_nl_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 18) dequantize_nibbles(out + i, block + 2, iq4_book, load_half(block));
}

// Six-bit scales, 32 too large: four bits of group g's are in low byte g / 2, the even group's below; the upper two at bit 2 g of the high bits.
void iq4_xs_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += BLOCK_K_ELEMENTS, block += 136) {
    float d = load_half(block);
    for (int g = 0; g < BLOCK_K_ELEMENTS / ELEMENTS; g++) {
      int scale = (block[4 + g / 2] >> 4 * (g % 2) & 15) | (block[2 + g / 4] >> 2 * (g % 4) & 3) << 4;
      dequantize_nibbles(out + i + g * ELEMENTS, block + 8 + g * HALF, iq4_book, d * (float)(scale - 32));
    }
  }
}

void mxfp4_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 17) dequantize_nibbles(out + i, block + 1, mxfp4_book, mxfp4_scale(block[0]));
}
