// Vectors of 16 floats, by AVX-512 F, BW, DQ and VL (beside FMA and F16C). Included by simd.h alone, which says what
// they are for.
#ifndef KERNELS_CPU_SIMD_AVX512_H
#define KERNELS_CPU_SIMD_AVX512_H

#if !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__) || !defined(__FMA__) || !defined(__F16C__)
#error "kernels/cpu by AVX-512 needs its parts F, BW, DQ and VL, FMA and F16C"
#endif
#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

enum { VL = 16, VECTOR_REGISTERS = 32 };
typedef __m512 Vec;
typedef int32_t VecI __attribute__((vector_size(64)));
typedef uint32_t VecU __attribute__((vector_size(64)));
typedef double VecD __attribute__((vector_size(64)));  // VL / 2 of them

static inline Vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vec_store(float *p, Vec v) { _mm512_storeu_ps(p, v); }
static inline void vec_stream(float *p, Vec v) { _mm512_stream_ps(p, v); }  // around the caches, to an aligned place
static inline Vec vec_set(float x) { return _mm512_set1_ps(x); }
static inline Vec vec_zero(void) { return _mm512_setzero_ps(); }
static inline Vec vec_fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c, rounded once
static inline Vec vec_fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b
static inline Vec vec_sqrt(Vec a) { return _mm512_sqrt_ps(a); }
// The second operand comes through when either is NaN.
static inline Vec vec_min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
static inline Vec vec_max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
static inline Vec vec_select(VecI mask, Vec a, Vec b) {  // mask ? a : b
  return _mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)mask), b, a);
}
static inline bool vec_any_above(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }  // a > b in some lane
static inline Vec vec_round(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline VecI vec_to_int(Vec a) { return (VecI)_mm512_cvtps_epi32(a); }
static inline Vec vec_from_int(VecI a) { return _mm512_cvtepi32_ps((__m512i)a); }
static inline Vec vec_scale(Vec a, Vec k) { return _mm512_scalef_ps(a, k); }  // a * 2^k, k whole, |k| <= 252
static inline Vec vec_estimate_reciprocal(Vec a) { return _mm512_rcp14_ps(a); }  // to 12 bits and more
static inline VecI vec_lanes(void) { return (VecI){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
static inline VecI vec_set_int(int32_t x) { return (VecI)_mm512_set1_epi32(x); }
static inline Vec vec_abs(Vec a) { return (Vec)((VecI)a & vec_set_int(0x7fffffff)); }

// The first `count` lanes, all of them from VL on; the others load as 0 and are not stored.
static inline VecI vec_first(int64_t count) { return vec_lanes() < vec_set_int((int32_t)(count > VL ? VL : count)); }
static inline __mmask16 mask_first(int64_t count) { return (__mmask16)(count <= 0 ? 0 : count >= VL ? 0xffff : (1 << count) - 1); }
static inline Vec vec_load_first(const float *p, int64_t count) {
  return count >= VL ? vec_load(p) : _mm512_maskz_loadu_ps(mask_first(count), p);
}
static inline void vec_store_first(float *p, Vec v, int64_t count) {
  if (count >= VL) vec_store(p, v);
  else _mm512_mask_storeu_ps(p, mask_first(count), v);
}

static inline Vec vec_load_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline Vec vec_round_to_half(Vec a) { return _mm512_cvtph_ps(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
static inline Vec vec_load_bfloat16(const uint16_t *p) {
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}
// VL bfloat16 of a, rounded to nearest even; a NaN stays one.
static inline __m256i vec_to_bfloat16(Vec a) {
#ifdef __AVX512BF16__
  return (__m256i)_mm512_cvtneps_pbh(a);
#else
  VecU bits = (VecU)a, rounded = bits + 0x7fff + (bits >> 16 & 1);
  VecI is_nan = a != a;
  rounded = (VecU)vec_select(is_nan, (Vec)(bits | 0x400000), (Vec)rounded) >> 16;
  return _mm512_cvtepi32_epi16((__m512i)rounded);
#endif
}
static inline void vec_store_bfloat16(uint16_t *p, Vec a) { _mm256_storeu_si256((__m256i *)p, vec_to_bfloat16(a)); }
static inline void vec_stream_bfloat16(uint16_t *p, Vec a) { _mm256_stream_si256((__m256i *)p, vec_to_bfloat16(a)); }

// Sums and maxima over lanes, always in the same tree.
static inline float vec_sum(Vec v) {
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 a = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
static inline float vec_largest(Vec v) {
  __m256 half = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 a = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  a = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}
static inline VecD vec_set_double(double x) { return (VecD)_mm512_set1_pd(x); }
static inline VecD vec_sqrt_double(VecD a) { return (VecD)_mm512_sqrt_pd((__m512d)a); }
static inline VecD vec_round_double(VecD a) {
  return (VecD)_mm512_roundscale_pd((__m512d)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline Vec vec_from_doubles(VecD low, VecD high) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps((__m512d)low)), _mm512_cvtpd_ps((__m512d)high), 1);
}
static inline VecD vec_low_double(Vec v) { return (VecD)_mm512_cvtps_pd(_mm512_castps512_ps256(v)); }
static inline VecD vec_high_double(Vec v) { return (VecD)_mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)); }
static inline double vec_sum_double(VecD v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

// rows[i][j] <-> rows[j][i]
static inline void vec_transpose(Vec rows[VL]) {
  Vec a[VL], b[VL];
  for (int i = 0; i < VL; i += 2) a[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]), a[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  for (int i = 0; i < VL; i += 4) {
    for (int j = 0; j < 2; j++) {
      b[i + 2 * j] = (Vec)_mm512_unpacklo_pd((__m512d)a[i + j], (__m512d)a[i + j + 2]);
      b[i + 2 * j + 1] = (Vec)_mm512_unpackhi_pd((__m512d)a[i + j], (__m512d)a[i + j + 2]);
    }
  }
  // Quarter q of b[4 r + j] is column 4 q + j of rows 4 r .. 4 r + 3.
  for (int j = 0; j < 4; j++) {
    Vec even01 = _mm512_shuffle_f32x4(b[j], b[j + 4], 0x88), odd01 = _mm512_shuffle_f32x4(b[j], b[j + 4], 0xdd);
    Vec even23 = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0x88), odd23 = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0xdd);
    rows[j] = _mm512_shuffle_f32x4(even01, even23, 0x88);
    rows[j + 8] = _mm512_shuffle_f32x4(even01, even23, 0xdd);
    rows[j + 4] = _mm512_shuffle_f32x4(odd01, odd23, 0x88);
    rows[j + 12] = _mm512_shuffle_f32x4(odd01, odd23, 0xdd);
  }
}

// x1 x0 x3 x2 ... of x0 x1 x2 x3 ...
static inline Vec vec_swap_pairs(Vec v) { return _mm512_permute_ps(v, 0xb1); }

// high 32 bits of the 64-bit products, lane by lane
static inline VecU vec_multiply_high(VecU a, uint32_t b) {
  __m512i factor = _mm512_set1_epi32((int32_t)b);
  __m512i even = _mm512_mul_epu32((__m512i)a, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), factor);
  return (VecU)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}

// For Philox: lane l of words[w] is word w of counter order[l]; afterwards the vectors hold the words of counters
// 0 1 2 ... in turn, four each.
static inline VecI vec_counter_order(void) { return (VecI){0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15}; }
static inline void vec_counters_to_words(VecU words[4]) {
  __m512i a = _mm512_unpacklo_epi32((__m512i)words[0], (__m512i)words[1]), b = _mm512_unpackhi_epi32((__m512i)words[0], (__m512i)words[1]);
  __m512i c = _mm512_unpacklo_epi32((__m512i)words[2], (__m512i)words[3]), d = _mm512_unpackhi_epi32((__m512i)words[2], (__m512i)words[3]);
  words[0] = (VecU)_mm512_unpacklo_epi64(a, c), words[1] = (VecU)_mm512_unpackhi_epi64(a, c);
  words[2] = (VecU)_mm512_unpacklo_epi64(b, d), words[3] = (VecU)_mm512_unpackhi_epi64(b, d);
}

// 32 signed bytes, and table[code] of 32 codes below 16.
static inline void vec_from_bytes(Vec out[32 / VL], __m256i bytes) {
  out[0] = vec_from_int((VecI)_mm512_cvtepi8_epi32(_mm256_castsi256_si128(bytes)));
  out[1] = vec_from_int((VecI)_mm512_cvtepi8_epi32(_mm256_extracti128_si256(bytes, 1)));
}
static inline void vec_lookup_bytes(Vec out[32 / VL], const float table[16], __m256i codes) {
  out[0] = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(codes)), vec_load(table));
  out[1] = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256(codes, 1)), vec_load(table));
}

#endif
