// DoRA's two nodes behind a linear layer with an adapter (kernels/magnitude.h has the equations):
//   norms = || W + scale B A ||_row, of A W^T and A A^T, once for all that reads them; no gradient goes through
//   y = z m / norms + bias + residual;  dz = dy m / norms,  dm_i += sum_n dy_ni z_ni / norms_i,  dresidual = dy
#include "autograd/ops.h"

typedef struct NormsAttributes {
  const Matrix *weight;
  const LowRank *adapter;
} NormsAttributes;

static void norms_forward(Node *node, Tape *tape) {
  const NormsAttributes *a = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const Parameter *low = &a->adapter->a;
  int64_t rank = low->rows, out = a->weight->rows;
  float *products = node->scratch, *gram = products + rank * out;
  Rows rows = rows_f32(low->data, low->columns);
  Matrix self = matrix_f32(low->data, rank, low->columns);
  Projection by_weight = projection_f32(products, a->weight, 1), by_self = projection_f32(gram, &self, 1);
  kernels->linear_forward(&by_weight, 1, rows, rank, tape->backend);
  kernels->linear_forward(&by_self, 1, rows, rank, tape->backend);
  kernels->low_rank_norms(node->outputs[0]->data, a->adapter->squares, products, gram, a->adapter->b.data, out, rank, a->adapter->scale,
                          tape->backend);
}

static int64_t norms_scratch(const Node *node, bool backward) {
  const NormsAttributes *a = node->attributes;
  return backward ? 0 : a->adapter->a.rows * (a->weight->rows + a->adapter->a.rows);
}

static double norms_flop(const Node *node, bool backward) {
  const NormsAttributes *a = node->attributes;
  return backward ? 0 : 2 * (double)a->adapter->a.rows * (double)a->weight->rows * (double)a->weight->columns;
}

static const Op norms_op = {.name = "dora norms", .forward = norms_forward, .scratch = norms_scratch, .flop = norms_flop};

Tensor *op_low_rank_norms(Tape *tape, const Matrix *weight, const LowRank *adapter) {
  NormsAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = (NormsAttributes){weight, adapter};
  Node *node = tape_node(tape, &norms_op, attributes);
  node->outputs[0] = tape_tensor(tape, 1, weight->rows, FLOAT_32);
  node_finish(node, false);
  return node->outputs[0];
}

enum { MAGNITUDE_Z, MAGNITUDE_NORMS, MAGNITUDE_RESIDUAL };

typedef struct MagnitudeAttributes {
  const LowRank *adapter;
  const float *bias;
} MagnitudeAttributes;

static Rows data_rows(const Tensor *tensor) { return tensor ? (Rows){tensor->data, tensor->columns, tensor->type} : (Rows){0}; }
static Rows gradient_rows(const Tensor *tensor) { return (Rows){tensor->gradient, tensor->columns, tensor->type}; }

static Magnitude magnitude_of(const Node *node) {
  const MagnitudeAttributes *a = node->attributes;
  const Tensor *norms = node->inputs[MAGNITUDE_NORMS];
  return (Magnitude){.m = a->adapter->magnitude.data,
                     .norms = norms ? norms->data : a->adapter->norms,
                     .bias = a->bias,
                     .columns = node->outputs[0]->columns};
}

static void magnitude_forward(Node *node, Tape *tape) {
  const Tensor *y = node->outputs[0];
  Magnitude magnitude = magnitude_of(node);
  tape->backend->kernels->magnitude_forward(data_rows(y), data_rows(node->inputs[MAGNITUDE_Z]), data_rows(node->inputs[MAGNITUDE_RESIDUAL]),
                                            &magnitude, y->rows, tape->backend);
}

