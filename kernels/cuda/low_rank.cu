// Gradients of LoRA's factors, sums over all rows:
//   weight backward    dw_i += alpha_i dy_i^T x
//   low-rank backward  dh = scale dy b, db += dy^T h, and dy rounded to another type
// dw is computed as its transpose, x^T dy_i, so that x is read once for the factors of several projections.
#include "kernels/cuda/product.h"

namespace {

FloatType shorter(FloatType a, FloatType b) { return a == FLOAT_32 ? b : a; }

// Projections that were one matrix share a factor; what one launch adds to it twice at a time would be lost.
bool is_among(const float *dw, const WeightGradient *gradients, int count) {
  for (int i = 0; i < count; i++)
    if (gradients[i].dw == dw) return true;
  return false;
}

void weights_of_some(const WeightGradient *gradients, int count, Rows x, int64_t columns, int64_t n, Device *device) {
  DenseProduct product = {};
  product.type = x.type, product.m = columns, product.term_count = 1, product.output_count = count;
  ProductTerm &term = product.terms[0];
  term.a = operand_columns(x), term.k = n, term.alpha = 1;
  for (int i = 0; i < count; i++) {
    const WeightGradient &g = gradients[i];
    product.type = shorter(product.type, g.dy.type);
    term.b[i] = operand_columns(g.dy);
    ProductOutput &output = product.outputs[i];
    output.data = g.dw, output.type = FLOAT_32, output.row_step = 1, output.column_step = columns;
    output.columns = g.rows, output.alpha = g.alpha, output.accumulate = true;
  }
  product_run(product, device);
}

void low_rank(const LowRankGradient &g, int64_t n, Device *device) {
  Rows dy = g.dy;
  if (g.rounded.data) {
    rows_convert(g.rounded, dy, n, g.out, device);
    dy = g.rounded;
  }
  if (g.rank == 0) return;
  DenseProduct product = {};
  product.type = shorter(shorter(dy.type, g.h.type), g.dh.type);
  Operand left = operand_in_place(operand_rows(dy), product.type, n, g.out, WORKSPACE_INPUT, device);
  if (!left.data) return;
  product.m = n, product.term_count = 1, product.output_count = 1;
  product.terms[0] = {left, {{g.b, FLOAT_32, g.rank, false}}, g.out, 1};
  product.outputs[0] = output_rows(g.dh, g.rank);
  product.outputs[0].alpha = g.scale;
  product_run(product, device);
  left.along_k = false;
  product.m = g.out;
  product.terms[0] = {left, {operand_columns(g.h)}, n, 1};
  product.outputs[0] = output_rows(Rows{g.db, g.rank, FLOAT_32}, g.rank);
  product.outputs[0].accumulate = true;
  product_run(product, device);
}

}  // namespace

void cuda_weight_backward(const WeightGradient *gradients, int count, Rows x, int64_t columns, int64_t n, Backend *backend) {
  if (n == 0) return;
  for (int i = 0, some; i < count; i += some) {
    for (some = 1; some < PRODUCT_OUTPUTS && i + some < count && !is_among(gradients[i + some].dw, gradients + i, some);) some++;
    weights_of_some(gradients + i, some, x, columns, n, device_of(backend));
  }
}

void cuda_low_rank_backward(const LowRankGradient *gradients, int count, int64_t n, Backend *backend) {
  for (int i = 0; i < count && n > 0; i++) low_rank(gradients[i], n, device_of(backend));
}
