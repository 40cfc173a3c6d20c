#include "trainer/step.h"

#include <stdlib.h>

#include "core/log.h"
#include "models/balance.h"
#include "models/shards.h"

void step_new(Step *step, Model *model, FloatType activations, Checkpointing checkpointing, int64_t budget_bytes) {
  *step = (Step){.model = model, .checkpointing = checkpointing, .budget_bytes = budget_bytes};
  tape_new(&step->tape, model->backend);
  shards_watch(model, &step->tape);
  step->tape.activations = activations;
  step->tape.offloads = checkpointing == CHECKPOINT_OFFLOAD;
}

static void token_values_free(TokenValues *values, Backend *backend) {
  if (values->device) backend->release(values->device, backend);
  free(values->host);
}

// Room for the values of another micro-batch behind those that are there.
static Status token_values_reserve(TokenValues *values, int64_t more, const char *purpose, Backend *backend) {
  int64_t wanted = values->count + more;
  if (wanted <= values->capacity) return STATUS_OK;
  void *block;
  wanted = wanted > 2 * values->capacity ? wanted : 2 * values->capacity;
  TRY(backend->allocate(&block, wanted * (int64_t)sizeof(float), purpose, backend));
  if (values->count > 0) backend->kernels->copy(block, values->device, values->count, backend);
  if (values->device) backend->release(values->device, backend);
  values->device = block;
  values->host = memory_grow(values->host, (size_t)wanted, sizeof *values->host);
  values->capacity = wanted;
  return STATUS_OK;
}

// Waits for them; none are left.
static double token_values_sum(TokenValues *values, Backend *backend) {
  double sum = 0;
  if (values->count > 0) backend->download(values->host, values->device, values->count * (int64_t)sizeof(float), backend);
  for (int64_t i = 0; i < values->count; i++) sum += values->host[i];
  values->count = 0;
  return sum;
}

void step_free(Step *step) {
  Backend *backend = step->model->backend;
  token_values_free(&step->losses, backend);
  token_values_free(&step->divergences, backend);
  if (step->base_hidden) backend->release(step->base_hidden, backend);
  tape_free(&step->tape);
  free(step->spans);
  free(step->key_rows);
  free(step->rows);
  free(step->targets);
  free(step->slopes);
  *step = (Step){0};
}

// A document that forks has two spans, and its shared tokens are keys twice.
static void reserve(Step *step, const Batch *batch) {
  if (batch->tokens > step->token_capacity) {
    step->token_capacity = batch->tokens;
    step->rows = memory_grow(step->rows, (size_t)batch->tokens, sizeof *step->rows);
    step->targets = memory_grow(step->targets, (size_t)batch->tokens, sizeof *step->targets);
    step->slopes = memory_grow(step->slopes, (size_t)batch->tokens, sizeof *step->slopes);
  }
  if (2 * batch->document_count > step->span_capacity) {
    step->span_capacity = 2 * batch->document_count;
    step->spans = memory_grow(step->spans, (size_t)step->span_capacity, sizeof *step->spans);
  }
  int64_t keys = batch->tokens;
  for (int64_t d = 0; d < batch->document_count; d++) keys += batch->forks[d].second ? batch->forks[d].shared : 0;
  if (keys > step->key_capacity) {
    step->key_capacity = keys;
    step->key_rows = memory_grow(step->key_rows, (size_t)keys, sizeof *step->key_rows);
  }
}

// Queries begin .. end-1, whose keys are `shared` tokens from `first` on and then themselves.
static void add_span(Step *step, int64_t first, int64_t shared, int64_t begin, int64_t end) {
  AttentionSpan *span = &step->spans[step->span_count++];
  *span = (AttentionSpan){.query_begin = begin, .query_end = end, .key_begin = step->key_count};
  for (int64_t i = 0; i < shared; i++) step->key_rows[step->key_count++] = (int32_t)(first + i);
  for (int64_t i = begin; i < end; i++) step->key_rows[step->key_count++] = (int32_t)i;
  span->key_end = step->key_count;
}

