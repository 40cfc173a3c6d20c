// y[i] = scale * (w[id] + s a[id] b^T), a and b the adapter's where there is one, or a row of TokenRows in place of w's;
//   dw[id] += scale * sum of dy over the places of id;  with g = dy b:  da[id] += scale s * sum of g,  db += dy^T (scale s a[ids])
// The host knows the ids when the node is made, and puts the places of each together: so sums have one order.
#include <assert.h>
#include <string.h>

#include "autograd/ops.h"

enum { EMBEDDING_IDS, EMBEDDING_ROWS, EMBEDDING_BEGINS, EMBEDDING_PLACES };

typedef struct EmbeddingAttributes {
  EmbeddingPart part;
  float scale;
  int64_t groups;
} EmbeddingAttributes;

static bool is_adapted(const EmbeddingPart *part) { return part->adapter && part->adapter->enabled; }
static bool has_tokens(const EmbeddingPart *part) { return part->tokens && part->tokens->enabled; }
static bool is_trained(const EmbeddingPart *part) { return part->weight_gradient || is_adapted(part) || has_tokens(part); }
static Matrix parameter_matrix(const Parameter *parameter) { return matrix_f32(parameter->data, parameter->rows, parameter->columns); }

// h[n, rank] = scale s a[ids]
static void look_up_low(float *h, const Node *node, Tape *tape) {
  const EmbeddingAttributes *e = node->attributes;
  Matrix a = parameter_matrix(&e->part.adapter->a);
  const Tensor *ids = node->inputs[EMBEDDING_IDS];
  tape->backend->kernels->embedding_forward(h, ids->data, &a, ids->rows, e->scale * e->part.adapter->scale, tape->backend);
}

static void put_tokens(const Node *node, Tape *tape) {
  const EmbeddingAttributes *e = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *ids = node->inputs[EMBEDDING_IDS];
  Matrix rows = parameter_matrix(&e->part.tokens->rows);
  // Numbers are looked up as the rows of one element that they are.
  kernels->gather_rows(node->scratch, e->part.tokens->numbers, FLOAT_32, ids->data, ids->rows, 1, tape->backend);
  kernels->embedding_forward(node->outputs[0]->data, node->scratch, &rows, ids->rows, e->scale, tape->backend);
}

static void embedding_forward(Node *node, Tape *tape) {
  const EmbeddingAttributes *e = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *ids = node->inputs[EMBEDDING_IDS], *y = node->outputs[0];
  kernels->embedding_forward(y->data, ids->data, e->part.weight, ids->rows, e->scale, tape->backend);
  if (has_tokens(&e->part)) put_tokens(node, tape);
  if (!is_adapted(&e->part)) return;
  look_up_low(node->scratch, node, tape);
  Matrix b = parameter_matrix(&e->part.adapter->b);
  Rows rows = rows_f32(y->data, y->columns);
  Projection up = {.w = &b, .alpha = 1, .y = rows, .residual = rows};
  kernels->linear_forward(&up, 1, rows_f32(node->scratch, b.columns), y->rows, tape->backend);
}

static void add_rows(float *gradient, const float *dy, int64_t columns, float scale, const Node *node, Tape *tape) {
  const EmbeddingAttributes *e = node->attributes;
  tape->backend->kernels->embedding_backward(gradient, dy, node->inputs[EMBEDDING_ROWS]->data, node->inputs[EMBEDDING_BEGINS]->data,
                                             node->inputs[EMBEDDING_PLACES]->data, e->groups, columns, scale, tape->backend);
}

static void low_backward(const Node *node, Tape *tape) {
  const EmbeddingAttributes *e = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const LowRank *adapter = e->part.adapter;
  const Tensor *y = node->outputs[0];
  int64_t rank = adapter->b.columns;
  float *h = node->scratch, *g = h + (y->rows * rank + 15) / 16 * 16;
  look_up_low(h, node, tape);
  Rows dy = rows_f32(y->gradient, y->columns);
  WeightGradient db = {.dw = adapter->b.gradient, .dy = dy, .rows = adapter->b.rows, .alpha = 1};
  kernels->weight_backward(&db, 1, rows_f32(h, rank), rank, y->rows, tape->backend);
  Matrix b = parameter_matrix(&adapter->b);
  Projection down = {.w = &b, .alpha = 1, .y = dy};
  kernels->linear_backward(rows_f32(g, rank), &down, 1, y->rows, false, tape->backend);
  add_rows(adapter->a.gradient, g, rank, e->scale * adapter->scale, node, tape);
}

