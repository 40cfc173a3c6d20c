// A model's rates: a prompt and an answer through runtime/engine, training steps through trainer/step and the optimiser.
#include <stdlib.h>

#include "kernels/peak.h"
#include "cli/bench.h"
#include "core/log.h"
#include "core/rng.h"
#include "optim/optimizer.h"
#include "runtime/engine.h"
#include "trainer/step.h"

enum { PROMPT = 512, SHORT_PROMPT = 8, GENERATED = 64, ROWS = 4, RANK = 16 };
static const double enough_seconds = 3;  // after so long, no repetition is begun

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int32_t *random_ids(int64_t count, const Model *model) {
  int32_t *ids = memory_new((size_t)count, sizeof *ids);
  Rng rng = rng_new(1, RNG_STREAM_TEST);
  for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)rng_below(&rng, (uint64_t)model->config.vocabulary);
  return ids;
}

// 2 flop for each weight of a layer's matrices, and the head's where logits are wanted.
static void count_flop(ModelRates *rates, const Model *model) {
  double layers = 0, adapters = 0, head = (double)model->head.weight.rows * (double)model->head.weight.columns;
  for (int i = 0; i < model->linear_count; i++) {
    const Matrix *w = &model->linears[i]->weight;
    layers += (double)w->rows * (double)w->columns;
    adapters += RANK * (double)(w->rows + w->columns);
  }
  rates->prompt_flop = 2 * layers + 2 * head / (double)rates->prompt_tokens;
  rates->generation_flop = 2 * layers + 2 * head;
  // Forward and the gradient of the input; the adapter's small products also have the gradient of their weights.
  rates->train_flop = 4 * (layers + head) + 6 * adapters;
}

static void take_usage(FinishReason reason, const EngineUsage *usage, Status status, const char *message, void *context) {
  (void)reason;
  (void)status;
  (void)message;
  *(EngineUsage *)context = *usage;
}

// One text alone.
static Status run_text(EngineUsage *usage, Engine *engine, const int32_t *ids, int64_t prompt, int64_t written) {
  EngineRequest request = {.prompt = ids,
                           .prompt_count = prompt,
                           .max_tokens = written,
                           .sampling = {.top_p = 1, .repetition_penalty = 1},
                           .adapter = -1,
                           .ignores_end = true,
                           .reader = {.end = take_usage, .context = usage}};
  int64_t number;
  TRY(engine_submit(&number, engine, &request));
  return engine_run(engine);
}

// The best of up to three passes after one that plans and warms.
static Status bench_texts(ModelRates *rates, Engine *engine, int32_t *ids, int64_t prompt, int64_t written) {
  double begin = 0;
  for (int i = 0; i < 4 && (i < 2 || time_seconds() - begin < enough_seconds); i++) {
    EngineUsage usage;
    ids[0] = i;  // a prompt that no text before has begun with
    TRY(run_text(&usage, engine, ids, prompt, written));
    if (i == 0) begin = time_seconds();
    if (i == 0) continue;
    double reading = (double)prompt / usage.prompt_seconds, writing = (double)(written - 1) / usage.seconds;
    if (written == 1 && reading > rates->prompt) rates->prompt = reading;
    if (written > 1 && writing > rates->generation) rates->generation = writing;
  }
  return STATUS_OK;
}

static Status bench_engine(ModelRates *rates, const Model *model, int32_t *ids, int64_t prompt, int64_t written) {
  Engine *engine;
  EngineOptions options = {.context = prompt + written, .parallel = 1, .cache_type = PAGES_F16};
  TRY(engine_new(&engine, model, options));
  Status status = bench_texts(rates, engine, ids, prompt, written);
  engine_free(engine);
  return status;
}

static Status bench_reading_and_writing(ModelRates *rates, const Model *model, int32_t *ids) {
  TRY(bench_engine(rates, model, ids, rates->prompt_tokens, 1));
  // The first token comes with the prompt.
  int64_t prompt = smaller(SHORT_PROMPT, larger(1, model->config.context_length - rates->generated_tokens));
  return bench_engine(rates, model, ids, prompt, rates->generated_tokens + 1);
}

typedef struct Trainee {
  Model *model;
  Adapter *adapter;
  Optimizer *optimizer;
  Step step;
  Batch batch;
} Trainee;

