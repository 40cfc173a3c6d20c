// The output layer with cross-entropy where something of it is trained (op_loss.c has the equations, and serves frozen heads), in chunks of
// rows. With z = dlogits of a chunk, which takes the logits' place:
//   logits = x W^T + h B^T,   h = s dropout(x) A^T;   columns of tokens are x P^T of their own rows P
//   dW += z^T x,   dB += z^T h,   dh = s z B,   dA += dh^T dropout(x),   dx = z W + dh A (through its mask)
// and the columns of tokens, taken out of z, give dP += z_t^T x and dx += z_t P.
#include <assert.h>

#include "autograd/ops.h"
#include "kernels/loss.h"

enum { LOSS_X, LOSS_TARGETS };
enum { LOSS_NLL, LOSS_DX };

typedef struct HeadAttributes {
  HeadLoss loss;
  float gradient_scale;
} HeadAttributes;

// Scratch: floats from its beginning.
typedef struct HeadScratch {
  int64_t low, tokens, zeros, seen, floats;  // logits come first
} HeadScratch;

static bool is_adapted(const HeadLoss *a) { return a->head.adapter && a->head.adapter->enabled; }
static bool has_dropout(const HeadLoss *a) { return is_adapted(a) && a->head.adapter->dropout > 0; }
static Matrix parameter_matrix(const Parameter *parameter) { return matrix_f32(parameter->data, parameter->rows, parameter->columns); }
static int64_t round_up(int64_t floats) { return (floats + 15) / 16 * 16; }

static HeadScratch head_scratch(const HeadLoss *a, const Tensor *x) {
  int64_t rank = is_adapted(a) ? a->head.adapter->b.columns : 0, tokens = a->tokens ? a->tokens->rows.rows : 0;
  HeadScratch s = {.low = a->chunk_rows * logits_step(a->head.weight->rows)};
  s.tokens = s.low + 2 * round_up(a->chunk_rows * rank);  // h and dh
  s.zeros = s.tokens + round_up(a->chunk_rows * tokens);
  s.seen = s.zeros + round_up(tokens);
  s.floats = s.seen + (has_dropout(a) ? round_up(x->rows * x->columns) : 0);
  return s;
}

// Some rows of the pass, and where their parts are.
typedef struct Chunk {
  int64_t row, rows;
  Rows x, seen, dx;  // seen: x as the adapter sees it
  float *logits;
  Rows z;  // the logits' gradient
  Rows h, dh, tokens;
} Chunk;

static Rows rows_at(const Tensor *tensor, void *data, int64_t row) {
  return rows_from((Rows){data, tensor->columns, tensor->type}, row * tensor->columns);
}

static Chunk chunk_at(const HeadLoss *a, const Tensor *x, void *dx, float *scratch, int64_t row) {
  HeadScratch s = head_scratch(a, x);
  int64_t step = logits_step(a->head.weight->rows), rank = is_adapted(a) ? a->head.adapter->b.columns : 0;
  Chunk c = {.row = row, .rows = x->rows - row < a->chunk_rows ? x->rows - row : a->chunk_rows, .logits = scratch};
  c.x = rows_at(x, x->data, row);
  c.seen = has_dropout(a) ? rows_at(x, scratch + s.seen, row) : c.x;
  c.dx = dx ? rows_at(x, dx, row) : (Rows){0};
  c.z = x->type == FLOAT_32 ? rows_f32(scratch, step) : (Rows){scratch, 2 * step, x->type};
  c.h = (Rows){scratch + s.low, rank, x->type};
  c.dh = (Rows){scratch + s.low + round_up(a->chunk_rows * rank), rank, x->type};
  if (a->tokens) c.tokens = (Rows){scratch + s.tokens, a->tokens->rows.rows, FLOAT_32};
  return c;
}

// Between the tokens' columns of whole rows and `packed` rows of them alone, a stretch of neighbouring ids at a time. zeros, where it is
// there, takes their place in the whole rows.
static void move_columns(Rows whole, Rows packed, const float *zeros, bool to_whole, const TokenRows *tokens, int64_t n, Backend *backend) {
  int64_t count = tokens->rows.rows;
  for (int64_t k = 0, run; k < count; k += run) {
    for (run = 1; k + run < count && tokens->ids[k + run] == tokens->ids[k] + run;) run++;
    Rows there = rows_from(whole, tokens->ids[k]), here = rows_from(packed, k);
    backend->kernels->copy_heads(to_whole ? there : here, run, to_whole ? here : there, run, 1, run, n, false, backend);
    if (zeros) backend->kernels->copy_heads(there, run, rows_f32(zeros, 0), run, 1, run, n, false, backend);
  }
}

