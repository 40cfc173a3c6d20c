// y = x W^T + bias + residual + h B^T, with h = scale * dropout(x) A^T a node of its own: when a segment is
// recomputed for its backward pass, h is needed again and y often is not, and then W is not multiplied twice.
//   dx = dy W + (scale * dh A, through the dropout mask),   dh = dy B
//   dB += dy^T h,   dA += scale * dh^T dropout(x),   dresidual = dy
#include "autograd/ops.h"

typedef struct LinearAttributes {
  const Matrix *weight;
  const float *bias;
  const LowRank *adapter;
} LinearAttributes;

static Matrix parameter_matrix(const Parameter *parameter) { return matrix_f32(parameter->data, parameter->rows, parameter->columns); }

static uint64_t dropout_stream(const Tape *tape, const LowRank *adapter) {
  // The upper half tells micro-batches apart, the lower one adapters; bit 63 keeps clear of the other streams.
  return 1ull << 63 | tape->dropout_stream << 24 | (uint64_t)adapter->index;
}

static void project_forward(Node *node, Tape *tape) {
  const LowRank *adapter = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *x = node->inputs[0];
  const float *input = x->data;
  if (node->scratch) {
    kernels->dropout(node->scratch, x->data, x->rows * x->columns, adapter->dropout, tape->dropout_seed, dropout_stream(tape, adapter),
                     false, tape->backend);
    input = node->scratch;
  }
  Matrix a = parameter_matrix(&adapter->a);
  kernels->linear_forward(node->outputs[0]->data, input, &a, x->rows, adapter->scale, false, tape->backend);
}

static void project_backward(Node *node, Tape *tape) {
  const LowRank *adapter = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  Tensor *x = node->inputs[0];
  const float *dh = node->outputs[0]->gradient;
  int64_t count = x->rows * x->columns;
  uint64_t stream = dropout_stream(tape, adapter);
  const float *input = x->data;
  if (node->scratch) {
    kernels->dropout(node->scratch, x->data, count, adapter->dropout, tape->dropout_seed, stream, false, tape->backend);
    input = node->scratch;
  }
  kernels->weight_backward(adapter->a.gradient, dh, input, x->rows, adapter->a.rows, adapter->a.columns, adapter->scale, tape->backend);
  if (!x->needs_gradient) return;
  Matrix a = parameter_matrix(&adapter->a);
  if (!node->scratch) {
    kernels->linear_backward(x->gradient, dh, &a, x->rows, adapter->scale, node->accumulate[0], tape->backend);
    return;
  }
  kernels->linear_backward(node->scratch, dh, &a, x->rows, adapter->scale, false, tape->backend);
  kernels->dropout(x->gradient, node->scratch, count, adapter->dropout, tape->dropout_seed, stream, node->accumulate[0], tape->backend);
}

static int64_t project_scratch(const Node *node, bool backward) {
  (void)backward;
  const LowRank *adapter = node->attributes;
  return adapter->dropout > 0 ? node->inputs[0]->rows * node->inputs[0]->columns : 0;
}

static const Op project_op = {
    .name = "lora_a", .forward = project_forward, .backward = project_backward, .scratch = project_scratch, .saved_inputs = 1};

enum { LINEAR_X, LINEAR_RESIDUAL, LINEAR_H };

static void linear_forward(Node *node, Tape *tape) {
  const LinearAttributes *attributes = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *x = node->inputs[LINEAR_X], *residual = node->inputs[LINEAR_RESIDUAL], *h = node->inputs[LINEAR_H];
  Tensor *y = node->outputs[0];
  if (residual) kernels->copy(y->data, residual->data, y->rows * y->columns, tape->backend);
  kernels->linear_forward(y->data, x->data, attributes->weight, x->rows, 1, residual != NULL, tape->backend);
  if (attributes->bias) kernels->bias_forward(y->data, attributes->bias, y->rows, y->columns, tape->backend);
  if (!h) return;
  Matrix b = parameter_matrix(&attributes->adapter->b);
  kernels->linear_forward(y->data, h->data, &b, h->rows, 1, true, tape->backend);
}

static void linear_backward(Node *node, Tape *tape) {
  const LinearAttributes *attributes = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  Tensor *x = node->inputs[LINEAR_X], *residual = node->inputs[LINEAR_RESIDUAL], *h = node->inputs[LINEAR_H];
  const Tensor *y = node->outputs[0];
  const float *dy = y->gradient;
  if (h) {
    const LowRank *adapter = attributes->adapter;
    Matrix b = parameter_matrix(&adapter->b);
    kernels->weight_backward(adapter->b.gradient, dy, h->data, h->rows, adapter->b.rows, adapter->b.columns, 1, tape->backend);
    kernels->linear_backward(h->gradient, dy, &b, h->rows, 1, node->accumulate[LINEAR_H], tape->backend);
  }
  if (x->needs_gradient)
    kernels->linear_backward(x->gradient, dy, attributes->weight, x->rows, 1, node->accumulate[LINEAR_X], tape->backend);
  if (residual && residual->needs_gradient && !node->shares_gradient)
    kernels->add(residual->gradient, dy, 1, y->rows * y->columns, tape->backend);  // a set one would have been shared
}

static const Op linear_op = {.name = "linear",
                             .forward = linear_forward,
                             .backward = linear_backward,
                             .saved_inputs = 1u << LINEAR_H,
                             .aliased_input = 1 + LINEAR_RESIDUAL};

Tensor *op_linear(Tape *tape, Tensor *x, const Matrix *w, const float *bias, const LowRank *adapter, Tensor *residual) {
  Tensor *h = NULL;
  if (adapter && adapter->enabled) {
    Node *project = tape_node(tape, &project_op, (void *)(uintptr_t)adapter);
    project->inputs[0] = x;
    h = project->outputs[0] = tape_tensor(tape, x->rows, adapter->a.rows);
    node_finish(project, true);
  }
  LinearAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = (LinearAttributes){.weight = w, .bias = bias, .adapter = adapter};
  Node *node = tape_node(tape, &linear_op, attributes);
  node->inputs[LINEAR_X] = x;
  node->inputs[LINEAR_RESIDUAL] = residual;
  node->inputs[LINEAR_H] = h;
  node->outputs[0] = tape_tensor(tape, x->rows, w->rows);
  node_finish(node, h != NULL);
  return node->outputs[0];
}
