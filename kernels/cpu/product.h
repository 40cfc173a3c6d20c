// Products with frozen matrices, several at once: for each output o
//   c_o[m, n_o] (+)= sum over its terms of left[m, k] b[k, n_o] + bias + residual,   b = alpha w^T or alpha w, of any element type
// A left operand may serve several outputs (x of q, k and v). The columns of all outputs, GROUP_COLUMNS at a time, are dequantised and
// packed once, by all threads, in pieces; then a task multiplies some rows by some groups of a piece and finishes its outputs while
// they are in cache, and the next piece is packed meanwhile. A sum runs over k in blocks whose bounds depend on k alone, so no element
// depends on m, on other rows or on the threads.
#ifndef KERNELS_CPU_PRODUCT_H
#define KERNELS_CPU_PRODUCT_H

#include "kernels/cpu/tile.h"
#include "kernels/cpu/typed.h"

enum {
  PRODUCT_LEFTS = 2 * LINEAR_PROJECTIONS,
  GROUP_COLUMNS = 96,  // a multiple of every tile's columns and of the 32 elements that are dequantised together
  DEPTH = 384,  // the largest block of k
  BLOCK_ROWS = 112 / TILE_ROWS * TILE_ROWS,  // BLOCK_ROWS x DEPTH of the left operand, packed, stay in the second cache
  TASK_GROUPS = 6,
  PIECE_BYTES = 4 << 20,
  TILE_DEPTH = 4096,  // the largest k that tiles run over at once
  TILE_PIECE_BYTES = 1 << 20,  // tiles are so fast that the piece has to stay in the second cache
  TILE_BLOCK_ROWS = 128,
};

// A left operand as tiles: element steps from a panel of 16 rows to the next, from a tile to the next, and from a row to the next.
typedef struct LeftTiles {
  const uint16_t *data;
  int64_t panel_step, tile_step, row_step;
} LeftTiles;

typedef struct Left {
  Rows rows;
  int64_t k, depth;  // depth: of its blocks, a multiple of 32 (the last may be shorter)
  LeftTiles tiles;
} Left;

typedef struct Term {
  int left;
  Matrix w;
  bool transposed;  // b is w^T
  float alpha;
  int64_t first_k;  // of w: where the left operand's k begin
  int64_t at;  // where its k begin in a packed panel
} Term;

typedef struct Output {
  Rows c;
  int64_t n;
  bool accumulate;
  const float *bias;  // NULL: none
  Rows residual;  // data NULL: none
  Term terms[PRODUCT_LEFTS];
  int term_count;
  int64_t depth;  // of a packed panel: all its terms' k
  int64_t first_group, groups;  // among those of all outputs
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

// A packed piece of all b's: groups first_group .. end_group - 1.
typedef struct Piece {
  char *data;
  int64_t first_group, end_group;
  int64_t at[LINEAR_PROJECTIONS];  // elements: where an output's first group of the piece begins
} Piece;

// Some groups of one output, as they are packed or multiplied together.
typedef struct Segment {
  const Output *output;
  int64_t column, columns;  // of the output; columns 0: none
  void *panels;
} Segment;

// The groups of [first, end) of a piece that belong to output o.
static inline Segment product_segment(const Product *p, const Piece *piece, int o, int64_t first, int64_t end) {
  const Output *output = &p->outputs[o];
  int64_t begin = larger(first, output->first_group), last = smaller(end, output->first_group + output->groups);
  if (begin >= last) return (Segment){.output = output};
  int64_t column = (begin - output->first_group) * GROUP_COLUMNS;
  int64_t in_piece = begin - larger(piece->first_group, output->first_group);
  int64_t element = piece->at[o] + in_piece * GROUP_COLUMNS * output->depth;
  return (Segment){.output = output,
                   .column = column,
                   .columns = smaller(output->n, (last - output->first_group) * GROUP_COLUMNS) - column,
                   .panels = piece->data + element * (p->in_tiles ? 2 : 4)};
}

// A multiplying task: rows row .. row + rows - 1 of all outputs, groups first_group .. end_group - 1.
typedef struct ProductTask {
  const Piece *piece;
  int64_t row, rows, first_group, end_group;
  int thread;
} ProductTask;

// Puts the terms of `outputs` (terms, c, n, ...) and the `lefts` together: product.c. The types decide whether it runs in tiles.
#define product_add_left ISA_NAME(product_add_left)
int product_add_left(Product *p, Rows rows, int64_t k);
#define product_add_output ISA_NAME(product_add_output)
Output *product_add_output(Product *p, Rows c, int64_t n);
#define product_run ISA_NAME(product_run)
void product_run(Product *p);

// Packs the k first .. first + depth - 1 of a term of a segment, which is one group.
#define product_f32_pack ISA_NAME(product_f32_pack)
void product_f32_pack(const Product *p, Segment segment, const Term *term, int64_t first, int64_t depth, int thread);
#define product_f32_multiply ISA_NAME(product_f32_multiply)
void product_f32_multiply(const Product *p, ProductTask task);

#ifdef __AMX_BF16__
#define product_bf16_pack ISA_NAME(product_bf16_pack)
void product_bf16_pack(const Product *p, Segment segment, const Term *term, int64_t first, int64_t depth, int thread);
// Rows of a left operand as tiles, into where left->tiles says.
#define product_bf16_pack_left ISA_NAME(product_bf16_pack_left)
void product_bf16_pack_left(const Left *left, int64_t row, int64_t rows);
#define product_bf16_multiply ISA_NAME(product_bf16_multiply)
void product_bf16_multiply(const Product *p, ProductTask task);
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
    typed_store(output->c.data, at + j, value, left, type);
  }
}

ALWAYS_INLINE void product_store_row(const Output *output, int64_t row, int64_t column, const float *sums, int64_t columns) {
  if (!output->residual.data) BY_TYPE(output->c.type, store_row(output, row, column, sums, columns, TYPE, false, FLOAT_32));
  else if (output->residual.type == FLOAT_32) BY_TYPE(output->c.type, store_row(output, row, column, sums, columns, TYPE, true, FLOAT_32));
  else BY_TYPE(output->c.type, store_row(output, row, column, sums, columns, TYPE, true, FLOAT_BF16));
}

// sums[rows][ld] of `columns` columns, and what is added to them, into the output: columns from `column` on.
#define product_store ISA_NAME(product_store)
void product_store(const Output *output, int64_t row, int64_t column, const float *sums, int64_t ld, int64_t rows, int64_t columns);

#endif
