// The products of kernels/linear.h as products with frozen matrices (product.h): forward, each projection is an output with the terms
// x w^T and h b^T; backward, dx is one output with the terms dy w and dh a of every projection.
// Except: with up to FEW_ROWS rows of float32 (generation) the forward pass streams w once, row by row, and sums in the order of
// dot_rows, so that there a row's last bits may differ from the same row among more.
#include "kernels/cpu/dequantize.h"
#include "kernels/cpu/product.h"

enum { FEW_ROWS = 8 };

static void add_term(Output *output, int left, const Matrix *w, bool transposed, float alpha) {
  output->terms[output->term_count++] = (Term){.left = left, .w = *w, .transposed = transposed, .alpha = alpha};
}

typedef struct Stream {
  const Projection *projection;
  Rows x;
  int64_t n;
  Backend *backend;
} Stream;

static void stream_rows(void *argument, int64_t begin, int64_t end, int thread) {
  const Stream *s = argument;
  const Projection *p = s->projection;
  const float *x = s->x.data, *h = p->h.data;
  float *buffer = backend_scratch(s->backend, thread), sums[FEW_ROWS], low[FEW_ROWS];
  bool is_fused = s->n == 1 && is_dot_fused(p->w);
  for (int64_t row = begin; row < end; row++) {
    if (is_fused) sums[0] = matrix_dot(p->w, row, x);
    else dot_rows(sums, matrix_segment(p->w, row, 0, p->w->columns, buffer), x, s->x.step, s->n, p->w->columns);
    if (p->rank) dot_rows(low, p->low + row * p->rank, h, p->h.step, s->n, p->rank);
    for (int64_t i = 0; i < s->n; i++) {
      float value = p->alpha * sums[i];
      if (p->rank) value += low[i];
      if (p->bias) value += p->bias[row];
      if (p->residual.data) value += ((const float *)p->residual.data)[i * p->residual.step + row];
      ((float *)p->y.data)[i * p->y.step + row] = value;
    }
  }
}

static bool is_streamed(const Projection *p, Rows x, int64_t n) {
  bool is_float = x.type == FLOAT_32 && p->y.type == FLOAT_32 && (!p->rank || p->h.type == FLOAT_32) &&
                  (!p->residual.data || p->residual.type == FLOAT_32);
  return is_float && n <= FEW_ROWS && p->w->columns <= (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(float));
}

void cpu_linear_forward(const Projection *projections, int count, Rows x, int64_t n, Backend *backend) {
  Product product = {.m = n, .backend = backend};
  int left = -1;
  for (const Projection *p = projections; p < projections + count; p++) {
    if (is_streamed(p, x, n)) {
      Stream stream = {p, x, n, backend};
      if (n > 0) run_rows(backend, p->w->rows, p->w->columns, stream_rows, &stream);
      continue;
    }
    if (left < 0) left = product_add_left(&product, x, p->w->columns);
    Output *output = product_add_output(&product, p->y, p->w->rows);
    output->bias = p->bias;
    output->residual = p->residual;
    add_term(output, left, p->w, true, p->alpha);
    if (!p->rank) continue;
    Matrix low = matrix_f32(p->low, p->w->rows, p->rank);
    add_term(output, product_add_left(&product, p->h, p->rank), &low, true, 1);
  }
  if (product.output_count) product_run(&product);
}

void cpu_linear_backward(Rows dx, const Projection *projections, int count, int64_t n, bool accumulate, Backend *backend) {
  Product product = {.m = n, .backend = backend};
  Output *output = product_add_output(&product, dx, projections[0].w->columns);
  output->accumulate = accumulate;
  for (const Projection *p = projections; p < projections + count; p++) {
    add_term(output, product_add_left(&product, p->y, p->w->rows), p->w, false, p->alpha);
    if (!p->rank) continue;
    Matrix low = matrix_f32(p->low, p->rank, p->w->columns);
    add_term(output, product_add_left(&product, p->h, p->rank), &low, false, 1);
  }
  product_run(&product);
}
