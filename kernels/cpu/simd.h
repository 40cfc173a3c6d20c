// Vectors of VL floats: what the CPU kernels are written in. Everything that differs between instruction sets
// is in simd_avx2.h and simd_avx512.h; the kernels above see Vec (floats), VecI (32-bit integers; comparisons give all
// ones or zeros a lane) and the functions of the same names that both have. Here is what follows from those.
// exp: Cephes' expf (S. Moshier): x = k ln 2 + r, a polynomial in r, two exact factors for 2^k; within 1 ulp or so,
// denormal results included, NaN gives NaN. sin and cos: Cephes' polynomials after a reduction
// modulo pi/2 in double.
#ifndef KERNELS_CPU_SIMD_H
#define KERNELS_CPU_SIMD_H

#ifdef __AVX512F__
#include "kernels/cpu/simd_avx512.h"
#else
#include "kernels/cpu/simd_avx2.h"
#endif

static inline void vec_fence(void) { _mm_sfence(); }  // before other threads may read what went around the caches

static inline float scalar_from_half(uint16_t half) { return _cvtsh_ss(half); }

// columns[j][i] = rows[i][at + j] for i, j < 8, in vectors of 8 on every instruction set: with the halves put together as
// they are loaded, two rounds of shuffles are left, and these run on more ports than shuffles of wider vectors.
static inline void load_transposed(__m256 columns[8], const float *const rows[8], int64_t at) {
  __m256 halves[8], pairs[8];
  for (int i = 0; i < 8; i++) {  // columns 0 .. 3, then 4 .. 7, of rows i % 4 and i % 4 + 4
    const float *row = rows[i % 4] + at + i / 4 * 4, *other = rows[i % 4 + 4] + at + i / 4 * 4;
    halves[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row)), _mm_loadu_ps(other), 1);
  }
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(halves[i], halves[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(halves[i], halves[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      __m256d low = _mm256_castps_pd(pairs[i + j]), high = _mm256_castps_pd(pairs[i + j + 2]);
      columns[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
      columns[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
    }
}

// To the nearest bfloat16, to even, denormal ones too, which the instruction for it takes for zeros.
static inline Vec vec_round_to_bfloat16(Vec a) {
  VecU bits = (VecU)a, rounded = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  return vec_select(a == a, (Vec)rounded, a);
}

static const float LOG2_E = 1.44269504f;

static inline Vec vec_exp(Vec x) {
  x = vec_max(vec_set(-104.0f), vec_min(vec_set(89.0f), x));  // beyond these the result is 0 and infinity
  Vec k = vec_round(x * vec_set(LOG2_E));
  Vec r = vec_fnma(k, vec_set(0.693359375f), x);
  r = vec_fnma(k, vec_set(-2.12194440e-4f), r);
  Vec p = vec_fma(vec_set(1.9875691500e-4f), r, vec_set(1.3981999507e-3f));
  p = vec_fma(p, r, vec_set(8.3334519073e-3f));
  p = vec_fma(p, r, vec_set(4.1665795894e-2f));
  p = vec_fma(p, r, vec_set(1.6666665459e-1f));
  p = vec_fma(p, r, vec_set(5.0000001201e-1f));
  p = vec_fma(p, r * r, r) + vec_set(1.0f);
  return vec_scale(p, k);
}

// 2^x for x from -126 to 127, and 2^-126 below: results smaller than that take processors a hundred times as long. Of the polynomials
// 1 + r (...) of degree 5, the one with the least largest relative error on |r| <= 1/2: 9.2e-8, an ulp and a half.
static inline Vec vec_exp2(Vec x) {
  x = vec_max(vec_set(-126.0f), x);
  Vec k = vec_round(x), r = x - k;
  Vec p = vec_fma(vec_set(1.326472720e-3f), r, vec_set(9.671512640e-3f));
  p = vec_fma(p, r, vec_set(5.550733743e-2f));
  p = vec_fma(p, r, vec_set(2.402224209e-1f));
  p = vec_fma(p, r, vec_set(6.931469776e-1f));
  p = vec_fma(p, r, vec_set(1.0f));
  return vec_scale(p, k);
}

// 1 / a to within 1 ulp or so, for a whose reciprocal is no denormal; by Newton's method.
static inline Vec vec_reciprocal(Vec a) {
  Vec r = vec_estimate_reciprocal(a);
  return vec_fma(r, vec_fnma(a, r, vec_set(1)), r);
}

static inline Vec vec_tanh(Vec x) {
  Vec z = x * x;
  Vec p = vec_fma(vec_set(-5.70498872745e-3f), z, vec_set(2.06390887954e-2f));
  p = vec_fma(p, z, vec_set(-5.37397155531e-2f));
  p = vec_fma(p, z, vec_set(1.33314422036e-1f));
  p = vec_fma(p, z, vec_set(-3.33332819422e-1f));
  p = vec_fma(p * z, x, x);
  Vec e = vec_exp(vec_abs(x) * vec_set(-2.0f)), large = vec_set(1.0f) - (e + e) / (vec_set(1.0f) + e);
  large = (Vec)((VecI)large | ((VecI)x & (VecI)vec_set(-0.0f)));
  return vec_select(vec_abs(x) < vec_set(0.625f), p, large);
}

// Sine and cosine of angles given in double (VL of them, low half first), reduced in double.
static inline void vec_sincos(Vec *sine, Vec *cosine, VecD low, VecD high) {
  const VecD to_quadrants = vec_set_double(0.636619772367581343), quarter = vec_set_double(1.57079632679489661923);
  VecD low_turns = vec_round_double(low * to_quadrants), high_turns = vec_round_double(high * to_quadrants);
  VecI quadrant = vec_to_int(vec_from_doubles(low_turns, high_turns));  // exact up to 2^24 quarter turns
  Vec r = vec_from_doubles(low - low_turns * quarter, high - high_turns * quarter);
  Vec z = r * r;
  Vec s = vec_fma(vec_set(-1.9515295891e-4f), z, vec_set(8.3321608736e-3f));
  s = vec_fma(s, z, vec_set(-1.6666654611e-1f));
  s = vec_fma(s * z, r, r);
  Vec c = vec_fma(vec_set(2.443315711809948e-5f), z, vec_set(-1.388731625493765e-3f));
  c = vec_fma(c, z, vec_set(4.166664568298827e-2f));
  c = vec_fma(c * z, z, vec_fnma(vec_set(0.5f), z, vec_set(1.0f)));
  VecI odd = (quadrant & 1) != 0;
  VecI sine_sign = (quadrant & 2) << 30, cosine_sign = ((quadrant + 1) & 2) << 30;
  *sine = (Vec)((VecI)vec_select(odd, c, s) ^ sine_sign);
  *cosine = (Vec)((VecI)vec_select(odd, s, c) ^ cosine_sign);
}

#endif
