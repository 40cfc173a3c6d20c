// Products with frozen matrices, several at once: for each output o
//   c_o[m, n_o] (+)= sum over its terms of left[m, k] b[k, n_o] + bias + residual,   b = alpha w^T or alpha w, of any element type
// A left operand may serve several outputs (x of q, k and v). A task owns some columns of the outputs, GROUP_COLUMNS at a time, and rows
// of them: it dequantises and packs the b's of its columns into its thread's scratch, multiplies, and finishes its outputs while they
// are in cache. A long sum goes by parts of k, with the sums of a task's rows kept in float32 meanwhile. The order of a sum depends on
// the lengths of the left operands alone, so no element depends on m, on other rows or on the threads.
#ifndef KERNELS_CPU_PRODUCT_H
#define KERNELS_CPU_PRODUCT_H

#include "kernels/cpu/tile.h"
#include "kernels/cpu/typed.h"

enum {
  PRODUCT_LEFTS = 2 * LINEAR_PROJECTIONS,
  GROUP_COLUMNS = 32,  // a multiple of every tile's columns and of the elements that are dequantised together
  DEPTH = 640,  // a block of k that is packed, or multiplied in float32, at once
  PART_DEPTH = 1792,  // k in a part, of all left operands together, about
  BLOCK_ROWS = 112 / TILE_ROWS * TILE_ROWS,  // BLOCK_ROWS x DEPTH of a left operand, packed, stay in the second cache
  // A thread's scratch: packed panels, sums that are kept, the rest for rows on their way
  PANELS_BYTES = 2 << 20,
  SUMS_BYTES = 5 << 18,
  TILE_PANELS_BYTES = 1 << 20,  // tiles are so fast that their panels have to stay in the second cache
};

// A left operand as bfloat16 tiles: element steps from a panel of 16 rows to the next, from a tile to the next, and from a row to the
// next. The last panel has its own place when it is not whole.
typedef struct LeftTiles {
  const uint16_t *data, *tail;
  int64_t first_panel, tail_panel;  // the panel that `data` points to; -1: all are whole
  int64_t panel_step, tile_step, row_step;
} LeftTiles;

typedef struct Left {
  Rows rows;
  int64_t k;
  LeftTiles tiles;
} Left;

typedef struct Term {
  int left;
  Matrix w;
  bool transposed;  // b is w^T
  float alpha;
} Term;

// An output that becomes 2^(c log2(e) - shift), with the sums of each row's groups of columns: in tiles only, in bfloat16.
typedef struct Exponentials {
  const float *shifts;  // [m]
  float *sums;  // [m][step]: of each GROUP_COLUMNS columns
  int64_t step;
} Exponentials;

typedef struct Output {
  Rows c;
  int64_t n;
  bool accumulate;
  const float *bias;  // NULL: none
  Rows residual;  // data NULL: none
  const Exponentials *exponentials;  // NULL: none
  Term terms[PRODUCT_LEFTS];
  int term_count;
  int64_t first_group, groups;  // among those of all outputs
  bool is_streamed;  // stored around the caches: it is larger than they are
} Output;

typedef struct Product {
  int64_t m;
  Left lefts[PRODUCT_LEFTS];
  int left_count;
  Output outputs[LINEAR_PROJECTIONS];
  int output_count;
  bool in_tiles;  // bfloat16 tiles (product_bf16.c), else float32 (product_f32.c)
  Backend *backend;
} Product;

// k first .. first + depth - 1 of every left operand that is so long.
typedef struct Part {
  int64_t first, depth;
  bool is_first, is_last;
} Part;

static inline int64_t part_depth(const Left *left, Part part) { return larger(0, smaller(part.depth, left->k - part.first)); }

// A task's columns of one output, in a part.
typedef struct Segment {
  const Output *output;
  int64_t column, columns;  // of the output; columns 0: none
  int64_t at;  // where they begin among the task's columns
  void *panels;
  int64_t depth;  // of a packed panel: all terms' k in this part (in tiles each rounded up to 32)
  int64_t term_at[PRODUCT_LEFTS];  // where a term's k begin in a panel
} Segment;

// Rows row .. row + rows - 1 of the segments' columns.
typedef struct ProductTask {
  const Product *product;
  int64_t row, rows;
  Segment segments[LINEAR_PROJECTIONS];
  int64_t columns;  // of all segments, each rounded up to GROUP_COLUMNS: the step of `sums`
  Part part;
  float *sums;  // [rows][columns], kept from part to part
  float *buffer;  // for rows on their way
} ProductTask;

// Puts the terms of `outputs` (terms, c, n, ...) and the `lefts` together: product.c. The types decide whether it runs in tiles.
#define product_add_left ISA_NAME(product_add_left)
int product_add_left(Product *p, Rows rows, int64_t k);
#define product_add_output ISA_NAME(product_add_output)
Output *product_add_output(Product *p, Rows c, int64_t n);
#define product_run ISA_NAME(product_run)
void product_run(Product *p);

// Packs k first .. first + depth - 1 of w, a block of the term that lies at k `at` of the segment's panels.
#define product_f32_pack ISA_NAME(product_f32_pack)
void product_f32_pack(const Segment *segment, const Term *term, int64_t first, int64_t depth, int64_t at, float *buffer);
#define product_f32_multiply ISA_NAME(product_f32_multiply)
void product_f32_multiply(const ProductTask *task);

#ifdef __AMX_BF16__
#define product_bf16_pack ISA_NAME(product_bf16_pack)
void product_bf16_pack(const Segment *segment, const Term *term, int64_t first, int64_t depth, int64_t at, void *buffer);
// Rows of a left operand as tiles, to `to`.
#define product_bf16_pack_left ISA_NAME(product_bf16_pack_left)
void product_bf16_pack_left(uint16_t *to, const Left *left, int64_t row, int64_t rows);
#define product_bf16_multiply ISA_NAME(product_bf16_multiply)
void product_bf16_multiply(const ProductTask *task);
#endif

// One row of an output whose types are constants.
ALWAYS_INLINE void store_row(const Output *output, int64_t row, int64_t column, const float *sums, int64_t columns, int type,
                             bool has_residual, int residual_type) {
  int64_t at = row * output->c.step + column, residual_at = row * output->residual.step + column;
  for (int64_t j = 0; j < columns; j += VL) {
    int64_t left = columns - j;
    Vec value = vec_load_first(sums + j, left);
    if (output->bias) value += vec_load_first(output->bias + column + j, left);
    if (has_residual) value += typed_load(output->residual.data, residual_at + j, left, residual_type);
    if (output->accumulate) value += typed_load(output->c.data, at + j, left, type);
    if (output->is_streamed && left >= VL) typed_stream(output->c.data, at + j, value, type);
    else typed_store(output->c.data, at + j, value, left, type);
  }
}

ALWAYS_INLINE void product_store_row(const Output *output, int64_t row, int64_t column, const float *sums, int64_t columns) {
  if (!output->residual.data) BY_TYPE(output->c.type, store_row(output, row, column, sums, columns, TYPE, false, FLOAT_32));
  else if (output->residual.type == FLOAT_32) BY_TYPE(output->c.type, store_row(output, row, column, sums, columns, TYPE, true, FLOAT_32));
  else BY_TYPE(output->c.type, store_row(output, row, column, sums, columns, TYPE, true, FLOAT_BF16));
}

#endif
