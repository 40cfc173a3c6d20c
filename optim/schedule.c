// Learning-rate schedules; the equations are in the header.
#include "optim/schedule.h"

#include <math.h>
#include <string.h>

#include "core/text.h"

static double maximum(int64_t a, int64_t b) { return (double)(a > b ? a : b); }

static double cosine_factor(const Schedule *s, int64_t step) {
  int64_t steps = s->steps;
  if (s->cosine_min_ratio > 0 && s->cosine_constant_ratio > 0) {
    steps = (int64_t)((double)steps * s->cosine_constant_ratio);
    if (step > steps) step = steps;
  }
  double progress = (double)(step - s->warmup_steps) / maximum(1, steps - s->warmup_steps);
  double cycles = s->cosine_cycles > 0 ? s->cosine_cycles : 0.5;
  double factor = 0.5 * (1.0 + cos(M_PI * cycles * 2.0 * progress));
  return fmax(0.0, factor * (1 - s->cosine_min_ratio) + s->cosine_min_ratio);
}

static double linear_factor(const Schedule *s, int64_t step) {
  return fmax(0.0, (double)(s->steps - step) / maximum(1, s->steps - s->warmup_steps));
}

static double constant_factor(const Schedule *s, int64_t step) {
  (void)s, (void)step;
  return 1.0;
}

static const struct {
  const char *name;
  int has_warmup;
  double (*factor)(const Schedule *s, int64_t step);  // after the warm-up
} kinds[SCHEDULE_COUNT] = {
    [SCHEDULE_COSINE] = {"cosine", 1, cosine_factor},
    [SCHEDULE_LINEAR] = {"linear", 1, linear_factor},
    [SCHEDULE_CONSTANT] = {"constant", 0, constant_factor},
    [SCHEDULE_CONSTANT_WITH_WARMUP] = {"constant_with_warmup", 1, constant_factor},
};

Status schedule_find(ScheduleKind *kind, const char *name) {
  const char *names[SCHEDULE_COUNT];
  for (int i = 0; i < SCHEDULE_COUNT; i++) {
    names[i] = kinds[i].name;
    *kind = (ScheduleKind)i;
    if (strcmp(kinds[i].name, name ? name : "cosine") == 0) return STATUS_OK;
  }
  const char *nearest = nearest_name(name, names, SCHEDULE_COUNT);
  return status_fail(STATUS_USAGE, "lr_scheduler: '%s' is not built; use %s%s", name, nearest ? nearest : names[0],
                     nearest ? "" : ", linear, constant or constant_with_warmup");
}

int64_t schedule_warmup_steps(int64_t warmup_steps, double warmup_ratio, int64_t steps) {
  int64_t warmup;
  if (warmup_steps >= 0) warmup = warmup_steps;
  else if (warmup_ratio >= 0) warmup = (int64_t)(warmup_ratio * (double)steps);
  else warmup = steps < 3334 ? (int64_t)(0.03 * (double)steps) : 100;
  return warmup == 1 ? 2 : warmup;
}

double schedule_factor(const Schedule *schedule, int64_t step) {
  if (kinds[schedule->kind].has_warmup && step < schedule->warmup_steps) return (double)step / maximum(1, schedule->warmup_steps);
  return kinds[schedule->kind].factor(schedule, step);
}