// The labelled positions, and the spans of the documents or of their branches. Returns the number of labelled positions.
static int64_t read_batch(Step *step, const Batch *batch) {
  reserve(step, batch);
  step->span_count = step->key_count = 0;
  for (int64_t d = 0; d < batch->document_count; d++) {
    int64_t begin = batch->document_begin[d], end = batch->document_begin[d + 1];
    const Fork *fork = &batch->forks[d];
    add_span(step, begin, 0, begin, fork->second ? begin + fork->second : end);
    if (fork->second) add_span(step, begin, fork->shared, begin + fork->second, end);
  }
  int64_t count = 0;
  for (int64_t i = 0; i < batch->tokens; i++) {
    if (batch->targets[i] < 0) continue;
    step->rows[count] = (int32_t)i;
    step->targets[count++] = batch->targets[i];
  }
  return count;
}

void step_leave_workspace(Step *step, const Batch *largest, int64_t micro_batches) {
  const Model *model = step->model;
  (void)read_batch(step, largest);
  StepShape shape = {.activations = step->tape.activations,
                     .tokens = largest->tokens,
                     .columns = model->head.weight.columns,
                     .spans = step->spans,
                     .span_count = step->span_count,
                     .attention = config_attention_shape(&model->config, false),
                     .attention_calls = (step->kl_weight > 0 ? 2 : 1) * micro_batches * model->config.layers};
  for (int i = 0; i < model->linear_count; i++)
    if (model->linears[i]->weight.columns > shape.columns) shape.columns = model->linears[i]->weight.columns;
  step->budget_bytes -= model->backend->reserve_workspace(&shape, step->budget_bytes, model->backend);
}

// Segment 0 is the embedding, then each layer has one; the last holds the loss.
static void plan(Step *step, int segments) {
  tape_plan(&step->tape, segments);
  step->recomputed_layers = segments > 1 ? segments - 1 : 0;
}

static bool recomputes_all(const Step *step) { return step->checkpointing == CHECKPOINT_ALL || step->checkpointing == CHECKPOINT_OFFLOAD; }

static Status no_room(const Step *step, const char *what, const char *how, const char *remedy) {
  char need[32], have[32];
  format_bytes(need, (double)tape_plan_bytes(&step->tape));
  format_bytes(have, step->budget_bytes > 0 ? (double)step->budget_bytes : 0);
  return status_fail(STATUS_NO_SPACE, "%s needs %s%s, and there is room for %s: set %s, or a larger max_memory", what, need, how, have,
                     remedy);
}

// The fewest checkpointed segments within the budget. Each plan costs milliseconds, so they are simply tried.
static Status plan_within_budget(Step *step) {
  Tape *tape = &step->tape;
  int low = 0, high = tape_segments(tape) - 1;  // low does not fit
  if (!recomputes_all(step)) {
    plan(step, 0);
    if (tape_plan_bytes(tape) <= step->budget_bytes) return STATUS_OK;
    if (step->checkpointing == CHECKPOINT_NONE)
      return no_room(step, "a micro-batch", "", "gradient_checkpointing: true, a smaller micro_batch_size or sequence_len");
    while (high - low > 1) {
      int middle = (low + high) / 2;
      plan(step, middle);
      if (tape_plan_bytes(tape) <= step->budget_bytes) high = middle;
      else low = middle;
    }
  }
  plan(step, high);
  if (tape_plan_bytes(tape) <= step->budget_bytes) return STATUS_OK;
  return no_room(step, "a micro-batch", " even with every layer recomputed", "a smaller micro_batch_size or sequence_len");
}

static Status plan_evaluation(Step *step) {
  tape_plan(&step->tape, 0);
  if (tape_plan_bytes(&step->tape) <= step->budget_bytes) return STATUS_OK;
  return no_room(step, "a micro-batch of the evaluation", "", "a smaller eval_batch_size or sequence_len");
}

// What the loss of a micro-batch is made of, for each labelled token. kl is NULL without a teacher.
typedef struct Losses {
  Tensor *nll, *kl;
} Losses;

