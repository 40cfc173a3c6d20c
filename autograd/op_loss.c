// The output layer with cross-entropy, in chunks of rows:
//   logits = x W^T,   nll_i = logsumexp(logits_i) - logits_i[target_i],
//   dlogits_i = gradient_scale * (softmax(logits_i) - onehot(target_i)),   dx = dlogits W.
// The gradient's scale is known before the pass (one denominator for the whole optimiser step), so dx is computed
// while a chunk's logits are at hand, and kept instead of them.
#include <assert.h>

#include "autograd/ops.h"
#include "kernels/loss.h"

typedef struct LossAttributes {
  const Matrix *head;
  float gradient_scale, softcap;
  int64_t chunk_rows;
} LossAttributes;

enum { LOSS_X, LOSS_TARGETS };
enum { LOSS_NLL, LOSS_DX };

static int64_t chunk_rows(const LossAttributes *attributes, int64_t rows) {
  return rows < attributes->chunk_rows ? rows : attributes->chunk_rows;
}

static Rows tensor_rows(const Tensor *tensor, int64_t row) {
  return rows_from((Rows){tensor->data, tensor->columns, tensor->type}, row * tensor->columns);
}

static void loss_forward(Node *node, Tape *tape) {
  const LossAttributes *attributes = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *x = node->inputs[LOSS_X], *dx = node->outputs[LOSS_DX];
  const int32_t *targets = node->inputs[LOSS_TARGETS]->data;
  float *nll = node->outputs[LOSS_NLL]->data, *scratch = node->scratch;
  int64_t most = chunk_rows(attributes, x->rows);
  float *scale = scratch + linear_cross_entropy_floats(most, attributes->head->rows, x->columns);
  if (dx) kernels->fill(scale, attributes->gradient_scale, most, tape->backend);
  for (int64_t row = 0; row < x->rows; row += most)
    kernels->linear_cross_entropy(nll + row, dx ? tensor_rows(dx, row) : (Rows){0}, tensor_rows(x, row), attributes->head, targets + row,
                                  scale, chunk_rows(attributes, x->rows - row), scratch, attributes->softcap, tape->backend);
}

// dx is x's gradient, computed by the forward pass in its place.
static void loss_backward(Node *node, Tape *tape) {
  (void)node;
  (void)tape;
  assert(!node->accumulate[LOSS_X]);
}

static int64_t loss_scratch(const Node *node, bool backward) {
  const LossAttributes *attributes = node->attributes;
  const Tensor *x = node->inputs[LOSS_X];
  int64_t rows = chunk_rows(attributes, x->rows);
  return backward ? 0 : linear_cross_entropy_floats(rows, attributes->head->rows, x->columns) + rows;
}

static double loss_flop(const Node *node, bool backward) {
  const LossAttributes *attributes = node->attributes;
  double product = 2 * (double)node->inputs[LOSS_X]->rows * (double)attributes->head->rows * (double)attributes->head->columns;
  return backward ? 0 : node->outputs[LOSS_DX] ? 2 * product : product;
}

static const Op loss_op = {.name = "cross_entropy",
                           .forward = loss_forward,
                           .backward = loss_backward,
                           .scratch = loss_scratch,
                           .flop = loss_flop,
                           .saved_outputs = 1u << LOSS_DX,
                           .is_loss = true};

Tensor *op_cross_entropy(Tape *tape, Tensor *x, const Matrix *head, Tensor *targets, float gradient_scale, float softcap) {
  LossAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = (LossAttributes){.head = head, .gradient_scale = gradient_scale, .softcap = softcap, .chunk_rows = tape->loss_rows};
  Node *node = tape_node(tape, &loss_op, attributes);
  node->inputs[LOSS_X] = x;
  node->inputs[LOSS_TARGETS] = targets;
  node->outputs[LOSS_NLL] = tape_tensor(tape, x->rows, 1, FLOAT_32);
  if (tape->mode == TAPE_TRAIN && x->needs_gradient) node->outputs[LOSS_DX] = tape_tensor(tape, x->rows, x->columns, x->type);
  node_finish(node, false);
  tape_keep(node->outputs[LOSS_NLL]);
  return node->outputs[LOSS_NLL];
}
