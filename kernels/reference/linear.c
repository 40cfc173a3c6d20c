// Products with a matrix w[rows, columns], row-major, of any element type; x[n, columns], y[n, rows]:
//   forward          y[i, r]  (+)= alpha * sum_c x[i, c] w[r, c]
//   backward         dx[i, c] (+)= alpha * sum_r dy[i, r] w[r, c]
//   weight backward  dw[r, c]  += alpha * sum_i dy[i, r] x[i, c]
// Tasks are rows or column tiles of w, so that each piece of w is dequantised once, by one thread.
#include <assert.h>

#include "kernels/reference/reference.h"

enum { TILE = 256 };  // columns: a multiple of every block's elements

typedef struct Product {
  float *out;
  const float *left, *right;
  const Matrix *w;
  int64_t n, rows, columns;
  float alpha;
  bool accumulate;
  Backend *backend;
} Product;

static void store(float *out, double sum, const Product *product) {
  double value = (double)product->alpha * sum;
  *out = (float)(product->accumulate ? *out + value : value);
}

static void forward_row(void *argument, int64_t row, int thread) {
  const Product *product = argument;
  float *weights = backend_scratch(product->backend, thread);
  matrix_dequantize(weights, product->w, row, 0, product->columns);
  for (int64_t i = 0; i < product->n; i++)
    store(&product->out[i * product->rows + row], reference_dot(product->left + i * product->columns, weights, product->columns), product);
}

void reference_linear_forward(float *y, const float *x, const Matrix *w, int64_t n, float alpha, bool accumulate, Backend *backend) {
  assert(w->columns <= (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(float)));
  Product product = {y, x, NULL, w, n, w->rows, w->columns, alpha, accumulate, backend};
  pool_run(backend->pool, n > 0 ? w->rows : 0, forward_row, &product);
}

static int64_t tile_width(int64_t tile, int64_t columns) { return columns - tile * TILE < TILE ? columns - tile * TILE : TILE; }

static void backward_columns(void *argument, int64_t tile, int thread) {
  const Product *product = argument;
  int64_t first = tile * TILE, width = tile_width(tile, product->columns);
  double(*sums)[TILE] = backend_scratch(product->backend, thread);
  const int64_t batch = KERNEL_SCRATCH_BYTES / (int64_t)sizeof *sums;
  for (int64_t begin = 0; begin < product->n; begin += batch) {
    int64_t end = begin + batch < product->n ? begin + batch : product->n;
    for (int64_t i = 0; i < end - begin; i++)
      for (int64_t c = 0; c < width; c++) sums[i][c] = 0;
    for (int64_t row = 0; row < product->rows; row++) {
      float weights[TILE];
      matrix_dequantize(weights, product->w, row, first, width);
      for (int64_t i = begin; i < end; i++) {
        double factor = product->left[i * product->rows + row];
        for (int64_t c = 0; c < width; c++) sums[i - begin][c] += factor * weights[c];
      }
    }
    for (int64_t i = begin; i < end; i++)
      for (int64_t c = 0; c < width; c++) store(&product->out[i * product->columns + first + c], sums[i - begin][c], product);
  }
}

void reference_linear_backward(float *dx, const float *dy, const Matrix *w, int64_t n, float alpha, bool accumulate, Backend *backend) {
  Product product = {dx, dy, NULL, w, n, w->rows, w->columns, alpha, accumulate, backend};
  pool_run(backend->pool, n > 0 ? (w->columns + TILE - 1) / TILE : 0, backward_columns, &product);
}

static void weight_backward_row(void *argument, int64_t row, int thread) {
  (void)thread;
  const Product *product = argument;
  for (int64_t tile = 0; tile * TILE < product->columns; tile++) {
    int64_t first = tile * TILE, width = tile_width(tile, product->columns);
    double sums[TILE] = {0};
    for (int64_t i = 0; i < product->n; i++) {
      double factor = product->left[i * product->rows + row];
      for (int64_t c = 0; c < width; c++) sums[c] += factor * product->right[i * product->columns + first + c];
    }
    for (int64_t c = 0; c < width; c++) store(&product->out[row * product->columns + first + c], sums[c], product);
  }
}

void reference_weight_backward(float *dw, const float *dy, const float *x, int64_t n, int64_t rows, int64_t columns, float alpha,
                               Backend *backend) {
  Product product = {dw, dy, x, NULL, n, rows, columns, alpha, true, backend};
  pool_run(backend->pool, n > 0 ? rows : 0, weight_backward_row, &product);
}

void reference_bias_forward(float *y, const float *bias, int64_t n, int64_t columns, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++)
    for (int64_t c = 0; c < columns; c++) y[i * columns + c] += bias[c];
}

void reference_embedding_forward(float *y, const int32_t *ids, const Matrix *w, int64_t n, float scale, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++) {
    float *row = y + i * w->columns;
    matrix_dequantize(row, w, ids[i], 0, w->columns);
    for (int64_t c = 0; c < w->columns; c++) row[c] *= scale;
  }
}
