// The types with blocks of 32 values (ggml-quants.c names the layouts; d and m are binary16, q[j] an integer):
//   Q4_0  d, 16 bytes of nibbles              x = d (q - 8)
//   Q4_1  d, m, 16 bytes of nibbles           x = d q + m
//   Q5_0  d, 32 high bits, 16 bytes           x = d (q - 16)
//   Q5_1  d, m, 32 high bits, 16 bytes        x = d q + m
//   Q8_0  d, 32 signed bytes                  x = d q
// Byte j of the nibbles holds value j below and value j + 16 above; bit j of the high bits is value j's fifth bit.
// Quantising without importance (with it: formats/quantize_32.c) follows llama.cpp's reference to the last bit: the scale is divided and inverted in binary32 before
// it is rounded to binary16, and ties go up for the nibbles, away from zero for Q8_0.
#include <math.h>

#include "core/vector.h"
#include "formats/block_rows.h"

enum { ELEMENTS = 32, HALF = ELEMENTS / 2 };

static void unpack_nibbles(uint8_t q[ELEMENTS], const uint8_t *nibbles) {
  for (int j = 0; j < HALF; j++) {
    q[j] = nibbles[j] & 15;
    q[j + HALF] = nibbles[j] >> 4;
  }
}

static void unpack_fifth_bits(uint8_t q[ELEMENTS], const uint8_t *bits) {
  for (int j = 0; j < ELEMENTS; j++) q[j] |= (uint8_t)((bits[j / 8] >> j % 8 & 1) << 4);
}

void q4_0_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  uint8_t q[ELEMENTS];
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 18) {
    float d = load_half(block);
    unpack_nibbles(q, block + 2);
    for (int j = 0; j < ELEMENTS; j++) out[i + j] = d * (float)(q[j] - 8);
  }
}

void q4_1_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  uint8_t q[ELEMENTS];
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 20) {
    float d = load_half(block), m = load_half(block + 2);
    unpack_nibbles(q, block + 4);
    for (int j = 0; j < ELEMENTS; j++) out[i + j] = d * (float)q[j] + m;
  }
}

void q5_0_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  uint8_t q[ELEMENTS];
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 22) {
    float d = load_half(block);
    unpack_nibbles(q, block + 6);
    unpack_fifth_bits(q, block + 2);
    for (int j = 0; j < ELEMENTS; j++) out[i + j] = d * (float)(q[j] - 16);
  }
}

void q5_1_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  uint8_t q[ELEMENTS];
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 24) {
    float d = load_half(block), m = load_half(block + 2);
    unpack_nibbles(q, block + 8);
    unpack_fifth_bits(q, block + 4);
    for (int j = 0; j < ELEMENTS; j++) out[i + j] = d * (float)q[j] + m;
  }
}

void q8_0_dequantize(float *out, const void *blocks, int64_t n) {
  const uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 34) {
    float d = load_half(block);
    for (int j = 0; j < ELEMENTS; j++) out[i + j] = d * (float)(int8_t)block[2 + j];
  }
}

static float inverse_or_zero(float d) { return d != 0 ? 1.0f / d : 0.0f; }

// A block as lanes.
typedef struct Block {
  Lanes x[ELEMENTS / LANES];
} Block;

