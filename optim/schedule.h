// The learning rate over a run, as a factor of the recipe's `learning_rate`.
//
// With s the step (0 is the first), w warm-up steps, n steps in all, p = (s - w) / max(1, n - w), all in double:
//   s < w                  s / max(1, w)                       every kind but constant
//   constant               1
//   constant_with_warmup   1
//   linear                 max(0, (n - s) / max(1, n - w))
//   cosine                 max(0, (1 + cos(2 pi cycles p)) / 2)
//   cosine, minimum m      (1 - m) (1 + cos(2 pi cycles p)) / 2 + m
//   ... and constant c     the same with n = floor(c n), and s = min(s, n): the rate stays at m from there on
// Sources: transformers.optimization (get_scheduler); the last two are Axolotl's cosine_min_lr_ratio and
// cosine_constant_lr_ratio (which counts only beside the first), after Gupta et al. 2023, "How to (re)warm your model?".
#ifndef OPTIM_SCHEDULE_H
#define OPTIM_SCHEDULE_H

#include <stdint.h>

#include "core/status.h"

typedef enum ScheduleKind {
  SCHEDULE_COSINE,
  SCHEDULE_LINEAR,
  SCHEDULE_CONSTANT,
  SCHEDULE_CONSTANT_WITH_WARMUP,
  SCHEDULE_COUNT
} ScheduleKind;

typedef struct Schedule {
  ScheduleKind kind;
  int64_t steps, warmup_steps;
  double cosine_min_ratio, cosine_constant_ratio;  // 0: off
  double cosine_cycles;  // 0: 0.5, half a wave
} Schedule;

// The kind that a recipe's `lr_scheduler` names; NULL is cosine. STATUS_USAGE for a name that is not built.
Status schedule_find(ScheduleKind *kind, const char *name);

// The warm-up of a run of `steps` steps: warmup_steps if >= 0; else floor(warmup_ratio * steps) if that ratio is >= 0;
// else min(floor(0.03 steps), 100). One step of warm-up becomes two, since the first has a rate of 0. (Axolotl)
int64_t schedule_warmup_steps(int64_t warmup_steps, double warmup_ratio, int64_t steps);

// The factor for step `step`, 0 for the first; a function of its arguments alone, so that a resumed run needs no state.
double schedule_factor(const Schedule *schedule, int64_t step);

#endif
