// Attention by documents as one node; the backward pass recomputes probabilities from the saved log-sum-exp.
#include <assert.h>
#include <math.h>

#include "autograd/ops.h"

typedef struct AttentionAttributes {
  const AttentionSpan *spans;
  int64_t span_count;
  AttentionShape shape;
} AttentionAttributes;

enum { ATTENTION_Q, ATTENTION_K, ATTENTION_V, ATTENTION_ENDS };

static const int32_t *query_ends(const Node *node) { return node->inputs[ATTENTION_ENDS] ? node->inputs[ATTENTION_ENDS]->data : NULL; }

static void attention_forward(Node *node, Tape *tape) {
  const AttentionAttributes *attributes = node->attributes;
  const Tensor *k = node->inputs[ATTENTION_K], *v = node->inputs[ATTENTION_V];
  const Tensor *q = node->inputs[ATTENTION_Q];
  tape->backend->kernels->attention_forward(node->outputs[0]->data, node->outputs[1]->data, q->data, k->data, v->data, q->type,
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
                     AttentionShape shape) {
  AttentionAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = (AttentionAttributes){.spans = spans, .span_count = span_count, .shape = shape};
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

typedef struct PagedAttributes {
  const PagedBatch *batch;
  Pages pages;
  AttentionShape shape;
} PagedAttributes;

enum { PAGED_Q, PAGED_K, PAGED_V, PAGED_SLOTS, PAGED_TABLES };

static void paged_forward(Node *node, Tape *tape) {
  const PagedAttributes *a = node->attributes;
  const Tensor *q = node->inputs[PAGED_Q], *k = node->inputs[PAGED_K];
  const Kernels *kernels = tape->backend->kernels;
  kernels->store_pages(&a->pages, k->data, node->inputs[PAGED_V]->data, node->inputs[PAGED_SLOTS]->data, k->rows, a->shape, tape->backend);
  kernels->paged_attention(node->outputs[0]->data, q->data, &a->pages, node->inputs[PAGED_TABLES]->data, a->batch->spans,
                           a->batch->span_count, a->shape, tape->backend);
}

static double paged_flop(const Node *node, bool backward) {
  const PagedAttributes *a = node->attributes;
  double seen = 0;
  for (int64_t s = 0; s < a->batch->span_count && !backward; s++) {
    const PagedSpan *span = &a->batch->spans[s];
    seen += seen_keys(&(AttentionSpan){span->query_begin, span->query_end, 0, span->length}, a->shape.window, false);
  }
  return seen * (double)a->shape.heads * (double)(a->shape.head_size + a->shape.value_size) * 2;
}

static const Op paged_op = {.name = "paged attention", .forward = paged_forward, .flop = paged_flop};

Tensor *op_paged_attention(Tape *tape, Tensor *q, Tensor *k, Tensor *v, const PagedRowsInput *rows, const Pages *pages,
                           AttentionShape shape) {
  assert(q->type == FLOAT_32 && tape->mode == TAPE_FORWARD);
  PagedAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = (PagedAttributes){rows->batch, *pages, shape};
  Node *node = tape_node(tape, &paged_op, attributes);
  node->inputs[PAGED_Q] = q;
  node->inputs[PAGED_K] = k;
  node->inputs[PAGED_V] = v;
  node->inputs[PAGED_SLOTS] = rows->slots;
  node->inputs[PAGED_TABLES] = rows->tables;
  node->outputs[0] = tape_tensor(tape, q->rows, shape.heads * shape.value_size, FLOAT_32);
  node_finish(node, false);
  return node->outputs[0];
}
