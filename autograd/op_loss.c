// The output layer with cross-entropy, in chunks of rows:
//   logits = x W^T,   nll_i = logsumexp(logits_i) - logits_i[target_i],
//   dlogits_i = gradient_scale * (softmax(logits_i) - onehot(target_i)),   dx = dlogits W.
// A scale is known before the pass (one denominator for the whole optimiser step), so dx is computed while a chunk's logits are at hand, and
// kept instead of them. Slopes, as of a preference loss, are known when all of nll is: then the backward pass computes the logits once more.
#include <assert.h>

#include "autograd/ops.h"
#include "kernels/loss.h"

typedef struct LossAttributes {
  const Matrix *head;
  LossGradient gradient;
  float softcap;
  int64_t chunk_rows;
} LossAttributes;

enum { LOSS_X, LOSS_TARGETS };
enum { LOSS_NLL, LOSS_DX };

static int64_t chunk_rows(const LossAttributes *attributes, int64_t rows) {
  return rows < attributes->chunk_rows ? rows : attributes->chunk_rows;
}

// All rows, chunk by chunk: nll, and dx (data NULL: not wanted) by one scale or by each row's own.
static void run_chunks(float *nll, Rows dx, const Node *node, Tape *tape, bool is_scaled_by_row) {
  const LossAttributes *attributes = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *x = node->inputs[LOSS_X];
  const int32_t *targets = node->inputs[LOSS_TARGETS]->data;
  int64_t most = chunk_rows(attributes, x->rows);
  float *scratch = node->scratch, *scale = scratch + linear_cross_entropy_floats(most, attributes->head->rows, x->columns);
  if (is_scaled_by_row) tape->backend->upload(scale, attributes->gradient.slopes, x->rows * (int64_t)sizeof(float), tape->backend);
  else if (dx.data) kernels->fill(scale, attributes->gradient.scale, most, tape->backend);
  for (int64_t row = 0; row < x->rows; row += most)
    kernels->linear_cross_entropy(nll + row, dx.data ? rows_from(dx, row * x->columns) : dx,
                                  rows_from((Rows){x->data, x->columns, x->type}, row * x->columns), attributes->head, targets + row,
                                  is_scaled_by_row ? scale + row : scale, chunk_rows(attributes, x->rows - row), scratch,
                                  attributes->softcap, tape->backend);
}

static void loss_forward(Node *node, Tape *tape) {
  const Tensor *dx = node->outputs[LOSS_DX];
  run_chunks(node->outputs[LOSS_NLL]->data, dx ? (Rows){dx->data, dx->columns, dx->type} : (Rows){0}, node, tape, false);
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

// nll comes out once more, as it was.
static void sloped_backward(Node *node, Tape *tape) {
  const Tensor *x = node->inputs[LOSS_X];
  assert(!node->accumulate[LOSS_X]);
  run_chunks(node->outputs[LOSS_NLL]->data, (Rows){x->gradient, x->columns, x->type}, node, tape, true);
}

static int64_t sloped_scratch(const Node *node, bool backward) {
  return loss_scratch(node, false) + (backward ? node->inputs[LOSS_X]->rows : 0);
}

static double sloped_flop(const Node *node, bool backward) {
  const LossAttributes *attributes = node->attributes;
  double product = 2 * (double)node->inputs[LOSS_X]->rows * (double)attributes->head->rows * (double)attributes->head->columns;
  return backward ? 2 * product : product;
}

static const Op sloped_op = {.name = "cross_entropy",
                             .forward = loss_forward,
                             .backward = sloped_backward,
                             .scratch = sloped_scratch,
                             .flop = sloped_flop,
                             .saved_inputs = 1u << LOSS_X,
                             .saved_outputs = 1u << LOSS_NLL,
                             .is_loss = true};

Tensor *op_cross_entropy(Tape *tape, Tensor *x, const Matrix *head, Tensor *targets, LossGradient gradient, float softcap) {
  LossAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = (LossAttributes){.head = head, .gradient = gradient, .softcap = softcap, .chunk_rows = tape->loss_rows};
  Node *node = tape_node(tape, gradient.slopes ? &sloped_op : &loss_op, attributes);
  node->inputs[LOSS_X] = x;
  node->inputs[LOSS_TARGETS] = targets;
  node->outputs[LOSS_NLL] = tape_tensor(tape, x->rows, 1, FLOAT_32);
  bool is_early = !gradient.slopes && tape->mode == TAPE_TRAIN && x->needs_gradient;
  if (is_early) node->outputs[LOSS_DX] = tape_tensor(tape, x->rows, x->columns, x->type);
  node_finish(node, false);
  tape_keep(node->outputs[LOSS_NLL]);
  return node->outputs[LOSS_NLL];
}
