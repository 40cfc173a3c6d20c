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
ALWAYS_INLINE __m256 bytes_as_floats(uint64_t bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)bytes))); }

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

// Each 16 levels have a scale of 8 bits: four lanes.
ALWAYS_INLINE void q6_k_block(Sums *sums, int chain, const uint8_t *block, const Int8Row *x, int64_t b) {
  (void)chain;
  const __m256i first_two = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  __m256 scale = _mm256_set1_ps(load_scale(block + 208));
#pragma GCC unroll 8
  for (int j = 0; j < K_GROUPS; j++) {
    __m128i scales = _mm_loadl_epi64((const __m128i *)(const void *)(block + 192 + j / 4 * 8));
    __m256 eight = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(scales)));
    __m256 own = _mm256_permutevar8x32_ps(eight, _mm256_add_epi32(first_two, _mm256_set1_epi32(j % 4 * 2)));
    __m256i products = multiply_around(q6_k_levels(block, j), 5, x, b + j);
    add_products(&sums->chains[j % 2], products, _mm256_mul_ps(own, _mm256_set1_ps(x->scales[b + j])));
  }
}

ALWAYS_INLINE float dot(Block block, int64_t bytes, int64_t groups, const uint8_t *w, const Int8Row *x, int64_t blocks) {
  Sums sums = {{_mm256_setzero_ps(), _mm256_setzero_ps()}, _mm_setzero_ps()};
  int64_t b = 0;
  for (; b + 2 * groups <= blocks; b += 2 * groups, w += 2 * bytes) {
    for (int64_t line = 0; line < 2 * bytes; line += 64) __builtin_prefetch(w + FETCH_AHEAD + line);
    block(&sums, 0, w, x, b);
    block(&sums, 1, w + bytes, x, b + groups);
  }
  if (b < blocks) block(&sums, 0, w, x, b);
  __m256 all = _mm256_add_ps(sums.chains[0], sums.chains[1]);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  two = _mm_add_ps(two, _mm_blend_ps(_mm_setzero_ps(), sums.shifts, 2));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static float q4_0_dot(const uint8_t *w, const Int8Row *x, int64_t blocks) { return dot(q4_0_block, Q4_0_BYTES, 1, w, x, blocks); }
static float q4_1_dot(const uint8_t *w, const Int8Row *x, int64_t blocks) { return dot(q4_1_block, Q4_1_BYTES, 1, w, x, blocks); }
static float q5_0_dot(const uint8_t *w, const Int8Row *x, int64_t blocks) { return dot(q5_0_block, Q5_0_BYTES, 1, w, x, blocks); }
static float q5_1_dot(const uint8_t *w, const Int8Row *x, int64_t blocks) { return dot(q5_1_block, Q5_1_BYTES, 1, w, x, blocks); }
static float q8_0_dot(const uint8_t *w, const Int8Row *x, int64_t blocks) { return dot(q8_0_block, Q8_0_BYTES, 1, w, x, blocks); }
static float q4_k_dot(const uint8_t *w, const Int8Row *x, int64_t blocks) { return dot(q4_k_block, Q4_K_BYTES, K_GROUPS, w, x, blocks); }
static float q5_k_dot(const uint8_t *w, const Int8Row *x, int64_t blocks) { return dot(q5_k_block, Q5_K_BYTES, K_GROUPS, w, x, blocks); }
static float q6_k_dot(const uint8_t *w, const Int8Row *x, int64_t blocks) { return dot(q6_k_block, Q6_K_BYTES, K_GROUPS, w, x, blocks); }

Int8Dot int8_dot(BlockType type) {
  switch (type) {
    case BLOCK_Q4_0: return q4_0_dot;
    case BLOCK_Q4_1: return q4_1_dot;
    case BLOCK_Q5_0: return q5_0_dot;
    case BLOCK_Q5_1: return q5_1_dot;
    case BLOCK_Q8_0: return q8_0_dot;
    case BLOCK_Q4_K: return q4_k_dot;
    case BLOCK_Q5_K: return q5_k_dot;
    case BLOCK_Q6_K: return q6_k_dot;
    // NF4's levels (and a group's may be) are not evenly spaced: rounded to 8 bits they would be off by almost as much as x, and always in the same way.
    case BLOCK_NF4:
    case BLOCK_GROUPED:
    case BLOCK_F32:
    case BLOCK_F16:
    case BLOCK_BF16: break;
  }
  return NULL;
}