// One optimiser step over the batch.
static Status train_once(Trainee *trainee, uint64_t number) {
  Backend *backend = trainee->model->backend;
  Adapter *adapter = trainee->adapter;
  double nll;
  OptimizerReport report;
  backend->kernels->fill(adapter->gradient, 0, adapter->size, backend);
  float scale = (float)(1.0 / (double)trainee->batch.trained_tokens);
  step_seed(&trainee->step, 1, number);
  TRY(step_run(&trainee->step, &trainee->batch, TAPE_TRAIN, scale));
  TRY(step_loss(&nll, &trainee->step));
  return optimizer_step(trainee->optimizer, adapter->data, adapter->gradient, 2e-4, nll * scale, &report);
}

// ROWS rows, every token labelled.
static Status fill_batch(Batch *batch, const int32_t *ids, int64_t length) {
  RowSet rows = {0};
  for (int64_t i = 0; i < ROWS; i++) row_set_add(&rows, ids + i * length, ids + i * length, length, "");
  BatchPlan plan;
  Status status = batch_plan_create(&plan, &rows, &(BatchOptions){.in_order = true, .micro_batch_size = ROWS}, 0);
  if (status == STATUS_OK) {
    batch_reserve(batch, &plan);
    batch_fill(batch, &plan, 0);
    batch_plan_release(&plan);
  }
  row_set_release(&rows);
  return status;
}

static Status open_trainee(Trainee *trainee, const int32_t *ids, int64_t length) {
  Model *model = trainee->model;
  TRY(fill_batch(&trainee->batch, ids, length));
  AdapterSettings settings = {.rank = RANK, .alpha = 2 * RANK, .all_linear = true, .seed = 1};
  TRY(adapter_create(&trainee->adapter, model, &settings));
  const OptimizerMethod *method;
  TRY(optimizer_find(&method, NULL, NULL));
  OptimizerSettings optimizer = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
  ParameterTensor all = {.rows = 1, .columns = trainee->adapter->size, .rate_multiplier = 1};
  TRY(optimizer_new(&trainee->optimizer, method, optimizer, &all, 1, model->backend));
  double flops;
  FloatType fastest = peak_fastest(&flops, model->backend);
  step_new(&trainee->step, model, fastest, CHECKPOINT_AUTO, (int64_t)(0.8 * (double)model->backend->available_bytes(model->backend)));
  return step_reserve(&trainee->step, &trainee->batch, TAPE_TRAIN);
}

static Status bench_training(ModelRates *rates, Trainee *trainee) {
  enum { STEPS = 3 };
  TRY(train_once(trainee, 0));
  double start = time_seconds();
  int64_t steps = 0;
  while (steps < STEPS && (steps == 0 || time_seconds() - start < 2 * enough_seconds)) TRY(train_once(trainee, (uint64_t)++steps));
  rates->train = (double)(steps * trainee->batch.tokens) / (time_seconds() - start);
  return STATUS_OK;
}

static void close_trainee(Trainee *trainee) {
  if (trainee->step.model) step_free(&trainee->step);
  optimizer_free(trainee->optimizer);
  if (trainee->adapter) adapter_close(trainee->adapter);
  batch_release(&trainee->batch);
}

Status bench_model(ModelRates *rates, Model *model, bool trains) {
  int64_t context = model->config.context_length;
  *rates = (ModelRates){.prompt_tokens = smaller(PROMPT, context), .generated_tokens = smaller(GENERATED, context - 1)};
  if (context < 2) return status_fail(STATUS_BAD_INPUT, "%s: a context of %lld tokens is too short", model->path, (long long)context);
  rates->train_tokens = ROWS * rates->prompt_tokens;
  count_flop(rates, model);
  int32_t *ids = random_ids(rates->train_tokens, model);
  Trainee trainee = {.model = model};
  Status status = bench_reading_and_writing(rates, model, ids);
  if (status == STATUS_OK && trains) status = open_trainee(&trainee, ids, rates->prompt_tokens);
  if (status == STATUS_OK && trains) status = bench_training(rates, &trainee);
  rates->peak_bytes = model->backend->peak_bytes(model->backend);
  close_trainee(&trainee);
  free(ids);
  return status;
}
