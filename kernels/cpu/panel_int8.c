// The dot products of int8.h for many rows of x: a row of w is unpacked once into a panel, levels and scales by lanes, and multiplied with each
// row of x by the widest vpdpbusd there is. Two blocks of 32 go through one register: the first in the lower eight lanes, where dot_int8.c
// has its first chain, the second in the upper ones. So each sum has the very bits that dot_int8.c gives it.
#include <string.h>

#include "kernels/cpu/int8.h"
#include "kernels/cpu/unpack.h"

#ifdef __AVX512VNNI__

enum { PAIR = INT8_PAIR, FETCH_AHEAD = 4096 };

// How a block's levels stand for weights: as they are, around 2^bits, or signed, which is around 2^7 with the highest bit turned.
typedef enum Shift { SHIFT_NONE, SHIFT_BLOCKS, SHIFT_K_BLOCKS } Shift;

// Of one row of w.
typedef struct Panel {
  uint8_t *levels;  // [columns]
  float *scales;  // [blocks][2]: of the first and of the last 16 of each
  float *shifts;  // [blocks]: of types with a shift
} Panel;

ALWAYS_INLINE void put_levels(const Panel *panel, int64_t b, __m256i levels) {
  _mm256_storeu_si256((__m256i *)(void *)(panel->levels + b * GROUP), levels);
}
ALWAYS_INLINE void put_signed(const Panel *panel, int64_t b, __m256i levels) {
  put_levels(panel, b, _mm256_xor_si256(levels, _mm256_set1_epi8((char)0x80)));
}
ALWAYS_INLINE void put_scale(const Panel *panel, int64_t b, float scale) { panel->scales[2 * b] = panel->scales[2 * b + 1] = scale; }
// Of the blocks b .. b + 7.
ALWAYS_INLINE void put_scales(const Panel *panel, int64_t b, __m256 scales) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  _mm512_storeu_ps(panel->scales + 2 * b, _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(scales)));
}

// Unpacks a block of 32, the number b of its row, or one of 256, whose first 32 are number b.
typedef void (*Unpack)(const Panel *panel, const uint8_t *block, int64_t b);

#define BLOCK_UNPACK(type, put, scale)                                                    \
  ALWAYS_INLINE void type##_unpack(const Panel *panel, const uint8_t *block, int64_t b) { \
    put(panel, b, type##_levels(block));                                                  \
    put_scale(panel, b, scale);                                                           \
  }
BLOCK_UNPACK(q4_0, put_levels, load_scale(block))
BLOCK_UNPACK(q5_0, put_levels, load_scale(block))
BLOCK_UNPACK(q8_0, put_signed, load_scale(block))
BLOCK_UNPACK(iq4_nl, put_signed, load_scale(block))
BLOCK_UNPACK(mxfp4, put_signed, mxfp4_scale(block[0]))

// Two blocks of nibbles at once: bytes [low of the first, high of the first, low of the second, high of the second].
ALWAYS_INLINE void put_nibble_pair(const Panel *panel, int64_t b, const uint8_t *first, const uint8_t *second) {
  const __m256i mask = _mm256_set1_epi8(15);
  __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)first)),
                                         _mm_loadu_si128((const __m128i *)(const void *)second), 1);
  __m256i low = _mm256_and_si256(both, mask), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
  __m512i parts = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  _mm512_storeu_si512(panel->levels + b * GROUP, _mm512_shuffle_i64x2(parts, parts, 0xd8));
}
ALWAYS_INLINE void q4_0_pair(const Panel *panel, const uint8_t *block, int64_t b) {
  put_nibble_pair(panel, b, block + 2, block + Q4_0_BYTES + 2);
  __m128i halves = _mm_insert_epi16(_mm_cvtsi32_si128(load_word(block) & 0xffff), (int)(load_word(block + Q4_0_BYTES) & 0xffff), 1);
  __m128 scales = _mm_cvtph_ps(halves);
  _mm_storeu_ps(panel->scales + 2 * b, _mm_unpacklo_ps(scales, scales));
}
ALWAYS_INLINE void q4_1_pair(const Panel *panel, const uint8_t *block, int64_t b) {
  put_nibble_pair(panel, b, block + 4, block + Q4_1_BYTES + 4);
  __m128i halves = _mm_insert_epi32(_mm_cvtsi32_si128((int32_t)load_word(block)), (int32_t)load_word(block + Q4_1_BYTES), 1);
  __m128 scales_and_shifts = _mm_cvtph_ps(halves);
  _mm_storeu_ps(panel->scales + 2 * b, _mm_moveldup_ps(scales_and_shifts));
  _mm_storel_pi((__m64 *)(void *)(panel->shifts + b), _mm_shuffle_ps(scales_and_shifts, scales_and_shifts, _MM_SHUFFLE(3, 3, 3, 1)));
}

