// The small operations: rotary positions, gated activation, soft caps, gathering of rows.
#include <assert.h>

#include "autograd/ops.h"

static void rope_rotate(void *x, const Node *node, bool inverse, Tape *tape) {
  const RopeSettings *settings = node->attributes;
  const Tensor *y = node->outputs[0];
  const int32_t *positions = node->inputs[1]->data;
  const float *frequencies = node->inputs[2]->data;
  for (int64_t i = 0; i < settings->count; i++) {
    const RopeRows *rows = &settings->rows[i];
    char *first = (char *)x + (rows->first * y->columns + settings->begin) * float_bytes(y->type);
    tape->backend->kernels->rope(first, y->type, positions + rows->first, frequencies + i * settings->rotary / 2, rows->end - rows->first,
                                 y->columns / settings->head_size, settings->head_size, settings->rotary, settings->layout,
                                 settings->magnitude, inverse, tape->backend);
  }
}

static void rope_forward(Node *node, Tape *tape) { rope_rotate(node->outputs[0]->data, node, false, tape); }

// Nothing else reads x: the gradient, too, turns in its place.
static void rope_backward(Node *node, Tape *tape) { rope_rotate(node->inputs[0]->gradient, node, true, tape); }

// Positions and frequencies are read by the backward pass, too; as inputs of the tape they stay in any case.
static const Op rope_op = {.name = "rope", .forward = rope_forward, .backward = rope_backward, .aliased_input = 1, .is_in_place = true};

Tensor *op_rope(Tape *tape, Tensor *x, Tensor *positions, RopeSettings settings) {
  RopeSettings *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = settings;
  Node *node = tape_node(tape, &rope_op, attributes);
  node->inputs[0] = x;
  node->inputs[1] = positions;
  node->inputs[2] = settings.frequencies;
  node->outputs[0] = tape_tensor(tape, x->rows, x->columns, x->type);
  node_finish(node, false);
  return node->outputs[0];
}

void gradient_clear(const Tensor *tensor, Backend *backend) {
  // (Zeros are the same in either type; a buffer's end is a multiple of four bytes.)
  backend->kernels->fill(tensor->gradient, 0, (tensor->rows * tensor->columns * float_bytes(tensor->type) + 3) / 4, backend);
}

static void softcap_forward(Node *node, Tape *tape) {
  const Tensor *y = node->outputs[0];
  tape->backend->kernels->softcap(y->data, y->rows * y->columns, *(const float *)node->attributes, tape->backend);
}

static const Op softcap_op = {.name = "softcap", .forward = softcap_forward, .is_in_place = true};

Tensor *op_softcap(Tape *tape, Tensor *x, float cap) {
  assert(x->type == FLOAT_32);
  float *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = cap;
  Node *node = tape_node(tape, &softcap_op, attributes);
  node->inputs[0] = x;
  node->outputs[0] = tape_tensor(tape, x->rows, x->columns, x->type);
  node_finish(node, false);
  return node->outputs[0];
}

static void gated_forward(Node *node, Tape *tape) {
  Tensor *y = node->outputs[0];
  const Tensor *up = node->inputs[1];
  tape->backend->kernels->gated_forward(y->data, node->inputs[0]->data, up ? up->data : NULL, y->type, y->rows * y->columns,
                                        *(const Activation *)node->attributes, tape->backend);
}

static void gated_backward(Node *node, Tape *tape) {
  const Tensor *y = node->outputs[0];
  const Tensor *gate = node->inputs[0], *up = node->inputs[1];
  void *dgate = gate->needs_gradient ? gate->gradient : node->scratch;
  void *dup = up && up->needs_gradient ? up->gradient : node->scratch;
  tape->backend->kernels->gated_backward(dgate, dup, y->gradient, gate->data, up ? up->data : NULL, y->type, y->rows * y->columns,
                                         *(const Activation *)node->attributes, tape->backend);
}

// Room for the gradient of an input that wants none (the other one does, or there would be no backward pass).
static int64_t gated_scratch(const Node *node, bool backward) {
  bool both = node->inputs[0]->needs_gradient && (!node->inputs[1] || node->inputs[1]->needs_gradient);
  return backward && !both ? node->outputs[0]->rows * node->outputs[0]->columns : 0;
}

static const Op gated_op = {
    .name = "gated", .forward = gated_forward, .backward = gated_backward, .scratch = gated_scratch, .saved_inputs = 3, .is_cheap = true};

Tensor *op_gated(Tape *tape, Tensor *gate, Tensor *up, Activation f) {
  Activation *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = f;
  Node *node = tape_node(tape, &gated_op, attributes);
  node->inputs[0] = gate;
  node->inputs[1] = up;
  node->outputs[0] = tape_tensor(tape, gate->rows, gate->columns, gate->type);
  node_finish(node, false);
  return node->outputs[0];
}

static void gather_forward(Node *node, Tape *tape) {
  Tensor *y = node->outputs[0];
  tape->backend->kernels->gather_rows(y->data, node->inputs[0]->data, y->type, node->inputs[1]->data, y->rows, y->columns, tape->backend);
}

static void gather_backward(Node *node, Tape *tape) {
  const Tensor *y = node->outputs[0];
  Tensor *x = node->inputs[0];
  if (!node->accumulate[0]) gradient_clear(x, tape->backend);
  tape->backend->kernels->scatter_rows(x->gradient, y->gradient, y->type, node->inputs[1]->data, y->rows, y->columns, tape->backend);
}

static const Op gather_op = {.name = "gather_rows", .forward = gather_forward, .backward = gather_backward};

Tensor *op_gather_rows(Tape *tape, Tensor *x, Tensor *rows) {
  Node *node = tape_node(tape, &gather_op, NULL);
  node->inputs[0] = x;
  node->inputs[1] = rows;
  node->outputs[0] = tape_tensor(tape, rows->rows, x->columns, x->type);
  node_finish(node, false);
  return node->outputs[0];
}
