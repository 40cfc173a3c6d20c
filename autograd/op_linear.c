// y_i = x W_i^T + bias_i + residual + h_i B_i^T,   h_i = scale_i dropout_i(x) A_i^T
//   dh_i = scale_i dy_i B_i,   dx = sum_i dy_i W_i + dh_i A_i (through its dropout mask),   dresidual = dy
//   dB_i += dy_i^T h_i,   dA_i += dh_i^T dropout_i(x);   where they are trained, dW_i += dy_i^T x,   dbias_i += sum of dy_i's rows
// h of all parts is one more output: when a segment is recomputed for its backward pass, h is needed again and y often is
// not, and then W is not multiplied twice.
#include <assert.h>
#include <stdlib.h>

#include "autograd/ops.h"

enum { LINEAR_X, LINEAR_RESIDUAL };
enum { LINEAR_H = LINEAR_PROJECTIONS };  // the output; y_i are those before it

typedef struct LinearAttributes {
  LinearPart parts[LINEAR_PROJECTIONS];
  int count;
  int64_t h_column[LINEAR_PROJECTIONS];  // where each part's h begins
  int64_t rank;  // of all parts
  const RowKinds *kinds;  // NULL outside generation
} LinearAttributes;

static Rows tensor_rows(const Tensor *tensor) { return (Rows){tensor->data, tensor->columns, tensor->type}; }
static Rows gradient_rows(const Tensor *tensor) { return (Rows){tensor->gradient, tensor->columns, tensor->type}; }
static Matrix parameter_matrix(const Parameter *parameter) { return matrix_f32(parameter->data, parameter->rows, parameter->columns); }
static bool is_adapted(const LinearPart *part) { return part->adapter && part->adapter->enabled; }
static int64_t tensor_count(const Tensor *tensor) { return tensor->rows * tensor->columns; }
static bool is_trained(const LinearPart *part) { return part->weight_gradient || part->bias_gradient; }

static bool has_dropout(const LinearAttributes *a) {
  for (int i = 0; i < a->count; i++)
    if (is_adapted(&a->parts[i]) && a->parts[i].adapter->dropout > 0) return true;
  return false;
}

void adapter_dropout(void *y, const void *x, const LowRank *adapter, const Tensor *like, bool accumulate, const Tape *tape) {
  // The upper half tells micro-batches apart, the lower one adapters; bit 63 keeps clear of the other streams.
  uint64_t stream = 1ull << 63 | tape->dropout_stream << 24 | (uint64_t)adapter->index;
  tape->backend->kernels->dropout(y, x, like->type, tensor_count(like), adapter->dropout, tape->dropout_seed, stream, accumulate,
                                  tape->backend);
}

void linear_products(const Projection *projections, int count, Rows x, int64_t n, const RowKinds *kinds, bool in_int8, Backend *backend) {
  const Kernels *kernels = backend->kernels;
  int64_t alone = rows_alone(kinds, n);
  if (alone > 0) (in_int8 ? kernels->linear_forward_int8 : kernels->linear_forward_rows)(projections, count, x, alone, backend);
  if (alone == n) return;
  Projection others[LINEAR_PROJECTIONS];
  for (int i = 0; i < count; i++) others[i] = projection_from(projections[i], alone);
  kernels->linear_forward(others, count, rows_from(x, alone * x.step), n - alone, backend);
}

static void low_forward(const Node *node, Tape *tape) {
  const LinearAttributes *a = node->attributes;
  const Tensor *x = node->inputs[LINEAR_X], *h = node->outputs[LINEAR_H];
  bool dropped = has_dropout(a);
  Projection projections[LINEAR_PROJECTIONS];
  Matrix matrices[LINEAR_PROJECTIONS];
  int count = 0;
  for (int i = 0; i < a->count; i++) {
    const LowRank *adapter = a->parts[i].adapter;
    if (!is_adapted(&a->parts[i])) continue;
    matrices[count] = parameter_matrix(&adapter->a);
    projections[count] = (Projection){.w = &matrices[count], .alpha = adapter->scale, .y = rows_from(tensor_rows(h), a->h_column[i])};
    if (dropped) {
      adapter_dropout(node->scratch, x->data, adapter, x, false, tape);
      tape->backend->kernels->linear_forward(&projections[count], 1, (Rows){node->scratch, x->columns, x->type}, x->rows, tape->backend);
    }
    count++;
  }
  if (!dropped) tape->backend->kernels->linear_forward(projections, count, tensor_rows(x), x->rows, tape->backend);
}

