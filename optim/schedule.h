// The learning rate over a run, as a factor of the recipe's `learning_rate`.
//
// With s the step (0 is the first), w warm-up steps, n steps in all, p = (s - w) / max(1, n - w), all in double:
//   s < w                  s / max(1, w)                       every kind but constant and those below that say otherwise
//   constant               1
//   constant_with_warmup   1
//   linear                 max(0, (n - s) / max(1, n - w))
//   cosine                 max(0, (1 + cos(2 pi cycles p)) / 2)
//   cosine, quadratic      the same, and (s / max(1, w))^2 before          lr_quadratic_warmup, which leaves no minimum
//   cosine, minimum m      (1 - m) (1 + cos(2 pi cycles p)) / 2 + m        cosine_min_lr_ratio
//   ... and constant c     the same with n = floor(c n), and s = min(s, n): the rate stays at m from there on   cosine_constant_lr_ratio
//   cosine_with_restarts   p < 1: max(0, (1 + cos(pi (cycles p mod 1))) / 2), else 0
//   cosine_with_min_lr     max(0, (1 - m) (1 + cos(2 pi cycles p)) / 2 + m), m = min_lr_rate, or min_lr over the learning rate
//   cosine_warmup_with_min_lr   the same with s + 1 for s; before, (s + 1) / max(1, w), or u + (1 - u) s / max(1, w - 1),
//                          u = warmup_lr_rate
//   polynomial             e + (1 - e) (1 - p)^power, e = lr_end over the learning rate; e for s > n
//   inverse_sqrt           1 / sqrt((s - w + t) / t), t = timescale, or w, or 10000
//   warmup_stable_decay    m + (1 - m) rise(s / max(1, w)); then 1; in the last d steps m + (1 - m) fall((s - w - stable) / max(1, d)); m
//   one_cycle              from 1 / div_factor to 1, down to 1 / (div_factor final_div_factor), by a cosine or a line; w / n is pct_start
//   rex                    m + (1 - m) z / (0.1 + 0.9 z), z = 1 - p; m = cosine_min_lr_ratio; at s = n and after m
// Sources: transformers.optimization (get_scheduler); torch.optim.lr_scheduler.OneCycleLR; Axolotl's cosine_min_lr_ratio and
// cosine_constant_lr_ratio (which counts only beside the first), after Gupta et al. 2023, "How to (re)warm your model?"; its REX, after
// Chen et al. 2021, whose warm-up begins at step 1: step 0 is where the remainder of s - w by n - w is on the curve.
#ifndef OPTIM_SCHEDULE_H
#define OPTIM_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

typedef enum ScheduleKind {
  SCHEDULE_COSINE,
  SCHEDULE_LINEAR,
  SCHEDULE_CONSTANT,
  SCHEDULE_CONSTANT_WITH_WARMUP,
  SCHEDULE_COSINE_WITH_RESTARTS,
  SCHEDULE_COSINE_WITH_MIN_LR,
  SCHEDULE_COSINE_WARMUP_WITH_MIN_LR,
  SCHEDULE_POLYNOMIAL,
  SCHEDULE_INVERSE_SQRT,
  SCHEDULE_WARMUP_STABLE_DECAY,
  SCHEDULE_ONE_CYCLE,
  SCHEDULE_REX,
  SCHEDULE_COUNT
} ScheduleKind;

typedef enum ScheduleShape { SHAPE_LINEAR, SHAPE_COSINE, SHAPE_ONE_MINUS_ROOT } ScheduleShape;

// schedule_new fills what `lr_scheduler_kwargs` may set with the defaults of its kind; NAN: absent.
typedef struct Schedule {
  ScheduleKind kind;
  int64_t steps, warmup_steps;
  double learning_rate;  // that factors are of
  double cosine_min_ratio, cosine_constant_ratio;  // 0: off
  bool quadratic_warmup;
  double cycles;  // num_cycles
  double min_rate, min_ratio, warmup_ratio;  // min_lr; min_lr_rate or min_lr_ratio; warmup_lr_rate
  double end_rate, power;  // polynomial
  double timescale;  // inverse_sqrt
  double stable_steps, decay_steps;  // warmup_stable_decay
  ScheduleShape rise, fall;  // warmup_type; decay_type, or anneal_strategy
  double start_share, start_divisor, end_divisor;  // one_cycle: pct_start, div_factor, final_div_factor
  bool three_phases, cycles_momentum;
  double least_momentum, most_momentum;  // base_momentum, max_momentum
} Schedule;

// The schedule that a recipe's `lr_scheduler` names, with its defaults; NULL is cosine. STATUS_USAGE for a name that is not built.
Status schedule_new(Schedule *schedule, const char *name);

// Sets one of `lr_scheduler_kwargs`, by the name that transformers or torch has for it. STATUS_USAGE for one that the kind has not, which
// is named beside those that it has, or a value that does not read.
Status schedule_set_argument(Schedule *schedule, const char *name, const char *value);

// STATUS_USAGE when arguments are missing, or contradict each other or the rest, which is all set by now.
Status schedule_check(const Schedule *schedule);

// The warm-up of a run of `steps` steps: warmup_steps if >= 0; else floor(warmup_ratio * steps) if that ratio is >= 0;
// else min(floor(0.03 steps), 100). One step of warm-up becomes two, since the first has a rate of 0. (Axolotl)
int64_t schedule_warmup_steps(int64_t warmup_steps, double warmup_ratio, int64_t steps);

// The factor for step `step`, 0 for the first; a function of its arguments alone, so that a resumed run needs no state.
double schedule_factor(const Schedule *schedule, int64_t step);

// The momentum (of Adam beta1) that one_cycle asks for in that step: it falls while the rate rises. NAN: the optimiser's own.
double schedule_momentum(const Schedule *schedule, int64_t step);

#endif