VECTOR_INLINE float largest_magnitude(const Block *block) {
  Lanes most = LANES_SPLAT(0.0f);
  for (int i = 0; i < ELEMENTS / LANES; i++) {
    Lanes magnitude = (Lanes)((LanesMask)block->x[i] & 0x7FFFFFFF);
    most = LANES_SELECT(magnitude > most, magnitude, most);
  }
  float largest = 0;
  for (int lane = 0; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
  return largest;
}

// x * scale + offset cut to an integer in 0 .. top; NaN becomes 0.
VECTOR_INLINE void cut_levels(uint8_t q[ELEMENTS], const Block *block, float scale, float offset, float top) {
  for (int i = 0; i < ELEMENTS / LANES; i++) {
    Lanes x = block->x[i] * scale + offset;
    x = LANES_SELECT(x >= 0.0f, x, LANES_SPLAT(0.0f));
    x = LANES_SELECT(x < top, x, LANES_SPLAT(top));
    LanesMask levels = __builtin_convertvector(x, LanesMask);
    for (int lane = 0; lane < LANES; lane++) q[LANES * i + lane] = (uint8_t)levels[lane];
  }
}

// The value of largest magnitude becomes the lowest level, -levels/2: returns the unrounded scale.
VECTOR_INLINE float quantize_symmetric(uint8_t q[ELEMENTS], const float *in, int levels) {
  Block block;
  memcpy(&block, in, sizeof block);
  float magnitude = largest_magnitude(&block), largest = 0;
  for (int j = ELEMENTS - 1; j >= 0; j--) largest = fabsf(in[j]) == magnitude ? in[j] : largest;
  float d = largest / (float)(-levels / 2);
  cut_levels(q, &block, inverse_or_zero(d), (float)levels / 2 + 0.5f, (float)(levels - 1));
  return d;
}

// The smallest value becomes level 0 and the largest the highest: returns the unrounded scale, *least the offset.
VECTOR_INLINE float quantize_range(uint8_t q[ELEMENTS], float *least, const float *in, int levels) {
  Block block;
  memcpy(&block, in, sizeof block);
  Lanes lows = LANES_SPLAT(INFINITY), highs = LANES_SPLAT(-INFINITY);
  for (int i = 0; i < ELEMENTS / LANES; i++) {
    lows = LANES_SELECT(block.x[i] < lows, block.x[i], lows);
    highs = LANES_SELECT(block.x[i] > highs, block.x[i], highs);
  }
  float low = INFINITY, high = -INFINITY;
  for (int lane = 0; lane < LANES; lane++) {
    low = lows[lane] < low ? lows[lane] : low;
    high = highs[lane] > high ? highs[lane] : high;
  }
  float d = (high - low) / (float)(levels - 1);
  for (int i = 0; i < ELEMENTS / LANES; i++) block.x[i] -= low;
  cut_levels(q, &block, inverse_or_zero(d), 0.5f, (float)(levels - 1));
  *least = low;
  return d;
}

VECTOR_CLONES void q4_0_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  if (importance) {
    q4_0_search(blocks, in, importance, n);
    return;
  }
  uint8_t *block = blocks, q[ELEMENTS];
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 18) {
    store_half(block, quantize_symmetric(q, in + i, 16));
    pack_nibbles(block + 2, q);
  }
}

VECTOR_CLONES void q4_1_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  if (importance) {
    q4_1_search(blocks, in, importance, n);
    return;
  }
  uint8_t *block = blocks, q[ELEMENTS];
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 20) {
    float least;
    store_half(block, quantize_range(q, &least, in + i, 16));
    store_half(block + 2, least);
    pack_nibbles(block + 4, q);
  }
}

VECTOR_CLONES void q5_0_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  if (importance) {
    q5_0_search(blocks, in, importance, n);
    return;
  }
  uint8_t *block = blocks, q[ELEMENTS];
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 22) {
    store_half(block, quantize_symmetric(q, in + i, 32));
    pack_fifth_bits(block + 2, q);
    pack_nibbles(block + 6, q);
  }
}

VECTOR_CLONES void q5_1_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  if (importance) {
    q5_1_search(blocks, in, importance, n);
    return;
  }
  uint8_t *block = blocks, q[ELEMENTS];
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 24) {
    float least;
    store_half(block, quantize_range(q, &least, in + i, 32));
    store_half(block + 2, least);
    pack_fifth_bits(block + 4, q);
    pack_nibbles(block + 8, q);
  }
}

VECTOR_CLONES void q8_0_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  (void)importance;  // so many levels leave nothing to weigh
  uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += ELEMENTS, block += 34) {
    Block x;
    memcpy(&x, in + i, sizeof x);
    float d = largest_magnitude(&x) / 127.0f, inverse = inverse_or_zero(d);
    store_half(block, d);
    for (int j = 0; j < ELEMENTS / LANES; j++) {
      Lanes exact = x.x[j] * inverse;
      exact = LANES_SELECT(exact == exact, exact, LANES_SPLAT(0.0f));  // NaN becomes 0
      exact = LANES_SELECT(exact < 127.0f, exact, LANES_SPLAT(127.0f));
      exact = LANES_SELECT(exact > -127.0f, exact, LANES_SPLAT(-127.0f));
      // To nearest even, and of ties those that went towards zero one further.
      Lanes level = LANES_ROUND(exact), rest = exact - level, one = LANES_SPLAT(1.0f);
      level += (Lanes)((LanesMask)one & (rest == 0.5f) & (exact > 0.0f));
      level -= (Lanes)((LanesMask)one & (rest == -0.5f) & (exact < 0.0f));
      LanesMask levels = __builtin_convertvector(level, LanesMask);
      for (int lane = 0; lane < LANES; lane++) block[2 + LANES * j + lane] = (uint8_t)levels[lane];
    }
  }
}
