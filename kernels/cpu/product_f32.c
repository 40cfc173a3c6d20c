// The float32 side of kernels/cpu/product.h: panels of TILE_COLUMNS columns, multiplied by the micro-kernels of tile.h.
#include <string.h>

#include "kernels/cpu/dequantize.h"
#include "kernels/cpu/product.h"

static const float *scaled(const float *values, float *buffer, int64_t count, float alpha) {
  if (alpha == 1) return values;
  for (int64_t i = 0; i < count; i += VL) vec_store_first(buffer + i, vec_set(alpha) * vec_load_first(values + i, count - i), count - i);
  return buffer;
}

enum { AHEAD = 8 };  // rows that are fetched before they are read

// Panels of w^T: TILE_COLUMNS rows of w each, transposed.
static void pack_transposed(float *to, int64_t panel_step, const Term *term, int64_t row, int64_t columns, int64_t first, int64_t depth,
                            float *buffer) {
  MatrixBytes bytes = matrix_bytes(&term->w, row, first, depth);
  for (int64_t j = 0; j < columns; j += TILE_COLUMNS, to += panel_step) {
    const float *rows[TILE_COLUMNS];
    int64_t width = smaller(TILE_COLUMNS, columns - j);
    for (int64_t r = j + TILE_COLUMNS; r < smaller(j + 2 * TILE_COLUMNS, columns); r++) matrix_fetch(bytes, r);
    for (int64_t r = 0; r < width; r++) {
      float *own = buffer + r * DEPTH;
      rows[r] = scaled(matrix_segment(&term->w, row + j + r, first, depth, own), own, depth, term->alpha);
    }
    pack_b_panel(to, rows, depth, width);
  }
}

// Panels of w: pieces of its rows as they are.
static void pack_plain(float *to, int64_t panel_step, const Term *term, int64_t column, int64_t columns, int64_t first, int64_t depth,
                       float *buffer) {
  MatrixBytes bytes = matrix_bytes(&term->w, first, column, columns);
  for (int64_t k = 0; k < depth; k++) {
    if (k + AHEAD < depth) matrix_fetch(bytes, k + AHEAD);
    const float *from = scaled(matrix_segment(&term->w, first + k, column, columns, buffer), buffer, columns, term->alpha);
    for (int64_t j = 0; j < columns; j += TILE_COLUMNS)
      for (int v = 0; v < TILE_VECS; v++)
        vec_store(to + j / TILE_COLUMNS * panel_step + k * TILE_COLUMNS + v * VL, vec_load_first(from + j + v * VL, columns - j - v * VL));
  }
}

void product_f32_pack(const Segment *segment, const Term *term, int64_t first, int64_t depth, int64_t at, float *buffer) {
  float *to = (float *)segment->panels + at * TILE_COLUMNS;
  int64_t panel_step = segment->depth * TILE_COLUMNS;
  if (term->transposed) pack_transposed(to, panel_step, term, segment->column, segment->columns, first, depth, buffer);
  else pack_plain(to, panel_step, term, segment->column, segment->columns, first, depth, buffer);
}

// rows x depth of a left operand: in place when few columns will read it, else packed.
static TileA left_operand(Rows left, int64_t row, int64_t rows, int64_t first, int64_t depth, bool is_read_often, float *packed) {
  int64_t step;
  const float *from = rows_as_floats(rows_from(left, first), row, rows, depth, packed + BLOCK_ROWS * DEPTH, &step);
  if (!is_read_often) return tile_a_rows(from, step);
  pack_a_rows(packed, from, step, rows, depth);
  return tile_a_packed(packed, depth);
}

static int find_term(const Output *output, int left) {
  for (int t = 0; t < output->term_count; t++)
    if (output->terms[t].left == left) return t;
  return -1;
}

// BLOCK_ROWS rows of all segments: what the part adds to their sums.
static void multiply_rows(float *sums, const ProductTask *task, int64_t row, int64_t rows) {
  const Product *p = task->product;
  bool started[LINEAR_PROJECTIONS];
  for (int o = 0; o < p->output_count; o++) started[o] = !task->part.is_first;
  for (int l = 0; l < p->left_count; l++) {
    int64_t k = part_depth(&p->lefts[l], task->part);
    for (int64_t first = 0; first < k; first += DEPTH) {
      int64_t depth = smaller(DEPTH, k - first);
      TileA a = left_operand(p->lefts[l].rows, row, rows, task->part.first + first, depth, task->columns >= 4 * TILE_COLUMNS, task->buffer);
      for (int o = 0; o < p->output_count; o++) {
        const Segment *segment = &task->segments[o];
        int term = segment->columns ? find_term(segment->output, l) : -1;
        if (term < 0) continue;
        TileB b = {(const float *)segment->panels + (segment->term_at[term] + first) * TILE_COLUMNS, segment->depth * TILE_COLUMNS,
                   TILE_COLUMNS};
        tile_multiply(sums + segment->at, task->columns, a, b, rows, segment->columns, depth, 1, started[o]);
        started[o] = true;
      }
    }
  }
}

void product_f32_multiply(const ProductTask *task) {
  bool is_kept = !task->part.is_first || !task->part.is_last;
  for (int64_t i = 0; i < task->rows; i += BLOCK_ROWS) {
    int64_t row = task->row + i, rows = smaller(BLOCK_ROWS, task->rows - i);
    float *sums = task->sums + (is_kept ? i * task->columns : 0);
    multiply_rows(sums, task, row, rows);
    for (int o = 0; o < task->product->output_count && task->part.is_last; o++) {
      const Segment *segment = &task->segments[o];
      for (int64_t r = 0; r < rows && segment->columns; r++)
        product_store_row(segment->output, row + r, segment->column, sums + r * task->columns + segment->at, segment->columns);
    }
  }
}
