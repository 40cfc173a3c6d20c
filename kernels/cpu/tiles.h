// AMX tiles of bfloat16 (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18): eight tile registers
// of 16 rows of 64 bytes. c[16][16] += a[16][32] b[32][16], float32 sums, with b's rows in pairs: b[k / 2][column][k % 2].
#ifndef KERNELS_CPU_TILES_H
#define KERNELS_CPU_TILES_H

#include <immintrin.h>
#include <stdint.h>

#include "kernels/cpu/typed.h"

enum { AMX_ROWS = 16, AMX_DEPTH = 32, AMX_ELEMENTS = AMX_ROWS * AMX_DEPTH };

// Before the first tile instruction of a task, and after its last. The configuration is a constant in memory, for GCC takes the
// instruction to read eight bytes and would leave out what is written behind them.
static inline void tiles_begin(void) {
  static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } config = {.palette = 1,
              .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
              .rows = {AMX_ROWS, AMX_ROWS, AMX_ROWS, AMX_ROWS, AMX_ROWS, AMX_ROWS, AMX_ROWS, AMX_ROWS}};
  _tile_loadconfig(&config);
}
static inline void tiles_end(void) { _tile_release(); }

// 32 values from element i on as bfloat16; zeros from `count` on.
ALWAYS_INLINE __m512i bf16_words(const void *data, int64_t i, int64_t count, int type) {
  if (count <= 0) return _mm512_setzero_si512();
  if (type == FLOAT_32) {
    const float *from = (const float *)data + i;
    return (__m512i)_mm512_cvtne2ps_pbh(vec_load_first(from + VL, count - VL), vec_load_first(from, count));
  }
  const uint16_t *from = (const uint16_t *)data + i;
  return count >= AMX_DEPTH ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16((1u << count) - 1, from);
}

// Two rows of 32 words as pairs, as b's rows have them: those of columns 0 .. 15, then of 16 .. 31.
static inline void pair_words(__m512i pairs[2], __m512i even, __m512i odd) {
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34,
                                       2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  pairs[0] = _mm512_permutex2var_epi16(even, low, odd);
  pairs[1] = _mm512_permutex2var_epi16(even, high, odd);
}

#endif
