// The output layer with cross-entropy where something of it is trained (op_loss.c has the equations, and serves frozen heads), in chunks of
// rows. With z = dlogits of a chunk, which takes the logits' place:
//   logits = x W^T + h B^T,   h = s dropout(x) A^T;   columns of tokens are x P^T of their own rows P
//   dW += z^T x,   dB += z^T h,   dh = s z B,   dA += dh^T dropout(x),   dx = z W + dh A (through its mask)
// and the columns of tokens, taken out of z, give dP += z_t^T x and dx += z_t P.
// Beside a teacher, whatever of the head is trained, a chunk holds the base's logits, too. Their place becomes the gradient of the
// divergence, which is added to z (Kernels.divergence has the equations).
#include <assert.h>

#include "autograd/ops.h"
#include "kernels/loss.h"

enum { LOSS_X, LOSS_TARGETS };
enum { LOSS_NLL, LOSS_DX, LOSS_KL };

typedef struct HeadAttributes {
  LinearPart head;
  const TokenRows *tokens;  // NULL: none, or off
  const Teacher *teacher;  // NULL: none
  LossGradient gradient;
  float softcap;
  int64_t chunk_rows;
} HeadAttributes;

// Scratch: floats from its beginning.
typedef struct HeadScratch {
  int64_t base, pull, scale, low, tokens, zeros, seen, slopes, floats;  // logits come first
} HeadScratch;

static bool is_adapted(const HeadAttributes *a) { return a->head.adapter && a->head.adapter->enabled; }
static bool has_dropout(const HeadAttributes *a) { return is_adapted(a) && a->head.adapter->dropout > 0; }
static Matrix parameter_matrix(const Parameter *parameter) { return matrix_f32(parameter->data, parameter->rows, parameter->columns); }
static int64_t round_up(int64_t floats) { return (floats + 15) / 16 * 16; }

