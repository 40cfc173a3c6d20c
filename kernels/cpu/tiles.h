// AMX tiles of bfloat16 (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18): eight tile registers
// of 16 rows of 64 bytes. c[16][16] += a[16][32] b[32][16], float32 sums, with b's rows in pairs: b[k / 2][column][k % 2].
#ifndef KERNELS_CPU_TILES_H
#define KERNELS_CPU_TILES_H

#include <immintrin.h>
#include <stdint.h>

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

#endif
