// What recipes call the methods and their arguments.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/memory.h"
#include "core/text.h"
#include "optim/methods.h"

static const char float_state[] =
    "moments are kept in float32 here, neither in 4 bits nor in fp8; optimizer: adamw_8bit keeps them in 8 bits";
static const char unpaged_state[] = "moments are not paged here: they stay in the device's memory";
static const char own_schedule[] =
    "schedule_free_adamw averages in place of a schedule; with another lr_scheduler than constant its rate falls beside";

// Every spelling that recipes use: transformers' OptimizerNames and Axolotl's own. Those that are not built are refused, and why, by
// recipes/trainable.c.
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
    {"lion", &optimizer_lion, NULL},
    {"lion_32bit", &optimizer_lion, NULL},
    {"lion_pytorch", &optimizer_lion, NULL},
    {"lion_8bit", &optimizer_lion_8bit, NULL},
    {"paged_lion_32bit", &optimizer_lion, unpaged_state},
    {"paged_lion_8bit", &optimizer_lion_8bit, unpaged_state},
    {"ademamix", &optimizer_ademamix, NULL},
    {"ademamix_8bit", &optimizer_ademamix_8bit, NULL},
    {"paged_ademamix_32bit", &optimizer_ademamix, unpaged_state},
    {"paged_ademamix_8bit", &optimizer_ademamix_8bit, unpaged_state},
    {"adafactor", &optimizer_adafactor, NULL},
    {"sgd", &optimizer_sgd, NULL},
    {"rmsprop", &optimizer_rmsprop, NULL},
    {"rmsprop_bnb", &optimizer_rmsprop, NULL},
    {"rmsprop_bnb_32bit", &optimizer_rmsprop, NULL},
    {"rmsprop_bnb_8bit", &optimizer_rmsprop_8bit, NULL},
    {"adagrad", &optimizer_adagrad, NULL},
    {"muon", &optimizer_muon, NULL},
    {"schedule_free_adamw", &optimizer_schedule_free, own_schedule},
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

OptimizerSettings optimizer_defaults(const OptimizerMethod *method) {
  return (OptimizerSettings){
      .beta1 = 0.9,
      .beta2 = 0.999,
      .epsilon = 1e-8,
      .beta3 = 0.9999,
      .alpha = 5,
      .momentum = method == &optimizer_muon ? 0.95 : 0,
      .nesterov = method == &optimizer_muon,
      .root_decay = 0.99,
      .root_epsilon = method == &optimizer_adagrad ? 1e-10 : 1e-8,
      .square_epsilon = 1e-30,
      .scale_epsilon = 1e-3,
      .clip_threshold = 1,
      .decay_rate = -0.8,
      .rate_power = 2,
  };
}

typedef enum ArgumentKind { ARGUMENT_NUMBER, ARGUMENT_SWITCH, ARGUMENT_RATE } ArgumentKind;

enum { SHARING_METHODS = 3 };

