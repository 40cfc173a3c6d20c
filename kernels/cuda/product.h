// Dense products of this backend's own, float32 sums throughout:
//   c_o[i, j] (+)= alpha_o sum_t alpha_t sum_k a_t[i, k] b_to[j, k] + bias_o[j] + added_o[i, j]
// for terms t, which one kernel adds up without rounding in between, and outputs o, whose columns stand side by side in its tiles, so that
// a is read once for all of them (LoRA's factors of q, k and v).
#ifndef KERNELS_CUDA_PRODUCT_H
#define KERNELS_CUDA_PRODUCT_H

#include "kernels/cuda/cuda.h"

enum { PRODUCT_TERMS = 2 * LINEAR_PROJECTIONS, PRODUCT_OUTPUTS = LINEAR_PROJECTIONS };

// Element (i, k) is at i * step + k where `along_k`, else at k * step + i.
struct Operand {
  const void *data;
  FloatType type;
  int64_t step;
  bool along_k;
};

struct ProductTerm {
  Operand a;  // [m, k]
  Operand b[PRODUCT_OUTPUTS];  // [columns of the output, k]
  int64_t k;
  float alpha;
};

struct ProductOutput {
  void *data;  // element (i, j) at i * row_step + j * column_step
  FloatType type;
  int64_t row_step, column_step;
  int64_t columns;
  float alpha;
  bool accumulate;
  const float *bias;  // [columns] or NULL
  Rows added;  // [m, columns]; data NULL: none
};

// All a's lie one way, and all b's. `type` is what operands are rounded to before they are multiplied.
struct DenseProduct {
  FloatType type;
  int64_t m;
  ProductTerm terms[PRODUCT_TERMS];
  int term_count;  // 0: bias and what is added alone
  ProductOutput outputs[PRODUCT_OUTPUTS];
  int output_count;
};

static inline Operand operand_rows(Rows rows) { return Operand{rows.data, rows.type, rows.step, true}; }
static inline Operand operand_columns(Rows rows) { return Operand{rows.data, rows.type, rows.step, false}; }
static inline ProductOutput output_rows(Rows rows, int64_t columns) {
  ProductOutput output = {};
  output.data = rows.data, output.type = rows.type, output.row_step = rows.step, output.column_step = 1;
  output.columns = columns, output.alpha = 1;
  return output;
}

void product_run(const DenseProduct &product, Device *device);

// One matrix in a type and with an alignment that products read in place: the operand itself, or a copy in a workspace. `rows` counts what
// is `step` apart.
Operand operand_in_place(Operand operand, FloatType type, int64_t rows, int64_t columns, Workspace purpose, Device *device);

// to[rows, columns] = from, rounded to its type.
void rows_convert(Rows to, Rows from, int64_t rows, int64_t columns, Device *device);

// c[m, n] = alpha a b^T + beta c by cuBLASLt: operands of one type, c of that or float32. False where it has no way for this (nothing is
// done then): addresses or steps that are no multiples of 16 bytes, other types, or device->thresholds.own_products.
bool blas_product(Rows c, int64_t m, int64_t n, int64_t k, float alpha, Operand a, Operand b, float beta, Device *device);

// The most that products of so many rows with frozen matrices of at most so many columns take: panels, x or dy in another type, and the sum
// of dx. And what blas_product takes.
int64_t linear_workspace_bytes(int64_t rows, int64_t columns);
int64_t blas_workspace_bytes(void);

// Gives back what the products keep in a device: events. For its end.
void products_close(Device *device);

#endif
