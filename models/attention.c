// h + o(attention(rope(q), rope(k), v)) of x = norm(h), in the forms that families have:
//   separate  q, k, v = x Wq^T, x Wk^T, x Wv^T, each head's q and k through a norm where there is one
//   fused     rows of one matrix (Phi-3)
//   latent    c, r = x Wkv_a^T; k_h, v_h = rows of Wkv_b norm(c) for each head h, k_h with the one rotary r behind it;
//             q = Wq_b norm(x Wq_a^T) or x Wq^T (DeepSeek-V2, arXiv 2405.04434)
#include "models/parts.h"

typedef struct Heads {
  Tensor *q, *k, *v;
} Heads;

// Turns the `rotary` dimensions of each head from `begin` on.
static Tensor *rotate(Tape *tape, const Positions *positions, const ModelConfig *config, const Layer *layer, Tensor *x, int64_t head_size,
                      int64_t begin) {
  bool is_local = layer->kind->is_windowed && config->local_rope.base != 0;
  const Rope *rope = is_local ? &config->local_rope : &config->rope;
  const Turns *turns = is_local ? &positions->local_turns : &positions->turns;
  return op_rope(tape, x, positions->input,
                 (RopeSettings){.frequencies = turns->frequencies,
                                .rows = turns->rows,
                                .count = turns->count,
                                .head_size = head_size,
                                .begin = begin,
                                .rotary = rope->rotary,
                                .layout = config->rope_layout,
                                .magnitude = (float)rope_magnitude(rope)});
}

// The parts of x that queries are made of, and keys and values of all of it.
static Heads project(Tape *tape, const LinearPart parts[3], Tensor *x, const Queries *queries) {
  Tensor *y[3];
  if (queries->rows) {
    op_linears(tape, y + 1, x, parts + 1, 2);
    op_linears(tape, y, op_gather_rows(tape, x, queries->rows), parts, 1);
  } else {
    op_linears(tape, y, x, parts, 3);
  }
  return (Heads){y[0], y[1], y[2]};
}

static Heads plain_heads(Tape *tape, const Model *model, const Layer *layer, Tensor *x, const Positions *keys, const Queries *queries) {
  const ModelConfig *c = &model->config;
  int64_t q_rows = config_dimension(c, DIMENSION_QUERY), k_rows = config_dimension(c, DIMENSION_KEY),
          v_rows = config_dimension(c, DIMENSION_VALUE);
  bool is_fused = linear_is_there(&layer->qkv);
  LinearPart parts[3] = {linear_part(&layer->q), linear_part(&layer->k), linear_part(&layer->v)};
  if (is_fused) {
    parts[0] = linear_part_rows(tape, &layer->qkv, 0, q_rows);
    parts[1] = linear_part_rows(tape, &layer->qkv, q_rows, k_rows);
    parts[2] = linear_part_rows(tape, &layer->qkv, q_rows + k_rows, v_rows);
  }
  Heads heads = project(tape, parts, x, queries);
  if (layer->q_norm.weight) heads.q = op_norm(tape, heads.q, &layer->q_norm, NULL);
  if (layer->k_norm.weight) heads.k = op_norm(tape, heads.k, &layer->k_norm, NULL);
  if (!layer->kind->has_rope) return heads;
  heads.q = rotate(tape, &queries->positions, c, layer, heads.q, c->head_size, 0);
  heads.k = rotate(tape, keys, c, layer, heads.k, c->head_size, 0);
  return heads;
}

static Heads latent_heads(Tape *tape, const Model *model, const Layer *layer, Tensor *x, const Positions *keys, const Queries *queries) {
  const ModelConfig *c = &model->config;
  int64_t fixed = c->head_size - c->rope_size, unpacked = fixed + c->value_size;
  Tensor *x_q = queries->rows ? op_gather_rows(tape, x, queries->rows) : x, *q;
  if (c->q_latent) {
    Tensor *latent = linear_apply(tape, &layer->q_a, x_q, NULL);
    q = linear_apply(tape, &layer->q_b, op_norm(tape, latent, &layer->q_a_norm, NULL), NULL);
  } else {
    q = linear_apply(tape, &layer->q, x_q, NULL);
  }
  q = rotate(tape, &queries->positions, c, layer, q, c->head_size, fixed);
  Tensor *packed = linear_apply(tape, &layer->kv_a, x, NULL);
  packed = rotate(tape, keys, c, layer, packed, packed->columns, c->kv_latent);
  Tensor *kv = linear_apply(tape, &layer->kv_b, op_norm_columns(tape, packed, 0, &layer->kv_a_norm), NULL);
  const HeadPart key[] = {{.x = kv, .head_step = unpacked, .width = fixed}, {.x = packed, .begin = c->kv_latent, .width = c->rope_size}};
  const HeadPart value[] = {{.x = kv, .begin = fixed, .head_step = unpacked, .width = c->value_size}};
  return (Heads){q, op_join_heads(tape, key, 2, c->heads), op_join_heads(tape, value, 1, c->heads)};
}

Tensor *attention_block(Tape *tape, const Model *model, const Layer *layer, const PagedRowsInput *paged, const Pages *pages, Tensor *h,
                        const Positions *keys, const Queries *queries) {
  const ModelConfig *c = &model->config;
  AttentionShape shape = config_attention_shape(c, layer->kind->is_windowed);
  Tensor *x = op_norm(tape, h, &layer->attention_norm, NULL);
  Heads heads = (c->kv_latent ? latent_heads : plain_heads)(tape, model, layer, x, keys, queries);
  if (queries->rows) h = op_gather_rows(tape, h, queries->rows);
  if (keys->repeated) {
    heads.k = op_repeat_rows(tape, heads.k, keys->repeated);
    heads.v = op_repeat_rows(tape, heads.v, keys->repeated);
  }
  Tensor *o = paged ? op_paged_attention(tape, heads.q, heads.k, heads.v, paged, pages, shape)
                    : op_attention(tape, heads.q, heads.k, heads.v, queries->spans, queries->span_count, queries->ends, shape);
  return add_to_stream(tape, &layer->o, o, &layer->attention_post_norm, h);
}
