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

// x . the row of blocks at `w`, of `blocks` times 32 columns. int8_dot: NULL where the type has none; compiled once more with VNNI's
// instructions, under the name of an instruction set of its own, for processors whose other kernels do without.
typedef float (*Int8Dot)(const uint8_t *w, const Int8Row *x, int64_t blocks);
#define int8_dot ISA_NAME(int8_dot)
Int8Dot int8_dot(BlockType type);
#if defined(__AVX512VL__) && !defined(__AVX512VNNI__)
Int8Dot int8_dot_avx512vnni(BlockType type);
#endif
#define int8_dot_here ISA_NAME(int8_dot_here)
Int8Dot int8_dot_here(BlockType type);  // the better of them that this processor has

#endif