static LowRankRows pair_rows(const LowRank *pair, int64_t begin, int64_t end, const Tensor *y) {
  return (LowRankRows){.begin = begin,
                       .end = end,
                       .y = y->data,
                       .a = pair->a.data,
                       .b = pair->b.data,
                       .out = pair->b.rows,
                       .rank = pair->a.rows,
                       .scale = pair->scale};
}

// What adapters add in generation: those in the slots to all rows, those of the bank to their own. So a text is the same by either.
static void generation_forward(const Node *node, Tape *tape) {
  const LinearAttributes *a = node->attributes;
  const Tensor *x = node->inputs[LINEAR_X];
  bool has_any = false;
  for (int i = 0; i < a->count; i++) has_any |= is_adapted(&a->parts[i]) || (a->parts[i].bank && a->kinds->group_count > 0);
  if (!has_any) return;
  LowRankRows *rows = memory_new((size_t)(a->count * (a->kinds->group_count + 1)), sizeof *rows);
  int count = 0;
  for (int i = 0; i < a->count; i++)
    if (is_adapted(&a->parts[i])) rows[count++] = pair_rows(a->parts[i].adapter, 0, x->rows, node->outputs[i]);
  for (int i = 0; i < a->count; i++)
    for (int g = 0; g < a->kinds->group_count && a->parts[i].bank; g++) {
      const RowGroup *group = &a->kinds->groups[g];
      const LowRank *pair = a->parts[i].bank[group->adapter];
      if (!pair || group->begin == group->end) continue;
      rows[count++] = pair_rows(pair, group->begin, group->end, node->outputs[i]);
    }
  if (count) tape->backend->kernels->low_rank_rows(rows, count, tensor_rows(x), x->columns, tape->backend);
  free(rows);
}

static void show_input(const LinearAttributes *a, const Tensor *x, const Tape *tape) {
  const Matrix *weights[LINEAR_PROJECTIONS];
  for (int i = 0; i < a->count; i++) weights[i] = a->parts[i].weight;
  tape->observer->linear(tape->observer, weights, a->count, x);
}

static void linear_forward(Node *node, Tape *tape) {
  const LinearAttributes *a = node->attributes;
  const Tensor *x = node->inputs[LINEAR_X], *residual = node->inputs[LINEAR_RESIDUAL], *h = node->outputs[LINEAR_H];
  if (h) low_forward(node, tape);
  if (!node->outputs[0]->data) return;
  if (tape->observer) show_input(a, x, tape);
  Projection projections[LINEAR_PROJECTIONS];
  for (int i = 0; i < a->count; i++) {
    const LinearPart *part = &a->parts[i];
    Projection *p = &projections[i];
    *p = (Projection){.w = part->weight, .alpha = 1, .y = tensor_rows(node->outputs[i]), .bias = part->bias};
    if (residual) p->residual = tensor_rows(residual);
    if (!is_adapted(part) || a->kinds) continue;
    p->h = rows_from(tensor_rows(h), a->h_column[i]);
    p->low = part->adapter->b.data;
    p->rank = part->adapter->b.columns;
  }
  linear_products(projections, a->count, tensor_rows(x), x->rows, a->kinds, a->kinds && a->kinds->in_int8, tape->backend);
  if (a->kinds) generation_forward(node, tape);
}

