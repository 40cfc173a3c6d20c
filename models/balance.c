// The sums lie on the device as one block [layers with experts][2][experts] f32 (Kernels.router_forward), and are read once a step.
#include "models/balance.h"

#include <math.h>

static int64_t layer_floats(const Model *model) { return 2 * model->config.experts; }

Status model_balance_open(Model *model) {
  int64_t sparse = 0;
  for (int64_t i = 0; i < model->config.layers; i++) sparse += model->layers[i].kind->is_sparse;
  if (sparse == 0 || model->balance) return STATUS_OK;
  model->balance_floats = sparse * layer_floats(model);
  void *block;
  TRY(model->backend->allocate(&block, model->balance_floats * (int64_t)sizeof(float), "counts of routed tokens", model->backend));
  model->balance = block;
  model->balance_read = arena_new(&model->arena, (size_t)model->balance_floats, sizeof *model->balance_read);
  model_balance_count(model, true);
  model_balance_clear(model);
  return STATUS_OK;
}

void model_balance_count(Model *model, bool on) {
  if (!model->balance) return;
  float *totals = model->balance;
  for (int64_t i = 0; i < model->config.layers; i++) {
    if (!model->layers[i].kind->is_sparse) continue;
    model->layers[i].experts.totals = on ? totals : NULL;
    totals += layer_floats(model);
  }
}

void model_balance_clear(Model *model) {
  if (model->balance) model->backend->kernels->fill(model->balance, 0, model->balance_floats, model->backend);
}

double model_balance_loss(Model *model) {
  if (!model->balance) return NAN;
  model->backend->download(model->balance_read, model->balance, model->balance_floats * (int64_t)sizeof(float), model->backend);
  int64_t experts = model->config.experts, layers = model->balance_floats / layer_floats(model);
  double loss = 0;
  for (int64_t e = 0; e < experts; e++) {
    double share = 0, probability = 0;
    for (int64_t l = 0; l < layers; l++) {
      const float *counts = model->balance_read + l * layer_floats(model), *scores = counts + experts;
      double tokens = 0;
      for (int64_t other = 0; other < experts; other++) tokens += counts[other];
      tokens /= (double)model->config.experts_used;
      share += counts[e] / tokens;
      probability += scores[e] / tokens;
    }
    loss += share / (double)layers * probability / (double)layers;
  }
  return loss * (double)experts;
}