#define SHIFTED_UNPACK(type)                                                                   \
  ALWAYS_INLINE void type##_unpack(const Panel *panel, const uint8_t *block, int64_t b) {      \
    __m128 scale_and_shift = _mm_cvtph_ps(_mm_cvtsi32_si128((int32_t)load_word(block)));       \
    put_levels(panel, b, type##_levels(block));                                                \
    _mm_storel_pi((__m64 *)(void *)(panel->scales + 2 * b), _mm_moveldup_ps(scale_and_shift)); \
    _mm_store_ss(panel->shifts + b, _mm_movehdup_ps(scale_and_shift));                         \
  }
SHIFTED_UNPACK(q4_1)
SHIFTED_UNPACK(q5_1)

#define K_LEVELS(type, put) \
  for (int j = 0; j < K_GROUPS; j++) put(panel, b + j, type##_levels(block, j))

#define SHIFTED_K_UNPACK(type)                                                                                          \
  ALWAYS_INLINE void type##_unpack(const Panel *panel, const uint8_t *block, int64_t b) {                               \
    uint64_t scales, minima;                                                                                            \
    k_scales(&scales, &minima, block + 4);                                                                              \
    put_scales(panel, b, _mm256_mul_ps(_mm256_set1_ps(load_scale(block)), bytes_as_floats(scales)));                    \
    _mm256_storeu_ps(panel->shifts + b, _mm256_mul_ps(_mm256_set1_ps(load_scale(block + 2)), bytes_as_floats(minima))); \
    K_LEVELS(type, put_levels);                                                                                         \
  }
SHIFTED_K_UNPACK(q4_k)
SHIFTED_K_UNPACK(q5_k)

#define GROUPED_K_UNPACK(type, put, all_scales)                                           \
  ALWAYS_INLINE void type##_unpack(const Panel *panel, const uint8_t *block, int64_t b) { \
    put_scales(panel, b, all_scales);                                                     \
    K_LEVELS(type, put);                                                                  \
  }
GROUPED_K_UNPACK(q8_k, put_signed, _mm256_set1_ps(load_float(block)))
GROUPED_K_UNPACK(iq4_xs, put_signed, _mm256_mul_ps(_mm256_set1_ps(load_scale(block)), _mm256_cvtepi32_ps(iq4_xs_scales(block))))
GROUPED_K_UNPACK(tq1_0, put_levels, _mm256_set1_ps(load_scale(block + 52)))
GROUPED_K_UNPACK(tq2_0, put_levels, _mm256_set1_ps(load_scale(block + 64)))

// A scale for each 16 levels.
#define HALVES_K_UNPACK(type, scale, sixteen)                                                                \
  ALWAYS_INLINE void type##_unpack(const Panel *panel, const uint8_t *block, int64_t b) {                    \
    __m512 scales = _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen))); \
    _mm512_storeu_ps(panel->scales + 2 * b, scales);                                                         \
    K_LEVELS(type, put_levels);                                                                              \
  }
HALVES_K_UNPACK(q3_k, load_scale(block + 108), q3_k_scales(block))
HALVES_K_UNPACK(q6_k, load_scale(block + 208), _mm_loadu_si128((const __m128i *)(const void *)(block + 192)))

// Adds a pair of blocks of a row of x, which are number `at` of Int8Rows. middle_bits below 0: the levels are as they are.
ALWAYS_INLINE __m512 add_pair(__m512 sum, __m512i levels, __m512 scales, const Int8Rows *x, int64_t at, int middle_bits) {
  __m512i start = _mm512_setzero_si512();
  if (middle_bits >= 0) start = _mm512_slli_epi32(_mm512_loadu_si512(x->negatives + at * 2 * INT8_LANES), (unsigned)middle_bits);
  __m512i products = _mm512_dpbusd_epi32(start, levels, _mm512_loadu_si512(x->levels + at * PAIR));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), _mm512_mul_ps(scales, _mm512_loadu_ps(x->scales + at * 2 * INT8_LANES)), sum);
}

