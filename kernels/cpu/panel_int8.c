// The dot products of int8.h for many rows of x: a row of w is unpacked once into a panel, levels and scales by lanes, and multiplied with each
// row of x by the widest vpdpbusd there is. Two blocks of 32 go through one register: the first in the lower eight lanes, where dot_int8.c
// has its first chain, the second in the upper ones. So each sum has the very bits that dot_int8.c gives it.
#include "kernels/cpu/int8.h"
#include "kernels/cpu/unpack.h"

#ifdef __AVX512VNNI__

enum { PAIR = 2 * GROUP };

// How a block's levels stand for weights: as they are, around 2^bits, or signed, which is around 2^7 with the highest bit turned.
typedef enum Shift { SHIFT_NONE, SHIFT_BLOCKS, SHIFT_K_BLOCKS } Shift;

typedef struct Panel {
  uint8_t *levels;  // [columns]
  float *scales;  // [blocks][INT8_LANES]
  float *shifts;  // [blocks]: of types with a shift
} Panel;

ALWAYS_INLINE void put_levels(const Panel *panel, int64_t b, __m256i levels) {
  _mm256_storeu_si256((__m256i *)(void *)(panel->levels + b * GROUP), levels);
}
ALWAYS_INLINE void put_signed(const Panel *panel, int64_t b, __m256i levels) {
  put_levels(panel, b, _mm256_xor_si256(levels, _mm256_set1_epi8((char)0x80)));
}
ALWAYS_INLINE void put_scales(const Panel *panel, int64_t b, __m256 scales) { _mm256_storeu_ps(panel->scales + b * INT8_LANES, scales); }

// Unpacks a block of 32, the number b of its row, or one of 256, whose first 32 are number b.
typedef void (*Unpack)(const Panel *panel, const uint8_t *block, int64_t b);

#define BLOCK_UNPACK(type, put, scale)                                                      \
  ALWAYS_INLINE void type##_unpack(const Panel *panel, const uint8_t *block, int64_t b) {   \
    put(panel, b, type##_levels(block));                                                    \
    put_scales(panel, b, _mm256_set1_ps(scale));                                            \
  }
BLOCK_UNPACK(q4_0, put_levels, load_scale(block))
BLOCK_UNPACK(q5_0, put_levels, load_scale(block))
BLOCK_UNPACK(q8_0, put_signed, load_scale(block))
BLOCK_UNPACK(iq4_nl, put_signed, load_scale(block))
BLOCK_UNPACK(mxfp4, put_signed, mxfp4_scale(block[0]))

#define SHIFTED_UNPACK(type)                                                                \
  ALWAYS_INLINE void type##_unpack(const Panel *panel, const uint8_t *block, int64_t b) {   \
    put_levels(panel, b, type##_levels(block));                                             \
    put_scales(panel, b, _mm256_set1_ps(load_scale(block)));                                \
    panel->shifts[b] = load_scale(block + 2);                                               \
  }
SHIFTED_UNPACK(q4_1)
SHIFTED_UNPACK(q5_1)

#define SHIFTED_K_UNPACK(type)                                                                                                        \
  ALWAYS_INLINE void type##_unpack(const Panel *panel, const uint8_t *block, int64_t b) {                                             \
    uint64_t scales, minima;                                                                                                          \
    float factors[K_GROUPS];                                                                                                          \
    k_scales(&scales, &minima, block + 4);                                                                                            \
    _mm256_storeu_ps(factors, _mm256_mul_ps(_mm256_set1_ps(load_scale(block)), bytes_as_floats(scales)));                             \
    _mm256_storeu_ps(panel->shifts + b, _mm256_mul_ps(_mm256_set1_ps(load_scale(block + 2)), bytes_as_floats(minima)));               \
    for (int j = 0; j < K_GROUPS; j++) {                                                                                              \
      put_levels(panel, b + j, type##_levels(block, j));                                                                              \
      put_scales(panel, b + j, _mm256_set1_ps(factors[j]));                                                                           \
    }                                                                                                                                 \
  }
SHIFTED_K_UNPACK(q4_k)
SHIFTED_K_UNPACK(q5_k)

