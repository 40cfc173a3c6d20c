// h + down(f(gate(x)) * up(x)) of x = norm(h), in the forms that families have: gate and up apart or fused, no gate at all, or routed
// experts (and shared ones, which every token visits).
#include "models/parts.h"

static Tensor *gated(Tape *tape, const LinearPart parts[2], Tensor *x, Activation f) {
  Tensor *y[2];
  op_linears(tape, y, x, parts, 2);
  return op_gated(tape, y[0], y[1], f);
}

static Tensor *dense_block(Tape *tape, const Model *model, const Layer *layer, Tensor *x, Tensor *h) {
  Activation f = model->family->activation;
  Tensor *inner;
  if (model->family->has_no_gate) {
    inner = op_gated(tape, linear_apply(tape, &layer->up, x, NULL), NULL, f);
  } else if (linear_is_there(&layer->gate_up)) {
    int64_t width = model->config.feed_forward;
    inner = gated(tape,
                  (LinearPart[]){linear_part_rows(tape, &layer->gate_up, 0, width), linear_part_rows(tape, &layer->gate_up, width, width)},
                  x, f);
  } else {
    inner = gated(tape, (LinearPart[]){linear_part(&layer->gate), linear_part(&layer->up)}, x, f);
  }
  return add_to_stream(tape, &layer->down, inner, &layer->mlp_post_norm, h);
}

static Tensor *sparse_block(Tape *tape, const Model *model, const Layer *layer, Tensor *x, Tensor *h) {
  h = op_experts(tape, x, &layer->experts, h);
  if (!linear_is_there(&layer->shared_down)) return h;
  const LinearPart parts[2] = {linear_part(&layer->shared_gate), linear_part(&layer->shared_up)};
  return linear_apply(tape, &layer->shared_down, gated(tape, parts, x, model->family->activation), h);
}

Tensor *mlp_block(Tape *tape, const Model *model, const Layer *layer, Tensor *h) {
  Tensor *x = op_norm(tape, h, &layer->mlp_norm, NULL);
  return (layer->kind->is_sparse ? sparse_block : dense_block)(tape, model, layer, x, h);
}
