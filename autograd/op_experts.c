// A mixture of frozen experts (kernels/experts.h): y = residual + sum_s weights[i, s] expert_{chosen[i, s]}(x_i), the weights by a frozen
// router, logits = x router^T. Back: dx through the experts, which are computed again, and through the weights of the router.
// The router's results are outputs of the node, so that a recomputation needs no product of an expert.
#include <assert.h>
#include <stddef.h>

#include "autograd/ops.h"

enum { EXPERTS_X, EXPERTS_RESIDUAL };
enum { EXPERTS_Y, EXPERTS_LOGITS, EXPERTS_CHOSEN, EXPERTS_WEIGHTS, EXPERTS_OUTPUTS };

typedef struct ExpertsAttributes {
  ExpertLayer layer;
  int64_t kernel_floats[2];  // of scratch that the device's kernels want, forward and backward
  const RowKinds *kinds;  // NULL outside generation
} ExpertsAttributes;

static const ExpertsAttributes *attributes_of(const Node *node) { return node->attributes; }
static Rows rows_at(void *data, const Tensor *tensor) { return (Rows){data, tensor->columns, tensor->type}; }
static int64_t round_up(int64_t floats) { return (floats + 15) / 16 * 16; }

// The router's results: outputs, or places in the scratch where a recomputation leaves them out. Returns the floats of that scratch.
static int64_t router_places(float *places[EXPERTS_OUTPUTS], const Node *node, float *scratch) {
  int64_t used = 0;
  for (int i = EXPERTS_LOGITS; i < EXPERTS_OUTPUTS; i++) {
    places[i] = node->outputs[i]->data;
    if (!places[i] && scratch) places[i] = scratch + used;
    used += round_up(node->outputs[i]->rows * node->outputs[i]->columns);
  }
  return used;
}

static void experts_forward(Node *node, Tape *tape) {
  const ExpertLayer *layer = &attributes_of(node)->layer;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *x = node->inputs[EXPERTS_X], *residual = node->inputs[EXPERTS_RESIDUAL], *y = node->outputs[EXPERTS_Y];
  float *places[EXPERTS_OUTPUTS], *scratch = node->scratch;
  scratch += router_places(places, node, scratch);
  Projection logits = {.w = &layer->router, .alpha = 1, .y = rows_f32(places[EXPERTS_LOGITS], layer->settings.experts)};
  const RowKinds *kinds = attributes_of(node)->kinds;
  Rows rows = rows_at(x->data, x);
  linear_products(&logits, 1, rows, x->rows, kinds, false, tape->backend);
  int32_t *chosen = (int32_t *)(void *)places[EXPERTS_CHOSEN];
  kernels->router_forward(chosen, places[EXPERTS_WEIGHTS], node->is_again ? NULL : layer->totals, places[EXPERTS_LOGITS], &layer->settings,
                          x->rows, tape->backend);
  if (tape->observer && tape->observer->experts) tape->observer->experts(tape->observer, &layer->matrices, chosen, x);
  if (!y->data) return;
  int64_t count = y->rows * y->columns;
  if (residual) kernels->copy(y->data, residual->data, count, tape->backend);
  else kernels->fill(y->data, 0, count, tape->backend);
  int64_t alone = rows_alone(kinds, x->rows);  // these, then the others
  for (int64_t first = 0, end = alone; first < x->rows; first = end, end = x->rows) {
    if (first == end) continue;
    int64_t used = layer->settings.used;
    kernels->experts_forward(rows_from(rows_at(y->data, y), first * y->columns), rows_from(rows, first * rows.step), &layer->matrices,
                             chosen + first * used, places[EXPERTS_WEIGHTS] + first * used, end - first, first < alone && kinds->in_int8,
                             scratch, tape->backend);
  }
}

// Places in the backward pass's scratch: the gradients of weights and logits, and dx in float32 where x has another type.
typedef struct BackwardScratch {
  int64_t dlogits, dx, rest;
} BackwardScratch;

static BackwardScratch backward_scratch(const Node *node) {
  const RouterSettings *router = &attributes_of(node)->layer.settings;
  const Tensor *x = node->inputs[EXPERTS_X];
  BackwardScratch places = {.dlogits = round_up(x->rows * router->used)};
  places.dx = places.dlogits + round_up(x->rows * router->experts);
  places.rest = places.dx + (x->type == FLOAT_32 ? 0 : round_up(x->rows * x->columns));
  return places;
}