// Adds the micro-batch that read_batch has read to a new graph; returns the hidden states of its labelled tokens.
static Tensor *build_hidden(Step *step, const Batch *batch, int64_t labelled, TapeMode mode) {
  tape_begin(&step->tape, mode);
  DecoderInput input = {.ids = batch->ids,
                        .positions = batch->positions,
                        .tokens = batch->tokens,
                        .spans = step->spans,
                        .span_count = step->span_count,
                        .key_rows = step->key_count > batch->tokens ? step->key_rows : NULL,
                        .key_count = step->key_count,
                        .rows = step->rows,
                        .row_count = labelled,
                        .noise = step->noise};
  return decoder_hidden(&step->tape, step->model, &input);
}

static bool has_teacher(const Step *step, TapeMode mode) { return step->kl_weight > 0 && mode == TAPE_TRAIN && !step->is_likelihood; }

static Losses build_graph(Step *step, const Batch *batch, int64_t labelled, TapeMode mode, float gradient_scale) {
  Tape *tape = &step->tape;
  Losses losses = {0};
  LossGradient gradient = {gradient_scale, step->is_likelihood ? step->slopes : NULL};
  Tensor *hidden = build_hidden(step, batch, labelled, mode);
  Tensor *targets = tape_input(tape, step->targets, labelled, 1);
  if (has_teacher(step, mode)) losses.nll = decoder_taught_loss(tape, &losses.kl, step->model, hidden, targets, &step->teacher, gradient);
  else losses.nll = decoder_loss(tape, step->model, hidden, targets, gradient);
  return losses;
}

// The graph, within the budget. In 16 bits, memory buys time: more rows of logits at once, for the head is dequantised as often as there are
// such pieces (at 8B that costs more than to recompute the layer or two in whose room they lie), and no recomputation at all. Who asks for
// every layer to be recomputed asks for little memory.
static Status build(Losses *losses, Step *step, const Batch *batch, int64_t labelled, TapeMode mode, float gradient_scale) {
  enum { FAST_LOSS_ROWS = 4 * LOSS_ROWS };
  Tape *tape = &step->tape;
  bool is_fast = mode == TAPE_TRAIN && tape->activations != FLOAT_32 && !recomputes_all(step);
  tape->loss_rows = is_fast ? FAST_LOSS_ROWS : LOSS_ROWS;
  if (is_fast) {
    tape->keeps_cheap = true;
    *losses = build_graph(step, batch, labelled, mode, gradient_scale);
    plan(step, 0);
    if (tape_plan_bytes(tape) <= step->budget_bytes) return STATUS_OK;
  }
  tape->keeps_cheap = false;
  *losses = build_graph(step, batch, labelled, mode, gradient_scale);
  if (mode != TAPE_TRAIN) return plan_evaluation(step);
  if (is_fast) {
    if (plan_within_budget(step) == STATUS_OK) return STATUS_OK;
    tape->loss_rows = LOSS_ROWS;
    *losses = build_graph(step, batch, labelled, mode, gradient_scale);
  }
  return plan_within_budget(step);
}

// Room for what is kept of the base's pass over a micro-batch of so many tokens, all of them labelled.
static Status reserve_base(Step *step, int64_t tokens) {
  Backend *backend = step->model->backend;
  int64_t bytes = tokens * step->model->config.hidden * float_bytes(step->tape.activations);
  if (bytes <= step->base_bytes) return STATUS_OK;
  void *block;
  TRY(backend->allocate(&block, bytes, "the base's hidden states", backend));
  if (step->base_hidden) backend->release(step->base_hidden, backend);
  step->budget_bytes -= bytes - step->base_bytes;
  step->base_hidden = block;
  step->base_bytes = bytes;
  return STATUS_OK;
}

// The base's pass, with its memory: planned, and run unless it is only reserved.
static Status pass_base(Step *step, const Batch *batch, int64_t labelled, bool runs) {
  Tape *tape = &step->tape;
  tape->keeps_cheap = false;
  Tensor *hidden = build_hidden(step, batch, labelled, TAPE_FORWARD);
  tape_keep(hidden);
  tape_plan(tape, 0);
  if (tape_plan_bytes(tape) > step->budget_bytes)
    return no_room(step, "the base's pass over a micro-batch (kl_weight)", "", "a smaller micro_batch_size or sequence_len");
  TRY(tape_reserve(tape));
  if (!runs) return STATUS_OK;
  tape_forward(tape);
  tape_copy(step->base_hidden, tape, hidden);
  return STATUS_OK;
}