static void embedding_backward(Node *node, Tape *tape) {
  const EmbeddingAttributes *e = node->attributes;
  const Tensor *y = node->outputs[0];
  if (e->part.weight_gradient) add_rows(e->part.weight_gradient, y->gradient, y->columns, e->scale, node, tape);
  else if (has_tokens(&e->part)) add_rows(e->part.tokens->rows.gradient, y->gradient, y->columns, e->scale, node, tape);
  if (is_adapted(&e->part)) low_backward(node, tape);
}

static int64_t embedding_scratch(const Node *node, bool backward) {
  const EmbeddingAttributes *e = node->attributes;
  int64_t n = node->outputs[0]->rows, low = is_adapted(&e->part) ? (n * e->part.adapter->b.columns + 15) / 16 * 16 : 0;
  int64_t numbers = has_tokens(&e->part) && !backward ? n : 0;
  return low > numbers || backward ? low * (1 + backward) : numbers;
}

static const Op embedding_op = {
    .name = "embedding", .forward = embedding_forward, .backward = embedding_backward, .scratch = embedding_scratch};

// order[n]: the places of ids, ascending by id, those of one id ascending; by radix sort.
static void sort_places(int32_t *order, const int32_t *ids, int64_t n, int64_t vocabulary, Arena *arena) {
  enum { BITS = 11, BUCKETS = 1 << BITS };
  int32_t *from = arena_new(arena, (size_t)n, sizeof *from), *to = order;
  for (int32_t i = 0; i < n; i++) from[i] = i;
  for (int shift = 0; shift == 0 || vocabulary >> shift; shift += BITS) {
    int64_t starts[BUCKETS + 1] = {0};
    for (int64_t i = 0; i < n; i++) starts[(ids[i] >> shift & (BUCKETS - 1)) + 1]++;
    for (int b = 0; b < BUCKETS; b++) starts[b + 1] += starts[b];
    for (int64_t i = 0; i < n; i++) to[starts[ids[from[i]] >> shift & (BUCKETS - 1)]++] = from[i];
    int32_t *swap = from;
    from = to, to = swap;
  }
  if (from != order) memcpy(order, from, (size_t)n * sizeof *order);
}

// The number in TokenRows of an id; -1: none.
static int32_t token_number(const TokenRows *tokens, int32_t id) {
  for (int32_t k = 0; k < tokens->rows.rows; k++)
    if (tokens->ids[k] == id) return k;
  return -1;
}

// Rows of the gradient, with the places that add to each: inputs of the node.
static void group_places(Node *node, const int32_t *ids, int64_t n, Tape *tape) {
  EmbeddingAttributes *e = node->attributes;
  const TokenRows *tokens = !e->part.weight_gradient && !is_adapted(&e->part) ? e->part.tokens : NULL;
  int32_t *order = arena_new(&tape->arena, (size_t)n + 1, sizeof *order), *rows = arena_new(&tape->arena, (size_t)n + 1, sizeof *rows);
  int32_t *begins = arena_new(&tape->arena, (size_t)n + 2, sizeof *begins),
          *places = arena_new(&tape->arena, (size_t)n + 1, sizeof *places);
  sort_places(order, ids, n, e->part.weight->rows, &tape->arena);
  int32_t count = 0;
  for (int64_t i = 0; i < n;) {
    int32_t id = ids[order[i]], row = tokens ? token_number(tokens, id) : id;
    if (row >= 0) rows[e->groups] = row, begins[e->groups++] = count;
    for (; i < n && ids[order[i]] == id; i++)
      if (row >= 0) places[count++] = order[i];
  }
  begins[e->groups] = count;
  node->inputs[EMBEDDING_ROWS] = tape_input(tape, rows, e->groups ? e->groups : 1, 1);
  node->inputs[EMBEDDING_BEGINS] = tape_input(tape, begins, e->groups + 1, 1);
  node->inputs[EMBEDDING_PLACES] = tape_input(tape, places, count ? count : 1, 1);
}

Tensor *op_embedding_part(Tape *tape, Tensor *ids, const EmbeddingPart *part, float scale) {
  assert((part->weight_gradient != NULL) + is_adapted(part) + has_tokens(part) <= 1);  // gradients have one grouping
  EmbeddingAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = (EmbeddingAttributes){.part = *part, .scale = scale};
  Node *node = tape_node(tape, &embedding_op, attributes);
  node->inputs[EMBEDDING_IDS] = ids;
  bool trained = is_trained(part) && tape->mode == TAPE_TRAIN;
  if (trained) group_places(node, ids->host, ids->rows, tape);
  node->outputs[0] = tape_tensor(tape, ids->rows, part->weight->columns, FLOAT_32);
  node_finish(node, trained);
  return node->outputs[0];
}
