// The levels of quantised blocks as bytes, 32 at a time: what dequantize.c and dot_int8.c have in common. formats/block.h says what a
// block holds. Levels are as they are stored, from 0 on; a type whose levels lie around zero subtracts its middle. Those of Q8_0 and Q8_K,
// and of the types with a book of levels, are signed.
#ifndef KERNELS_CPU_UNPACK_H
#define KERNELS_CPU_UNPACK_H

#include <string.h>

#include "formats/block.h"
#include "kernels/cpu/simd.h"

enum { GROUP = 32, K_BLOCK = 256, K_GROUPS = K_BLOCK / GROUP };

static inline float load_scale(const uint8_t *bytes) {
  uint16_t half;
  memcpy(&half, bytes, sizeof half);
  return scalar_from_half(half);
}

static inline uint32_t load_word(const uint8_t *bytes) {
  uint32_t word;
  memcpy(&word, bytes, sizeof word);
  return word;
}

static inline float load_float(const uint8_t *bytes) {
  float value;
  memcpy(&value, bytes, sizeof value);
  return value;
}

static inline __m256i load_bytes(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

// The low nibbles of 16 bytes, then their high nibbles.
static inline __m256i unpack_nibbles(const uint8_t *p) {
  __m128i packed = _mm_loadu_si128((const __m128i *)p);
  __m256i both = _mm256_set_m128i(_mm_srli_epi16(packed, 4), packed);
  return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

// The level of each of 32 nibbles.
static inline __m256i look_up_levels(const int8_t book[16], __m256i nibbles) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)book)), nibbles);
}

// 16 in each byte whose bit is set among the 32 bits.
static inline __m256i unpack_fifth_bits(const uint8_t *p) {
  const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of = _mm256_set1_epi64x((int64_t)0x8040201008040201);
  __m256i spread = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int32_t)load_word(p)), byte_of), bit_of);
  return _mm256_and_si256(_mm256_cmpeq_epi8(spread, bit_of), _mm256_set1_epi8(16));
}

// Of the blocks of 32.
enum { Q4_0_BYTES = 18, Q4_1_BYTES = 20, Q5_0_BYTES = 22, Q5_1_BYTES = 24, Q8_0_BYTES = 34, IQ4_NL_BYTES = 18, MXFP4_BYTES = 17 };
static inline __m256i q4_0_levels(const uint8_t *block) { return unpack_nibbles(block + 2); }
static inline __m256i q4_1_levels(const uint8_t *block) { return unpack_nibbles(block + 4); }
static inline __m256i q5_0_levels(const uint8_t *block) { return _mm256_or_si256(unpack_nibbles(block + 6), unpack_fifth_bits(block + 2)); }
static inline __m256i q5_1_levels(const uint8_t *block) { return _mm256_or_si256(unpack_nibbles(block + 8), unpack_fifth_bits(block + 4)); }
static inline __m256i q8_0_levels(const uint8_t *block) { return load_bytes(block + 2); }
static inline __m256i iq4_nl_levels(const uint8_t *block) { return look_up_levels(iq4_book, unpack_nibbles(block + 2)); }
static inline __m256i mxfp4_levels(const uint8_t *block) { return look_up_levels(mxfp4_book, unpack_nibbles(block + 1)); }

// Of group j of the blocks of 256.
enum { Q2_K_BYTES = 84, Q3_K_BYTES = 110, Q4_K_BYTES = 144, Q5_K_BYTES = 176, Q6_K_BYTES = 210, Q8_K_BYTES = 292 };
enum { IQ4_XS_BYTES = 136, TQ1_0_BYTES = 54, TQ2_0_BYTES = 66 };

// Four groups share 32 bytes, two bits each.
static inline __m256i k_pairs_of_bits(const uint8_t *pairs, int64_t j) {
  __m256i shifted = _mm256_srl_epi16(load_bytes(pairs + j / 4 * 32), _mm_cvtsi32_si128((int)(j % 4 * 2)));
  return _mm256_and_si256(shifted, _mm256_set1_epi8(3));
}

// `value` in each byte that has the bit of group j.
static inline __m256i k_high_bits(const uint8_t *bits, int64_t j, char value) {
  __m256i bit = _mm256_set1_epi8((char)(1 << j));
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(load_bytes(bits), bit), bit), _mm256_set1_epi8(value));
}

static inline __m256i k_nibbles(const uint8_t *quants, int64_t j) {
  __m256i packed = load_bytes(quants + j / 2 * 32);
  return _mm256_and_si256(j % 2 ? _mm256_srli_epi16(packed, 4) : packed, _mm256_set1_epi8(15));
}

static inline __m256i q2_k_levels(const uint8_t *block, int64_t j) { return k_pairs_of_bits(block + 16, j); }
static inline __m256i q3_k_levels(const uint8_t *block, int64_t j) {
  return _mm256_or_si256(k_pairs_of_bits(block + 32, j), k_high_bits(block, j, 4));
}
static inline __m256i q4_k_levels(const uint8_t *block, int64_t j) { return k_nibbles(block + 16, j); }

static inline __m256i q5_k_levels(const uint8_t *block, int64_t j) {
  return _mm256_or_si256(k_nibbles(block + 48, j), k_high_bits(block + 16, j, 16));
}

