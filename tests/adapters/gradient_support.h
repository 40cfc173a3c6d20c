// A model with a new adapter through whole steps: its loss and gradients, and each gradient against finite differences.
#ifndef TESTS_ADAPTERS_GRADIENT_SUPPORT_H
#define TESTS_ADAPTERS_GRADIENT_SUPPORT_H

#include <math.h>

#include "adapters/adapter.h"
#include "tests/support/golden.h"

enum { TOKENS = 48, DOCUMENTS = 3 };

typedef struct Fixture {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  int32_t ids[TOKENS], positions[TOKENS], rows[TOKENS], targets[TOKENS];
  AttentionSpan spans[DOCUMENTS];
  int64_t labelled;
} Fixture;

// A model on the CPU with a new adapter, whose B is random as after training, and labelled documents, in which trained tokens are met.
static void open_fixture_of(Fixture *f, const char *path, int threads, const AdapterSettings *settings) {
  *f = (Fixture){0};
  assert_ok(backend_new(&f->backend, "cpu", threads));
  assert_ok(model_open(&f->model, path, (ModelOptions){0}, f->backend));
  assert_ok(adapter_create(&f->adapter, f->model, settings));
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  for (int i = 0; i < f->adapter->count; i++) {
    Parameter *b = &f->adapter->pairs[i].b;
    fill_normal(b->data, b->rows * b->columns, 0.05, &rng);
    Parameter *a = &f->adapter->pairs[i].a;  // of the embedding it begins at zero
    if (f->adapter->linears[i] == &f->model->embedding) fill_normal(a->data, a->rows * a->columns, 0.5, &rng);
  }
  const int64_t begins[DOCUMENTS + 1] = {0, 5, 22, TOKENS};
  for (int d = 0; d < DOCUMENTS; d++) {
    f->spans[d] = (AttentionSpan){begins[d], begins[d + 1], begins[d], begins[d + 1]};
    for (int64_t i = begins[d]; i < begins[d + 1]; i++) {
      f->ids[i] = (int32_t)rng_below(&rng, (uint64_t)f->model->config.vocabulary);
      if (settings->token_count && i % 4 == 1) f->ids[i] = settings->tokens[i / 4 % settings->token_count];
      f->positions[i] = (int32_t)(i - begins[d]);
      if (i % 3 == 0) continue;
      f->rows[f->labelled] = (int32_t)i;
      f->targets[f->labelled++] = (int32_t)rng_below(&rng, (uint64_t)f->model->config.vocabulary);
      if (settings->token_count && i % 4 == 2) f->targets[f->labelled - 1] = settings->tokens[i / 4 % settings->token_count];
    }
  }
}

static void close_fixture(Fixture *f) {
  adapter_close(f->adapter);
  model_close(f->model);
  backend_free(f->backend);
}

// The sum of -log p; with `train` the gradients are set to its own. *bytes (may be NULL): the step's planned memory.
static double run(Fixture *f, bool train, int checkpointed, int64_t *bytes) {
  Tape tape;
  tape_new(&tape, f->backend);
  tape_begin(&tape, train ? TAPE_TRAIN : TAPE_FORWARD);
  tape.dropout_seed = 5;
  DecoderInput input = {.ids = f->ids,
                        .positions = f->positions,
                        .tokens = TOKENS,
                        .spans = f->spans,
                        .span_count = DOCUMENTS,
                        .rows = f->rows,
                        .row_count = f->labelled};
  Tensor *hidden = decoder_hidden(&tape, f->model, &input);
  Tensor *loss = decoder_loss(&tape, f->model, hidden, tape_input(&tape, f->targets, f->labelled, 1), (LossGradient){.scale = 1});
  tape_plan(&tape, checkpointed);
  if (bytes) *bytes = tape_plan_bytes(&tape);
  assert_ok(tape_reserve(&tape));
  if (train) f->backend->kernels->fill(f->adapter->gradient, 0, f->adapter->size, f->backend);
  tape_forward(&tape);  // which gives a head its gradient
  if (train) tape_backward(&tape);
  float nll[TOKENS];
  tape_read(nll, &tape, loss);
  double sum = 0;
  for (int64_t i = 0; i < f->labelled; i++) sum += nll[i];
  tape_free(&tape);
  return sum;
}

static void check_parameter(Fixture *f, Parameter *parameter, const char *name, Rng *rng) {
  int64_t count = parameter->rows * parameter->columns;
  float *saved = memory_new((size_t)count, sizeof *saved), *direction = memory_new((size_t)count, sizeof *direction);
  memcpy(saved, parameter->data, (size_t)count * sizeof *saved);
  // Along the gradient itself, with some noise: the change of the loss is then well above float32's rounding.
  double norm = 0, expected = 0, measured[2];
  for (int64_t i = 0; i < count; i++) norm += (double)parameter->gradient[i] * parameter->gradient[i];
  norm = sqrt(norm);
  if (!(norm > 0)) fail_msg("%s has no gradient", name);
  for (int64_t i = 0; i < count; i++) {
    direction[i] = (float)(parameter->gradient[i] / norm + 0.3 * rng_normal(rng) / sqrt((double)count));
    expected += (double)direction[i] * parameter->gradient[i];
  }
  // Where a router's choice changes on the way the loss jumps, and differences say nothing: then a smaller way is tried.
  double slope = NAN;
  bool is_close = false;
  float step = 4e-3f;
  for (int try = 0; try < (f->model->expert_matrix_count ? 4 : 1) && !is_close; try++, step /= 4) {
    for (int side = 0; side < 2; side++) {
      for (int64_t i = 0; i < count; i++) parameter->data[i] = saved[i] + (side ? -step : step) * direction[i];
      measured[side] = run(f, false, 0, NULL);
    }
    slope = (measured[0] - measured[1]) / (2 * (double)step);
    is_close = fabs(slope - expected) <= 0.01 * fabs(expected) + 2e-2;
  }
  memcpy(parameter->data, saved, (size_t)count * sizeof *saved);
  if (!is_close) fail_msg("%s: slope %g, gradient says %g", name, slope, expected);
  free(saved);
  free(direction);
}

#endif