static HeadScratch head_scratch(const Node *node) {
  const HeadAttributes *a = node->attributes;
  const Tensor *x = node->inputs[LOSS_X];
  int64_t rank = is_adapted(a) ? a->head.adapter->b.columns : 0, tokens = a->tokens ? a->tokens->rows.rows : 0;
  HeadScratch s = {.base = a->chunk_rows * logits_step(a->head.weight->rows)};
  s.pull = s.base + (a->teacher ? s.base : 0);
  s.scale = s.pull + (a->teacher ? round_up(a->chunk_rows) : 0);
  s.low = s.scale + round_up(a->chunk_rows);
  s.tokens = s.low + 2 * round_up(a->chunk_rows * rank);  // h and dh
  s.zeros = s.tokens + round_up(a->chunk_rows * tokens);
  s.seen = s.zeros + round_up(tokens);
  s.slopes = s.seen + (has_dropout(a) ? round_up(x->rows * x->columns) : 0);
  s.floats = s.slopes + (a->gradient.slopes ? round_up(x->rows) : 0);
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

static Chunk chunk_at(const Node *node, int64_t row, void *dx) {
  const HeadAttributes *a = node->attributes;
  const Tensor *x = node->inputs[LOSS_X];
  HeadScratch s = head_scratch(node);
  float *scratch = node->scratch;
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

static void chunk_logits(const Chunk *c, const HeadAttributes *a, Tape *tape) {
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

// The chunk's divergences from the base, whose logits become the gradient of their sum times `scale` (NULL: not wanted).
static void chunk_divergence(float *kl, float *base, const Chunk *c, const float *scale, const Node *node, Tape *tape) {
  const HeadAttributes *a = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  int64_t vocabulary = a->head.weight->rows, step = logits_step(vocabulary);
  Projection logits = {.w = &a->teacher->head, .alpha = 1, .y = rows_f32(base, step), .bias = a->teacher->bias};
  Rows hidden = {(void *)(uintptr_t)a->teacher->hidden, c->x.step, c->x.type};
  kernels->linear_forward(&logits, 1, rows_from(hidden, c->row * hidden.step), c->rows, tape->backend);
  kernels->divergence(kl + c->row, base, c->logits, step, scale, c->rows, vocabulary, a->softcap, tape->backend);
}

// Takes the tokens' columns out of z; their part of dx follows when dx is set.
static void tokens_backward(const Chunk *c, const HeadAttributes *a, const float *zeros, Tape *tape) {
  const Kernels *kernels = tape->backend->kernels;
  move_columns(c->z, c->tokens, zeros, false, a->tokens, c->rows, tape->backend);
  WeightGradient own = {.dw = a->tokens->rows.gradient, .dy = c->tokens, .rows = a->tokens->rows.rows, .alpha = 1};
  kernels->weight_backward(&own, 1, c->x, a->tokens->rows.columns, c->rows, tape->backend);
}

static void chunk_backward(const Chunk *c, const HeadAttributes *a, const Node *node, Tape *tape) {
  Backend *backend = tape->backend;
  const Kernels *kernels = backend->kernels;
  const LowRank *adapter = a->head.adapter;
  const float *zeros = (const float *)node->scratch + head_scratch(node).zeros;
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

// All rows: nll and, where `trains`, the gradients; dx [n, columns] is set (NULL: not wanted).
static void run_chunks(Node *node, Tape *tape, bool trains, void *dx) {
  const HeadAttributes *a = node->attributes;
  const Kernels *kernels = tape->backend->kernels;
  const Tensor *x = node->inputs[LOSS_X];
  const int32_t *targets = node->inputs[LOSS_TARGETS]->data;
  HeadScratch places = head_scratch(node);
  float *nll = node->outputs[LOSS_NLL]->data, *scratch = node->scratch, *scale = scratch + places.scale, *slopes = scratch + places.slopes;
  float *base = scratch + places.base, *pull = scratch + places.pull;
  int64_t vocabulary = a->head.weight->rows, step = logits_step(vocabulary);
  if (!a->gradient.slopes) kernels->fill(scale, a->gradient.scale, a->chunk_rows, tape->backend);
  else if (trains) tape->backend->upload(slopes, a->gradient.slopes, x->rows * (int64_t)sizeof(float), tape->backend);
  if (a->teacher) kernels->fill(pull, a->gradient.scale * a->teacher->weight, a->chunk_rows, tape->backend);
  if (a->tokens) kernels->fill(scratch + places.zeros, 0, a->tokens->rows.rows, tape->backend);
  if (has_dropout(a)) adapter_dropout(scratch + places.seen, x->data, a->head.adapter, x, false, tape);
  for (int64_t row = 0; row < x->rows; row += a->chunk_rows) {
    Chunk c = chunk_at(node, row, dx);
    chunk_logits(&c, a, tape);
    if (a->teacher) chunk_divergence(node->outputs[LOSS_KL]->data, base, &c, trains ? pull : NULL, node, tape);
    kernels->cross_entropy(nll + row, c.logits, step, targets + row,
                           !trains              ? NULL
                           : a->gradient.slopes ? slopes + row
                                                : scale,
                           x->type, c.rows, vocabulary, a->softcap, tape->backend);
    if (trains && a->teacher)
      kernels->copy_heads(c.z, vocabulary, rows_f32(base, step), vocabulary, 1, vocabulary, c.rows, true, tape->backend);
    if (trains) chunk_backward(&c, a, node, tape);
  }
  if (trains && dx && has_dropout(a)) adapter_dropout(dx, scratch + places.seen, a->head.adapter, x, true, tape);
}

static void head_forward(Node *node, Tape *tape) {
  const Tensor *dx = node->outputs[LOSS_DX];
  run_chunks(node, tape, tape->mode == TAPE_TRAIN, dx ? dx->data : NULL);
}

// All of it is done by the forward pass.
static void head_backward(Node *node, Tape *tape) {
  (void)node;
  (void)tape;
  assert(!node->accumulate[LOSS_X]);
}

// By slopes: nll alone, and the gradients when they are known. nll comes out once more, as it was.
static void sloped_forward(Node *node, Tape *tape) { run_chunks(node, tape, false, NULL); }

static void sloped_backward(Node *node, Tape *tape) {
  const Tensor *x = node->inputs[LOSS_X];
  assert(!node->accumulate[LOSS_X]);
  run_chunks(node, tape, true, x->needs_gradient ? x->gradient : NULL);
}

static int64_t head_floats(const Node *node, bool backward) { return backward ? 0 : head_scratch(node).floats; }
static int64_t sloped_floats(const Node *node, bool backward) {
  (void)backward;
  return head_scratch(node).floats;
}

static double product_flop(const Node *node) {
  const HeadAttributes *a = node->attributes;
  return 2 * (double)node->inputs[LOSS_X]->rows * (double)a->head.weight->rows * (double)a->head.weight->columns;
}

static double head_flop(const Node *node, bool backward) {
  const HeadAttributes *a = node->attributes;
  return backward ? 0
                  : product_flop(node) * (1 + (a->teacher != NULL) + (node->outputs[LOSS_DX] != NULL) + (a->head.weight_gradient != NULL));
}

static double sloped_flop(const Node *node, bool backward) {
  const HeadAttributes *a = node->attributes;
  return product_flop(node) * (backward ? 1 + node->inputs[LOSS_X]->needs_gradient + (a->head.weight_gradient != NULL) : 1);
}

static const Op head_op = {.name = "cross_entropy + head",
                           .forward = head_forward,
                           .backward = head_backward,
                           .scratch = head_floats,
                           .flop = head_flop,
                           .saved_outputs = 1u << LOSS_DX,
                           .is_loss = true};

static const Op sloped_op = {.name = "cross_entropy + head",
                             .forward = sloped_forward,
                             .backward = sloped_backward,
                             .scratch = sloped_floats,
                             .flop = sloped_flop,
                             .saved_inputs = 1u << LOSS_X,
                             .saved_outputs = 1u << LOSS_NLL,
                             .is_loss = true};

// As many rows as take the memory that a frozen head's loss has.
static int64_t rows_at_once(const Tape *tape, const Tensor *x, const HeadAttributes *a) {
  int64_t rows = x->rows < tape->loss_rows ? x->rows : tape->loss_rows, floats = logits_step(a->head.weight->rows) * (a->teacher ? 2 : 1);
  int64_t most = linear_cross_entropy_floats(rows, a->head.weight->rows, x->columns) / floats;
  if (most > x->rows) most = x->rows;
  return most > 0 ? most : 1;
}

static Node *head_node(Tape *tape, Tensor *x, HeadAttributes *a, Tensor *targets) {
  a->chunk_rows = rows_at_once(tape, x, a);
  const LossGradient *gradient = &a->gradient;
  Node *node = tape_node(tape, gradient->slopes ? &sloped_op : &head_op, a);
  node->inputs[LOSS_X] = x;
  node->inputs[LOSS_TARGETS] = targets;
  node->outputs[LOSS_NLL] = tape_tensor(tape, x->rows, 1, FLOAT_32);
  bool is_early = !gradient->slopes && tape->mode == TAPE_TRAIN && x->needs_gradient;
  if (is_early) node->outputs[LOSS_DX] = tape_tensor(tape, x->rows, x->columns, x->type);
  if (a->teacher) node->outputs[LOSS_KL] = tape_tensor(tape, x->rows, 1, FLOAT_32);
  node_finish(node, gradient->slopes && tape->mode == TAPE_TRAIN);
  tape_keep(node->outputs[LOSS_NLL]);
  if (a->teacher) tape_keep(node->outputs[LOSS_KL]);
  return node;
}

Tensor *op_head_cross_entropy(Tape *tape, Tensor *x, LinearPart head, const TokenRows *tokens, Tensor *targets, LossGradient gradient,
                              float softcap) {
  HeadAttributes *a = arena_new(&tape->arena, 1, sizeof *a);
  *a = (HeadAttributes){.head = head, .tokens = tokens && tokens->enabled ? tokens : NULL, .gradient = gradient, .softcap = softcap};
  bool is_frozen = !is_adapted(a) && !a->tokens && (!head.weight_gradient || tape->mode != TAPE_TRAIN);
  if (is_frozen) return op_cross_entropy(tape, x, head.weight, targets, gradient, softcap);
  return head_node(tape, x, a, targets)->outputs[LOSS_NLL];
}

Tensor *op_taught_cross_entropy(Tape *tape, Tensor **kl, Tensor *x, LinearPart head, const TokenRows *tokens, Tensor *targets,
                                const Teacher *teacher, LossGradient gradient, float softcap) {
  assert(!gradient.slopes);
  Teacher *own = arena_new(&tape->arena, 1, sizeof *own);
  *own = *teacher;
  HeadAttributes *a = arena_new(&tape->arena, 1, sizeof *a);
  *a = (HeadAttributes){
      .head = head, .tokens = tokens && tokens->enabled ? tokens : NULL, .teacher = own, .gradient = gradient, .softcap = softcap};
  Node *node = head_node(tape, x, a, targets);
  *kl = node->outputs[LOSS_KL];
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