static void chunk_logits(const Chunk *c, const HeadLoss *a, Tape *tape) {
  Backend *backend = tape->backend;
  const LowRank *adapter = a->head.adapter;
  Projection logits = {.w = a->head.weight, .alpha = 1, .y = rows_f32(c->logits, logits_step(a->head.weight->rows)), .bias = a->head.bias};
  if (is_adapted(a)) {
    Matrix down = parameter_matrix(&adapter->a);
    Projection h = {.w = &down, .alpha = adapter->scale, .y = c->h};
    backend->kernels->linear_forward(&h, 1, c->seen, c->rows, backend);
    logits.h = c->h, logits.low = adapter->b.data, logits.rank = adapter->b.columns;
  }
  backend->kernels->linear_forward(&logits, 1, c->x, c->rows, backend);
  if (!a->tokens) return;
  Matrix rows = parameter_matrix(&a->tokens->rows);
  Projection own = {.w = &rows, .alpha = 1, .y = c->tokens};
  backend->kernels->linear_forward(&own, 1, c->x, c->rows, backend);
  move_columns(logits.y, c->tokens, NULL, true, a->tokens, c->rows, backend);
}

// Takes the tokens' columns out of z; their part of dx follows when dx is set.
static void tokens_backward(const Chunk *c, const HeadLoss *a, const float *zeros, Tape *tape) {
  const Kernels *kernels = tape->backend->kernels;
  move_columns(c->z, c->tokens, zeros, false, a->tokens, c->rows, tape->backend);
  WeightGradient own = {.dw = a->tokens->rows.gradient, .dy = c->tokens, .rows = a->tokens->rows.rows, .alpha = 1};
  kernels->weight_backward(&own, 1, c->x, a->tokens->rows.columns, c->rows, tape->backend);
}

static void chunk_backward(const Chunk *c, const HeadLoss *a, const float *zeros, Tape *tape) {
  Backend *backend = tape->backend;
  const Kernels *kernels = backend->kernels;
  const LowRank *adapter = a->head.adapter;
  if (a->tokens) tokens_backward(c, a, zeros, tape);
  int64_t vocabulary = a->head.weight->rows, columns = a->head.weight->columns;
  if (a->head.weight_gradient) {
    WeightGradient dw = {.dw = a->head.weight_gradient, .dy = c->z, .rows = vocabulary, .alpha = 1};
    kernels->weight_backward(&dw, 1, c->x, columns, c->rows, backend);
  }
  Projection back = {.w = a->head.weight, .alpha = 1, .y = c->z};
  if (is_adapted(a)) {
    LowRankGradient low = {.dy = c->z, .b = adapter->b.data, .db = adapter->b.gradient, .out = vocabulary, .h = c->h, .dh = c->dh};
    low.rank = adapter->b.columns, low.scale = adapter->scale;
    kernels->low_rank_backward(&low, 1, c->rows, backend);
    WeightGradient da = {.dw = adapter->a.gradient, .dy = c->dh, .rows = adapter->a.rows, .alpha = 1};
    kernels->weight_backward(&da, 1, c->seen, columns, c->rows, backend);
    if (!has_dropout(a)) back.h = c->dh, back.low = adapter->a.data, back.rank = adapter->a.rows;
  }
  if (!c->dx.data) return;
  kernels->linear_backward(c->dx, &back, 1, c->rows, false, backend);
  if (has_dropout(a)) {  // what was seen is read no more: its gradient takes its place
    Matrix down = parameter_matrix(&adapter->a);
    Projection through = {.w = &down, .alpha = 1, .y = c->dh};
    kernels->linear_backward(c->seen, &through, 1, c->rows, false, backend);
  }
  if (!a->tokens) return;
  Matrix rows = parameter_matrix(&a->tokens->rows);
  Projection own = {.w = &rows, .alpha = 1, .y = c->tokens};
  kernels->linear_backward(c->dx, &own, 1, c->rows, true, backend);
}

int64_t head_loss_floats(const HeadLoss *loss, const Tensor *x) { return head_scratch(loss, x).floats; }

void head_loss_run(const HeadLoss *loss, float *nll, void *dx, const Tensor *x, const int32_t *targets, const float *scales, float *scratch,
                   Tape *tape) {
  const Kernels *kernels = tape->backend->kernels;
  HeadScratch places = head_scratch(loss, x);
  int64_t vocabulary = loss->head.weight->rows;
  if (loss->tokens) kernels->fill(scratch + places.zeros, 0, loss->tokens->rows.rows, tape->backend);
  if (has_dropout(loss)) adapter_dropout(scratch + places.seen, x->data, loss->head.adapter, x, false, tape);
  for (int64_t row = 0; row < x->rows; row += loss->chunk_rows) {
    Chunk c = chunk_at(loss, x, dx, scratch, row);
    chunk_logits(&c, loss, tape);
    kernels->cross_entropy(nll + row, c.logits, logits_step(vocabulary), targets + row, scales ? scales + row : NULL, x->type, c.rows,
                           vocabulary, loss->softcap, tape->backend);
    if (scales) chunk_backward(&c, loss, scratch + places.zeros, tape);
  }
  if (scales && dx && has_dropout(loss)) adapter_dropout(dx, scratch + places.seen, loss->head.adapter, x, true, tape);
}

