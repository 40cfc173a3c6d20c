// The products of kernels/linear.h as products with frozen matrices (product.h): forward, each projection is an output with the terms
// x w^T and h b^T; backward, dx is one output with the terms dy w and dh a of every projection.
#include "kernels/cpu/product.h"

static void add_term(Output *output, int left, const Matrix *w, bool transposed, float alpha) {
  output->terms[output->term_count++] = (Term){.left = left, .w = *w, .transposed = transposed, .alpha = alpha};
}

void cpu_linear_forward(const Projection *projections, int count, Rows x, int64_t n, Backend *backend) {
  Product product = {.m = n, .backend = backend};
  int left = product_add_left(&product, x, projections[0].w->columns);
  for (const Projection *p = projections; p < projections + count; p++) {
    Output *output = product_add_output(&product, p->y, p->w->rows);
    output->bias = p->bias;
    output->residual = p->residual;
    add_term(output, left, p->w, true, p->alpha);
    if (!p->rank) continue;
    Matrix low = matrix_f32(p->low, p->w->rows, p->rank);
    add_term(output, product_add_left(&product, p->h, p->rank), &low, true, 1);
  }
  product_run(&product);
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
