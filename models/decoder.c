// The decoder that families share: h += o(attention(rope(q), rope(k), v)) of norm(h), then h += down(f(gate) * up) of
// norm(h), layer after layer; a segment of the tape each. Of the last layer only the wanted rows are computed, but for keys and values.
#include <math.h>

#include "models/model.h"

// The rows that a layer's queries, output projection and MLP are computed for.
typedef struct Queries {
  Tensor *rows;  // int32 [n, 1]: numbers of the tokens; NULL: all tokens
  Tensor *positions, *ends;  // int32 [n, 1]; ends: NULL for all tokens
  const AttentionSpan *spans;
  int64_t span_count;
} Queries;

static Tensor *attention_block(Tape *tape, const Model *model, const Layer *layer, const KvLayer *cache, Tensor *h, Tensor *positions,
                               const Queries *queries) {
  const ModelConfig *c = &model->config;
  RopeSettings rope = {
      .frequencies = model->rope_frequencies, .head_size = c->head_size, .rotary = c->head_size, .layout = c->rope_layout, .magnitude = 1};
  AttentionShape shape = {.heads = c->heads,
                          .kv_heads = c->kv_heads,
                          .head_size = c->head_size,
                          .value_size = c->head_size,
                          .scale = (float)(1 / sqrt((double)c->head_size))};
  Tensor *x = op_norm(tape, h, &(NormSettings){.weight = layer->attention_norm, .columns = h->columns, .epsilon = (float)c->norm_epsilon},
                      NULL),
         *qkv[3];
  const LinearPart parts[3] = {linear_part(&layer->q), linear_part(&layer->k), linear_part(&layer->v)};
  if (queries->rows) {
    op_linears(tape, qkv + 1, x, parts + 1, 2);
    op_linears(tape, qkv, op_gather_rows(tape, x, queries->rows), parts, 1);
    h = op_gather_rows(tape, h, queries->rows);
  } else {
    op_linears(tape, qkv, x, parts, 3);
  }
  Tensor *q = op_rope(tape, qkv[0], queries->positions, rope), *k = op_rope(tape, qkv[1], positions, rope);
  Tensor *o = op_attention(tape, q, k, qkv[2], queries->spans, queries->span_count, queries->ends, shape, cache);
  return linear_apply(tape, &layer->o, o, h);
}

static Tensor *mlp_block(Tape *tape, const Model *model, const Layer *layer, Tensor *h) {
  Tensor *x =
             op_norm(tape, h,
                     &(NormSettings){.weight = layer->mlp_norm, .columns = h->columns, .epsilon = (float)model->config.norm_epsilon}, NULL),
         *y[2];
  const LinearPart parts[2] = {linear_part(&layer->gate), linear_part(&layer->up)};
  op_linears(tape, y, x, parts, 2);
  return linear_apply(tape, &layer->down, op_gated(tape, y[0], y[1], ACTIVATION_SILU), h);
}

// The wanted rows as queries of their documents.
static Queries wanted_queries(Tape *tape, const DecoderInput *input, Tensor *rows) {
  int32_t *positions = arena_new(&tape->arena, (size_t)input->row_count, sizeof *positions);
  int32_t *ends = arena_new(&tape->arena, (size_t)input->row_count, sizeof *ends);
  AttentionSpan *spans = arena_new(&tape->arena, (size_t)input->span_count, sizeof *spans);
  int64_t row = 0;
  for (int64_t s = 0; s < input->span_count; s++) {
    spans[s] = input->spans[s];
    spans[s].query_begin = row;
    for (; row < input->row_count && input->rows[row] < input->spans[s].query_end; row++) {
      positions[row] = input->positions[input->rows[row]];
      ends[row] = (int32_t)(spans[s].key_end - input->spans[s].query_end + input->rows[row] + 1);
    }
    spans[s].query_end = row;
  }
  return (Queries){.rows = rows,
                   .positions = tape_input(tape, positions, input->row_count, 1),
                   .ends = tape_input(tape, ends, input->row_count, 1),
                   .spans = spans,
                   .span_count = input->span_count};
}

Tensor *decoder_hidden(Tape *tape, const Model *model, const DecoderInput *input) {
  Tensor *ids = tape_input(tape, input->ids, input->tokens, 1);
  Tensor *positions = tape_input(tape, input->positions, input->tokens, 1);
  const Queries all = {.positions = positions, .spans = input->spans, .span_count = input->span_count};
  Queries last = all;
  // In generation one graph serves many passes, whose spans move on: there the rows are taken at the end.
  bool takes_rows = input->rows && input->row_count < input->tokens;
  Tensor *rows = takes_rows ? tape_input(tape, input->rows, input->row_count, 1) : NULL;
  if (rows && !input->cache) last = wanted_queries(tape, input, rows);
  Tensor *h = op_embedding(tape, ids, &model->embedding, 1);
  for (int i = 0; i < model->config.layers; i++) {
    const Layer *layer = &model->layers[i];
    tape_segment(tape);
    h = attention_block(tape, model, layer, input->cache ? &input->cache[i] : NULL, h, positions,
                        i + 1 == model->config.layers ? &last : &all);
    h = mlp_block(tape, model, layer, h);
  }
  tape_segment(tape);
  if (rows && input->cache) h = op_gather_rows(tape, h, rows);
  return op_norm(tape, h, &(NormSettings){.weight = model->final_norm, .columns = h->columns, .epsilon = (float)model->config.norm_epsilon},
                 NULL);
}
