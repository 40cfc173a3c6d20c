// y = the columns that each head takes from each part, one after another.
#include <assert.h>

#include "autograd/ops.h"

typedef struct JoinAttributes {
  HeadPart parts[HEAD_PARTS];
  int inputs[HEAD_PARTS];  // the node's input that a part reads
  int count;
  int64_t heads, width;  // of a head of y
} JoinAttributes;

static Rows part_rows(void *data, const HeadPart *part) { return rows_from((Rows){data, part->x->columns, part->x->type}, part->begin); }

static void join_forward(Node *node, Tape *tape) {
  const JoinAttributes *a = node->attributes;
  const Tensor *y = node->outputs[0];
  Rows to = {y->data, y->columns, y->type};
  for (int i = 0; i < a->count; i++) {
    const HeadPart *part = &a->parts[i];
    tape->backend->kernels->copy_heads(to, a->width, part_rows(part->x->data, part), part->head_step, a->heads, part->width, y->rows, false,
                                       tape->backend);
    to = rows_from(to, part->width);
  }
}

static void join_backward(Node *node, Tape *tape) {
  const JoinAttributes *a = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *y = node->outputs[0];
  Rows from = {y->gradient, y->columns, y->type};
  bool is_filled[HEAD_PARTS] = {false};
  for (int i = 0; i < a->count; from = rows_from(from, a->parts[i++].width)) {
    const HeadPart *part = &a->parts[i];
    int input = a->inputs[i];
    if (!part->x->needs_gradient) continue;
    if (!node->accumulate[input] && !is_filled[input]) kernels->fill(part->x->gradient, 0, tensor_floats(part->x), tape->backend);
    is_filled[input] = true;
    kernels->copy_heads(part_rows(part->x->gradient, part), part->head_step, from, a->width, a->heads, part->width, y->rows, true,
                        tape->backend);
  }
}

static const Op join_op = {.name = "join heads", .forward = join_forward, .backward = join_backward};

Tensor *op_join_heads(Tape *tape, const HeadPart *parts, int count, int64_t heads) {
  assert(count <= HEAD_PARTS);
  JoinAttributes *a = arena_new(&tape->arena, 1, sizeof *a);
  *a = (JoinAttributes){.count = count, .heads = heads};
  Node *node = tape_node(tape, &join_op, a);
  int inputs = 0;
  for (int i = 0; i < count; i++) {
    a->parts[i] = parts[i];
    a->width += parts[i].width;
    int input = 0;
    while (input < inputs && node->inputs[input] != parts[i].x) input++;
    if (input == inputs) node->inputs[inputs++] = parts[i].x;
    a->inputs[i] = input;
  }
  node->outputs[0] = tape_tensor(tape, parts[0].x->rows, heads * a->width, parts[0].x->type);
  node_finish(node, false);
  return node->outputs[0];
}