static inline __m256i q6_k_levels(const uint8_t *block, int64_t j) {
  int64_t half = j / 4, quarter = j % 4;
  __m256i low = load_bytes(block + half * 64 + quarter % 2 * 32);
  low = _mm256_and_si256(quarter < 2 ? low : _mm256_srli_epi16(low, 4), _mm256_set1_epi8(15));
  return _mm256_or_si256(low, _mm256_slli_epi16(k_pairs_of_bits(block + 128, j), 4));
}

static inline __m256i q8_k_levels(const uint8_t *block, int64_t j) { return load_bytes(block + 4 + j * 32); }

static inline __m256i iq4_xs_levels(const uint8_t *block, int64_t j) {
  return look_up_levels(iq4_book, unpack_nibbles(block + 8 + j * 16));
}

static inline __m256i tq2_0_levels(const uint8_t *block, int64_t j) { return k_pairs_of_bits(block, j); }

// Bytes of base 3 times the powers of 3 that bring the digit to the point, modulo 256; then the digit is the number of thirds that are
// reached. Powers are those of two bytes each: digits change at even places only.
static inline __m256i tq1_0_levels(const uint8_t *block, int64_t j) {
  static const uint16_t powers[8] = {1, 3, 9, 27, 81, 1, 9, 81};
  __m256i bytes, factors = _mm256_set1_epi16((short)powers[j]);
  if (j < 5) {  // 32 bytes, digit j
    bytes = load_bytes(block);
  } else {  // 16 bytes, digits 0 to 4, and 4 bytes, digits 0 to 3
    bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(block + 32)));
    __m128i next = _mm_mullo_epi16(_mm256_castsi256_si128(factors), _mm_set1_epi16(3));
    if (j == 7) {
      bytes = _mm256_inserti128_si256(bytes, _mm_set1_epi32((int32_t)load_word(block + 48)), 1);
      next = _mm_setr_epi16(1, 1, 3, 3, 9, 9, 27, 27);
    }
    factors = _mm256_inserti128_si256(factors, next, 1);
  }
  const __m256i even = _mm256_set1_epi16(0xff);
  __m256i low = _mm256_and_si256(_mm256_mullo_epi16(bytes, factors), even);
  __m256i fractions = _mm256_or_si256(low, _mm256_mullo_epi16(_mm256_andnot_si256(even, bytes), factors));
  const __m256i third = _mm256_set1_epi8(86), two_thirds = _mm256_set1_epi8((char)171);
  __m256i one = _mm256_cmpeq_epi8(_mm256_max_epu8(fractions, third), fractions);
  __m256i two = _mm256_cmpeq_epi8(_mm256_max_epu8(fractions, two_thirds), fractions);
  return _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(one, two));
}

// The sixteen six-bit scales of a Q3_K block, signed bytes.
static inline __m128i q3_k_scales(const uint8_t *block) {
  uint32_t a = load_word(block + 96), b = load_word(block + 100), c = load_word(block + 104);
  const uint32_t low = 0x0f0f0f0f, high = 0x30303030;
  __m128i scales = _mm_setr_epi32((int32_t)((a & low) | (c << 4 & high)), (int32_t)((b & low) | (c << 2 & high)),
                                  (int32_t)((a >> 4 & low) | (c & high)), (int32_t)((b >> 4 & low) | (c >> 2 & high)));
  return _mm_sub_epi8(scales, _mm_set1_epi8(32));
}

// The six-bit scale of an IQ4_XS block's group j, and all eight.
static inline int iq4_xs_scale(const uint8_t *block, int64_t j) {
  uint32_t high = load_word(block) >> 16, low = load_word(block + 4);
  return (int)((low >> 4 * j & 15) | (high >> 2 * j & 3) << 4) - 32;
}
static inline __m256i iq4_xs_scales(const uint8_t *block) {
  const __m256i fours = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28), twos = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
  __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32((int32_t)load_word(block + 4)), fours);
  __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32((int32_t)(load_word(block) >> 16)), twos);
  __m256i scales =
      _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)), _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
  return _mm256_sub_epi32(scales, _mm256_set1_epi32(32));
}

// The six-bit scales and minima of a Q4_K or Q5_K block's groups, a byte each: those of the first four are whole, of the rest split.
static inline void k_scales(uint64_t *scales, uint64_t *minima, const uint8_t *packed) {
  uint32_t a = load_word(packed), b = load_word(packed + 4), c = load_word(packed + 8);
  uint32_t scales_above = (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030), minima_above = (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030);
  *scales = (uint64_t)scales_above << 32 | (a & 0x3f3f3f3f);
  *minima = (uint64_t)minima_above << 32 | (b & 0x3f3f3f3f);
}

// Eight numbers in bytes, as the scales and minima of Q4_K and Q5_K.
static inline __m256 bytes_as_floats(uint64_t bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)bytes))); }

// Each 16 levels, four lanes of products, have a number of their own among sixteen bytes: those of group j, times `scale`.
static inline __m256 scale_of_halves(__m256 scale, __m128i sixteen, int j) {
  const __m256i first_two = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  __m128i eight = j < K_GROUPS / 2 ? sixteen : _mm_srli_si128(sixteen, 8);
  __m256 scaled = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)));
  return _mm256_permutevar8x32_ps(scaled, _mm256_add_epi32(first_two, _mm256_set1_epi32(j % 4 * 2)));
}

#endif
