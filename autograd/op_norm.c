// Normalisation: of all columns or of groups of them (heads), and of some columns of a wider tensor (kernels/norm.h has the equations).
#include <assert.h>

#include "autograd/ops.h"

typedef struct NormAttributes {
  NormSettings settings;
  int64_t begin;  // of the columns in x
  bool is_part;  // there are other columns
} NormAttributes;

enum { NORM_X, NORM_RESIDUAL };

// Each group of columns is a row of its own.
static int64_t group_rows(const Node *node) {
  return node->outputs[0]->rows * node->outputs[0]->columns / ((const NormAttributes *)node->attributes)->settings.columns;
}

static Rows rows_of(const Node *node, const Tensor *tensor, void *data) {
  const NormAttributes *a = node->attributes;
  bool is_wide = a->is_part && tensor == node->inputs[NORM_X];
  return rows_from((Rows){data, is_wide ? tensor->columns : a->settings.columns, tensor->type}, is_wide ? a->begin : 0);
}

static void norm_forward(Node *node, Tape *tape) {
  const NormAttributes *a = node->attributes;
  const Tensor *x = node->inputs[NORM_X], *residual = node->inputs[NORM_RESIDUAL], *y = node->outputs[0];
  tape->backend->kernels->norm_forward(rows_of(node, y, y->data), rows_of(node, x, x->data),
                                       residual ? rows_of(node, residual, residual->data) : (Rows){0}, &a->settings, group_rows(node),
                                       tape->backend);
}

static void norm_backward(Node *node, Tape *tape) {
  const NormAttributes *a = node->attributes;
  const Tensor *x = node->inputs[NORM_X], *residual = node->inputs[NORM_RESIDUAL], *y = node->outputs[0];
  if (x->needs_gradient) {
    if (a->is_part && !node->accumulate[NORM_X]) gradient_clear(x, tape->backend);
    tape->backend->kernels->norm_backward(rows_of(node, x, x->gradient), rows_of(node, y, y->gradient), rows_of(node, x, x->data),
                                          &a->settings, group_rows(node), node->accumulate[NORM_X], tape->backend);
  }
  Rows dy = rows_of(node, y, y->gradient);
  if (a->settings.weight_gradient)
    tape->backend->kernels->norm_weight_backward(a->settings.weight_gradient, dy, rows_of(node, x, x->data), &a->settings, group_rows(node),
                                                 tape->backend);
  if (a->settings.bias_gradient)
    tape->backend->kernels->column_sums(a->settings.bias_gradient, dy, a->settings.columns, group_rows(node), tape->backend);
  if (residual && residual->needs_gradient && !node->shares_gradient)
    tape->backend->kernels->add(residual->gradient, y->gradient, 1, y->rows * y->columns, tape->backend);
}

static const Op norm_op = {.name = "norm",
                           .forward = norm_forward,
                           .backward = norm_backward,
                           .saved_inputs = 1u << NORM_X,
                           .aliased_input = 1 + NORM_RESIDUAL,
                           .is_cheap = true};

static Tensor *add_node(Tape *tape, Tensor *x, int64_t columns, NormAttributes settings, Tensor *residual) {
  NormAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = settings;
  Node *node = tape_node(tape, &norm_op, attributes);
  node->inputs[NORM_X] = x;
  node->inputs[NORM_RESIDUAL] = residual;
  node->outputs[0] = tape_tensor(tape, x->rows, columns, residual ? FLOAT_32 : tape->activations);
  node_finish(node, attributes->settings.weight_gradient || attributes->settings.bias_gradient);
  return node->outputs[0];
}

Tensor *op_norm(Tape *tape, Tensor *x, const NormSettings *norm, Tensor *residual) {
  assert(x->columns % norm->columns == 0);
  return add_node(tape, x, x->columns, (NormAttributes){.settings = *norm}, residual);
}

Tensor *op_norm_columns(Tape *tape, Tensor *x, int64_t begin, const NormSettings *norm) {
  assert(begin + norm->columns <= x->columns);
  return add_node(tape, x, norm->columns, (NormAttributes){.settings = *norm, .begin = begin, .is_part = norm->columns < x->columns}, NULL);
}
