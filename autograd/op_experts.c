// y = residual + sum of each row's experts (kernels/experts.h), the router with them: logits = x router^T.
#include "autograd/ops.h"

enum { EXPERTS_X, EXPERTS_RESIDUAL };
enum { EXPERTS_Y, EXPERTS_LOGITS, EXPERTS_CHOSEN, EXPERTS_WEIGHTS };

static Rows tensor_rows(const Tensor *tensor) { return (Rows){tensor->data, tensor->columns, tensor->type}; }

static void experts_forward(Node *node, Tape *tape) {
  const ExpertLayer *layer = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *x = node->inputs[EXPERTS_X], *residual = node->inputs[EXPERTS_RESIDUAL], *y = node->outputs[EXPERTS_Y];
  float *logits = node->outputs[EXPERTS_LOGITS]->data, *weights = node->outputs[EXPERTS_WEIGHTS]->data;
  int32_t *chosen = node->outputs[EXPERTS_CHOSEN]->data;
  Projection router = projection_f32(logits, &layer->router, 1);
  kernels->linear_forward(&router, 1, tensor_rows(x), x->rows, tape->backend);
  kernels->router_forward(chosen, weights, layer->totals, logits, &layer->settings, x->rows, tape->backend);
  if (residual) kernels->copy(y->data, residual->data, y->rows * y->columns, tape->backend);
  else kernels->fill(y->data, 0, y->rows * y->columns, tape->backend);
  kernels->experts_forward(tensor_rows(y), tensor_rows(x), &layer->matrices, chosen, weights, x->rows, x->rows <= tape->int8_rows,
                           node->scratch, tape->backend);
}

static void experts_backward(Node *node, Tape *tape) {
  const ExpertLayer *layer = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  Tensor *x = node->inputs[EXPERTS_X], *residual = node->inputs[EXPERTS_RESIDUAL];
  const Tensor *y = node->outputs[EXPERTS_Y];
  const float *logits = node->outputs[EXPERTS_LOGITS]->data;
  const int32_t *chosen = node->outputs[EXPERTS_CHOSEN]->data;
  int64_t experts = layer->settings.experts;
  float *dweights = node->scratch, *dlogits = dweights + x->rows * layer->settings.used, *scratch = dlogits + x->rows * experts;
  scratch += (16 - (x->rows * (layer->settings.used + experts)) % 16) % 16;
  if (x->needs_gradient) {
    Rows dx = {x->gradient, x->columns, x->type};
    kernels->experts_backward(dx, dweights, rows_f32(y->gradient, y->columns), tensor_rows(x), &layer->matrices, chosen,
                              node->outputs[EXPERTS_WEIGHTS]->data, x->rows, node->accumulate[EXPERTS_X], scratch, tape->backend);
    kernels->router_backward(dlogits, dweights, logits, chosen, &layer->settings, x->rows, tape->backend);
    Projection router = projection_f32(dlogits, &layer->router, 1);
    kernels->linear_backward(dx, &router, 1, x->rows, true, tape->backend);
  }
  if (residual && residual->needs_gradient && !node->shares_gradient)
    kernels->add(residual->gradient, y->gradient, 1, y->rows * y->columns, tape->backend);  // a set one would have been shared
}

static int64_t experts_scratch(const Node *node, bool backward) {
  const ExpertLayer *layer = node->attributes;
  int64_t rows = node->inputs[EXPERTS_X]->rows;
  return experts_scratch_floats(rows, &layer->matrices) + (backward ? rows * (layer->settings.used + layer->settings.experts) + 16 : 0);
}

static double experts_flop(const Node *node, bool backward) {
  const ExpertLayer *layer = node->attributes;
  const ExpertMatrices *m = &layer->matrices;
  double rows = (double)node->inputs[EXPERTS_X]->rows, visit = 6.0 * (double)m->hidden * (double)m->width;
  return rows * ((double)m->used * visit + 2.0 * (double)m->experts * (double)m->hidden) * (backward ? 2 : 1);
}

static const Op experts_op = {.name = "experts",
                              .forward = experts_forward,
                              .backward = experts_backward,
                              .scratch = experts_scratch,
                              .flop = experts_flop,
                              .saved_inputs = 1u << EXPERTS_X,
                              .saved_outputs = 1u << EXPERTS_LOGITS | 1u << EXPERTS_CHOSEN | 1u << EXPERTS_WEIGHTS,
                              .aliased_input = 1 + EXPERTS_RESIDUAL};

Tensor *op_experts(Tape *tape, Tensor *x, const ExpertLayer *layer, Tensor *residual) {
  Node *node = tape_node(tape, &experts_op, (void *)(uintptr_t)layer);
  node->inputs[EXPERTS_X] = x;
  node->inputs[EXPERTS_RESIDUAL] = residual;
  node->outputs[EXPERTS_Y] = tape_tensor(tape, x->rows, x->columns, FLOAT_32);
  node->outputs[EXPERTS_LOGITS] = tape_tensor(tape, x->rows, layer->settings.experts, FLOAT_32);
  node->outputs[EXPERTS_CHOSEN] = tape_tensor(tape, x->rows, layer->settings.used, FLOAT_32);  // int32 in its place
  node->outputs[EXPERTS_WEIGHTS] = tape_tensor(tape, x->rows, layer->settings.used, FLOAT_32);
  node_finish(node, false);
  for (int i = EXPERTS_LOGITS; i <= EXPERTS_WEIGHTS; i++) node->outputs[i]->needs_gradient = false;
  return node->outputs[EXPERTS_Y];
}