// What the adapters' dh and dB need, of all parts; rounded: room for dy in x's type, data NULL where it has that already.
static void low_backward(const Node *node, Rows dh, Rows rounded, Tape *tape) {
  const LinearAttributes *a = node->attributes;
  LowRankGradient gradients[LINEAR_PROJECTIONS];
  int count = 0;
  for (int i = 0; i < a->count; i++) {
    if (!is_adapted(&a->parts[i])) continue;
    const LowRank *adapter = a->parts[i].adapter;
    gradients[count++] = (LowRankGradient){.dy = gradient_rows(node->outputs[i]),
                                           .b = adapter->b.data,
                                           .db = adapter->b.gradient,
                                           .out = adapter->b.rows,
                                           .rank = adapter->b.columns,
                                           .scale = adapter->scale,
                                           .h = rows_from(tensor_rows(node->outputs[LINEAR_H]), a->h_column[i]),
                                           .dh = rows_from(dh, a->h_column[i]),
                                           .rounded = rounded};
  }
  tape->backend->kernels->low_rank_backward(gradients, count, node->inputs[LINEAR_X]->rows, tape->backend);
}

// Part i's dA, and what A gives to dx, through its dropout mask; buffer: room for one x.
static void dropped_backward(const Node *node, int i, Rows dh, void *buffer, Tape *tape) {
  const LinearAttributes *a = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const LowRank *adapter = a->parts[i].adapter;
  Tensor *x = node->inputs[LINEAR_X];
  Rows dropped = {buffer, x->columns, x->type};
  adapter_dropout(buffer, x->data, adapter, x, false, tape);
  WeightGradient da = {.dw = adapter->a.gradient, .dy = dh, .rows = adapter->a.rows, .alpha = 1};
  kernels->weight_backward(&da, 1, dropped, x->columns, x->rows, tape->backend);
  if (!x->needs_gradient) return;
  Matrix matrix = parameter_matrix(&adapter->a);
  Projection back = {.w = &matrix, .alpha = 1, .y = dh};
  kernels->linear_backward(dropped, &back, 1, x->rows, false, tape->backend);
  adapter_dropout(x->gradient, buffer, adapter, x, true, tape);
}

// Scratch of the backward pass: dh of all parts, dy in x's type where it has another one, one x where there is dropout.
typedef struct BackwardScratch {
  int64_t rounded, dropped, bytes;  // where they begin
} BackwardScratch;

static BackwardScratch backward_scratch(const Node *node) {
  const LinearAttributes *a = node->attributes;
  const Tensor *x = node->inputs[LINEAR_X], *y = node->outputs[0];
  int64_t size = float_bytes(x->type), dh = x->rows * a->rank * size;
  BackwardScratch scratch = {.rounded = (dh + 63) / 64 * 64};
  scratch.dropped = scratch.rounded + (a->rank && y->type != x->type ? (tensor_count(y) * size + 63) / 64 * 64 : 0);
  scratch.bytes = scratch.dropped + (has_dropout(a) ? tensor_count(x) * size : 0);
  return scratch;
}

// What parts trained in full get. (Adapters' gradients are products of their own: so many operands are never narrow at once.)
static void weights_backward(const Node *node, Tape *tape) {
  const LinearAttributes *a = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *x = node->inputs[LINEAR_X];
  WeightGradient gradients[LINEAR_PROJECTIONS];
  int count = 0;
  for (int i = 0; i < a->count; i++) {
    const LinearPart *part = &a->parts[i];
    Rows dy = gradient_rows(node->outputs[i]);
    if (part->bias_gradient) kernels->column_sums(part->bias_gradient, dy, part->weight->rows, x->rows, tape->backend);
    if (part->weight_gradient)
      gradients[count++] = (WeightGradient){.dw = part->weight_gradient, .dy = dy, .rows = part->weight->rows, .alpha = 1};
  }
  if (count) kernels->weight_backward(gradients, count, tensor_rows(x), x->columns, x->rows, tape->backend);
}

