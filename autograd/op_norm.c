// y = norm(x) (+ residual), the equations of kernels/norm.h: of whole rows, of each head of a row, or of some columns.
#include "autograd/ops.h"

enum { NORM_X, NORM_RESIDUAL };

typedef struct NormAttributes {
  NormSettings settings;
  int64_t begin;  // of the columns
  bool is_part;  // x has other columns, too
} NormAttributes;

// x's rows, or heads, as the kernel sees them: each of settings.columns elements.
static Rows norm_rows(const void *data, const Tensor *x, const NormAttributes *attributes) {
  Rows rows = {(void *)(uintptr_t)data, attributes->is_part ? x->columns : attributes->settings.columns, x->type};
  return rows_from(rows, attributes->begin);
}

static int64_t norm_count(const Tensor *y, const NormAttributes *attributes) { return y->rows * y->columns / attributes->settings.columns; }

static void norm_forward(Node *node, Tape *tape) {
  const NormAttributes *attributes = node->attributes;
  const Tensor *x = node->inputs[NORM_X], *residual = node->inputs[NORM_RESIDUAL], *y = node->outputs[0];
  int64_t columns = attributes->settings.columns;
  Rows none = {0};
  tape->backend->kernels->norm_forward((Rows){y->data, columns, y->type}, norm_rows(x->data, x, attributes),
                                       residual ? rows_f32(residual->data, columns) : none, &attributes->settings,
                                       norm_count(y, attributes), tape->backend);
}

static void norm_backward(Node *node, Tape *tape) {
  const NormAttributes *attributes = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  Tensor *x = node->inputs[NORM_X], *residual = node->inputs[NORM_RESIDUAL];
  const Tensor *y = node->outputs[0];
  bool accumulate = node->accumulate[NORM_X];
  if (x->needs_gradient && attributes->is_part && !accumulate) {  // the other columns' come from other ops
    kernels->fill(x->gradient, 0, tensor_floats(x), tape->backend);
    accumulate = true;
  }
  if (x->needs_gradient)
    kernels->norm_backward(norm_rows(x->gradient, x, attributes), (Rows){y->gradient, attributes->settings.columns, y->type},
                           norm_rows(x->data, x, attributes), &attributes->settings, norm_count(y, attributes), accumulate, tape->backend);
  if (residual && residual->needs_gradient && !node->shares_gradient)
    kernels->add(residual->gradient, y->gradient, 1, y->rows * y->columns, tape->backend);  // a set one would have been shared
}

static const Op norm_op = {
    .name = "norm", .forward = norm_forward, .backward = norm_backward, .saved_inputs = 1u << NORM_X, .is_cheap = true};
static const Op norm_add_op = {.name = "norm + residual",
                               .forward = norm_forward,
                               .backward = norm_backward,
                               .saved_inputs = 1u << NORM_X,
                               .aliased_input = 1 + NORM_RESIDUAL};

static Tensor *add_node(Tape *tape, Tensor *x, NormAttributes values, int64_t columns, Tensor *residual) {
  NormAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = values;
  Node *node = tape_node(tape, residual ? &norm_add_op : &norm_op, attributes);
  node->inputs[NORM_X] = x;
  node->inputs[NORM_RESIDUAL] = residual;
  node->outputs[0] = tape_tensor(tape, x->rows, columns, residual ? FLOAT_32 : tape->activations);
  node_finish(node, false);
  return node->outputs[0];
}

Tensor *op_norm(Tape *tape, Tensor *x, const NormSettings *norm, Tensor *residual) {
  return add_node(tape, x, (NormAttributes){.settings = *norm}, x->columns, residual);
}

Tensor *op_norm_columns(Tape *tape, Tensor *x, int64_t begin, const NormSettings *norm) {
  return add_node(tape, x, (NormAttributes){.settings = *norm, .begin = begin, .is_part = true}, norm->columns, NULL);
}
