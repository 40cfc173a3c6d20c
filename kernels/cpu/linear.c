// y[n, rows] = alpha x[n, columns] w^T and dx[n, columns] = alpha dy[n, rows] w for w of any element type.
// Both are c[m, n] = a[m, k] b[k, n] with b = w^T or w. For a piece of b (at most PIECE_BYTES), all threads first
// dequantise and pack it into shared scratch, so that this is done once however large m is; then each task
// multiplies BLOCK_ROWS rows of a by some panels of the piece, k in blocks that stay in cache (tile.h).
// A sum runs over k in blocks whose bounds depend on k alone: no element depends on n, on the other rows or
// on the threads. Except: linear_forward with up to FEW_ROWS rows (generation) streams w once, row by row, and sums
// in the order of dot_rows, so that there a row's last bits may differ from the same row among more.
#include <string.h>

#include "kernels/cpu/dequantize.h"
#include "kernels/cpu/tile.h"

enum {
  FEW_ROWS = 8,
  DEPTH = 384,  // the largest block of k
  BLOCK_ROWS = 16 * TILE_ROWS,  // BLOCK_ROWS x DEPTH of a, packed, stay in the second cache
  PIECE_COLUMNS = 96 * TILE_COLUMNS,
  PIECE_BYTES = 4 << 20,
  PACK_ROWS = 96,  // rows of w in a packing task of the backward product
  PACK_COLUMNS = 6 * TILE_COLUMNS,
};

typedef struct Product {
  float *c;
  const float *a;
  const Matrix *w;
  bool transposed;  // b is w^T (forward) or w (backward)
  int64_t m, n, k;
  float alpha;
  bool accumulate;
  Backend *backend;
  int64_t depth;  // block of k: a multiple of GROUP
  float *piece;  // of b: blocks of k one after another, each of packed panels
  int64_t first_column, columns, first_k, piece_k;
  int64_t row_tasks, task_columns;
} Product;

static int64_t piece_block(const Product *p, int64_t block, int64_t *depth) {  // where block of the piece begins; its depth
  *depth = smaller(p->depth, p->piece_k - block * p->depth);
  return block * p->depth * round_up(p->columns, TILE_COLUMNS);
}

// A panel of w^T: TILE_COLUMNS rows of w, transposed.
static void pack_forward(void *argument, int64_t task, int thread) {
  const Product *p = argument;
  float *buffer = backend_scratch(p->backend, thread);
  int64_t panels = divide_up(p->columns, TILE_COLUMNS), panel = task % panels, block = task / panels, depth;
  float *to = p->piece + piece_block(p, block, &depth) + panel * TILE_COLUMNS * depth;
  int64_t row = p->first_column + panel * TILE_COLUMNS, width = smaller(TILE_COLUMNS, p->columns - panel * TILE_COLUMNS);
  const float *rows[TILE_COLUMNS];
  for (int64_t r = 0; r < width; r++) rows[r] = matrix_segment(p->w, row + r, p->first_k + block * p->depth, depth, buffer + r * DEPTH);
  pack_b_panel(to, rows, depth, width);
}

// PACK_COLUMNS columns of a block of rows of w, as they are.
static void pack_backward(void *argument, int64_t task, int thread) {
  const Product *p = argument;
  float *buffer = backend_scratch(p->backend, thread);
  int64_t groups = divide_up(p->columns, PACK_COLUMNS), first = task % groups * PACK_COLUMNS, block = task / groups, depth;
  float *to = p->piece + piece_block(p, block, &depth) + first * depth;
  int64_t width = smaller(PACK_COLUMNS, p->columns - first), row = p->first_k + block * p->depth;
  for (int64_t k = 0; k < depth; k++) {
    const float *from = matrix_segment(p->w, row + k, p->first_column + first, width, buffer);
    for (int64_t j = 0; j < width; j += TILE_COLUMNS)
      for (int v = 0; v < TILE_VECS; v++)
        vec_store(to + j * depth + k * TILE_COLUMNS + v * VL, vec_load_first(from + j + v * VL, width - j - v * VL));
  }
}