#define GROUPED_K_UNPACK(type, put, all_scales)                                             \
  ALWAYS_INLINE void type##_unpack(const Panel *panel, const uint8_t *block, int64_t b) {   \
    float factors[K_GROUPS];                                                                \
    _mm256_storeu_ps(factors, all_scales);                                                  \
    for (int j = 0; j < K_GROUPS; j++) {                                                    \
      put(panel, b + j, type##_levels(block, j));                                           \
      put_scales(panel, b + j, _mm256_set1_ps(factors[j]));                                 \
    }                                                                                       \
  }
GROUPED_K_UNPACK(q8_k, put_signed, _mm256_set1_ps(load_float(block)))
GROUPED_K_UNPACK(iq4_xs, put_signed, _mm256_mul_ps(_mm256_set1_ps(load_scale(block)), _mm256_cvtepi32_ps(iq4_xs_scales(block))))
GROUPED_K_UNPACK(tq1_0, put_levels, _mm256_set1_ps(load_scale(block + 52)))
GROUPED_K_UNPACK(tq2_0, put_levels, _mm256_set1_ps(load_scale(block + 64)))

#define HALVES_K_UNPACK(type, scale, sixteen)                                               \
  ALWAYS_INLINE void type##_unpack(const Panel *panel, const uint8_t *block, int64_t b) {   \
    __m256 d = _mm256_set1_ps(scale);                                                       \
    __m128i scales = sixteen;                                                               \
    for (int j = 0; j < K_GROUPS; j++) {                                                    \
      put_levels(panel, b + j, type##_levels(block, j));                                    \
      put_scales(panel, b + j, scale_of_halves(d, scales, j));                              \
    }                                                                                       \
  }
HALVES_K_UNPACK(q3_k, load_scale(block + 108), q3_k_scales(block))
HALVES_K_UNPACK(q6_k, load_scale(block + 208), _mm_loadu_si128((const __m128i *)(const void *)(block + 192)))

// Adds a pair of blocks, b and b + 1, of one row of x. middle_bits below 0: the levels are as they are.
ALWAYS_INLINE __m512 add_pair(__m512 sum, __m512i levels, __m512 scales, const Int8Row *x, int64_t b, int middle_bits) {
  __m512i start = _mm512_setzero_si512();
  if (middle_bits >= 0) start = _mm512_slli_epi32(_mm512_loadu_si512(x->negatives + b * INT8_LANES), (unsigned)middle_bits);
  __m512i products = _mm512_dpbusd_epi32(start, levels, _mm512_loadu_si512(x->levels + b * GROUP));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), _mm512_mul_ps(scales, _mm512_loadu_ps(x->wide_scales + b * INT8_LANES)), sum);
}

