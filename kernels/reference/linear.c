// The equations of kernels/linear.h, row-major, with weights of any element type:
//   forward          y[i, r]  = alpha * sum_c x[i, c] w[r, c] + sum_k h[i, k] low[r, k] + bias[r] + residual[i, r]
//   forward in int8  the same, with d * level in place of x where w is quantised in levels that are integers (kernels/backend.h)
//   backward         dx[i, c] (+)= sum over projections of alpha * sum_r dy[i, r] w[r, c] + sum_k dh[i, k] low[k, c]
//   weight backward  dw[r, c]  += alpha * sum_i dy[i, r] x[i, c]
// Tasks are rows or column tiles of w, so that each piece of w is dequantised once, by one thread.
#include <assert.h>
#include <math.h>

#include "kernels/reference/reference.h"

enum { TILE = 256 };  // columns: a multiple of every block's elements

typedef struct Product {
  const Projection *projections;
  int count;
  Rows x, dx;
  const double *rounded;  // [n, columns] in place of x; NULL: x itself
  int64_t n, columns;
  bool accumulate;
  const WeightGradient *gradient;
  Backend *backend;
} Product;

static double load(Rows rows, int64_t i, int64_t column) { return reference_load(rows.data, rows.type, i * rows.step + column); }
static void store(Rows rows, int64_t i, int64_t column, double value) {
  reference_store(rows.data, rows.type, i * rows.step + column, value);
}

static double load_x(const Product *product, int64_t i, int64_t column, int64_t columns) {
  return product->rounded ? product->rounded[i * columns + column] : load(product->x, i, column);
}

static void forward_row(void *argument, int64_t row, int thread) {
  const Product *product = argument;
  const Projection *p = product->projections;
  float *weights = backend_scratch(product->backend, thread);
  matrix_dequantize(weights, p->w, row, 0, p->w->columns);
  for (int64_t i = 0; i < product->n; i++) {
    double sum = 0;
    for (int64_t c = 0; c < p->w->columns; c++) sum += load_x(product, i, c, p->w->columns) * weights[c];
    sum *= p->alpha;
    for (int64_t k = 0; k < p->rank; k++) sum += load(p->h, i, k) * p->low[row * p->rank + k];
    if (p->bias) sum += p->bias[row];
    if (p->residual.data) sum += load(p->residual, i, row);
    store(p->y, i, row, sum);
  }
}

static void forward(const Projection *p, Rows x, const double *rounded, int64_t n, Backend *backend) {
  assert(p->w->columns <= (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(float)));
  Product product = {.projections = p, .x = x, .rounded = rounded, .n = n, .backend = backend};
  pool_run(backend->pool, n > 0 ? p->w->rows : 0, forward_row, &product);
}

void reference_linear_forward(const Projection *projections, int count, Rows x, int64_t n, Backend *backend) {
  for (int i = 0; i < count; i++) forward(&projections[i], x, NULL, n, backend);
}

static void round_block(double *out, const float *x) {
  float largest = 0;
  for (int j = 0; j < INT8_BLOCK; j++) {
    out[j] = NAN;
    if (!isfinite(x[j])) largest = NAN;
    else if (!(fabsf(x[j]) <= largest)) largest = isnan(largest) ? largest : fabsf(x[j]);
  }
  if (isnan(largest)) return;
  float d = largest / 127, inverse = 127 / largest;
  for (int j = 0; j < INT8_BLOCK; j++) out[j] = largest > INT8_SMALLEST ? (double)d * rintf(x[j] * inverse) : 0;
}

void reference_linear_forward_int8(const Projection *projections, int count, Rows x, int64_t n, Backend *backend) {
  int64_t columns = projections[0].w->columns, blocks = columns / INT8_BLOCK;
  double *rounded = backend_shared_scratch(backend, n * columns * (int64_t)sizeof *rounded);
  for (int64_t i = 0; i < n * blocks; i++) {
    int64_t row = i / blocks, first = i % blocks * INT8_BLOCK;
    float block[INT8_BLOCK];
    for (int j = 0; j < INT8_BLOCK; j++) block[j] = (float)load(x, row, first + j);
    round_block(rounded + row * columns + first, block);
  }
  for (int i = 0; i < count; i++) forward(&projections[i], x, matrix_has_integer_levels(projections[i].w) ? rounded : NULL, n, backend);
}

static int64_t tile_width(int64_t tile, int64_t columns) { return columns - tile * TILE < TILE ? columns - tile * TILE : TILE; }

// sums[rows begin .. end - 1][width] += factor * left w for one row of w.
static void add_row(double (*sums)[TILE], Rows left, int64_t row, double alpha, const float *weights, int64_t width, int64_t begin,
                    int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    double factor = alpha * load(left, i, row);
    for (int64_t c = 0; c < width; c++) sums[i - begin][c] += factor * weights[c];
  }
}

