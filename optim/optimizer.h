// The optimiser: all trainable parameters of a run lie in one flat float32 buffer, and their gradients in another of
// the same length; groups are ranges of both with their own weight decay and learning rate. A step is
//   norm = sqrt(sum of all g^2),  c = min(1, max_grad_norm / (norm + 1e-6)),  p <- method(p, c g, rate, state)
// with clipping as torch.nn.utils.clip_grad_norm_ does it. When the loss or the norm is NaN or infinite, nothing is
// touched: the step is skipped and counted, and too many in a row stop the run (STATUS_GUARD).
#ifndef OPTIM_OPTIMIZER_H
#define OPTIM_OPTIMIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"
#include "kernels/backend.h"
#include "optim/loss_scale.h"

// Elements begin .. end-1 of the flat buffers.
typedef struct ParameterGroup {
  int64_t begin, end;
  double weight_decay;
  double rate_multiplier;  // of the step's learning rate
} ParameterGroup;

typedef struct OptimizerSettings {
  double beta1, beta2, epsilon;
  double max_grad_norm;  // 0: no clipping
  int skip_limit;  // so many skipped steps in a row stop the run; 0: OPTIMIZER_SKIP_LIMIT
} OptimizerSettings;

enum { OPTIMIZER_SKIP_LIMIT = 10, OPTIMIZER_STATE_LIMIT = 4 };

typedef struct Optimizer Optimizer;

typedef enum OptimizerStateKind {
  STATE_FLOATS,  // float32, one a parameter
  STATE_CODES,  // bytes, one a parameter
  STATE_SCALES,  // float32, one for every MOMENT_BLOCK parameters (kernels/adamw_8bit.h); each group begins a block of its own
} OptimizerStateKind;

typedef struct OptimizerState {
  const char *name;  // as a checkpoint calls it
  OptimizerStateKind kind;
} OptimizerState;

// A method is its state, buffers that start as zero bytes, and its update of one group.
typedef struct OptimizerMethod {
  const char *name;
  int state_count;
  OptimizerState states[OPTIMIZER_STATE_LIMIT];
  void (*step)(Optimizer *optimizer, float *parameters, const float *gradients, const ParameterGroup *group, double learning_rate,
               double gradient_scale);
} OptimizerMethod;

struct Optimizer {
  const OptimizerMethod *method;
  OptimizerSettings settings;
  int64_t count;  // of parameters
  ParameterGroup *groups;
  int group_count;
  void *state[OPTIMIZER_STATE_LIMIT];  // [optimizer_state_length], the device's
  Backend *backend;
  // What a checkpoint keeps beside the buffers:
  LossScale loss_scale;  // the gradients' factor, which a step takes off; 1 unless the run sets another
  int64_t updates;  // steps applied, which skipped ones are not
  int64_t skipped;  // in the whole run
  int64_t skipped_in_row;  // just now
};

// What a step did.
typedef struct OptimizerReport {
  double gradient_norm;  // before clipping, without the loss's factor; NaN or infinite when that is why the step was skipped
  double gradient_scale;  // 1 when nothing was clipped
  bool skipped;
  bool overflowed;  // skipped for a factor of the loss that was too large, and is smaller now; not counted
} OptimizerReport;

// The method that a recipe's `optimizer` names; NULL is adamw_torch_fused. `notice` (may be NULL) gets a sentence for the
// user where the name asks for something that this program does in another way, else NULL. STATUS_USAGE for a
// name that is not built.
Status optimizer_find(const OptimizerMethod **method, const char **notice, const char *name);

// Groups are copied; together they must be [0, count), in order. STATUS_NO_SPACE.
Status optimizer_new(Optimizer **out, const OptimizerMethod *method, OptimizerSettings settings, int64_t count,
                     const ParameterGroup *groups, int group_count, Backend *backend);
void optimizer_free(Optimizer *optimizer);

int64_t optimizer_state_length(const Optimizer *optimizer, int index);  // in elements of its kind
int64_t optimizer_state_bytes(const Optimizer *optimizer);  // of all
int64_t optimizer_first_block(const Optimizer *optimizer,
                              const ParameterGroup *group);  // of one of the optimiser's groups, in STATE_SCALES

// One step on the device's parameters [count] f32 with gradients [count] f32, which are left as they are. `loss` is
// that of the step and only looked at for NaN and Inf. STATUS_GUARD when this was the skip_limit-th skipped step in a row.
Status optimizer_step(Optimizer *optimizer, float *parameters, const float *gradients, double learning_rate, double loss,
                      OptimizerReport *report);

#endif
