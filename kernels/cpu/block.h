// Products of small blocks that are in cache, c[m, n] (+)= a[m, k] b[k, n], of float32 rows by tile.h or of bfloat16 rows by AMX tiles
// where this compilation has them: attention is written in these. Each operand is laid out in a buffer of the caller's, of
// block_bytes at least (a left operand is read in place where it can be).
#ifndef KERNELS_CPU_BLOCK_H
#define KERNELS_CPU_BLOCK_H

#include "kernels/cpu/tile.h"
#include "kernels/cpu/typed.h"

// Of an operand of rows x columns, or of its transpose, in either type; a multiple of 64.
static inline int64_t block_bytes(int64_t rows, int64_t columns) {
  return round_up(rows, 64) * round_up(columns, 64) * (int64_t)sizeof(float);
}

typedef struct BlockLeft {
  TileA floats;
  const uint16_t *tiles;  // NULL: floats; else element steps from 16 rows to the next, from 32 k to the next, and from row to row
  int64_t panel_step, tile_step, row_step;
} BlockLeft;

typedef struct BlockRight {
  TileB floats;
  const uint16_t *tiles;  // [panels of 16 columns][tiles of 32 k][16 pairs of k][16][2]; NULL: floats
  int64_t depth;
} BlockRight;

// What has been calculated and is to be multiplied with rows of `type`: bfloat16 if tiles will do it, else float32.
static inline FloatType block_type(FloatType type) {
#ifdef __AMX_BF16__
  return type;
#else
  (void)type;
  return FLOAT_32;
#endif
}

// Around all products with rows of `type` of a task.
#define blocks_begin ISA_NAME(blocks_begin)
void blocks_begin(FloatType type);
#define blocks_end ISA_NAME(blocks_end)
void blocks_end(FloatType type);

// a = rows first .. first + m - 1, k columns of them.
#define block_left ISA_NAME(block_left)
BlockLeft block_left(void *buffer, Rows rows, int64_t first, int64_t m, int64_t k);
// a = the transpose of k rows of m columns, which are of block_type of the other operand's rows.
#define block_left_turned ISA_NAME(block_left_turned)
BlockLeft block_left_turned(void *buffer, Rows rows, int64_t k, int64_t m);
// b = rows first .. first + k - 1, n columns of them; and b = the transpose of n rows of k columns. `floats`: room for the rows as float32.
#define block_right ISA_NAME(block_right)
BlockRight block_right(void *buffer, Rows rows, int64_t first, int64_t k, int64_t n, float *floats);
#define block_right_turned ISA_NAME(block_right_turned)
BlockRight block_right_turned(void *buffer, Rows rows, int64_t first, int64_t n, int64_t k, float *floats);

// k may be less than b's, whose other rows are left out.
#define block_multiply ISA_NAME(block_multiply)
void block_multiply(float *c, int64_t ldc, BlockLeft a, BlockRight b, int64_t m, int64_t n, int64_t k, bool accumulate);

#endif