// A method and its form in 8 bits have the same arguments.
static const struct {
  const OptimizerMethod *methods[SHARING_METHODS];
  const char *name;
  ArgumentKind kind;
  size_t offset;
  double least, most;
} arguments[] = {
#define FIELD(name) offsetof(OptimizerSettings, name)
    {{&optimizer_adamw, &optimizer_adamw_8bit, &optimizer_muon}, "beta1", ARGUMENT_NUMBER, FIELD(beta1), 0, 1},
    {{&optimizer_adamw, &optimizer_adamw_8bit, &optimizer_muon}, "beta2", ARGUMENT_NUMBER, FIELD(beta2), 0, 1},
    {{&optimizer_adamw, &optimizer_adamw_8bit, &optimizer_muon}, "eps", ARGUMENT_NUMBER, FIELD(epsilon), 0, 1},
    {{&optimizer_lion, &optimizer_lion_8bit}, "beta1", ARGUMENT_NUMBER, FIELD(beta1), 0, 1},
    {{&optimizer_lion, &optimizer_lion_8bit}, "beta2", ARGUMENT_NUMBER, FIELD(beta2), 0, 1},
    {{&optimizer_ademamix, &optimizer_ademamix_8bit}, "beta1", ARGUMENT_NUMBER, FIELD(beta1), 0, 1},
    {{&optimizer_ademamix, &optimizer_ademamix_8bit}, "beta2", ARGUMENT_NUMBER, FIELD(beta2), 0, 1},
    {{&optimizer_ademamix, &optimizer_ademamix_8bit}, "beta3", ARGUMENT_NUMBER, FIELD(beta3), 0, 1},
    {{&optimizer_ademamix, &optimizer_ademamix_8bit}, "alpha", ARGUMENT_NUMBER, FIELD(alpha), 0, 1e6},
    {{&optimizer_ademamix, &optimizer_ademamix_8bit}, "eps", ARGUMENT_NUMBER, FIELD(epsilon), 0, 1},
    {{&optimizer_ademamix, &optimizer_ademamix_8bit}, "t_alpha", ARGUMENT_NUMBER, FIELD(alpha_steps), 0, 9e15},
    {{&optimizer_ademamix, &optimizer_ademamix_8bit}, "t_beta3", ARGUMENT_NUMBER, FIELD(beta3_steps), 0, 9e15},
    {{&optimizer_sgd}, "momentum", ARGUMENT_NUMBER, FIELD(momentum), 0, 1},
    {{&optimizer_sgd}, "dampening", ARGUMENT_NUMBER, FIELD(dampening), 0, 1},
    {{&optimizer_sgd}, "nesterov", ARGUMENT_SWITCH, FIELD(nesterov), 0, 0},
    {{&optimizer_rmsprop, &optimizer_rmsprop_8bit}, "alpha", ARGUMENT_NUMBER, FIELD(root_decay), 0, 1},
    {{&optimizer_rmsprop, &optimizer_rmsprop_8bit}, "eps", ARGUMENT_NUMBER, FIELD(root_epsilon), 0, 1},
    {{&optimizer_adagrad}, "lr_decay", ARGUMENT_NUMBER, FIELD(rate_decay), 0, 1e6},
    {{&optimizer_adagrad}, "eps", ARGUMENT_NUMBER, FIELD(root_epsilon), 0, 1},
    {{&optimizer_adafactor}, "scale_parameter", ARGUMENT_SWITCH, FIELD(scale_parameter), 0, 0},
    {{&optimizer_adafactor}, "relative_step", ARGUMENT_SWITCH, FIELD(relative_step), 0, 0},
    {{&optimizer_adafactor}, "warmup_init", ARGUMENT_SWITCH, FIELD(warmup_init), 0, 0},
    {{&optimizer_adafactor}, "clip_threshold", ARGUMENT_NUMBER, FIELD(clip_threshold), 1e-9, 1e9},
    {{&optimizer_adafactor}, "decay_rate", ARGUMENT_NUMBER, FIELD(decay_rate), -10, 0},
    {{&optimizer_muon}, "mu", ARGUMENT_NUMBER, FIELD(momentum), 0, 1},
    {{&optimizer_muon}, "nesterov", ARGUMENT_SWITCH, FIELD(nesterov), 0, 0},
    {{&optimizer_muon}, "adjust_lr", ARGUMENT_RATE, FIELD(matrix_rate), 0, 0},
    {{&optimizer_schedule_free}, "beta1", ARGUMENT_NUMBER, FIELD(beta1), 1e-9, 1},
    {{&optimizer_schedule_free}, "beta2", ARGUMENT_NUMBER, FIELD(beta2), 0, 1},
    {{&optimizer_schedule_free}, "eps", ARGUMENT_NUMBER, FIELD(epsilon), 0, 1},
    {{&optimizer_schedule_free}, "r", ARGUMENT_NUMBER, FIELD(average_power), 0, 1e6},
    {{&optimizer_schedule_free}, "weight_lr_power", ARGUMENT_NUMBER, FIELD(rate_power), 0, 1e6},
#undef FIELD
};
enum { ARGUMENT_COUNT = sizeof arguments / sizeof *arguments };

static bool has_argument(int index, const OptimizerMethod *method) {
  for (int i = 0; i < SHARING_METHODS; i++)
    if (arguments[index].methods[i] == method) return true;
  return false;
}

static Status refuse_value(const char *name, const char *value, const char *form) {
  return status_fail(STATUS_USAGE, "optim_args: %s: must be %s, not '%s'", name, form, value);
}

static Status read_argument(void *field, int index, const char *name, const char *value) {
  static const char *const rates[] = {
      [MATRIX_RATE_SPECTRAL] = "spectral_norm", [MATRIX_RATE_RMS] = "rms_norm", [MATRIX_RATE_PLAIN] = "none"};
  if (arguments[index].kind == ARGUMENT_SWITCH) {
    bool *on = field;
    bool is_on = strcasecmp(value, "true") == 0 || strcmp(value, "1") == 0 || strcasecmp(value, "yes") == 0;
    bool is_off = strcasecmp(value, "false") == 0 || strcmp(value, "0") == 0 || strcasecmp(value, "no") == 0;
    *on = is_on;
    return is_on || is_off ? STATUS_OK : refuse_value(name, value, "true or false");
  }
  if (arguments[index].kind == ARGUMENT_RATE) {
    for (int i = 0; i < 3; i++) {
      *(MatrixRate *)field = (MatrixRate)i;
      if (strcmp(value, rates[i]) == 0) return STATUS_OK;
    }
    return refuse_value(name, value, "spectral_norm, rms_norm or none");
  }
  char *end, form[64];
  double number = strtod(value, &end);
  *(double *)field = number;
  bool is_number = end != value && *end == 0 && isfinite(number);
  if (is_number && number >= arguments[index].least && number <= arguments[index].most) return STATUS_OK;
  snprintf(form, sizeof form, "a number from %g to %g", arguments[index].least, arguments[index].most);
  return refuse_value(name, value, form);
}

Status optimizer_set_argument(OptimizerSettings *settings, const OptimizerMethod *method, const char *name, const char *value) {
  Buffer known = {0};
  for (int i = 0; i < ARGUMENT_COUNT; i++) {
    if (!has_argument(i, method)) continue;
    buffer_format(&known, "%s%s", known.length ? ", " : "", arguments[i].name);
    if (strcmp(arguments[i].name, name) != 0) continue;
    buffer_release(&known);
    return read_argument((char *)settings + arguments[i].offset, i, name, value);
  }
  Status status = status_fail(STATUS_USAGE, "optim_args: %s has no argument '%s'; it has %s", method->name, name, known.data);
  buffer_release(&known);
  return status;
}

const OptimizerMethod *optimizer_settle(const OptimizerMethod *method, const OptimizerSettings *settings) {
  return method == &optimizer_sgd && settings->momentum > 0 ? &optimizer_sgd_momentum : method;
}
