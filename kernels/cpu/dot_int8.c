// The dot products of int8.h: four products of bytes are added in each of 8 lanes, by VNNI's vpdpbusd (levels of w, from 0 on, times
// signed levels of x) or by vpmaddubsw and vpmaddwd. Blocks of 32 have a function each for a block, K blocks for one of 256.
#include "kernels/cpu/int8.h"
#include "kernels/cpu/unpack.h"

// Rows follow each other in memory; the processor's own prefetching stops at the ends of pages.
enum { FETCH_AHEAD = 4096 };

// What a row adds up to: two chains, for the latency of an addition, and shifts of which lane 1 counts.
typedef struct Sums {
  __m256 chains[2];
  __m128 shifts;
} Sums;

// start + levels . x in lanes; levels below 128 (or any with VNNI, whose sums do not saturate).
ALWAYS_INLINE __m256i multiply_levels(__m256i start, __m256i levels, const int8_t *x) {
#ifdef __AVX512VNNI__
  return _mm256_dpbusd_epi32(start, levels, load_bytes(x));
#else
  __m256i pairs = _mm256_maddubs_epi16(levels, load_bytes(x));
  return _mm256_add_epi32(start, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

// The same for signed levels of w.
ALWAYS_INLINE __m256i multiply_signed(__m256i levels, const Int8Row *x, int64_t block) {
  const int8_t *at = x->levels + block * GROUP;
#ifdef __AVX512VNNI__
  __m256i start = _mm256_slli_epi32(load_bytes(x->negatives + block * INT8_LANES), 7);
  return multiply_levels(start, _mm256_xor_si256(levels, _mm256_set1_epi8((char)0x80)), at);
#else
  __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(levels), _mm256_sign_epi8(load_bytes(at), levels));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}

// (levels - 2^middle_bits) . x
ALWAYS_INLINE __m256i multiply_around(__m256i levels, int middle_bits, const Int8Row *x, int64_t block) {
  __m256i start = _mm256_slli_epi32(load_bytes(x->negatives + block * INT8_LANES), middle_bits);
  return multiply_levels(start, levels, x->levels + block * GROUP);
}

ALWAYS_INLINE void add_products(__m256 *chain, __m256i products, __m256 factor) {
  *chain = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), factor, *chain);
}

// Blocks of 32: w is `block`, the number `b` of its row.
typedef void (*Block)(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b);

ALWAYS_INLINE void q4_0_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  add_products(&sums->chains[chain], multiply_around(q4_0_levels(block), 3, x, b), _mm256_set1_ps(load_scale(block) * x->scales[b]));
}
ALWAYS_INLINE void q5_0_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  add_products(&sums->chains[chain], multiply_around(q5_0_levels(block), 4, x, b), _mm256_set1_ps(load_scale(block) * x->scales[b]));
}
ALWAYS_INLINE void q8_0_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  add_products(&sums->chains[chain], multiply_signed(q8_0_levels(block), x, b), _mm256_set1_ps(load_scale(block) * x->scales[b]));
}

ALWAYS_INLINE void iq4_nl_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  add_products(&sums->chains[chain], multiply_signed(iq4_nl_levels(block), x, b), _mm256_set1_ps(load_scale(block) * x->scales[b]));
}
ALWAYS_INLINE void mxfp4_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  add_products(&sums->chains[chain], multiply_signed(mxfp4_levels(block), x, b), _mm256_set1_ps(mxfp4_scale(block[0]) * x->scales[b]));
}

// Blocks that begin with scale and shift.
ALWAYS_INLINE void shifted_block(Sums *sums, int chain, const uint8_t *block, __m256i levels, const Int8Row *x, int64_t b) {
  __m128 scale_and_shift = _mm_cvtph_ps(_mm_cvtsi32_si128((int32_t)load_word(block)));
  __m128 factors = _mm_mul_ps(scale_and_shift, _mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)(const void *)(x->pairs + 2 * b))));
  __m256i products = multiply_levels(_mm256_setzero_si256(), levels, x->levels + b * GROUP);
  add_products(&sums->chains[chain], products, _mm256_broadcastss_ps(factors));
  sums->shifts = _mm_add_ps(sums->shifts, factors);
}
ALWAYS_INLINE void q4_1_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  shifted_block(sums, chain, block, q4_1_levels(block), x, b);
}
ALWAYS_INLINE void q5_1_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  shifted_block(sums, chain, block, q5_1_levels(block), x, b);
}

// Blocks of 256, of Q4_K and Q5_K: the scales and the minima of all groups at once.
typedef __m256i (*KLevels)(const uint8_t *block, int64_t j);

