// The decoder that families share: h += o(attention(rope(q), rope(k), v)) of norm(h), then h += down(f(gate) * up) of
// norm(h), layer after layer; a segment of the tape each.
#include <math.h>

#include "models/model.h"

static Tensor *attention_block(Tape *tape, const Model *model, const Layer *layer, int index, Tensor *h, Tensor *positions,
                               const DecoderInput *input) {
  const ModelConfig *c = &model->config;
  RopeSettings rope = {
      .frequencies = model->rope_frequencies, .head_size = c->head_size, .rotary = c->head_size, .layout = c->rope_layout, .magnitude = 1};
  AttentionShape shape = {.heads = c->heads,
                          .kv_heads = c->kv_heads,
                          .head_size = c->head_size,
                          .value_size = c->head_size,
                          .scale = (float)(1 / sqrt((double)c->head_size))};
  Tensor *x = op_rmsnorm(tape, h, layer->attention_norm, (float)c->norm_epsilon, 0);
  Tensor *q = op_rope(tape, linear_apply(tape, &layer->q, x, NULL), positions, rope);
  Tensor *k = op_rope(tape, linear_apply(tape, &layer->k, x, NULL), positions, rope);
  Tensor *v = linear_apply(tape, &layer->v, x, NULL);
  Tensor *o = op_attention(tape, q, k, v, input->spans, input->span_count, shape, input->cache ? &input->cache[index] : NULL);
  return linear_apply(tape, &layer->o, o, h);
}

static Tensor *mlp_block(Tape *tape, const Model *model, const Layer *layer, Tensor *h) {
  Tensor *x = op_rmsnorm(tape, h, layer->mlp_norm, (float)model->config.norm_epsilon, 0);
  Tensor *gate = linear_apply(tape, &layer->gate, x, NULL);
  Tensor *up = linear_apply(tape, &layer->up, x, NULL);
  return linear_apply(tape, &layer->down, op_gated(tape, gate, up, ACTIVATION_SILU), h);
}

Tensor *decoder_hidden(Tape *tape, const Model *model, const DecoderInput *input) {
  Tensor *ids = tape_input(tape, input->ids, input->tokens, 1);
  Tensor *positions = tape_input(tape, input->positions, input->tokens, 1);
  Tensor *rows = input->rows ? tape_input(tape, input->rows, input->row_count, 1) : NULL;
  Tensor *h = op_embedding(tape, ids, &model->embedding, 1);
  for (int i = 0; i < model->config.layers; i++) {
    const Layer *layer = &model->layers[i];
    tape_segment(tape);
    h = attention_block(tape, model, layer, i, h, positions, input);
    h = mlp_block(tape, model, layer, h);
  }
  tape_segment(tape);
  if (rows) h = op_gather_rows(tape, h, rows);
  return op_rmsnorm(tape, h, model->final_norm, (float)model->config.norm_epsilon, 0);
}
