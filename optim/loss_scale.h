// The factor of the loss, and so of every gradient, by which a float16 run keeps small gradients from vanishing (Micikevicius et al. 2018,
// "Mixed Precision Training"): halved when a gradient overflows, doubled after many steps in a row in which none did. Powers of two, so that
// taking the factor off again rounds nothing. A run in other types has the factor 1.
#ifndef OPTIM_LOSS_SCALE_H
#define OPTIM_LOSS_SCALE_H

#include <stdbool.h>
#include <stdint.h>

#define LOSS_SCALE_FIRST 0x1p16
enum { LOSS_SCALE_STEPS = 2000 };  // without an overflow, until it is doubled; as torch.amp.GradScaler

typedef struct LossScale {
  double value;
  bool is_dynamic;
  int64_t good_steps;  // since it last changed
} LossScale;

static inline LossScale loss_scale_new(bool is_dynamic) {
  return (LossScale){.value = is_dynamic ? LOSS_SCALE_FIRST : 1, .is_dynamic = is_dynamic};
}

// After a step whose gradients were finite or not. True when the factor was too large: the step is left out and the next may do better.
static inline bool loss_scale_update(LossScale *scale, bool is_finite) {
  if (!scale->is_dynamic) return false;
  if (is_finite && ++scale->good_steps < LOSS_SCALE_STEPS) return false;
  scale->good_steps = 0;
  if (is_finite && scale->value < 0x1p60) scale->value *= 2;
  if (is_finite || scale->value <= 1) return false;
  scale->value /= 2;
  return true;
}

#endif
