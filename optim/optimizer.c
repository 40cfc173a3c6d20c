// Clipping, guarding and grouping, which all methods share, and the table of spellings. Methods are in files of their own.
#include "optim/optimizer.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/text.h"
#include "kernels/adamw_8bit.h"
#include "optim/adamw.h"

static const char float_state[] =
    "moments are kept in float32 here, neither in 4 bits nor in fp8; optimizer: adamw_8bit keeps them in 8 bits";
static const char unpaged_state[] = "moments are not paged here: they stay in the device's memory";

// Every spelling that recipes use: transformers' OptimizerNames and Axolotl's own.
static const struct {
  const char *name;
  const OptimizerMethod *method;
  const char *notice;
} spellings[] = {
    {"adamw_torch_fused", &optimizer_adamw, NULL},
    {"adamw_torch", &optimizer_adamw, NULL},
    {"adamw_torch_xla", &optimizer_adamw, NULL},
    {"adamw_torch_npu_fused", &optimizer_adamw, NULL},
    {"adamw_apex_fused", &optimizer_adamw, NULL},
    {"adamw_anyprecision", &optimizer_adamw, NULL},
    {"adamw_hf", &optimizer_adamw, NULL},
    {"optimi_adamw", &optimizer_adamw, NULL},
    {"paged_adamw", &optimizer_adamw, unpaged_state},
    {"paged_adamw_32bit", &optimizer_adamw, unpaged_state},
    {"adamw_bnb_8bit", &optimizer_adamw_8bit, NULL},
    {"adamw_8bit", &optimizer_adamw_8bit, NULL},
    {"adamw_torch_8bit", &optimizer_adamw_8bit, NULL},
    {"ao_adamw_8bit", &optimizer_adamw_8bit, NULL},
    {"paged_adamw_8bit", &optimizer_adamw_8bit, unpaged_state},
    {"adamw_torch_4bit", &optimizer_adamw, float_state},
    {"ao_adamw_4bit", &optimizer_adamw, float_state},
    {"ao_adamw_fp8", &optimizer_adamw, float_state},
    {"flash_adamw", &optimizer_adamw, float_state},
};
enum { SPELLING_COUNT = sizeof spellings / sizeof *spellings };

Status optimizer_find(const OptimizerMethod **method, const char **notice, const char *name) {
  const char *names[SPELLING_COUNT];
  for (int i = 0; i < SPELLING_COUNT; i++) {
    names[i] = spellings[i].name;
    if (name && strcmp(names[i], name) != 0) continue;  // no name at all is the first
    *method = spellings[i].method;
    if (notice) *notice = spellings[i].notice;
    return STATUS_OK;
  }
  const char *nearest = nearest_name(name, names, SPELLING_COUNT);
  return status_fail(STATUS_USAGE, "optimizer: '%s' is not built; use %s", name, nearest ? nearest : names[0]);
}

static inline bool groups_cover(const Optimizer *optimizer) {
  int64_t end = 0;
  for (int i = 0; i < optimizer->group_count; i++) {
    if (optimizer->groups[i].begin != end || optimizer->groups[i].end < end) return false;
    end = optimizer->groups[i].end;
  }
  return end == optimizer->count;
}

int64_t optimizer_first_block(const Optimizer *optimizer, const ParameterGroup *group) {
  int64_t blocks = 0;
  for (const ParameterGroup *g = optimizer->groups; g != group; g++) blocks += moment_blocks(g->end - g->begin);
  return blocks;
}

int64_t optimizer_state_length(const Optimizer *optimizer, int index) {
  bool is_each = optimizer->method->states[index].kind != STATE_SCALES;
  return is_each ? optimizer->count : optimizer_first_block(optimizer, optimizer->groups + optimizer->group_count);
}

static int64_t state_bytes(const Optimizer *optimizer, int index) {
  int64_t size = optimizer->method->states[index].kind == STATE_CODES ? 1 : (int64_t)sizeof(float);
  return optimizer_state_length(optimizer, index) * size;
}

