// dw_i[rows_i, columns] += alpha_i dy_i[n, rows_i]^T x[n, columns] with n long: LoRA's factors. The wider of dy and x is the right operand
// b, the narrower (a LoRA rank) the left one, so that vectors run along the wide side; when that is dy, what comes
// out is dw^T, turned over on the way to dw. A task owns some columns of b and all or some rows of the result, and goes
// through n in blocks of DEPTH: it packs b's block, multiplies, and adds. Nobody else writes its part of dw.
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
  int64_t row_tasks = divide_up(p->m, TASK_ROWS);
  int64_t row = task % row_tasks * TASK_ROWS, rows = smaller(TASK_ROWS, p->m - row);
  int64_t column = task / row_tasks * p->task_columns, columns = smaller(p->task_columns, p->width - column);
  for (int64_t first = 0; first < p->n; first += DEPTH) {
    int64_t depth = smaller(DEPTH, p->n - first), step;
    const float *from = rows_as_floats(rows_from(p->wide, column), first, depth, columns, wide, &step);
    pack_b(packed, from, step, depth, columns);
    from = rows_as_floats(rows_from(p->narrow, row), first, depth, rows, narrow, &step);
    TileA left = tile_a_columns(from, step);
    TileB right = tile_b_packed(packed, depth);
    if (p->is_turned) tile_multiply(sums, TASK_COLUMNS, left, right, rows, columns, depth, p->alpha, first > 0);
    else tile_multiply(p->dw + row * p->width + column, p->width, left, right, rows, columns, depth, p->alpha, true);
  }
  if (p->is_turned) add_turned(p->dw + column * p->m + row, sums, rows, columns, p->m);
}

void cpu_weight_backward(const WeightGradient *gradients, int count, Rows x, int64_t columns, int64_t n, Backend *backend) {
  for (const WeightGradient *g = gradients; n > 0 && g < gradients + count; g++) {
    bool is_turned = g->rows > columns;
    WeightProduct p = {.dw = g->dw,
                       .narrow = is_turned ? x : g->dy,
                       .wide = is_turned ? g->dy : x,
                       .n = n,
                       .m = smaller(g->rows, columns),
                       .width = larger(g->rows, columns),
                       .is_turned = is_turned,
                       .alpha = g->alpha,
                       .backend = backend};
#ifdef __AMX_BF16__
    if (p.narrow.type == FLOAT_BF16 || p.wide.type == FLOAT_BF16) {
      weight_product_tiles(&p);
      continue;
    }
#endif
    int64_t row_tasks = divide_up(p.m, TASK_ROWS), wanted = divide_up(3 * pool_threads(backend->pool), row_tasks);
    int64_t panels = divide_up(p.width, TILE_COLUMNS);
    p.task_columns = smaller(TASK_COLUMNS, divide_up(panels, wanted) * TILE_COLUMNS);
    pool_run(backend->pool, row_tasks * divide_up(p.width, p.task_columns), multiply_columns, &p);
  }
}