// out[r * step] of `rows` rows of x by the unpacked panel; `shifted`: [STREAM_ROWS] sums of shifts.
ALWAYS_INLINE void multiply(float *out, int64_t step, const Panel *panel, const Int8Row *x, int rows, int64_t blocks, int middle_bits,
                            Shift shift, const float *shifted) {
  __m512 sums[INT8_PANEL_ROWS];
  for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; b += 2) {
    if (shift == SHIFT_K_BLOCKS && b % K_GROUPS == 0) {
      __m512 shifts = _mm512_castps256_ps512(_mm256_loadu_ps(panel->shifts + b));
      for (int r = 0; r < rows; r++)
        sums[r] = _mm512_mask3_fnmadd_ps(shifts, _mm512_castps256_ps512(_mm256_loadu_ps(x[r].sums + b)), sums[r], 0xff);
    }
    __m512i levels = _mm512_loadu_si512(panel->levels + b * GROUP);
    __m512 scales = _mm512_loadu_ps(panel->scales + b * INT8_LANES);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) sums[r] = add_pair(sums[r], levels, scales, &x[r], b, middle_bits);
  }
  for (int r = 0; r < rows; r++) {
    __m256 all = _mm256_add_ps(_mm512_castps512_ps256(sums[r]), _mm512_extractf32x8_ps(sums[r], 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    if (shift == SHIFT_BLOCKS) two = _mm_add_ps(two, _mm_set_ps(0, 0, shifted[r], 0));
    else two = _mm_add_ps(two, _mm_setzero_ps());
    out[r * step] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
}

// The shifts' sums of all rows of x at once: each is added up from the first block to the last, as dot_int8.c does.
ALWAYS_INLINE void add_shifts(float *shifted, const Panel *panel, const float *sums_by_block, int64_t blocks) {
  __m256 sum = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; b++)
    sum = _mm256_add_ps(sum, _mm256_mul_ps(_mm256_set1_ps(panel->shifts[b]), _mm256_loadu_ps(sums_by_block + b * INT8_PANEL_ROWS)));
  _mm256_storeu_ps(shifted, sum);
}

ALWAYS_INLINE void run(float *out, int64_t step, Unpack unpack, int64_t bytes, int64_t groups, int middle_bits, Shift shift,
                       const uint8_t *w, int64_t w_rows, int64_t w_step, const Int8Rows *x, char *room) {
  int64_t blocks = x->columns / GROUP, even = round_up(blocks, 2);
  Panel panel = {.levels = (uint8_t *)room, .scales = (float *)(void *)(room + even * GROUP)};
  panel.shifts = panel.scales + even * INT8_LANES;
  float shifted[INT8_PANEL_ROWS];
  if (even > blocks) {  // what lies behind the last block counts for nothing
    put_levels(&panel, blocks, _mm256_setzero_si256());
    put_scales(&panel, blocks, _mm256_setzero_ps());
  }
  for (int64_t row = 0; row < w_rows; row++, w += w_step) {
    for (int64_t b = 0; b < blocks; b += groups) unpack(&panel, w + b / groups * bytes, b);
    if (shift == SHIFT_BLOCKS) add_shifts(shifted, &panel, x->sums_by_block, blocks);
    float *to = out + row;
    if (x->count == INT8_PANEL_ROWS) {
      multiply(to, step, &panel, x->rows, INT8_PANEL_ROWS, even, middle_bits, shift, shifted);
      continue;
    }
    int r = 0;
    for (; r + 4 <= x->count; r += 4) multiply(to + r * step, step, &panel, x->rows + r, 4, even, middle_bits, shift, shifted + r);
    for (; r + 2 <= x->count; r += 2) multiply(to + r * step, step, &panel, x->rows + r, 2, even, middle_bits, shift, shifted + r);
    if (r < x->count) multiply(to + r * step, step, &panel, x->rows + r, 1, even, middle_bits, shift, shifted + r);
  }
}

// Types of blocks of `groups` times 32, the middle of their levels and their shifts. (Q2_K, whose shifts go by halves of 16, has none.)
#define FOR_TYPES(of)                                                                                                                   \
  of(Q4_0, q4_0, 1, 3, SHIFT_NONE) of(Q4_1, q4_1, 1, -1, SHIFT_BLOCKS) of(Q5_0, q5_0, 1, 4, SHIFT_NONE)                                 \
      of(Q5_1, q5_1, 1, -1, SHIFT_BLOCKS) of(Q8_0, q8_0, 1, 7, SHIFT_NONE) of(IQ4_NL, iq4_nl, 1, 7, SHIFT_NONE)                         \
          of(MXFP4, mxfp4, 1, 7, SHIFT_NONE) of(Q3_K, q3_k, K_GROUPS, 2, SHIFT_NONE) of(Q4_K, q4_k, K_GROUPS, -1, SHIFT_K_BLOCKS)       \
              of(Q5_K, q5_k, K_GROUPS, -1, SHIFT_K_BLOCKS) of(Q6_K, q6_k, K_GROUPS, 5, SHIFT_NONE)                                      \
                  of(Q8_K, q8_k, K_GROUPS, 7, SHIFT_NONE) of(IQ4_XS, iq4_xs, K_GROUPS, 7, SHIFT_NONE)                                   \
                      of(TQ1_0, tq1_0, K_GROUPS, 0, SHIFT_NONE) of(TQ2_0, tq2_0, K_GROUPS, 0, SHIFT_NONE)

#define PANEL_FUNCTION(TYPE, type, groups, middle_bits, shift)                                                                            \
  static void type##_panel(float *out, int64_t step, const uint8_t *w, int64_t w_rows, int64_t w_step, const Int8Rows *x, char *room) {   \
    run(out, step, type##_unpack, TYPE##_BYTES, groups, middle_bits, shift, w, w_rows, w_step, x, room);                                  \
  }
FOR_TYPES(PANEL_FUNCTION)

#define PANEL_OF(TYPE, type, groups, middle_bits, shift) \
  case BLOCK_##TYPE: return type##_panel;
#else
#define FOR_TYPES(of)
#endif

Int8Panel int8_panel(BlockType type) {
  switch ((int)type) {
    FOR_TYPES(PANEL_OF)
    default: return NULL;
  }
}
