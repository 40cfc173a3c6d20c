// Methods that go element by element: which rule of kernels/update.h each is, and its settings in a step.
//   Lion        lucidrains' lion-pytorch and bitsandbytes' Lion, which are the same
//   AdEMAMix    bitsandbytes'; alpha and beta3 rise over t_alpha and t_beta3 steps:
//               alpha_t = min(alpha t / t_alpha, alpha);  with l = ln beta,
//               beta3_t = min(exp(l1 l3 / ((1 - t/t_beta3) l3 + t/t_beta3 l1)), beta3)
//   SGD         torch.optim.SGD; its momentum begins as the first gradient, undamped
//   RMSprop     torch.optim.RMSprop and bitsandbytes', whose one state is without signs here where it is kept in 8 bits
//   Adagrad     torch.optim.Adagrad
//   schedule-free AdamW   schedulefree.AdamWScheduleFree: with rate_t = rate min(1, t / warmup), w_t = t^r (largest rate so far)^power, the
//               average moves by w_t / (w_1 + ... + w_t) of the way. Parameters are y; x = y + (1 - 1 / beta1) (z - y) is what is shown.
#include <math.h>

#include "optim/methods.h"

static UpdateSettings lion_settings(const Optimizer *optimizer) {
  return (UpdateSettings){.rule = UPDATE_LION, .beta1 = optimizer->settings.beta1, .beta2 = optimizer->settings.beta2};
}

static UpdateSettings ademamix_settings(const Optimizer *optimizer) {
  const OptimizerSettings *s = &optimizer->settings;
  double t = (double)optimizer->updates, alpha = s->alpha, beta3 = s->beta3;
  if (s->alpha_steps > 0) alpha = fmin(t * alpha / s->alpha_steps, alpha);
  if (s->beta3_steps > 0) {
    double l1 = log(s->beta1), l3 = log(s->beta3), share = t / s->beta3_steps;
    beta3 = fmin(exp(l1 * l3 / ((1 - share) * l3 + share * l1)), s->beta3);
  }
  return (UpdateSettings){.rule = UPDATE_ADEMAMIX,
                          .epsilon = s->epsilon,
                          .beta1 = s->beta1,
                          .beta2 = s->beta2,
                          .beta3 = beta3,
                          .alpha = alpha,
                          .correction1 = 1 - pow(s->beta1, t),
                          .correction2 = sqrt(1 - pow(s->beta2, t))};
}

static UpdateSettings sgd_settings(const Optimizer *optimizer) {
  (void)optimizer;
  return (UpdateSettings){.rule = UPDATE_GRADIENT};
}

static UpdateSettings sgd_momentum_settings(const Optimizer *optimizer) {
  const OptimizerSettings *s = &optimizer->settings;
  return (UpdateSettings){.rule = UPDATE_MOMENTUM,
                          .beta1 = s->momentum,
                          .gain = optimizer->updates == 1 ? 1 : 1 - s->dampening,
                          .direct = s->nesterov ? 1 : 0,
                          .through = s->nesterov ? s->momentum : 1};
}

static UpdateSettings rmsprop_settings(const Optimizer *optimizer) {
  const OptimizerSettings *s = &optimizer->settings;
  return (UpdateSettings){.rule = UPDATE_ROOT, .epsilon = s->root_epsilon, .beta2 = s->root_decay, .gain = 1 - s->root_decay};
}

static UpdateSettings adagrad_settings(const Optimizer *optimizer) {
  return (UpdateSettings){.rule = UPDATE_ROOT, .epsilon = optimizer->settings.root_epsilon, .beta2 = 1, .gain = 1};
}

static UpdateSettings schedule_free_settings(const Optimizer *optimizer) {
  const OptimizerSettings *s = &optimizer->settings;
  return (UpdateSettings){.rule = UPDATE_SCHEDULE_FREE,
                          .epsilon = s->epsilon,
                          .beta1 = s->beta1,
                          .beta2 = s->beta2,
                          .correction2 = sqrt(1 - pow(s->beta2, (double)optimizer->updates)),
                          .average = optimizer->average};
}

static void float_range(UpdateSettings settings, Optimizer *optimizer, float *parameters, const float *gradients,
                        const ParameterRange *range, double learning_rate, double gradient_scale) {
  float *states[UPDATE_STATES] = {0};
  int64_t begin = range->begin;
  for (int i = 0; i < optimizer->method->state_count; i++) states[i] = (float *)optimizer->state[i] + begin;
  settings.learning_rate = learning_rate, settings.gradient_scale = gradient_scale, settings.weight_decay = range->weight_decay;
  optimizer->backend->kernels->update(parameters + begin, states, gradients + begin, range->end - begin, settings, optimizer->backend);
}

// States are codes and scales, of one after the other.
static void coded_range(UpdateSettings settings, Optimizer *optimizer, float *parameters, const float *gradients,
                        const ParameterRange *range, double learning_rate, double gradient_scale) {
  uint8_t *codes[UPDATE_STATES] = {0};
  float *scales[UPDATE_STATES] = {0};
  int64_t begin = range->begin;
  for (int i = 0; i < optimizer->method->state_count / 2; i++) {
    codes[i] = (uint8_t *)optimizer->state[2 * i] + begin;
    scales[i] = (float *)optimizer->state[2 * i + 1] + range->first_block;
  }
  settings.learning_rate = learning_rate, settings.gradient_scale = gradient_scale, settings.weight_decay = range->weight_decay;
  optimizer->backend->kernels->update_8bit(parameters + begin, codes, scales, gradients + begin, range->end - begin, settings,
                                           optimizer->backend);
}