ALWAYS_INLINE void shifted_k_block(Sums *sums, const uint8_t *block, KLevels levels, const Int8Row *x, int64_t b) {
  uint64_t scales, minima;
  float factors[K_GROUPS];
  k_scales(&scales, &minima, block + 4);
  __m256 of_x = _mm256_loadu_ps(x->scales + b), sums_of_x = _mm256_loadu_ps(x->sums + b);
  _mm256_storeu_ps(factors, _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(load_scale(block)), bytes_as_floats(scales)), of_x));
  __m256 shifts = _mm256_mul_ps(_mm256_set1_ps(load_scale(block + 2)), bytes_as_floats(minima));
  sums->chains[0] = _mm256_fnmadd_ps(shifts, sums_of_x, sums->chains[0]);
#pragma GCC unroll 8
  for (int j = 0; j < K_GROUPS; j++) {
    __m256i products = multiply_levels(_mm256_setzero_si256(), levels(block, j), x->levels + (b + j) * GROUP);
    add_products(&sums->chains[j % 2], products, _mm256_set1_ps(factors[j]));
  }
}
ALWAYS_INLINE void q4_k_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  (void)chain;
  shifted_k_block(sums, block, q4_k_levels, x, b);
}
ALWAYS_INLINE void q5_k_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  (void)chain;
  shifted_k_block(sums, block, q5_k_levels, x, b);
}

// Blocks of 256 without shifts, a scale for each group; `middle_bits` as in multiply_around, or SIGNED.
enum { SIGNED = -1 };
ALWAYS_INLINE void grouped_k_block(Sums *sums, const uint8_t *block, KLevels levels, int middle_bits, __m256 scales, const Int8Row *x,
                                   int64_t b) {
  float factors[K_GROUPS];
  _mm256_storeu_ps(factors, _mm256_mul_ps(scales, _mm256_loadu_ps(x->scales + b)));
#pragma GCC unroll 8
  for (int j = 0; j < K_GROUPS; j++) {
    __m256i own = levels(block, j);
    __m256i products = middle_bits == SIGNED ? multiply_signed(own, x, b + j) : multiply_around(own, middle_bits, x, b + j);
    add_products(&sums->chains[j % 2], products, _mm256_set1_ps(factors[j]));
  }
}
ALWAYS_INLINE void q8_k_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  (void)chain;
  grouped_k_block(sums, block, q8_k_levels, SIGNED, _mm256_set1_ps(load_float(block)), x, b);
}
ALWAYS_INLINE void iq4_xs_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  (void)chain;
  __m256 scales = _mm256_mul_ps(_mm256_set1_ps(load_scale(block)), _mm256_cvtepi32_ps(iq4_xs_scales(block)));
  grouped_k_block(sums, block, iq4_xs_levels, SIGNED, scales, x, b);
}
ALWAYS_INLINE void tq1_0_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  (void)chain;
  grouped_k_block(sums, block, tq1_0_levels, 0, _mm256_set1_ps(load_scale(block + 52)), x, b);
}
ALWAYS_INLINE void tq2_0_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  (void)chain;
  grouped_k_block(sums, block, tq2_0_levels, 0, _mm256_set1_ps(load_scale(block + 64)), x, b);
}

ALWAYS_INLINE void halves_k_block(Sums *sums, const uint8_t *block, KLevels levels, int middle_bits, float scale, __m128i scales,
                                  const Int8Row *x, int64_t b) {
#pragma GCC unroll 8
  for (int j = 0; j < K_GROUPS; j++) {
    __m256 own = scale_of_halves(_mm256_set1_ps(scale), scales, j);
    __m256i products = multiply_around(levels(block, j), middle_bits, x, b + j);
    add_products(&sums->chains[j % 2], products, _mm256_mul_ps(own, _mm256_set1_ps(x->scales[b + j])));
  }
}
ALWAYS_INLINE void q3_k_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  (void)chain;
  halves_k_block(sums, block, q3_k_levels, 2, load_scale(block + 108), q3_k_scales(block), x, b);
}
ALWAYS_INLINE void q6_k_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  (void)chain;
  halves_k_block(sums, block, q6_k_levels, 5, load_scale(block + 208), _mm_loadu_si128((const __m128i *)(const void *)(block + 192)), x, b);
}

