// The float32 side of kernels/cpu/product.h: panels of TILE_COLUMNS columns, multiplied by the micro-kernels of tile.h.
#include <string.h>

#include "kernels/cpu/dequantize.h"
#include "kernels/cpu/product.h"

static const float *scaled(const float *values, float *buffer, int64_t count, float alpha) {
  if (alpha == 1) return values;
  for (int64_t i = 0; i < count; i += VL) vec_store_first(buffer + i, vec_set(alpha) * vec_load_first(values + i, count - i), count - i);
  return buffer;
}

// Panels of w^T: TILE_COLUMNS rows of w each, transposed.
static void pack_transposed(float *to, int64_t panel_step, const Term *term, int64_t row, int64_t columns, int64_t first, int64_t depth,
                            float *buffer) {
  for (int64_t j = 0; j < columns; j += TILE_COLUMNS, to += panel_step) {
    const float *rows[TILE_COLUMNS];
    int64_t width = smaller(TILE_COLUMNS, columns - j);
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
  for (int64_t k = 0; k < depth; k++) {
    const float *from = scaled(matrix_segment(&term->w, first + k, column, columns, buffer), buffer, columns, term->alpha);
    for (int64_t j = 0; j < columns; j += TILE_COLUMNS)
      for (int v = 0; v < TILE_VECS; v++)
        vec_store(to + j / TILE_COLUMNS * panel_step + k * TILE_COLUMNS + v * VL, vec_load_first(from + j + v * VL, columns - j - v * VL));
  }
}

void product_f32_pack(const Product *p, Segment segment, const Term *term, int64_t first, int64_t depth, int thread) {
  float *to = (float *)segment.panels + (term->at + first) * TILE_COLUMNS, *buffer = backend_scratch(p->backend, thread);
  int64_t panel_step = segment.output->depth * TILE_COLUMNS;
  if (term->transposed) pack_transposed(to, panel_step, term, segment.column, segment.columns, first, depth, buffer);
  else pack_plain(to, panel_step, term, segment.column, segment.columns, first, depth, buffer);
}

// rows x depth of a left operand: in place when few columns will read it, else packed.
static TileA left_operand(Rows left, int64_t row, int64_t rows, int64_t first, int64_t depth, bool is_read_often, float *packed) {
  int64_t step;
  const float *from = rows_as_floats(rows_from(left, first), row, rows, depth, packed + BLOCK_ROWS * DEPTH, &step);
  if (!is_read_often) return tile_a_rows(from, step);
  pack_a_rows(packed, from, step, rows, depth);
  return tile_a_packed(packed, depth);
}

static const Term *find_term(const Output *output, int left) {
  for (int t = 0; t < output->term_count; t++)
    if (output->terms[t].left == left) return &output->terms[t];
  return NULL;
}

void product_f32_multiply(const Product *p, ProductTask task) {
  float *packed = backend_scratch(p->backend, task.thread), *sums = packed + 2 * BLOCK_ROWS * DEPTH;
  const int64_t ld = TASK_GROUPS * GROUP_COLUMNS;
  Segment segments[LINEAR_PROJECTIONS];
  int64_t at[LINEAR_PROJECTIONS], columns = 0;
  bool started[LINEAR_PROJECTIONS] = {false};
  for (int o = 0; o < p->output_count; o++) {
    segments[o] = product_segment(p, task.piece, o, task.first_group, task.end_group);
    at[o] = columns;
    columns += segments[o].columns;
  }
  for (int l = 0; l < p->left_count; l++) {
    const Left *left = &p->lefts[l];
    for (int64_t first = 0; first < left->k; first += left->depth) {
      int64_t depth = smaller(left->depth, left->k - first);
      TileA a = left_operand(left->rows, task.row, task.rows, first, depth, columns > 4 * TILE_COLUMNS, packed);
      for (int o = 0; o < p->output_count; o++) {
        const Term *term = segments[o].columns ? find_term(segments[o].output, l) : NULL;
        if (!term) continue;
        const float *panels = (const float *)segments[o].panels + (term->at + first) * TILE_COLUMNS;
        TileB b = {panels, segments[o].output->depth * TILE_COLUMNS, TILE_COLUMNS};
        tile_multiply(sums + at[o], ld, a, b, task.rows, segments[o].columns, depth, 1, started[o]);
        started[o] = true;
      }
    }
  }
  for (int o = 0; o < p->output_count; o++)
    if (segments[o].columns)
      product_store(segments[o].output, task.row, segments[o].column, sums + at[o], ld, task.rows, segments[o].columns);
}
