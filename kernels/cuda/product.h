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

static inline DenseProduct product_of(FloatType type, int64_t m) {
  DenseProduct product = {};
  product.type = type, product.m = m;
  return product;
}
static inline void add_term(DenseProduct *product, Operand a, Operand b, int64_t k, float alpha) {
  ProductTerm &term = product->terms[product->term_count++];
  term.a = a, term.b[0] = b, term.k = k, term.alpha = alpha;
}
static inline void add_output(DenseProduct *product, ProductOutput output) { product->outputs[product->output_count++] = output; }

void product_run(const DenseProduct &product, Device *device);

// Grouped products: rows of a and c lie in groups, one after another, and each group is multiplied by a b of its own (the experts of a
// mixture). How many rows a group has is known to the device alone; the host knows how many all have together, and so how many tiles of
// rows, none of which lies in two groups, there can be.
struct alignas(16) RowTile {
  int32_t first, end;  // its first row, and the end of its group's rows
  int32_t group;
};
struct RowGroups {
  int64_t rows;  // of all groups
  int tile_rows;  // of a tile, at most
  const int32_t *tile_starts;  // [groups + 1]: the first tile of each group
  const RowTile *tiles;
};
// Makes them of starts[groups + 1], the device's, the first row of each group; in `room`, row_groups_bytes of the device's memory.
// `columns`: of the narrowest output of the products that are to come.
RowGroups row_groups_new(void *room, const int32_t *starts, int64_t groups, int64_t rows, int64_t columns, Device *device);
int64_t row_groups_bytes(int64_t groups, int64_t rows);
// The product for groups first .. last - 1: m counts all rows, a and outputs begin with the first of all; b[0] of a term is that of group
// `first`, with the columns of all outputs after one another, and that of the next group lies b_step elements further. Operands are of the
// product's type, and begin at multiples of 16 bytes, as do their rows; k and columns are multiples of 8.
void product_run_groups(const DenseProduct &product, const RowGroups &groups, int64_t first, int64_t last, int64_t b_step, Device *device);

// One matrix in a type and with an alignment that products read in place: the operand itself, or a copy in a workspace. `rows` counts what
// is `step` apart.
Operand operand_in_place(Operand operand, FloatType type, int64_t rows, int64_t columns, Workspace purpose, Device *device);

// to[rows, columns] = from, rounded to its type.
void rows_convert(Rows to, Rows from, int64_t rows, int64_t columns, Device *device);

// Whether cuBLASLt may be asked. What it does to a row may depend on the number of rows.
static inline bool has_blas(const Device *device) { return !device->thresholds.own_products && !is_deterministic(device); }

// c[m, n] = alpha a b^T + beta c by cuBLASLt: operands of one type, c of that or float32. False where it has no way for this (nothing is
// done then): addresses or steps that are no multiples of 16 bytes, other types, or !has_blas(device).
bool blas_product(Rows c, int64_t m, int64_t n, int64_t k, float alpha, Operand a, Operand b, float beta, Device *device);

// The most that products of so many rows with frozen matrices of at most so many columns take: panels, x or dy in another type, and the sum
// of dx. And what blas_product takes.
int64_t linear_workspace_bytes(int64_t rows, int64_t columns);
int64_t blas_workspace_bytes(void);

// Gives back what the products keep in a device: events. For its end.
void products_close(Device *device);

#endif
