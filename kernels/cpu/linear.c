// The products of kernels/linear.h as products with frozen matrices (product.h): forward, each projection is an output with the terms
// x w^T and h b^T; backward, dx is one output with the terms dy w and dh a of every projection.
// Except: with up to STREAM_ROWS rows of float32 the forward pass streams w (linear_stream.h), and sums in the order of
// dot_rows, so that there a row's last bits may differ from the same row among more.
#include "kernels/cpu/linear_stream.h"
#include "kernels/cpu/product.h"

static void add_term(Output *output, int left, const Matrix *w, bool transposed, float alpha) {
  output->terms[output->term_count++] = (Term){.left = left, .w = *w, .transposed = transposed, .alpha = alpha};
}

void cpu_linear_forward(const Projection *projections, int count, Rows x, int64_t n, Backend *backend) {
  Product product = {.m = n, .backend = backend};
  Projection streamed[LINEAR_PROJECTIONS];
  int left = -1, streamed_count = 0;
  for (const Projection *p = projections; p < projections + count; p++) {
    if (is_streamed(p, x, n)) {
      streamed[streamed_count++] = *p;
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
  if (streamed_count) linear_stream(streamed, streamed_count, x, n, false, backend);
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