ALWAYS_INLINE float total(__m512 sums, float shift, Shift kind) {
  __m256 all = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  two = _mm_add_ps(two, kind == SHIFT_BLOCKS ? _mm_set_ps(0, 0, shift, 0) : _mm_setzero_ps());
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

enum { PANELS = 2 };  // rows of w that are multiplied at once: x is read once for both

// out[r * step + p] of `rows` rows of x by `count` unpacked panels; shifted[p][INT8_PANEL_ROWS]: sums of shifts.
ALWAYS_INLINE void multiply(float *out, int64_t step, const Panel *panels, int count, const Int8Rows *x, int first, int rows,
                            int64_t blocks, int middle_bits, Shift shift, const float (*shifted)[INT8_PANEL_ROWS]) {
  const __m512i fours = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  __m512 sums[PANELS][INT8_PANEL_ROWS];
  for (int p = 0; p < count; p++)
    for (int r = 0; r < rows; r++) sums[p][r] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; b += 2) {
    __m512i levels[PANELS];
    __m512 scales[PANELS];
    for (int p = 0; p < count; p++) {
      if (shift == SHIFT_K_BLOCKS && b % K_GROUPS == 0) {
        __m512 shifts = _mm512_castps256_ps512(_mm256_loadu_ps(panels[p].shifts + b));
        for (int r = 0; r < rows; r++)
          sums[p][r] =
              _mm512_mask3_fnmadd_ps(shifts, _mm512_castps256_ps512(_mm256_loadu_ps(x->rows[first + r].sums + b)), sums[p][r], 0xff);
      }
      levels[p] = _mm512_loadu_si512(panels[p].levels + b * GROUP);
      scales[p] = _mm512_permutexvar_ps(fours, _mm512_castps128_ps512(_mm_loadu_ps(panels[p].scales + 2 * b)));
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
      for (int p = 0; p < count; p++)
        sums[p][r] = add_pair(sums[p][r], levels[p], scales[p], x, b / 2 * INT8_PANEL_ROWS + first + r, middle_bits);
  }
  for (int p = 0; p < count; p++)
    for (int r = 0; r < rows; r++)
      out[(first + r) * step + p] = total(sums[p][r], shift == SHIFT_BLOCKS ? shifted[p][first + r] : 0, shift);
}

// The shifts' sums of all rows of x at once: each is added up from the first block to the last, as dot_int8.c does.
ALWAYS_INLINE void add_shifts(float (*shifted)[INT8_PANEL_ROWS], const Panel *panels, const float *sums_by_block, int64_t blocks) {
  __m256 sums[PANELS];
  for (int p = 0; p < PANELS; p++) sums[p] = _mm256_setzero_ps();
#pragma GCC unroll 4
  for (int64_t b = 0; b < blocks; b++) {
    __m256 of_x = _mm256_loadu_ps(sums_by_block + b * INT8_PANEL_ROWS);
    for (int p = 0; p < PANELS; p++) sums[p] = _mm256_add_ps(sums[p], _mm256_mul_ps(_mm256_set1_ps(panels[p].shifts[b]), of_x));
  }
  for (int p = 0; p < PANELS; p++) _mm256_storeu_ps(shifted[p], sums[p]);
}

ALWAYS_INLINE void multiply_rows(float *out, int64_t step, const Panel *panels, int count, const Int8Rows *x, int64_t blocks,
                                 int middle_bits, Shift shift, const float (*shifted)[INT8_PANEL_ROWS]) {
  if (x->count == INT8_PANEL_ROWS) {
    multiply(out, step, panels, count, x, 0, INT8_PANEL_ROWS, blocks, middle_bits, shift, shifted);
    return;
  }
  int r = 0;
  for (; r + 4 <= x->count; r += 4) multiply(out, step, panels, count, x, r, 4, blocks, middle_bits, shift, shifted);
  for (; r + 2 <= x->count; r += 2) multiply(out, step, panels, count, x, r, 2, blocks, middle_bits, shift, shifted);
  if (r < x->count) multiply(out, step, panels, count, x, r, 1, blocks, middle_bits, shift, shifted);
}

ALWAYS_INLINE void run(float *out, int64_t step, Unpack unpack, Unpack unpack_pair, int64_t bytes, int64_t groups, int middle_bits,
                       Shift shift, const uint8_t *w, int64_t w_rows, int64_t w_step, const Int8Rows *x, char *room) {
  int64_t blocks = x->columns / GROUP, even = round_up(blocks, 2);
  Panel panels[PANELS];
  float shifted[PANELS][INT8_PANEL_ROWS];
  for (int p = 0; p < PANELS; p++, room += int8_panel_bytes(x->columns) / PANELS) {
    panels[p] = (Panel){.levels = (uint8_t *)room, .scales = (float *)(void *)(room + even * GROUP)};
    panels[p].shifts = panels[p].scales + 2 * even;
    memset(panels[p].shifts, 0, (size_t)even * sizeof(float));  // of a last row of w without another they are read, and not used
    if (even == blocks) continue;  // what lies behind the last block counts for nothing
    put_levels(&panels[p], blocks, _mm256_setzero_si256());
    put_scale(&panels[p], blocks, 0);
  }
  for (int64_t row = 0; row < w_rows; row += PANELS) {
    int count = (int)smaller(PANELS, w_rows - row);
    for (int p = 0; p < count; p++, w += w_step) {
      int64_t b = 0;
      for (int64_t line = 0; line < w_step; line += 64) __builtin_prefetch(w + FETCH_AHEAD + line);
      for (; b + 2 <= blocks && unpack_pair; b += 2) unpack_pair(&panels[p], w + b * bytes, b);
      for (; b < blocks; b += groups) unpack(&panels[p], w + b / groups * bytes, b);
    }
    if (shift == SHIFT_BLOCKS) add_shifts(shifted, panels, x->sums_by_block, blocks);
    if (count == PANELS)
      multiply_rows(out + row, step, panels, PANELS, x, even, middle_bits, shift, (const float(*)[INT8_PANEL_ROWS])shifted);
    else multiply_rows(out + row, step, panels, 1, x, even, middle_bits, shift, (const float(*)[INT8_PANEL_ROWS])shifted);
  }
}

// Types of blocks of `groups` times 32, how two are unpacked at once, the middle of their levels and their shifts. (Q2_K, whose shifts go by
// halves of 16, has none.)
#define FOR_TYPES(of)                                                                                                               \
  of(Q4_0, q4_0, q4_0_pair, 1, 3, SHIFT_NONE) of(Q4_1, q4_1, q4_1_pair, 1, -1, SHIFT_BLOCKS) of(Q5_0, q5_0, NULL, 1, 4, SHIFT_NONE) \
      of(Q5_1, q5_1, NULL, 1, -1, SHIFT_BLOCKS) of(Q8_0, q8_0, NULL, 1, 7, SHIFT_NONE) of(IQ4_NL, iq4_nl, NULL, 1, 7, SHIFT_NONE)   \
          of(MXFP4, mxfp4, NULL, 1, 7, SHIFT_NONE) of(Q3_K, q3_k, NULL, K_GROUPS, 2, SHIFT_NONE)                                    \
              of(Q4_K, q4_k, NULL, K_GROUPS, -1, SHIFT_K_BLOCKS) of(Q5_K, q5_k, NULL, K_GROUPS, -1, SHIFT_K_BLOCKS)                 \
                  of(Q6_K, q6_k, NULL, K_GROUPS, 5, SHIFT_NONE) of(Q8_K, q8_k, NULL, K_GROUPS, 7, SHIFT_NONE)                       \
                      of(IQ4_XS, iq4_xs, NULL, K_GROUPS, 7, SHIFT_NONE) of(TQ1_0, tq1_0, NULL, K_GROUPS, 0, SHIFT_NONE)             \
                          of(TQ2_0, tq2_0, NULL, K_GROUPS, 0, SHIFT_NONE)

#define PANEL_FUNCTION(TYPE, type, pair, groups, middle_bits, shift)                                                                    \
  static void type##_panel(float *out, int64_t step, const uint8_t *w, int64_t w_rows, int64_t w_step, const Int8Rows *x, char *room) { \
    run(out, step, type##_unpack, pair, TYPE##_BYTES, groups, middle_bits, shift, w, w_rows, w_step, x, room);                          \
  }
FOR_TYPES(PANEL_FUNCTION)

#define PANEL_OF(TYPE, type, pair, groups, middle_bits, shift) \
  case BLOCK_##TYPE:                                           \
    return type##_panel;
#else
#define FOR_TYPES(of)
#endif

Int8Panel int8_panel(BlockType type) {
  switch ((int)type) {
    FOR_TYPES(PANEL_OF)
    default: return NULL;
  }
}
