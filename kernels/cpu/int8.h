// Rows of activations in 8 bits, and their dot products with the rows of a quantised matrix where these lie. Blocks of 32 have a scale
// d = max |x| / 127 and levels round(x 127 / max |x|), so that x is about d * level. With a weight block's w = scale * level + shift
//   x . w = sum over blocks of d * scale * (levels . levels, in integers) + shift * (d * sum of x's levels)
// and where the weight's levels lie around a middle, that is subtracted in integers, too: nothing cancels in float32.
#ifndef KERNELS_CPU_INT8_H
#define KERNELS_CPU_INT8_H

#include "kernels/cpu/cpu.h"

enum { INT8_LANES = 8 };  // sums of four products each, of a block

typedef struct Int8Row {
  const int8_t *levels;  // [columns]
  const int32_t *negatives;  // [blocks][INT8_LANES]: minus the sum of each four levels
  const float *scales, *sums;  // [blocks]: d, and d * the sum of the levels
  const float *pairs;  // [blocks][2]: both
} Int8Row;

// Rows of `columns`, a multiple of 32, one after another in one block; row i of them.
static inline int64_t int8_row_bytes(int64_t columns) {
  return round_up(columns * 2 + columns / INT8_BLOCK * 4 * (int64_t)sizeof(float), 64);
}

static inline Int8Row int8_row(const char *rows, int64_t i, int64_t columns) {
  const char *row = rows + i * int8_row_bytes(columns);
  int64_t blocks = columns / INT8_BLOCK;
  const float *scales = (const float *)(const void *)(row + 2 * columns);
  return (Int8Row){.levels = (const int8_t *)row,
                   .negatives = (const int32_t *)(const void *)(row + columns),
                   .scales = scales,
                   .sums = scales + blocks,
                   .pairs = scales + 2 * blocks};
}

// A row of x, rounded, to row i. A block that has a NaN or an Inf gets a NaN for a scale; one that is all but zero becomes zero.
#define int8_round_row ISA_NAME(int8_round_row)
void int8_round_row(char *rows, int64_t i, const float *x, int64_t columns);

// out[i * step] = x[i] . the row of blocks at `w`, of `blocks` times 32 columns, for `rows` (1 to INT8_ROWS) rows of x: bits depend on the row
// alone. int8_dot: NULL where the type has none; compiled once more with VNNI's instructions, under the name of an instruction set of its own,
// for processors whose other kernels do without.
enum { INT8_ROWS = 4 };
typedef void (*Int8Dot)(float *out, int64_t step, const uint8_t *w, const Int8Row *x, int rows, int64_t blocks);
#define int8_dot ISA_NAME(int8_dot)
Int8Dot int8_dot(BlockType type);
#if defined(__AVX512VL__) && !defined(__AVX512VNNI__)
Int8Dot int8_dot_avx512vnni(BlockType type);
#endif

// Up to INT8_PANEL_ROWS rows of x for panels: pairs of blocks, and of each what all rows have there, so that one address leads to all. A last block
// without a partner has one of zeros.
enum { INT8_PANEL_ROWS = 8, INT8_PAIR = 2 * INT8_BLOCK };
typedef struct Int8Rows {
  Int8Row rows[INT8_PANEL_ROWS];
  int count;
  int64_t columns;
  const int8_t *levels;  // [pairs][INT8_PANEL_ROWS][INT8_PAIR]
  const int32_t *negatives;  // [pairs][INT8_PANEL_ROWS][2 * INT8_LANES]
  const float *scales;  // [pairs][INT8_PANEL_ROWS][2 * INT8_LANES]: d in each lane
  const float *sums_by_block;  // [blocks][INT8_PANEL_ROWS]: Int8Row.sums
} Int8Rows;
static inline int64_t int8_rows_bytes(int64_t columns) {
  int64_t pairs = round_up(columns, INT8_PAIR) / INT8_PAIR;
  return pairs * INT8_PANEL_ROWS * (INT8_PAIR + 4 * INT8_LANES * 4 + 2 * 4);
}
// Lays out rows that have been rounded, in room of int8_rows_bytes.
#define int8_rows_lay_out ISA_NAME(int8_rows_lay_out)
void int8_rows_lay_out(Int8Rows *rows, char *room);

// out[i * step + r] = x[i] . row r of w, w_rows rows w_step bytes apart, with the bits of Int8Dot; worth it from INT8_PANEL_LEAST rows of x on.
// room: int8_panel_bytes. int8_panel: NULL where the type or the instruction set has none.
enum { INT8_PANEL_LEAST = 3 };
typedef void (*Int8Panel)(float *out, int64_t step, const uint8_t *w, int64_t w_rows, int64_t w_step, const Int8Rows *x, char *room);
static inline int64_t int8_panel_bytes(int64_t columns) {
  int64_t blocks = round_up(columns / INT8_BLOCK, 2);
  return 2 * round_up(blocks * (INT8_BLOCK + 3 * (int64_t)sizeof(float)), 64);
}
#define int8_panel ISA_NAME(int8_panel)
Int8Panel int8_panel(BlockType type);
#if defined(__AVX512VL__) && !defined(__AVX512VNNI__)
Int8Panel int8_panel_avx512vnni(BlockType type);
#endif

// The better of them that this processor has.
#define int8_dot_here ISA_NAME(int8_dot_here)
Int8Dot int8_dot_here(BlockType type);
#define int8_panel_here ISA_NAME(int8_panel_here)
Int8Panel int8_panel_here(BlockType type);

#endif