static void linear_backward(Node *node, Tape *tape) {
  const LinearAttributes *a = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  Tensor *x = node->inputs[LINEAR_X], *residual = node->inputs[LINEAR_RESIDUAL];
  const Tensor *y = node->outputs[0];
  BackwardScratch places = backward_scratch(node);
  char *scratch = node->scratch;
  Rows dh = {scratch, a->rank, x->type}, rounded = {NULL, 0, x->type};
  if (places.dropped > places.rounded) rounded = (Rows){scratch + places.rounded, y->columns, x->type};
  if (a->rank) low_backward(node, dh, rounded, tape);
  weights_backward(node, tape);
  Projection projections[LINEAR_PROJECTIONS];
  WeightGradient gradients[LINEAR_PROJECTIONS];
  bool dropped = has_dropout(a);
  int adapted = 0;
  for (int i = 0; i < a->count; i++) {
    const LinearPart *part = &a->parts[i];
    projections[i] = (Projection){.w = part->weight, .alpha = 1, .y = rounded.data ? rounded : gradient_rows(node->outputs[i])};
    if (!is_adapted(part) || dropped) continue;
    Rows own = rows_from(dh, a->h_column[i]);
    gradients[adapted++] = (WeightGradient){.dw = part->adapter->a.gradient, .dy = own, .rows = part->adapter->a.rows, .alpha = 1};
    projections[i].h = own;
    projections[i].low = part->adapter->a.data;
    projections[i].rank = part->adapter->a.rows;
  }
  if (adapted) kernels->weight_backward(gradients, adapted, tensor_rows(x), x->columns, x->rows, tape->backend);
  if (x->needs_gradient)
    kernels->linear_backward(gradient_rows(x), projections, a->count, x->rows, node->accumulate[LINEAR_X], tape->backend);
  for (int i = 0; i < a->count && dropped; i++)
    if (is_adapted(&a->parts[i])) dropped_backward(node, i, rows_from(dh, a->h_column[i]), scratch + places.dropped, tape);
  if (residual && residual->needs_gradient && !node->shares_gradient)
    kernels->add(residual->gradient, y->gradient, 1, tensor_count(y), tape->backend);  // a set one would have been shared
}

static int64_t linear_scratch(const Node *node, bool backward) {
  const Tensor *x = node->inputs[LINEAR_X];
  int64_t forward = has_dropout(node->attributes) ? tensor_count(x) * float_bytes(x->type) : 0;
  return ((backward ? backward_scratch(node).bytes : forward) + 3) / 4;
}

// Products of rows x in x out: 2 of them for each weight a row; LoRA's come three times on the way back.
static double linear_flop(const Node *node, bool backward) {
  const LinearAttributes *a = node->attributes;
  const Tensor *x = node->inputs[LINEAR_X];
  bool has_y = backward ? x->needs_gradient : node->outputs[0]->data != NULL;
  double weights = 0, factors = 0;
  for (int i = 0; i < a->count; i++) {
    const LinearPart *part = &a->parts[i];
    weights += (double)((has_y + (backward && part->weight_gradient)) * part->weight->rows) * (double)part->weight->columns;
    if (!is_adapted(part)) continue;
    double down = (double)(part->adapter->a.rows * x->columns), up = (double)(part->adapter->b.rows * part->adapter->b.columns);
    factors += backward ? down + 2 * up + (has_y ? down : 0) : down + (has_y ? up : 0);
  }
  return 2 * (double)x->rows * (weights + factors);
}

static const Op linear_op = {.name = "linear",
                             .forward = linear_forward,
                             .backward = linear_backward,
                             .scratch = linear_scratch,
                             .flop = linear_flop,
                             .aliased_input = 1 + LINEAR_RESIDUAL};

static const Op linear_lora_op = {.name = "linear + lora",
                                  .forward = linear_forward,
                                  .backward = linear_backward,
                                  .scratch = linear_scratch,
                                  .flop = linear_flop,
                                  .saved_inputs = 1u << LINEAR_X,
                                  .saved_outputs = 1u << LINEAR_H,
                                  .aliased_input = 1 + LINEAR_RESIDUAL,
                                  .is_selective = true};