static void experts_backward(Node *node, Tape *tape) {
  const ExpertLayer *layer = &attributes_of(node)->layer;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *x = node->inputs[EXPERTS_X], *residual = node->inputs[EXPERTS_RESIDUAL], *y = node->outputs[EXPERTS_Y];
  const int32_t *chosen = node->outputs[EXPERTS_CHOSEN]->data;
  if (x->needs_gradient) {
    BackwardScratch places = backward_scratch(node);
    float *dweights = node->scratch, *dlogits = dweights + places.dlogits, *rest = dweights + places.rest;
    bool is_float = x->type == FLOAT_32, adds = is_float && node->accumulate[EXPERTS_X];
    Rows dx = rows_at(x->gradient, x), sums = is_float ? dx : rows_f32(dweights + places.dx, x->columns);
    kernels->experts_backward(sums, dweights, rows_at(y->gradient, y), rows_at(x->data, x), &layer->matrices, chosen,
                              node->outputs[EXPERTS_WEIGHTS]->data, x->rows, adds, rest, tape->backend);
    kernels->router_backward(dlogits, dweights, node->outputs[EXPERTS_LOGITS]->data, chosen, &layer->settings, x->rows, tape->backend);
    Projection logits = {.w = &layer->router, .alpha = 1, .y = rows_f32(dlogits, layer->settings.experts)};
    kernels->linear_backward(sums, &logits, 1, x->rows, true, tape->backend);
    if (!is_float) kernels->copy_heads(dx, 0, sums, 0, 1, x->columns, x->rows, node->accumulate[EXPERTS_X], tape->backend);
  }
  if (residual && residual->needs_gradient && !node->shares_gradient)
    kernels->add(residual->gradient, y->gradient, 1, y->rows * y->columns, tape->backend);
}

static int64_t experts_scratch(const Node *node, bool backward) {
  int64_t rest = attributes_of(node)->kernel_floats[backward];
  float *places[EXPERTS_OUTPUTS];
  return rest + (backward ? backward_scratch(node).rest : router_places(places, node, NULL));
}

// An expert's three products of a row are computed forward, two of them again and then three on the way back.
static double experts_flop(const Node *node, bool backward) {
  const ExpertMatrices *matrices = &attributes_of(node)->layer.matrices;
  double rows = (double)node->inputs[EXPERTS_X]->rows, hidden = (double)matrices->hidden;
  double expert = rows * (double)matrices->used * hidden * (double)matrices->width;
  double products = backward ? 5 : node->outputs[EXPERTS_Y]->data ? 3 : 0;
  return 2 * (products * expert + rows * hidden * (double)matrices->experts);
}

static const Op experts_op = {.name = "experts",
                              .forward = experts_forward,
                              .backward = experts_backward,
                              .scratch = experts_scratch,
                              .flop = experts_flop,
                              .saved_inputs = 1u << EXPERTS_X,
                              .saved_outputs = 1u << EXPERTS_LOGITS | 1u << EXPERTS_CHOSEN | 1u << EXPERTS_WEIGHTS,
                              .aliased_input = 1 + EXPERTS_RESIDUAL,
                              .is_selective = true};

Tensor *op_experts(Tape *tape, Tensor *x, const ExpertLayer *layer, Tensor *residual) {
  const RouterSettings *router = &layer->settings;
  assert(EXPERTS_OUTPUTS <= NODE_OUTPUTS && router->experts == layer->matrices.experts && router->used == layer->matrices.used);
  ExpertsAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  attributes->layer = *layer;
  attributes->kinds = tape->row_kinds;
  for (int backward = 0; backward < 2; backward++)
    attributes->kernel_floats[backward] =
        tape->backend->kernels->experts_scratch_floats(x->rows, &layer->matrices, x->type, backward, tape->backend);
  Node *node = tape_node(tape, &experts_op, attributes);
  node->inputs[EXPERTS_X] = x;
  node->inputs[EXPERTS_RESIDUAL] = residual;
  node->outputs[EXPERTS_Y] = tape_tensor(tape, x->rows, layer->matrices.hidden, FLOAT_32);
  node->outputs[EXPERTS_LOGITS] = tape_tensor(tape, x->rows, router->experts, FLOAT_32);
  node->outputs[EXPERTS_CHOSEN] = tape_tensor(tape, x->rows, router->used, FLOAT_32);
  node->outputs[EXPERTS_WEIGHTS] = tape_tensor(tape, x->rows, router->used, FLOAT_32);
  node_finish(node, false);
  for (int i = EXPERTS_LOGITS; i < EXPERTS_OUTPUTS; i++) node->outputs[i]->needs_gradient = false;
  return node->outputs[EXPERTS_Y];
}