// Minima times sums of 16 of x's levels: the sums are there in lanes, as `negatives`.
ALWAYS_INLINE void q2_k_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  (void)chain;
  __m128i both = _mm_loadu_si128((const __m128i *)(const void *)block), low = _mm_set1_epi8(15);
  __m128i scales = _mm_and_si128(both, low), minima = _mm_and_si128(_mm_srli_epi16(both, 4), low);
  __m256 d = _mm256_set1_ps(load_scale(block + 80)), dmin = _mm256_set1_ps(load_scale(block + 82));
#pragma GCC unroll 8
  for (int j = 0; j < K_GROUPS; j++) {
    __m256 of_x = _mm256_set1_ps(x->scales[b + j]);
    __m256i products = multiply_levels(_mm256_setzero_si256(), q2_k_levels(block, j), x->levels + (b + j) * GROUP);
    add_products(&sums->chains[j % 2], products, _mm256_mul_ps(scale_of_halves(d, scales, j), of_x));
    __m256i negatives = load_bytes(x->negatives + (b + j) * INT8_LANES);
    add_products(&sums->chains[j % 2], negatives, _mm256_mul_ps(scale_of_halves(dmin, minima, j), of_x));
  }
}

ALWAYS_INLINE float total(const Sums *sums) {
  __m256 all = _mm256_add_ps(sums->chains[0], sums->chains[1]);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  two = _mm_add_ps(two, _mm_blend_ps(_mm_setzero_ps(), sums->shifts, 2));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Of `rows` rows of x, for which a block of w is unpacked once; each sum is the one that its row alone would get.
ALWAYS_INLINE void dot(float *out, int64_t step, Block block, int64_t bytes, int64_t groups, const uint8_t *w, const Int8Row *x, int rows,
                       int64_t blocks) {
  Sums sums[INT8_ROWS];
  for (int r = 0; r < rows; r++) sums[r] = (Sums){{_mm256_setzero_ps(), _mm256_setzero_ps()}, _mm_setzero_ps()};
  int64_t b = 0;
  for (; b + 2 * groups <= blocks; b += 2 * groups, w += 2 * bytes) {
    for (int64_t line = 0; line < 2 * bytes; line += 64) __builtin_prefetch(w + FETCH_AHEAD + line);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) block(&sums[r], 0, w, &x[r], b);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) block(&sums[r], 1, w + bytes, &x[r], b + groups);
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows && b < blocks; r++) block(&sums[r], 0, w, &x[r], b);
  for (int r = 0; r < rows; r++) out[r * step] = total(&sums[r]);
}

// Types of blocks of `groups` times 32.
#define FOR_TYPES(of)                                                                                                                 \
  of(Q4_0, q4_0, 1) of(Q4_1, q4_1, 1) of(Q5_0, q5_0, 1) of(Q5_1, q5_1, 1) of(Q8_0, q8_0, 1) of(IQ4_NL, iq4_nl, 1) of(MXFP4, mxfp4, 1) \
      of(Q2_K, q2_k, K_GROUPS) of(Q3_K, q3_k, K_GROUPS) of(Q4_K, q4_k, K_GROUPS) of(Q5_K, q5_k, K_GROUPS) of(Q6_K, q6_k, K_GROUPS)    \
          of(Q8_K, q8_k, K_GROUPS) of(IQ4_XS, iq4_xs, K_GROUPS) of(TQ1_0, tq1_0, K_GROUPS) of(TQ2_0, tq2_0, K_GROUPS)

#define DOT_FUNCTION(TYPE, type, groups)                                                                           \
  static void type##_dot(float *out, int64_t step, const uint8_t *w, const Int8Row *x, int rows, int64_t blocks) { \
    if (rows == 1) dot(out, step, type##_block, TYPE##_BYTES, groups, w, x, 1, blocks);                            \
    else if (rows == 2) dot(out, step, type##_block, TYPE##_BYTES, groups, w, x, 2, blocks);                       \
    else if (rows == 3) dot(out, step, type##_block, TYPE##_BYTES, groups, w, x, 3, blocks);                       \
    else dot(out, step, type##_block, TYPE##_BYTES, groups, w, x, 4, blocks);                                      \
  }
FOR_TYPES(DOT_FUNCTION)

#define DOT_OF(TYPE, type, groups) \
  case BLOCK_##TYPE: return type##_dot;
Int8Dot int8_dot(BlockType type) {
  switch (type) {
    FOR_TYPES(DOT_OF)
    // NF4's levels, and a group's, are no integers: rounded to 8 bits they would be off by almost as much as x, and always in the same way.
    case BLOCK_NF4:
    case BLOCK_GROUPED:
    case BLOCK_DEVICE:
    case BLOCK_F32:
    case BLOCK_F16:
    case BLOCK_BF16: break;
  }
  return NULL;
}