static void backward_columns(void *argument, int64_t tile, int thread) {
  const Product *product = argument;
  int64_t first = tile * TILE, width = tile_width(tile, product->columns);
  double(*sums)[TILE] = backend_scratch(product->backend, thread);
  const int64_t batch = KERNEL_SCRATCH_BYTES / (int64_t)sizeof *sums;
  for (int64_t begin = 0; begin < product->n; begin += batch) {
    int64_t end = begin + batch < product->n ? begin + batch : product->n;
    for (int64_t i = 0; i < end - begin; i++)
      for (int64_t c = 0; c < width; c++) sums[i][c] = 0;
    for (const Projection *p = product->projections; p < product->projections + product->count; p++) {
      float weights[TILE];
      for (int64_t row = 0; row < p->w->rows; row++) {
        matrix_dequantize(weights, p->w, row, first, width);
        add_row(sums, p->y, row, p->alpha, weights, width, begin, end);
      }
      for (int64_t k = 0; k < p->rank; k++) add_row(sums, p->h, k, 1, p->low + k * product->columns + first, width, begin, end);
    }
    for (int64_t i = begin; i < end; i++)
      for (int64_t c = 0; c < width; c++)
        store(product->dx, i, first + c, sums[i - begin][c] + (product->accumulate ? load(product->dx, i, first + c) : 0));
  }
}

void reference_linear_backward(Rows dx, const Projection *projections, int count, int64_t n, bool accumulate, Backend *backend) {
  int64_t columns = projections[0].w->columns;
  Product product = {
      .projections = projections, .count = count, .dx = dx, .n = n, .columns = columns, .accumulate = accumulate, .backend = backend};
  pool_run(backend->pool, n > 0 ? (columns + TILE - 1) / TILE : 0, backward_columns, &product);
}

static void weight_backward_row(void *argument, int64_t row, int thread) {
  (void)thread;
  const Product *product = argument;
  const WeightGradient *gradient = product->gradient;
  for (int64_t tile = 0; tile * TILE < product->columns; tile++) {
    int64_t first = tile * TILE, width = tile_width(tile, product->columns);
    double sums[TILE] = {0};
    for (int64_t i = 0; i < product->n; i++) {
      double factor = load(gradient->dy, i, row);
      for (int64_t c = 0; c < width; c++) sums[c] += factor * load(product->x, i, first + c);
    }
    float *dw = gradient->dw + row * product->columns + first;
    for (int64_t c = 0; c < width; c++) dw[c] = (float)(dw[c] + (double)gradient->alpha * sums[c]);
  }
}

void reference_weight_backward(const WeightGradient *gradients, int count, Rows x, int64_t columns, int64_t n, Backend *backend) {
  for (int i = 0; i < count; i++) {
    Product product = {.gradient = &gradients[i], .x = x, .n = n, .columns = columns};
    pool_run(backend->pool, n > 0 ? gradients[i].rows : 0, weight_backward_row, &product);
  }
}

void reference_low_rank_backward(const LowRankGradient *gradients, int count, int64_t n, Backend *backend) {
  for (const LowRankGradient *g = gradients; g < gradients + count; g++) {
    Matrix b = matrix_f32(g->b, g->out, g->rank);
    reference_linear_backward(g->dh, &(Projection){.w = &b, .alpha = g->scale, .y = g->dy}, 1, n, false, backend);
    reference_weight_backward(&(WeightGradient){.dw = g->db, .dy = g->dy, .rows = g->out, .alpha = 1}, 1, g->h, g->rank, n, backend);
    for (int64_t i = 0; g->rounded.data && i < n; i++)
      for (int64_t j = 0; j < g->out; j++) store(g->rounded, i, j, load(g->dy, i, j));
  }
}

void reference_embedding_forward(float *y, const int32_t *ids, const Matrix *w, int64_t n, float scale, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++) {
    float *row = y + i * w->columns;
    if (ids[i] < 0) continue;
    matrix_dequantize(row, w, ids[i], 0, w->columns);
    for (int64_t c = 0; c < w->columns; c++) row[c] *= scale;
  }
}

void reference_column_sums(float *sums, Rows x, int64_t columns, int64_t n, Backend *backend) {
  (void)backend;
  for (int64_t c = 0; c < columns; c++) {
    double sum = sums[c];
    for (int64_t i = 0; i < n; i++) sum += reference_load(x.data, x.type, i * x.step + c);
    sums[c] = (float)sum;
  }
}

void reference_embedding_backward(float *dw, const float *dy, const int32_t *rows, const int32_t *begins, const int32_t *places,
                                  int64_t groups, int64_t columns, float scale, Backend *backend) {
  (void)backend;
  for (int64_t g = 0; g < groups; g++)
    for (int64_t c = 0; c < columns; c++) {
      double sum = 0;
      for (int32_t j = begins[g]; j < begins[g + 1]; j++) sum += dy[places[j] * columns + c];
      dw[rows[g] * columns + c] = (float)(dw[rows[g] * columns + c] + (double)scale * sum);
    }
}
