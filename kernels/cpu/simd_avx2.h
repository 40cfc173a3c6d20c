// Vectors of 8 floats, by AVX2, FMA and F16C. Included by simd.h alone, which says what they are for.
#ifndef KERNELS_CPU_SIMD_AVX2_H
#define KERNELS_CPU_SIMD_AVX2_H

#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "kernels/cpu needs AVX2, FMA and F16C"
#endif
#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

enum { VL = 8, VECTOR_REGISTERS = 16 };
typedef __m256 Vec;
typedef int32_t VecI __attribute__((vector_size(32)));
typedef uint32_t VecU __attribute__((vector_size(32)));
typedef double VecD __attribute__((vector_size(32)));  // VL / 2 of them

static inline Vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vec_store(float *p, Vec v) { _mm256_storeu_ps(p, v); }
static inline void vec_stream(float *p, Vec v) { _mm256_stream_ps(p, v); }  // around the caches, to an aligned place
static inline Vec vec_set(float x) { return _mm256_set1_ps(x); }
static inline Vec vec_zero(void) { return _mm256_setzero_ps(); }
static inline Vec vec_fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }  // a * b + c, rounded once
static inline Vec vec_fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a * b
static inline Vec vec_sqrt(Vec a) { return _mm256_sqrt_ps(a); }
// The second operand comes through when either is NaN.
static inline Vec vec_min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
static inline Vec vec_max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
static inline Vec vec_select(VecI mask, Vec a, Vec b) { return _mm256_blendv_ps(b, a, (__m256)mask); }  // mask ? a : b
static inline bool vec_any_above(Vec a, Vec b) {  // a > b in some lane
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}
static inline Vec vec_round(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline VecI vec_to_int(Vec a) { return (VecI)_mm256_cvtps_epi32(a); }
static inline Vec vec_from_int(VecI a) { return _mm256_cvtepi32_ps((__m256i)a); }
static inline Vec vec_scale(Vec a, Vec k) {  // a * 2^k, k whole, |k| <= 252
  VecI whole = vec_to_int(k), half = whole >> 1;
  return a * (Vec)((half + 127) << 23) * (Vec)((whole - half + 127) << 23);
}
static inline Vec vec_estimate_reciprocal(Vec a) { return _mm256_rcp_ps(a); }  // to 12 bits and more
static inline VecI vec_lanes(void) { return (VecI){0, 1, 2, 3, 4, 5, 6, 7}; }
static inline VecI vec_set_int(int32_t x) { return (VecI)_mm256_set1_epi32(x); }
static inline Vec vec_abs(Vec a) { return (Vec)((VecI)a & vec_set_int(0x7fffffff)); }

// The first `count` lanes, all of them from VL on; the others load as 0 and are not stored.
static inline VecI vec_first(int64_t count) { return vec_lanes() < vec_set_int((int32_t)(count > VL ? VL : count)); }
static inline Vec vec_load_first(const float *p, int64_t count) {
  return count >= VL ? vec_load(p) : _mm256_maskload_ps(p, (__m256i)vec_first(count));
}
static inline void vec_store_first(float *p, Vec v, int64_t count) {
  if (count >= VL) vec_store(p, v);
  else _mm256_maskstore_ps(p, (__m256i)vec_first(count), v);
}

static inline Vec vec_load_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline Vec vec_round_to_half(Vec a) { return _mm256_cvtph_ps(_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT)); }
static inline Vec vec_load_bfloat16(const uint16_t *p) {
  return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}
// VL bfloat16 of a, rounded to nearest even; a NaN stays one.
static inline __m128i vec_to_bfloat16(Vec a) {
  VecU bits = (VecU)a, rounded = bits + 0x7fff + (bits >> 16 & 1);
  VecI is_nan = a != a;
  rounded = (VecU)vec_select(is_nan, (Vec)(bits | 0x400000), (Vec)rounded) >> 16;
  __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)rounded, (__m256i)rounded), 0x08);
  return _mm256_castsi256_si128(packed);
}
static inline void vec_store_bfloat16(uint16_t *p, Vec a) { _mm_storeu_si128((__m128i *)p, vec_to_bfloat16(a)); }
static inline void vec_stream_bfloat16(uint16_t *p, Vec a) { _mm_stream_si128((__m128i *)p, vec_to_bfloat16(a)); }