// Of weights trained in full, without adapters.
static const Op linear_trained_op = {.name = "linear + weights",
                                     .forward = linear_forward,
                                     .backward = linear_backward,
                                     .scratch = linear_scratch,
                                     .flop = linear_flop,
                                     .saved_inputs = 1u << LINEAR_X,
                                     .aliased_input = 1 + LINEAR_RESIDUAL};

static void add_node(Tape *tape, Tensor **y, Tensor *x, const LinearPart *parts, int count, Tensor *residual) {
  assert(count <= LINEAR_PROJECTIONS);
  LinearAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  attributes->count = count;
  attributes->kinds = tape->row_kinds;
  bool trained = false;
  for (int i = 0; i < count; i++) {
    attributes->parts[i] = parts[i];
    attributes->h_column[i] = attributes->rank;
    if (is_adapted(&parts[i]) && !attributes->kinds) attributes->rank += parts[i].adapter->a.rows;
    trained |= is_trained(&parts[i]);
  }
  Node *node = tape_node(tape, attributes->rank ? &linear_lora_op : trained ? &linear_trained_op : &linear_op, attributes);
  node->inputs[LINEAR_X] = x;
  node->inputs[LINEAR_RESIDUAL] = residual;
  for (int i = 0; i < count; i++)
    y[i] = node->outputs[i] = tape_tensor(tape, x->rows, parts[i].weight->rows, residual ? FLOAT_32 : tape->activations);
  if (attributes->rank) node->outputs[LINEAR_H] = tape_tensor(tape, x->rows, attributes->rank, x->type);
  node_finish(node, attributes->rank > 0 || trained);
  if (attributes->rank) node->outputs[LINEAR_H]->needs_gradient = false;  // dh is the node's own business
}

static bool has_magnitude(const LinearPart *part) { return is_adapted(part) && part->adapter->magnitude.data; }

static bool bank_has_magnitude(const LinearPart *part) {
  for (int i = 0; i < part->bank_count; i++)
    if (part->bank[i] && part->bank[i]->magnitude.data) return true;
  return false;
}

static Tensor *scale_by_magnitude(Tape *tape, Tensor *z, const LinearPart *part, Tensor *residual) {
  if (!has_magnitude(part)) return op_bank_magnitude(tape, z, part, residual);
  Tensor *norms = part->adapter->norms ? NULL : op_low_rank_norms(tape, part->weight, part->adapter);
  return op_magnitude(tape, z, norms, part->adapter, part->bias, residual);
}

// What a magnitude scales comes without bias and residual, which are added behind it.
void op_linears(Tape *tape, Tensor **y, Tensor *x, const LinearPart *parts, int count) {
  LinearPart plain[LINEAR_PROJECTIONS];
  bool is_scaled[LINEAR_PROJECTIONS];
  for (int i = 0; i < count; i++) {
    plain[i] = parts[i];
    is_scaled[i] = has_magnitude(&parts[i]) || bank_has_magnitude(&parts[i]);
    if (is_scaled[i]) plain[i].bias = NULL;
  }
  add_node(tape, y, x, plain, count, NULL);
  for (int i = 0; i < count; i++)
    if (is_scaled[i]) y[i] = scale_by_magnitude(tape, y[i], &parts[i], NULL);
}

Tensor *op_linear(Tape *tape, Tensor *x, LinearPart part, Tensor *residual) {
  Tensor *y;
  LinearPart plain = part;
  bool is_scaled = has_magnitude(&part) || bank_has_magnitude(&part);
  if (is_scaled) plain.bias = NULL;
  add_node(tape, &y, x, &plain, 1, is_scaled ? NULL : residual);
  return is_scaled ? scale_by_magnitude(tape, y, &part, residual) : y;
}