int64_t optimizer_state_bytes(const Optimizer *optimizer) {
  int64_t bytes = 0;
  for (int i = 0; i < optimizer->method->state_count; i++) bytes += state_bytes(optimizer, i);
  return bytes;
}

// Codes are filled as floats, so that a buffer is as long as whole ones.
static Status state_new(Optimizer *optimizer, int index) {
  Backend *backend = optimizer->backend;
  int64_t floats = (state_bytes(optimizer, index) + (int64_t)sizeof(float) - 1) / (int64_t)sizeof(float);
  TRY(backend->allocate(&optimizer->state[index], floats * (int64_t)sizeof(float), "the optimiser's state", backend));
  backend->kernels->fill(optimizer->state[index], 0, floats, backend);
  return STATUS_OK;
}

Status optimizer_new(Optimizer **out, const OptimizerMethod *method, OptimizerSettings settings, int64_t count,
                     const ParameterGroup *groups, int group_count, Backend *backend) {
  Optimizer *optimizer = memory_new(1, sizeof *optimizer);
  *optimizer = (Optimizer){.method = method, .settings = settings, .count = count, .group_count = group_count, .backend = backend};
  optimizer->loss_scale = loss_scale_new(false);
  if (settings.skip_limit <= 0) optimizer->settings.skip_limit = OPTIMIZER_SKIP_LIMIT;
  optimizer->groups = memory_new((size_t)group_count, sizeof *groups);
  memcpy(optimizer->groups, groups, (size_t)group_count * sizeof *groups);
  assert(groups_cover(optimizer));
  for (int i = 0; i < method->state_count; i++) {
    Status status = state_new(optimizer, i);
    if (status != STATUS_OK) {
      optimizer_free(optimizer);
      return status;
    }
  }
  *out = optimizer;
  return STATUS_OK;
}

void optimizer_free(Optimizer *optimizer) {
  if (!optimizer) return;
  for (int i = 0; i < optimizer->method->state_count; i++)
    if (optimizer->state[i]) optimizer->backend->release(optimizer->state[i], optimizer->backend);
  free(optimizer->groups);
  free(optimizer);
}

static Status step_skip(Optimizer *optimizer, double loss, double norm) {
  optimizer->skipped++;
  optimizer->skipped_in_row++;
  if (optimizer->skipped_in_row < optimizer->settings.skip_limit) return STATUS_OK;
  return status_fail(STATUS_GUARD,
                     "%lld steps in a row had to be skipped (loss %g, gradient norm %g): training has diverged; "
                     "lower learning_rate, or set max_grad_norm, and go on from the last checkpoint",
                     (long long)optimizer->skipped_in_row, loss, norm);
}

Status optimizer_step(Optimizer *optimizer, float *parameters, const float *gradients, double learning_rate, double loss,
                      OptimizerReport *report) {
  const double largest_square_root = 1.8e19;  // beyond it a second moment would overflow float32, and stay infinite
  Backend *backend = optimizer->backend;
  double factor = 1 / optimizer->loss_scale.value;
  double norm = factor * sqrt(backend->kernels->sum_of_squares(gradients, optimizer->count, backend));
  double limit = optimizer->settings.max_grad_norm, scale = 1;
  if (limit > 0 && limit / (norm + 1e-6) < 1) scale = limit / (norm + 1e-6);
  *report = (OptimizerReport){.gradient_norm = norm, .gradient_scale = scale};
  report->skipped = !isfinite(loss) || !(norm * scale < largest_square_root);
  report->overflowed = loss_scale_update(&optimizer->loss_scale, !report->skipped) && isfinite(loss);
  if (report->overflowed) return STATUS_OK;
  if (report->skipped) return step_skip(optimizer, loss, norm);
  optimizer->skipped_in_row = 0;
  optimizer->updates++;
  for (int i = 0; i < optimizer->group_count; i++) {
    const ParameterGroup *group = &optimizer->groups[i];
    if (group->begin == group->end) continue;
    optimizer->method->step(optimizer, parameters, gradients, group, learning_rate * group->rate_multiplier, scale * factor);
  }
  return STATUS_OK;
}
