// dw_i[rows_i, columns] += alpha_i dy_i[n, rows_i]^T x[n, columns] with n long: LoRA's factors. The wider of dy and x is the right operand
// b, the narrower (a LoRA rank) the left one, so that vectors run along the wide side; when that is dy, what comes
// out is dw^T, turned over on the way to dw. Where x is the wide one, all dy_i are multiplied with it at once. A task owns some columns of
// b and all or some rows of the results, and goes through n in blocks of DEPTH: it packs b's block, multiplies, and adds. Nobody else
// writes its part of dw.
#include "kernels/cpu/weight_backward.h"

#include "kernels/cpu/tile.h"

enum { DEPTH = 256, TASK_COLUMNS = 6 * TILE_COLUMNS, TASK_ROWS = 16 * TILE_ROWS };

static void add_turned(float *dw, const float *sums, int64_t rows, int64_t columns, int64_t ld) {
  for (int64_t j = 0; j < columns; j++)
    for (int64_t i = 0; i < rows; i++) dw[j * ld + i] += sums[i * TASK_COLUMNS + j];
}

static void multiply_columns(void *argument, int64_t task, int thread) {
  const WeightProduct *p = argument;
  float *packed = backend_scratch(p->backend, thread), *sums = packed + DEPTH * TASK_COLUMNS, *wide = sums + TASK_ROWS * TASK_COLUMNS;
  float *narrow = wide + DEPTH * TASK_COLUMNS;
  int64_t row = task % p->row_tasks * TASK_ROWS, column = task / p->row_tasks * p->task_columns;
  int64_t columns = smaller(p->task_columns, p->width - column);
  for (int64_t first = 0; first < p->n; first += DEPTH) {
    int64_t depth = smaller(DEPTH, p->n - first), step;
    const float *from = rows_as_floats(rows_from(p->wide, column), first, depth, columns, wide, &step);
    pack_b(packed, from, step, depth, columns);
    TileB right = tile_b_packed(packed, depth);
    for (const NarrowOperand *o = p->narrow; o < p->narrow + p->narrow_count; o++) {
      int64_t rows = smaller(TASK_ROWS, o->m - row);
      if (rows <= 0) continue;
      from = rows_as_floats(rows_from(o->rows, row), first, depth, rows, narrow, &step);
      TileA left = tile_a_columns(from, step);
      if (p->is_turned) tile_multiply(sums, TASK_COLUMNS, left, right, rows, columns, depth, o->alpha, first > 0);
      else tile_multiply(o->dw + row * p->width + column, p->width, left, right, rows, columns, depth, o->alpha, true);
    }
  }
  const NarrowOperand *o = p->narrow;
  if (p->is_turned) add_turned(o->dw + column * o->m + row, sums, smaller(TASK_ROWS, o->m - row), columns, o->m);
}

static void run(WeightProduct *p) {
#ifdef __AMX_BF16__
  bool in_tiles = p->wide.type == FLOAT_BF16;
  for (int i = 0; i < p->narrow_count; i++) in_tiles |= p->narrow[i].rows.type == FLOAT_BF16;
  if (in_tiles) {
    weight_product_tiles(p);
    return;
  }
#endif
  int64_t m = 0;
  for (int i = 0; i < p->narrow_count; i++) m = larger(m, p->narrow[i].m);
  p->row_tasks = divide_up(m, TASK_ROWS);
  int64_t wanted = divide_up(3 * pool_threads(p->backend->pool), p->row_tasks), panels = divide_up(p->width, TILE_COLUMNS);
  p->task_columns = smaller(TASK_COLUMNS, divide_up(panels, wanted) * TILE_COLUMNS);
  pool_run(p->backend->pool, p->row_tasks * divide_up(p->width, p->task_columns), multiply_columns, p);
}

void cpu_weight_backward(const WeightGradient *gradients, int count, Rows x, int64_t columns, int64_t n, Backend *backend) {
  WeightProduct together = {.wide = x, .n = n, .width = columns, .backend = backend};
  for (const WeightGradient *g = gradients; n > 0 && g < gradients + count; g++) {
    if (g->rows <= columns) {
      together.narrow[together.narrow_count++] = (NarrowOperand){g->dy, g->rows, g->dw, columns, g->alpha};
      continue;
    }
    WeightProduct turned = {.wide = g->dy, .n = n, .width = g->rows, .is_turned = true, .backend = backend};
    turned.narrow[turned.narrow_count++] = (NarrowOperand){x, columns, g->dw, columns, g->alpha};
    run(&turned);
  }
  if (together.narrow_count) run(&together);
}