static void multiply_block(void *argument, int64_t task, int thread) {
  const Product *p = argument;
  float *packed = backend_scratch(p->backend, thread);
  int64_t row = task % p->row_tasks * BLOCK_ROWS, rows = smaller(BLOCK_ROWS, p->m - row);
  int64_t column = task / p->row_tasks * p->task_columns, columns = smaller(p->task_columns, p->columns - column);
  for (int64_t block = 0; block * p->depth < p->piece_k; block++) {
    int64_t depth, at = piece_block(p, block, &depth), k = p->first_k + block * p->depth;
    const float *a = p->a + row * p->k + k;
    TileA left = tile_a_rows(a, p->k);
    if (columns > 4 * TILE_COLUMNS) {  // worth packing only when it is read often
      pack_a_rows(packed, a, p->k, rows, depth);
      left = tile_a_packed(packed, depth);
    }
    TileB right = tile_b_packed(p->piece + at + column * depth, depth);
    float *c = p->c + row * p->n + p->first_column + column;
    tile_multiply(c, p->n, left, right, rows, columns, depth, p->alpha, p->accumulate || k > 0);
  }
}

// So many columns to a task that all threads have some tasks.
static void plan_tasks(Product *p) {
  int64_t wanted = pool_threads(p->backend->pool) == 1 ? 1 : 4 * pool_threads(p->backend->pool);
  p->row_tasks = divide_up(p->m, BLOCK_ROWS);
  int64_t panels = divide_up(p->columns, TILE_COLUMNS), splits = smaller(divide_up(wanted, p->row_tasks), divide_up(panels, 6));
  p->task_columns = divide_up(panels, splits) * TILE_COLUMNS;
}

static void run_product(Product *p) {
  if (p->m == 0 || p->n == 0) return;
  p->depth = round_up(divide_up(p->k, divide_up(p->k, DEPTH)), GROUP);
  int64_t piece_columns = smaller(round_up(p->n, TILE_COLUMNS), PIECE_COLUMNS);
  int64_t blocks = larger(1, PIECE_BYTES / (int64_t)sizeof(float) / piece_columns / p->depth), piece_k = blocks * p->depth;
  p->piece = backend_shared_scratch(p->backend, piece_columns * smaller(piece_k, p->k) * (int64_t)sizeof(float));
  for (p->first_column = 0; p->first_column < p->n; p->first_column += piece_columns) {
    p->columns = smaller(piece_columns, p->n - p->first_column);
    plan_tasks(p);
    for (p->first_k = 0; p->first_k < p->k; p->first_k += piece_k) {
      p->piece_k = smaller(piece_k, p->k - p->first_k);
      int64_t width = p->transposed ? TILE_COLUMNS : PACK_COLUMNS;
      pool_run(p->backend->pool, divide_up(p->columns, width) * divide_up(p->piece_k, p->depth),
               p->transposed ? pack_forward : pack_backward, p);
      pool_run(p->backend->pool, p->row_tasks * divide_up(p->columns, p->task_columns), multiply_block, p);
    }
  }
}

static void stream_rows(void *argument, int64_t begin, int64_t end, int thread) {
  const Product *p = argument;
  float *buffer = backend_scratch(p->backend, thread), sums[FEW_ROWS];
  bool is_fused = p->m == 1 && is_dot_fused(p->w);
  for (int64_t row = begin; row < end; row++) {
    if (is_fused) sums[0] = matrix_dot(p->w, row, p->a);
    else dot_rows(sums, matrix_segment(p->w, row, 0, p->k, buffer), p->a, p->k, p->m, p->k);
    for (int64_t i = 0; i < p->m; i++) {
      float *c = p->c + i * p->n + row;
      *c = p->accumulate ? *c + p->alpha * sums[i] : p->alpha * sums[i];
    }
  }
}

void cpu_linear_forward(float *y, const float *x, const Matrix *w, int64_t n, float alpha, bool accumulate, Backend *backend) {
  Product product = {.c = y,
                     .a = x,
                     .w = w,
                     .transposed = true,
                     .m = n,
                     .n = w->rows,
                     .k = w->columns,
                     .alpha = alpha,
                     .accumulate = accumulate,
                     .backend = backend};
  if (n > FEW_ROWS || w->columns > (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(float))) run_product(&product);
  else if (n > 0) run_rows(backend, w->rows, w->columns, stream_rows, &product);
}

void cpu_linear_backward(float *dx, const float *dy, const Matrix *w, int64_t n, float alpha, bool accumulate, Backend *backend) {
  Product product = {.c = dx,
                     .a = dy,
                     .w = w,
                     .transposed = false,
                     .m = n,
                     .n = w->columns,
                     .k = w->rows,
                     .alpha = alpha,
                     .accumulate = accumulate,
                     .backend = backend};
  run_product(&product);
}
