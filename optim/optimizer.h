// The optimiser: all trainable parameters of a run lie in one flat float32 buffer, and their gradients in another of
// the same length, tensor after tensor, each with its own weight decay and learning rate. A step is
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

// A tensor of the flat buffers, [rows, columns]; one with a single row or column is a vector.
typedef struct ParameterTensor {
  int64_t rows, columns;
  double weight_decay;
  double rate_multiplier;  // of the step's learning rate
  bool by_element;  // an embedding or the output layer: Muon, too, leaves it to AdamW
} ParameterTensor;

// What one call of a method's step is for: elements begin .. end-1 of the flat buffers. Methods that go element by element get neighbours
// of the same settings as one range of one row; those of matrices get each tensor, a vector as one row.
typedef struct ParameterRange {
  int64_t begin, end, rows, columns;
  double weight_decay, rate_multiplier;
  bool is_matrix;  // of at least two rows and columns, and not by_element
  int64_t first_block, first_row, first_column, first_other;  // where its states of these kinds begin
} ParameterRange;

typedef enum MatrixRate { MATRIX_RATE_SPECTRAL, MATRIX_RATE_RMS, MATRIX_RATE_PLAIN } MatrixRate;

// Of each method the fields that its row names; optimizer_defaults has the values that its library has.
typedef struct OptimizerSettings {
  double beta1, beta2, epsilon;  // AdamW, Lion (without epsilon), AdEMAMix, the schedule-free AdamW, Muon for what is no matrix
  double max_grad_norm;  // 0: no clipping
  int skip_limit;  // so many skipped steps in a row stop the run; 0: OPTIMIZER_SKIP_LIMIT
  double beta3, alpha, alpha_steps, beta3_steps;  // AdEMAMix; steps in which alpha and beta3 rise, 0: they are there at once
  double momentum, dampening;  // SGD, Muon
  bool nesterov;
  double root_decay, root_epsilon, rate_decay;  // RMSprop and Adagrad, which has the last and no root_decay
  double square_epsilon, scale_epsilon, clip_threshold, decay_rate;  // Adafactor
  bool scale_parameter, relative_step, warmup_init;
  double average_power, rate_power;  // the schedule-free AdamW: r and weight_lr_power
  int64_t warmup_steps;
  MatrixRate matrix_rate;  // Muon
} OptimizerSettings;

enum { OPTIMIZER_SKIP_LIMIT = 10, OPTIMIZER_STATE_LIMIT = 6 };

typedef struct Optimizer Optimizer;

typedef enum OptimizerStateKind {
  STATE_FLOATS,  // float32, one a parameter
  STATE_CODES,  // bytes, one a parameter
  STATE_SCALES,  // float32, one for every MOMENT_BLOCK parameters (kernels/adamw_8bit.h); each range begins a block of its own
  STATE_ROWS,  // float32, one a row of a range
  STATE_COLUMNS,  // float32, one a column of a range
  STATE_OTHERS,  // float32, one a parameter of ranges that are no matrices
} OptimizerStateKind;

typedef struct OptimizerState {
  const char *name;  // as a checkpoint calls it
  OptimizerStateKind kind;
} OptimizerState;

// The setting that a schedule may let go round with the rate (torch.optim.lr_scheduler.OneCycleLR).
typedef enum OptimizerMomentum { MOMENTUM_NONE, MOMENTUM_BETA1, MOMENTUM_MOMENTUM } OptimizerMomentum;

// A method is its state, buffers that start as zero bytes, and its update of one range.
typedef struct OptimizerMethod {
  const char *name;
  int state_count;
  OptimizerState states[OPTIMIZER_STATE_LIMIT];
  bool by_tensor;  // else neighbours of the same settings are one range
  OptimizerMomentum momentum;
  int64_t (*scratch_floats)(const Optimizer *optimizer);  // that a step works in; NULL: none
  void (*begin_step)(Optimizer *optimizer, double learning_rate);  // before the ranges of a step, after it was counted; NULL: nothing
  void (*step)(Optimizer *optimizer, float *parameters, const float *gradients, const ParameterRange *range, double learning_rate,
               double gradient_scale);
  void (*show_average)(Optimizer *optimizer, float *parameters);  // of a method whose result is not what it trains on; NULL: it is
} OptimizerMethod;

