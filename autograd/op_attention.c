// Attention by documents as one node; the backward pass recomputes probabilities from the saved log-sum-exp.
#include <math.h>

#include "autograd/ops.h"

typedef struct AttentionAttributes {
  const AttentionSpan *spans;
  int64_t span_count;
  AttentionShape shape;
  KvLayer cache;
  bool has_cache;
} AttentionAttributes;

enum { ATTENTION_Q, ATTENTION_K, ATTENTION_V, ATTENTION_ENDS };

// Puts the new rows behind those that a span's cache already holds.
static void cache_append(float *cache, const Tensor *rows, const AttentionAttributes *attributes, Backend *backend) {
  for (int64_t s = 0; s < attributes->span_count; s++) {
    const AttentionSpan *span = &attributes->spans[s];
    int64_t count = span->query_end - span->query_begin;
    backend->kernels->copy(cache + (span->key_end - count) * rows->columns, (const float *)rows->data + span->query_begin * rows->columns,
                           count * rows->columns, backend);
  }
}

static const int32_t *query_ends(const Node *node) { return node->inputs[ATTENTION_ENDS] ? node->inputs[ATTENTION_ENDS]->data : NULL; }

static void attention_forward(Node *node, Tape *tape) {
  const AttentionAttributes *attributes = node->attributes;
  const Tensor *k = node->inputs[ATTENTION_K], *v = node->inputs[ATTENTION_V];
  const void *keys = k->data, *values = v->data;
  if (attributes->has_cache) {
    cache_append(attributes->cache.k, k, attributes, tape->backend);
    cache_append(attributes->cache.v, v, attributes, tape->backend);
    keys = attributes->cache.k;
    values = attributes->cache.v;
  }
  const Tensor *q = node->inputs[ATTENTION_Q];
  tape->backend->kernels->attention_forward(node->outputs[0]->data, node->outputs[1]->data, q->data, keys, values, q->type,
                                            attributes->spans, attributes->span_count, query_ends(node), attributes->shape, tape->backend);
}

static void attention_backward(Node *node, Tape *tape) {
  const AttentionAttributes *attributes = node->attributes;
  Tensor *q = node->inputs[ATTENTION_Q], *k = node->inputs[ATTENTION_K], *v = node->inputs[ATTENTION_V];
  // q, k and v come from projections of one x: all have a gradient, and no other reader to add to.
  void *gradients[] = {q->gradient, k->gradient, v->gradient};
  float *spare =
      (float *)node->scratch + attention_scratch_floats(q->rows, &attributes->shape, q->type);  // for gradients that nobody wants
  for (int i = 0; i < 3; i++)
    if (!node->inputs[i]->needs_gradient) gradients[i] = spare, spare += node->inputs[i]->rows * node->inputs[i]->columns;
  const Tensor *o = node->outputs[0];
  tape->backend->kernels->attention_backward(gradients[0], gradients[1], gradients[2], node->scratch, o->gradient, o->data,
                                             node->outputs[1]->data, q->data, k->data, v->data, q->type, attributes->spans,
                                             attributes->span_count, query_ends(node), attributes->shape, tape->backend);
}

static int64_t attention_scratch(const Node *node, bool backward) {
  if (!backward) return 0;
  const AttentionAttributes *attributes = node->attributes;
  const Tensor *q = node->inputs[ATTENTION_Q];
  int64_t floats = attention_scratch_floats(q->rows, &attributes->shape, q->type);
  for (int i = 0; i < 3; i++)
    if (!node->inputs[i]->needs_gradient) floats += node->inputs[i]->rows * node->inputs[i]->columns;
  return floats;
}

// How many keys a span's queries see, all together; of queries that are some of its rows (which: the device knows), half of the keys each.
static double seen_keys(const AttentionSpan *span, int64_t window, bool are_some) {
  int64_t queries = span->query_end - span->query_begin, keys = span->key_end - span->key_begin;
  double most = window > 0 ? (double)window : (double)keys, sum = 0;
  for (int64_t i = 0; i < queries; i++) sum += fmin(most, are_some ? 0.5 * (double)(keys + 1) : (double)(keys - queries + i + 1));
  return sum;
}

// Scores that are seen, times two products forward and five backward.
static double attention_flop(const Node *node, bool backward) {
  const AttentionAttributes *attributes = node->attributes;
  const AttentionShape *shape = &attributes->shape;
  double seen = 0;
  for (int64_t s = 0; s < attributes->span_count; s++)
    seen += seen_keys(&attributes->spans[s], shape->window, node->inputs[ATTENTION_ENDS] != NULL);
  return seen * (double)shape->heads * (double)(shape->head_size + shape->value_size) * (backward ? 5 : 2);
}

static const Op attention_op = {.name = "attention",
                                .forward = attention_forward,
                                .backward = attention_backward,
                                .scratch = attention_scratch,
                                .flop = attention_flop,
                                .saved_inputs = 1u << ATTENTION_Q | 1u << ATTENTION_K | 1u << ATTENTION_V,
                                .saved_outputs = 3};

Tensor *op_attention(Tape *tape, Tensor *q, Tensor *k, Tensor *v, const AttentionSpan *spans, int64_t span_count, Tensor *query_ends_input,
                     AttentionShape shape, const KvLayer *cache) {
  AttentionAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = (AttentionAttributes){.spans = spans, .span_count = span_count, .shape = shape, .has_cache = cache != NULL};
  if (cache) attributes->cache = *cache;
  Node *node = tape_node(tape, &attention_op, attributes);
  node->inputs[ATTENTION_Q] = q;
  node->inputs[ATTENTION_K] = k;
  node->inputs[ATTENTION_V] = v;
  node->inputs[ATTENTION_ENDS] = query_ends_input;
  node->outputs[0] = tape_tensor(tape, q->rows, shape.heads * shape.value_size, q->type);
  node->outputs[1] = tape_tensor(tape, q->rows, shape.heads, FLOAT_32);  // log-sum-exp
  node_finish(node, false);
  node->outputs[1]->needs_gradient = false;
  return node->outputs[0];
}
