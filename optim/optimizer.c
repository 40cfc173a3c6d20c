// Clipping, guarding and the ranges of tensors, which all methods share. Methods are in files of their own, their names in names.c.
#include "optim/optimizer.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "kernels/adamw_8bit.h"

// Whether a tensor goes on where the range before it ends: of the same settings, and of a method that does not care for shapes.
static bool is_joined(const OptimizerMethod *method, const ParameterRange *range, const ParameterTensor *tensor) {
  return !method->by_tensor && range->weight_decay == tensor->weight_decay && range->rate_multiplier == tensor->rate_multiplier;
}

// Ranges of all tensors that hold anything, as far as they are in begin .. end - 1 of the flat buffers; a vector, and what is joined, is
// one row. A part of a tensor is a vector.
static void ranges_new(Optimizer *optimizer, const ParameterTensor *tensors, int tensor_count, int64_t first, int64_t last) {
  ParameterRange *ranges = optimizer->ranges = memory_new((size_t)tensor_count + 1, sizeof *ranges);
  int count = 0;
  for (int i = 0; i < tensor_count; i++) {
    const ParameterTensor *t = &tensors[i];
    int64_t from = optimizer->whole > first ? optimizer->whole : first;
    optimizer->whole += t->rows * t->columns;
    int64_t size = (optimizer->whole < last ? optimizer->whole : last) - from, begin = optimizer->count;
    if (size <= 0) continue;
    optimizer->count += size;
    if (count > 0 && is_joined(optimizer->method, &ranges[count - 1], t)) {
      ranges[count - 1].end += size, ranges[count - 1].columns += size;
      continue;
    }
    bool is_plane = optimizer->method->by_tensor && t->rows > 1 && t->columns > 1;
    ranges[count++] = (ParameterRange){.begin = begin,
                                       .end = begin + size,
                                       .rows = is_plane ? t->rows : 1,
                                       .columns = is_plane ? t->columns : size,
                                       .weight_decay = t->weight_decay,
                                       .rate_multiplier = t->rate_multiplier,
                                       .is_matrix = is_plane && !t->by_element};
  }
  optimizer->range_count = count;
  // One more behind the last says where states end.
  for (int i = 0; i < count; i++) {
    const ParameterRange *r = &ranges[i];
    ranges[i + 1].first_block = r->first_block + moment_blocks(r->end - r->begin);
    ranges[i + 1].first_row = r->first_row + r->rows;
    ranges[i + 1].first_column = r->first_column + r->columns;
    ranges[i + 1].first_other = r->first_other + (r->is_matrix ? 0 : r->end - r->begin);
  }
}

int64_t optimizer_state_length(const Optimizer *optimizer, int index) {
  const ParameterRange *end = &optimizer->ranges[optimizer->range_count];
  switch (optimizer->method->states[index].kind) {
    case STATE_FLOATS:
    case STATE_CODES: return optimizer->count;
    case STATE_SCALES: return end->first_block;
    case STATE_ROWS: return end->first_row;
    case STATE_COLUMNS: return end->first_column;
    case STATE_OTHERS: return end->first_other;
  }
  return 0;
}

static int64_t state_bytes(const Optimizer *optimizer, int index) {
  int64_t size = optimizer->method->states[index].kind == STATE_CODES ? 1 : (int64_t)sizeof(float);
  return optimizer_state_length(optimizer, index) * size;
}

static int64_t scratch_bytes(const Optimizer *optimizer) {
  return optimizer->method->scratch_floats ? optimizer->method->scratch_floats(optimizer) * (int64_t)sizeof(float) : 0;
}

int64_t optimizer_state_bytes(const Optimizer *optimizer) {
  int64_t bytes = scratch_bytes(optimizer);
  for (int i = 0; i < optimizer->method->state_count; i++) bytes += state_bytes(optimizer, i);
  return bytes;
}

// Codes are filled as floats, so that a buffer is as long as whole ones.
static Status state_new(Optimizer *optimizer, int index) {
  Backend *backend = optimizer->backend;
  int64_t floats = (state_bytes(optimizer, index) + (int64_t)sizeof(float) - 1) / (int64_t)sizeof(float);
  if (floats == 0) return STATUS_OK;
  TRY(backend->allocate(&optimizer->state[index], floats * (int64_t)sizeof(float), "the optimiser's state", backend));
  backend->kernels->fill(optimizer->state[index], 0, floats, backend);
  return STATUS_OK;
}