// z has no other reader: its gradient is set.
static void magnitude_backward(Node *node, Tape *tape) {
  const MagnitudeAttributes *a = node->attributes;
  const Tensor *y = node->outputs[0], *z = node->inputs[MAGNITUDE_Z], *residual = node->inputs[MAGNITUDE_RESIDUAL];
  Magnitude magnitude = magnitude_of(node);
  tape->backend->kernels->magnitude_backward(gradient_rows(z), a->adapter->magnitude.gradient, gradient_rows(y), data_rows(z), &magnitude,
                                             y->rows, tape->backend);
  if (residual && residual->needs_gradient && !node->shares_gradient)
    tape->backend->kernels->add(residual->gradient, y->gradient, 1, y->rows * y->columns, tape->backend);
}

static const Op magnitude_op = {.name = "dora magnitude",
                                .forward = magnitude_forward,
                                .backward = magnitude_backward,
                                .saved_inputs = 1u << MAGNITUDE_Z | 1u << MAGNITUDE_NORMS,
                                .aliased_input = 1 + MAGNITUDE_RESIDUAL,
                                .is_cheap = true};

Tensor *op_magnitude(Tape *tape, Tensor *z, Tensor *norms, const LowRank *adapter, const float *bias, Tensor *residual) {
  MagnitudeAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = (MagnitudeAttributes){adapter, bias};
  Node *node = tape_node(tape, &magnitude_op, attributes);
  node->inputs[MAGNITUDE_Z] = z;
  node->inputs[MAGNITUDE_NORMS] = norms;
  node->inputs[MAGNITUDE_RESIDUAL] = residual;
  node->outputs[0] = tape_tensor(tape, z->rows, z->columns, residual ? FLOAT_32 : z->type);
  node_finish(node, true);
  return node->outputs[0];
}

typedef struct BankMagnitudeAttributes {
  LinearPart part;
  const RowKinds *kinds;
  const float *ones;  // norms of some adapter: over themselves they are one
} BankMagnitudeAttributes;

static void scale_some(const Node *node, const LowRank *pair, int64_t begin, int64_t end, Tape *tape) {
  const BankMagnitudeAttributes *a = node->attributes;
  const Tensor *residual = node->inputs[MAGNITUDE_RESIDUAL], *z = node->inputs[MAGNITUDE_Z], *y = node->outputs[0];
  bool is_scaled = pair && pair->magnitude.data;
  Magnitude magnitude = {.m = is_scaled ? pair->magnitude.data : a->ones,
                         .norms = is_scaled ? pair->norms : a->ones,
                         .bias = a->part.bias,
                         .columns = y->columns};
  Rows added = residual ? rows_from(data_rows(residual), begin * residual->columns) : (Rows){0};
  if (begin < end)
    tape->backend->kernels->magnitude_forward(rows_from(data_rows(y), begin * y->columns), rows_from(data_rows(z), begin * z->columns),
                                              added, &magnitude, end - begin, tape->backend);
}

static void bank_magnitude_forward(Node *node, Tape *tape) {
  const BankMagnitudeAttributes *a = node->attributes;
  int64_t done = 0;
  for (int g = 0; a->kinds && g < a->kinds->group_count; g++) {
    const RowGroup *group = &a->kinds->groups[g];
    scale_some(node, NULL, done, group->begin, tape);
    scale_some(node, a->part.bank[group->adapter], group->begin, group->end, tape);
    done = group->end;
  }
  scale_some(node, NULL, done, node->outputs[0]->rows, tape);
}

static const Op bank_magnitude_op = {.name = "dora magnitudes", .forward = bank_magnitude_forward};

Tensor *op_bank_magnitude(Tape *tape, Tensor *z, const LinearPart *part, Tensor *residual) {
  BankMagnitudeAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = (BankMagnitudeAttributes){.part = *part, .kinds = tape->row_kinds};
  for (int i = 0; i < part->bank_count; i++)
    if (part->bank[i] && part->bank[i]->magnitude.data) attributes->ones = part->bank[i]->norms;
  Node *node = tape_node(tape, &bank_magnitude_op, attributes);
  node->inputs[MAGNITUDE_Z] = z;
  node->inputs[MAGNITUDE_RESIDUAL] = residual;
  node->outputs[0] = tape_tensor(tape, z->rows, z->columns, residual ? FLOAT_32 : z->type);
  node_finish(node, false);
  return node->outputs[0];
}
