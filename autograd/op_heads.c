// Heads put together from columns of several tensors: y[n, heads * (w_1 + w_2 + ..)] has the parts of head 0, then those of head 1, ...
//   y[i][h * total + at_p + c] = x_p[i][begin_p + h * head_step_p + c],   c < w_p;   at_p = w_1 + .. + w_{p - 1}
// and back: dx_p's columns are added to, those of all heads where all heads read the same ones (head_step 0).
#include <assert.h>
#include <stddef.h>

#include "autograd/ops.h"

typedef struct JoinAttributes {
  HeadPart parts[HEAD_PARTS];
  int count;
  int64_t heads, total;  // total: columns of a head
} JoinAttributes;

static void join_forward(Node *node, Tape *tape) {
  const JoinAttributes *a = node->attributes;
  const Tensor *y = node->outputs[0];
  Rows to = {y->data, y->columns, y->type};
  for (int p = 0; p < a->count; p++) {
    const HeadPart *part = &a->parts[p];
    Rows from = rows_from((Rows){part->x->data, part->x->columns, part->x->type}, part->begin);
    tape->backend->kernels->copy_heads(to, a->total, from, part->head_step, a->heads, part->width, y->rows, false, tape->backend);
    to = rows_from(to, part->width);
  }
}

static void join_backward(Node *node, Tape *tape) {
  const JoinAttributes *a = node->attributes;
  const Tensor *y = node->outputs[0];
  Rows from = {y->gradient, y->columns, y->type};
  for (int p = 0; p < a->count; p++) {
    const HeadPart *part = &a->parts[p];
    const Tensor *x = part->x;
    if (x->needs_gradient) {
      if (!node->accumulate[p]) gradient_clear(x, tape->backend);
      Rows to = rows_from((Rows){x->gradient, x->columns, x->type}, part->begin);
      tape->backend->kernels->copy_heads(to, part->head_step, from, a->total, a->heads, part->width, y->rows, true, tape->backend);
    }
    from = rows_from(from, part->width);
  }
}

static const Op join_op = {.name = "join_heads", .forward = join_forward, .backward = join_backward, .is_cheap = true};

Tensor *op_join_heads(Tape *tape, const HeadPart *parts, int count, int64_t heads) {
  assert(count <= HEAD_PARTS && HEAD_PARTS <= NODE_INPUTS);
  JoinAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  attributes->count = count;
  attributes->heads = heads;
  Node *node = tape_node(tape, &join_op, attributes);
  for (int p = 0; p < count; p++) {
    assert(parts[p].begin + (heads - 1) * parts[p].head_step + parts[p].width <= parts[p].x->columns);
    attributes->parts[p] = parts[p];
    attributes->total += parts[p].width;
    node->inputs[p] = parts[p].x;
  }
  node->outputs[0] = tape_tensor(tape, parts[0].x->rows, heads * attributes->total, tape->activations);
  node_finish(node, false);
  return node->outputs[0];
}