#define STEP(name, settings_of, range_step)                                                                                   \
  static void name(Optimizer *optimizer, float *parameters, const float *gradients, const ParameterRange *range, double rate, \
                   double gradient_scale) {                                                                                   \
    range_step(settings_of(optimizer), optimizer, parameters, gradients, range, rate, gradient_scale);                        \
  }
STEP(lion_step, lion_settings, float_range)
STEP(lion_8bit_step, lion_settings, coded_range)
STEP(ademamix_step, ademamix_settings, float_range)
STEP(ademamix_8bit_step, ademamix_settings, coded_range)
STEP(sgd_step, sgd_settings, float_range)
STEP(sgd_momentum_step, sgd_momentum_settings, float_range)
STEP(rmsprop_step, rmsprop_settings, float_range)
STEP(rmsprop_8bit_step, rmsprop_settings, coded_range)

static void adagrad_step(Optimizer *optimizer, float *parameters, const float *gradients, const ParameterRange *range, double rate,
                         double gradient_scale) {
  double slowed = rate / (1 + (double)(optimizer->updates - 1) * optimizer->settings.rate_decay);
  float_range(adagrad_settings(optimizer), optimizer, parameters, gradients, range, slowed, gradient_scale);
}

enum { SCALAR_WEIGHTS, SCALAR_LARGEST_RATE };  // of the schedule-free AdamW: the sum of w, and the largest rate so far

static double warmed_rate(const Optimizer *optimizer, double rate) {
  int64_t warmup = optimizer->settings.warmup_steps, t = optimizer->updates;
  return t <= warmup ? rate * ((double)t / (double)warmup) : rate;
}

static void schedule_free_begin(Optimizer *optimizer, double learning_rate) {
  double *weights = &optimizer->scalars[SCALAR_WEIGHTS], *largest = &optimizer->scalars[SCALAR_LARGEST_RATE];
  *largest = fmax(*largest, warmed_rate(optimizer, learning_rate));
  double weight = pow((double)optimizer->updates, optimizer->settings.average_power) * pow(*largest, optimizer->settings.rate_power);
  *weights += weight;
  optimizer->average = *weights > 0 ? weight / *weights : 0;
}

static void schedule_free_step(Optimizer *optimizer, float *parameters, const float *gradients, const ParameterRange *range, double rate,
                               double gradient_scale) {
  float_range(schedule_free_settings(optimizer), optimizer, parameters, gradients, range, warmed_rate(optimizer, rate), gradient_scale);
}

// The state is z - y, so x is near at hand.
static void schedule_free_show(Optimizer *optimizer, float *parameters) {
  float weight = (float)(1 - 1 / optimizer->settings.beta1);
  optimizer->backend->kernels->add(parameters, optimizer->state[0], weight, optimizer->count, optimizer->backend);
}

static int64_t kept_floats(const Optimizer *optimizer) { return optimizer->count; }

#define CODED(name) \
  {name "_codes", STATE_CODES}, { name "_scales", STATE_SCALES }

const OptimizerMethod optimizer_lion = {
    .name = "lion", .state_count = 1, .states = {{"m", STATE_FLOATS}}, .momentum = MOMENTUM_BETA1, .step = lion_step};
const OptimizerMethod optimizer_lion_8bit = {
    .name = "lion_8bit", .state_count = 2, .states = {CODED("m")}, .momentum = MOMENTUM_BETA1, .step = lion_8bit_step};
const OptimizerMethod optimizer_ademamix = {.name = "ademamix",
                                            .state_count = 3,
                                            .states = {{"m", STATE_FLOATS}, {"slow", STATE_FLOATS}, {"v", STATE_FLOATS}},
                                            .momentum = MOMENTUM_BETA1,
                                            .step = ademamix_step};
const OptimizerMethod optimizer_ademamix_8bit = {.name = "ademamix_8bit",
                                                 .state_count = 6,
                                                 .states = {CODED("m"), CODED("slow"), CODED("v")},
                                                 .momentum = MOMENTUM_BETA1,
                                                 .step = ademamix_8bit_step};
const OptimizerMethod optimizer_sgd = {.name = "sgd", .momentum = MOMENTUM_MOMENTUM, .step = sgd_step};
const OptimizerMethod optimizer_sgd_momentum = {
    .name = "sgd_momentum", .state_count = 1, .states = {{"m", STATE_FLOATS}}, .momentum = MOMENTUM_MOMENTUM, .step = sgd_momentum_step};
const OptimizerMethod optimizer_rmsprop = {.name = "rmsprop", .state_count = 1, .states = {{"v", STATE_FLOATS}}, .step = rmsprop_step};
const OptimizerMethod optimizer_rmsprop_8bit = {
    .name = "rmsprop_8bit", .state_count = 2, .states = {CODED("v")}, .step = rmsprop_8bit_step};
const OptimizerMethod optimizer_adagrad = {.name = "adagrad", .state_count = 1, .states = {{"v", STATE_FLOATS}}, .step = adagrad_step};
const OptimizerMethod optimizer_schedule_free = {.name = "schedule_free_adamw",
                                                 .state_count = 2,
                                                 .states = {{"z_from_y", STATE_FLOATS}, {"v", STATE_FLOATS}},
                                                 .momentum = MOMENTUM_BETA1,
                                                 .scratch_floats = kept_floats,
                                                 .begin_step = schedule_free_begin,
                                                 .step = schedule_free_step,
                                                 .show_average = schedule_free_show};