// The scales come behind the loss's own scratch.
static void head_forward(Node *node, Tape *tape) {
  const HeadAttributes *a = node->attributes;
  const Tensor *x = node->inputs[LOSS_X], *dx = node->outputs[LOSS_DX];
  float *scratch = node->scratch, *scales = scratch + head_loss_floats(&a->loss, x);
  bool trains = tape->mode == TAPE_TRAIN;
  if (trains) tape->backend->kernels->fill(scales, a->gradient_scale, x->rows, tape->backend);
  head_loss_run(&a->loss, node->outputs[LOSS_NLL]->data, dx ? dx->data : NULL, x, node->inputs[LOSS_TARGETS]->data, trains ? scales : NULL,
                scratch, tape);
}

// All of it is done by the forward pass.
static void head_backward(Node *node, Tape *tape) {
  (void)node;
  (void)tape;
  assert(!node->accumulate[LOSS_X]);
}

static int64_t head_floats(const Node *node, bool backward) {
  const HeadAttributes *a = node->attributes;
  const Tensor *x = node->inputs[LOSS_X];
  return backward ? 0 : head_loss_floats(&a->loss, x) + x->rows;
}

static double head_flop(const Node *node, bool backward) {
  const LinearPart *head = &((const HeadAttributes *)node->attributes)->loss.head;
  double product = 2 * (double)node->inputs[LOSS_X]->rows * (double)head->weight->rows * (double)head->weight->columns;
  return backward ? 0 : product * (1 + (node->outputs[LOSS_DX] != NULL) + (head->weight_gradient != NULL));
}

static const Op head_op = {.name = "cross_entropy + head",
                           .forward = head_forward,
                           .backward = head_backward,
                           .scratch = head_floats,
                           .flop = head_flop,
                           .saved_outputs = 1u << LOSS_DX,
                           .is_loss = true};

Tensor *op_head_cross_entropy(Tape *tape, Tensor *x, LinearPart head, const TokenRows *tokens, Tensor *targets, float gradient_scale,
                              float softcap) {
  HeadLoss loss = {.head = head, .tokens = tokens && tokens->enabled ? tokens : NULL, .softcap = softcap};
  bool is_frozen = !is_adapted(&loss) && !loss.tokens && (!head.weight_gradient || tape->mode != TAPE_TRAIN);
  if (is_frozen) return op_cross_entropy(tape, x, head.weight, targets, gradient_scale, softcap);
  // As many rows as take the memory that a frozen head's loss has.
  int64_t rows = x->rows < tape->loss_rows ? x->rows : tape->loss_rows;
  loss.chunk_rows = linear_cross_entropy_floats(rows, head.weight->rows, x->columns) / logits_step(head.weight->rows);
  if (loss.chunk_rows > x->rows) loss.chunk_rows = x->rows;
  HeadAttributes *a = arena_new(&tape->arena, 1, sizeof *a);
  *a = (HeadAttributes){loss, gradient_scale};
  Node *node = tape_node(tape, &head_op, a);
  node->inputs[LOSS_X] = x;
  node->inputs[LOSS_TARGETS] = targets;
  node->outputs[LOSS_NLL] = tape_tensor(tape, x->rows, 1, FLOAT_32);
  if (tape->mode == TAPE_TRAIN && x->needs_gradient) node->outputs[LOSS_DX] = tape_tensor(tape, x->rows, x->columns, x->type);
  node_finish(node, false);
  tape_keep(node->outputs[LOSS_NLL]);
  return node->outputs[LOSS_NLL];
}

// ---- Generation ----

enum { TOKEN_LOGITS, TOKEN_X };

static void token_logits_forward(Node *node, Tape *tape) {
  const TokenRows *tokens = *(const TokenRows *const *)node->attributes;
  const Tensor *x = node->inputs[TOKEN_X], *y = node->outputs[0];
  Matrix rows = parameter_matrix(&tokens->rows);
  Projection own = {.w = &rows, .alpha = 1, .y = rows_f32(node->scratch, rows.rows)};
  tape->backend->kernels->linear_forward(&own, 1, rows_at(x, x->data, 0), x->rows, tape->backend);
  move_columns(rows_at(y, y->data, 0), own.y, NULL, true, tokens, y->rows, tape->backend);
}

static int64_t token_logits_scratch(const Node *node, bool backward) {
  const TokenRows *tokens = *(const TokenRows *const *)node->attributes;
  return backward ? 0 : node->outputs[0]->rows * tokens->rows.rows;
}

static const Op token_logits_op = {
    .name = "token_logits", .forward = token_logits_forward, .scratch = token_logits_scratch, .is_in_place = true};

Tensor *op_token_logits(Tape *tape, Tensor *logits, Tensor *x, const TokenRows *tokens) {
  const TokenRows **attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = tokens;
  Node *node = tape_node(tape, &token_logits_op, attributes);
  node->inputs[TOKEN_LOGITS] = logits;
  node->inputs[TOKEN_X] = x;
  node->outputs[0] = tape_tensor(tape, logits->rows, logits->columns, logits->type);
  node_finish(node, false);
  return node->outputs[0];
}
