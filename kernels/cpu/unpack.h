// The levels of quantised blocks as bytes, 32 at a time: what dequantize.c and dot_int8.c have in common. formats/block.h says what a
// block holds. Levels are as they are stored, from 0 on (Q8_0's are signed); a type whose levels lie around zero subtracts its middle.
#ifndef KERNELS_CPU_UNPACK_H
#define KERNELS_CPU_UNPACK_H

#include <string.h>

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

static inline __m256i load_bytes(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

// The low nibbles of 16 bytes, then their high nibbles.
static inline __m256i unpack_nibbles(const uint8_t *p) {
  __m128i packed = _mm_loadu_si128((const __m128i *)p);
  __m256i both = _mm256_set_m128i(_mm_srli_epi16(packed, 4), packed);
  return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

// 16 in each byte whose bit is set among the 32 bits.
static inline __m256i unpack_fifth_bits(const uint8_t *p) {
  const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of = _mm256_set1_epi64x((int64_t)0x8040201008040201);
  __m256i spread = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int32_t)load_word(p)), byte_of), bit_of);
  return _mm256_and_si256(_mm256_cmpeq_epi8(spread, bit_of), _mm256_set1_epi8(16));
}

// Of the blocks of 32.
enum { Q4_0_BYTES = 18, Q4_1_BYTES = 20, Q5_0_BYTES = 22, Q5_1_BYTES = 24, Q8_0_BYTES = 34 };
static inline __m256i q4_0_levels(const uint8_t *block) { return unpack_nibbles(block + 2); }
static inline __m256i q4_1_levels(const uint8_t *block) { return unpack_nibbles(block + 4); }
static inline __m256i q5_0_levels(const uint8_t *block) { return _mm256_or_si256(unpack_nibbles(block + 6), unpack_fifth_bits(block + 2)); }
static inline __m256i q5_1_levels(const uint8_t *block) { return _mm256_or_si256(unpack_nibbles(block + 8), unpack_fifth_bits(block + 4)); }
static inline __m256i q8_0_levels(const uint8_t *block) { return load_bytes(block + 2); }

// Of group j of the blocks of 256.
enum { Q4_K_BYTES = 144, Q5_K_BYTES = 176, Q6_K_BYTES = 210 };

static inline __m256i k_nibbles(const uint8_t *quants, int64_t j) {
  __m256i packed = load_bytes(quants + j / 2 * 32);
  return _mm256_and_si256(j % 2 ? _mm256_srli_epi16(packed, 4) : packed, _mm256_set1_epi8(15));
}

static inline __m256i q4_k_levels(const uint8_t *block, int64_t j) { return k_nibbles(block + 16, j); }

static inline __m256i q5_k_levels(const uint8_t *block, int64_t j) {
  __m256i bit = _mm256_set1_epi8((char)(1 << j));
  __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(load_bytes(block + 16), bit), bit);
  return _mm256_or_si256(k_nibbles(block + 48, j), _mm256_and_si256(is_set, _mm256_set1_epi8(16)));
}

static inline __m256i q6_k_levels(const uint8_t *block, int64_t j) {
  int64_t half = j / 4, quarter = j % 4;
  __m256i low = load_bytes(block + half * 64 + quarter % 2 * 32);
  low = _mm256_and_si256(quarter < 2 ? low : _mm256_srli_epi16(low, 4), _mm256_set1_epi8(15));
  __m256i high = _mm256_srl_epi16(load_bytes(block + 128 + half * 32), _mm_cvtsi32_si128((int)quarter * 2));
  return _mm256_or_si256(low, _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(3)), 4));
}

// The six-bit scales and minima of a Q4_K or Q5_K block's groups, a byte each: those of the first four are whole, of the rest split.
static inline void k_scales(uint64_t *scales, uint64_t *minima, const uint8_t *packed) {
  uint32_t a = load_word(packed), b = load_word(packed + 4), c = load_word(packed + 8);
  uint32_t scales_above = (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030), minima_above = (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030);
  *scales = (uint64_t)scales_above << 32 | (a & 0x3f3f3f3f);
  *minima = (uint64_t)minima_above << 32 | (b & 0x3f3f3f3f);
}

#endif