static Status buffers_new(Optimizer *optimizer) {
  for (int i = 0; i < optimizer->method->state_count; i++) TRY(state_new(optimizer, i));
  int64_t bytes = scratch_bytes(optimizer);
  if (bytes == 0) return STATUS_OK;
  return optimizer->backend->allocate((void **)&optimizer->scratch, bytes, "the optimiser's scratch", optimizer->backend);
}

Status optimizer_new(Optimizer **out, const OptimizerMethod *method, OptimizerSettings settings, const ParameterTensor *tensors,
                     int tensor_count, Backend *backend) {
  return optimizer_new_part(out, method, settings, tensors, tensor_count, 0, INT64_MAX, backend);
}

bool optimizer_can_be_divided(const OptimizerMethod *method) {
  bool all_floats = !method->by_tensor && !method->show_average;
  for (int i = 0; i < method->state_count; i++) all_floats &= method->states[i].kind == STATE_FLOATS;
  return all_floats;
}

Status optimizer_new_part(Optimizer **out, const OptimizerMethod *method, OptimizerSettings settings, const ParameterTensor *tensors,
                          int tensor_count, int64_t first, int64_t last, Backend *backend) {
  Optimizer *optimizer = memory_new(1, sizeof *optimizer);
  *optimizer = (Optimizer){.method = method, .settings = settings, .first = first, .backend = backend};
  optimizer->loss_scale = loss_scale_new(false);
  if (settings.skip_limit <= 0) optimizer->settings.skip_limit = OPTIMIZER_SKIP_LIMIT;
  ranges_new(optimizer, tensors, tensor_count, first, last);
  Status status = buffers_new(optimizer);
  if (status == STATUS_OK) *out = optimizer;
  else optimizer_free(optimizer);
  return status;
}

void optimizer_free(Optimizer *optimizer) {
  if (!optimizer) return;
  for (int i = 0; i < optimizer->method->state_count; i++)
    if (optimizer->state[i]) optimizer->backend->release(optimizer->state[i], optimizer->backend);
  if (optimizer->scratch) optimizer->backend->release(optimizer->scratch, optimizer->backend);
  free(optimizer->ranges);
  free(optimizer);
}

void optimizer_set_momentum(Optimizer *optimizer, double momentum) {
  if (optimizer->method->momentum == MOMENTUM_BETA1) optimizer->settings.beta1 = momentum;
  else if (optimizer->method->momentum == MOMENTUM_MOMENTUM) optimizer->settings.momentum = momentum;
}

// The scratch of such a method keeps what was there before.
void optimizer_show_average(Optimizer *optimizer, float *parameters) {
  if (!optimizer->method->show_average || optimizer->shows_average) return;
  optimizer->backend->kernels->copy(optimizer->scratch, parameters, optimizer->count, optimizer->backend);
  optimizer->method->show_average(optimizer, parameters);
  optimizer->shows_average = true;
}

void optimizer_show_training(Optimizer *optimizer, float *parameters) {
  if (!optimizer->shows_average) return;
  optimizer->backend->kernels->copy(parameters, optimizer->scratch, optimizer->count, optimizer->backend);
  optimizer->shows_average = false;
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
  double norm = factor * sqrt(backend->kernels->sum_of_squares(gradients, optimizer->whole, backend));
  double limit = optimizer->settings.max_grad_norm, scale = 1;
  if (limit > 0 && limit / (norm + 1e-6) < 1) scale = limit / (norm + 1e-6);
  assert(!optimizer->shows_average);
  *report = (OptimizerReport){.gradient_norm = norm, .gradient_scale = scale};
  report->skipped = !isfinite(loss) || !(norm * scale < largest_square_root);
  report->overflowed = loss_scale_update(&optimizer->loss_scale, !report->skipped) && isfinite(loss);
  if (report->overflowed) return STATUS_OK;
  if (report->skipped) return step_skip(optimizer, loss, norm);
  optimizer->skipped_in_row = 0;
  optimizer->updates++;
  if (optimizer->method->begin_step) optimizer->method->begin_step(optimizer, learning_rate);
  for (int i = 0; i < optimizer->range_count; i++) {
    const ParameterRange *range = &optimizer->ranges[i];
    optimizer->method->step(optimizer, parameters + optimizer->first, gradients + optimizer->first, range,
                            learning_rate * range->rate_multiplier, scale * factor);
  }
  return STATUS_OK;
}