// Sums and maxima over lanes, always in the same tree.
static inline float vec_sum(Vec v) {
  __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
static inline float vec_largest(Vec v) {
  __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  a = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}
static inline VecD vec_set_double(double x) { return (VecD)_mm256_set1_pd(x); }
static inline VecD vec_sqrt_double(VecD a) { return (VecD)_mm256_sqrt_pd((__m256d)a); }
static inline VecD vec_round_double(VecD a) { return (VecD)_mm256_round_pd((__m256d)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline Vec vec_from_doubles(VecD low, VecD high) {
  return _mm256_set_m128(_mm256_cvtpd_ps((__m256d)high), _mm256_cvtpd_ps((__m256d)low));
}
static inline VecD vec_low_double(Vec v) { return (VecD)_mm256_cvtps_pd(_mm256_castps256_ps128(v)); }
static inline VecD vec_high_double(Vec v) { return (VecD)_mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)); }
static inline double vec_sum_double(VecD v) { return (v[0] + v[2]) + (v[1] + v[3]); }

// rows[i][j] <-> rows[j][i]
static inline void vec_transpose(Vec rows[VL]) {
  Vec a[8], b[8];
  for (int i = 0; i < 8; i += 2) a[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]), a[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; j++) {
      b[i + 2 * j] = (Vec)_mm256_unpacklo_pd((__m256d)a[i + j], (__m256d)a[i + j + 2]);
      b[i + 2 * j + 1] = (Vec)_mm256_unpackhi_pd((__m256d)a[i + j], (__m256d)a[i + j + 2]);
    }
  }
  for (int i = 0; i < 4; i++) {
    rows[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

// x1 x0 x3 x2 ... of x0 x1 x2 x3 ...
static inline Vec vec_swap_pairs(Vec v) { return _mm256_permute_ps(v, 0xb1); }

// high 32 bits of the 64-bit products, lane by lane
static inline VecU vec_multiply_high(VecU a, uint32_t b) {
  __m256i factor = _mm256_set1_epi32((int32_t)b);
  __m256i even = _mm256_mul_epu32((__m256i)a, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), factor);
  return (VecU)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

// For Philox: lane l of words[w] is word w of counter order[l]; afterwards the vectors hold the words of counters
// 0 1 2 ... in turn, four each.
static inline VecI vec_counter_order(void) { return (VecI){0, 2, 4, 6, 1, 3, 5, 7}; }
static inline void vec_counters_to_words(VecU words[4]) {
  __m256i a = _mm256_unpacklo_epi32((__m256i)words[0], (__m256i)words[1]), b = _mm256_unpackhi_epi32((__m256i)words[0], (__m256i)words[1]);
  __m256i c = _mm256_unpacklo_epi32((__m256i)words[2], (__m256i)words[3]), d = _mm256_unpackhi_epi32((__m256i)words[2], (__m256i)words[3]);
  words[0] = (VecU)_mm256_unpacklo_epi64(a, c), words[1] = (VecU)_mm256_unpackhi_epi64(a, c);
  words[2] = (VecU)_mm256_unpacklo_epi64(b, d), words[3] = (VecU)_mm256_unpackhi_epi64(b, d);
}

// 32 signed bytes, and table[code] of 32 codes below 16.
static inline void vec_from_bytes(Vec out[32 / VL], __m256i bytes) {
  __m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);
  out[0] = vec_from_int((VecI)_mm256_cvtepi8_epi32(low));
  out[1] = vec_from_int((VecI)_mm256_cvtepi8_epi32(_mm_srli_si128(low, 8)));
  out[2] = vec_from_int((VecI)_mm256_cvtepi8_epi32(high));
  out[3] = vec_from_int((VecI)_mm256_cvtepi8_epi32(_mm_srli_si128(high, 8)));
}
static inline Vec vec_lookup_eight(const float table[16], __m128i codes) {
  __m256i index = _mm256_cvtepu8_epi32(codes);
  Vec low = _mm256_permutevar8x32_ps(vec_load(table), index), high = _mm256_permutevar8x32_ps(vec_load(table + 8), index);
  return vec_select((VecI)_mm256_slli_epi32(index, 28), high, low);  // the sign bit of each lane decides: codes 8 and up
}
static inline void vec_lookup_bytes(Vec out[32 / VL], const float table[16], __m256i codes) {
  __m128i low = _mm256_castsi256_si128(codes), high = _mm256_extracti128_si256(codes, 1);
  out[0] = vec_lookup_eight(table, low);
  out[1] = vec_lookup_eight(table, _mm_srli_si128(low, 8));
  out[2] = vec_lookup_eight(table, high);
  out[3] = vec_lookup_eight(table, _mm_srli_si128(high, 8));
}

#endif