// The teacher of a micro-batch: the model with its adapter off. Dropout and noise are the adapter's and the training pass's. How its
// routers spread tokens is not counted.
static Status run_base(Step *step, const Batch *batch, int64_t labelled, bool runs) {
  Model *model = step->model;
  TRY(reserve_base(step, batch->tokens));
  adapter_set_enabled(step->adapter, false);
  model_balance_count(model, false);
  step->teacher = (Teacher){step->base_hidden, model->head.weight, model->head.bias, step->kl_weight};
  Status status = pass_base(step, batch, labelled, runs);
  model_balance_count(model, true);
  adapter_set_enabled(step->adapter, true);
  return status;
}

Status step_reserve(Step *step, const Batch *batch, TapeMode mode) {
  int64_t labelled = read_batch(step, batch);
  if (labelled == 0) return STATUS_OK;
  Losses losses;
  if (has_teacher(step, mode)) TRY(run_base(step, batch, labelled, false));
  TRY(build(&losses, step, batch, labelled, mode, 1));
  return tape_reserve(&step->tape);
}

// Builds the graph of a micro-batch, which has `labelled` labelled positions, and runs it forward; its losses are those behind
// losses.count.
static Status run_forward(Step *step, const Batch *batch, int64_t labelled, TapeMode mode, float gradient_scale) {
  Losses losses;
  Backend *backend = step->model->backend;
  TRY(build(&losses, step, batch, labelled, mode, gradient_scale));
  TRY(tape_reserve(&step->tape));
  TRY(token_values_reserve(&step->losses, labelled, "losses of tokens", backend));
  if (losses.kl) TRY(token_values_reserve(&step->divergences, labelled, "divergences of tokens", backend));
  tape_forward(&step->tape);
  tape_copy(step->losses.device + step->losses.count, &step->tape, losses.nll);
  if (losses.kl) tape_copy(step->divergences.device + step->divergences.count, &step->tape, losses.kl);
  return STATUS_OK;
}

void step_seed(Step *step, uint64_t seed, uint64_t number) {
  step->tape.dropout_seed = seed;
  step->tape.dropout_stream = number;
}

static void run_backward(Step *step) {
  tape_backward(&step->tape);
  shards_finish_backward(step->model);
}

void step_idle(Step *step, TapeMode mode) {
  if (has_teacher(step, mode)) shards_idle_forward(step->model);
  shards_idle_forward(step->model);
  if (mode == TAPE_TRAIN) shards_idle_backward(step->model);
}

Status step_run(Step *step, const Batch *batch, TapeMode mode, float gradient_scale) {
  int64_t labelled = read_batch(step, batch);
  if (labelled == 0) {
    step_idle(step, mode);
    return STATUS_OK;
  }
  if (has_teacher(step, mode)) TRY(run_base(step, batch, labelled, true));
  TRY(run_forward(step, batch, labelled, mode, gradient_scale));
  if (mode == TAPE_TRAIN) run_backward(step);
  step->losses.count += labelled;
  if (has_teacher(step, mode)) step->divergences.count += labelled;
  return STATUS_OK;
}

Status step_likelihood(Likelihood *likelihood, Step *step, const Batch *batch, TapeMode mode) {
  Backend *backend = step->model->backend;
  int64_t labelled = read_batch(step, batch);
  *likelihood = (Likelihood){.rows = step->rows, .slopes = step->slopes, .count = labelled};
  step->labelled = labelled;
  if (labelled == 0) {
    step_idle(step, TAPE_FORWARD);
    return STATUS_OK;
  }
  TRY(run_forward(step, batch, labelled, mode, 0));
  backend->download(step->losses.host, step->losses.device + step->losses.count, labelled * (int64_t)sizeof(float), backend);
  likelihood->nll = step->losses.host;
  return backend->check(backend);
}

void step_likelihood_backward(Step *step) {
  if (step->labelled > 0) run_backward(step);
  else shards_idle_backward(step->model);
}

Status step_loss(double *nll, Step *step) {
  Backend *backend = step->model->backend;
  *nll = token_values_sum(&step->losses, backend);
  step->kl = token_values_sum(&step->divergences, backend);
  return backend->check(backend);
}