enum { OPTIMIZER_SCALARS = 2 };

struct Optimizer {
  const OptimizerMethod *method;
  OptimizerSettings settings;
  int64_t count;  // of parameters, and of states
  int64_t first, whole;  // of a part: where it begins in the flat buffers, and how long these are; else 0 and count
  ParameterRange *ranges;  // counted from `first`
  int range_count;
  void *state[OPTIMIZER_STATE_LIMIT];  // [optimizer_state_length], the device's
  float *scratch;  // the device's
  double average;  // of this step, the schedule-free AdamW's
  bool shows_average;
  Backend *backend;
  // What a checkpoint keeps beside the buffers:
  LossScale loss_scale;  // the gradients' factor, which a step takes off; 1 unless the run sets another
  int64_t updates;  // steps applied, which skipped ones are not
  int64_t skipped;  // in the whole run
  int64_t skipped_in_row;  // just now
  double scalars[OPTIMIZER_SCALARS];  // the method's own; begin as zero
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

// The settings of a method's own library, without clipping.
OptimizerSettings optimizer_defaults(const OptimizerMethod *method);

// Sets one of `optim_args`, by the name that the method's library or Trainer has for it. STATUS_USAGE for one that the method
// has not, which is named beside those that it has, or a value that does not read.
Status optimizer_set_argument(OptimizerSettings *settings, const OptimizerMethod *method, const char *name, const char *value);

// After all settings: the method that they ask for, which is another where SGD has momentum.
const OptimizerMethod *optimizer_settle(const OptimizerMethod *method, const OptimizerSettings *settings);

// Tensors are in the order of the flat buffers, and copied. STATUS_NO_SPACE.
Status optimizer_new(Optimizer **out, const OptimizerMethod *method, OptimizerSettings settings, const ParameterTensor *tensors,
                     int tensor_count, Backend *backend);
// One that has states for elements first .. last - 1 of the buffers alone, and updates those; the norm is of all. So ranks share the work
// (Rajbhandari et al. 2020, "ZeRO", stage 1). Of methods whose states are a float for each parameter.
Status optimizer_new_part(Optimizer **out, const OptimizerMethod *method, OptimizerSettings settings, const ParameterTensor *tensors,
                          int tensor_count, int64_t first, int64_t last, Backend *backend);
bool optimizer_can_be_divided(const OptimizerMethod *method);
void optimizer_free(Optimizer *optimizer);

int64_t optimizer_state_length(const Optimizer *optimizer, int index);  // in elements of its kind
int64_t optimizer_state_bytes(const Optimizer *optimizer);  // of all, and of the scratch

// One step on the device's parameters [count] f32 with gradients [count] f32, which are left as they are. `loss` is
// that of the step and only looked at for NaN and Inf. STATUS_GUARD when this was the skip_limit-th skipped step in a row.
Status optimizer_step(Optimizer *optimizer, float *parameters, const float *gradients, double learning_rate, double loss,
                      OptimizerReport *report);

// Lets the momentum (or beta1) of methods that have one be another from the next step on.
void optimizer_set_momentum(Optimizer *optimizer, double momentum);

// Of methods that train on other values than those that they are to be used with (schedule-free): puts the latter in place of the former,
// to be evaluated or written, and the former back, bit for bit. Both do nothing where it is so already, and for all other methods.
void optimizer_show_average(Optimizer *optimizer, float *parameters);
void optimizer_show_training(Optimizer *optimizer, float *parameters);

#endif
