// Learning-rate schedules; the equations are in the header.
#include "optim/schedule.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/memory.h"
#include "core/text.h"

static double maximum(int64_t a, int64_t b) { return (double)(a > b ? a : b); }

static double progress(const Schedule *s, int64_t step) {
  return (double)(step - s->warmup_steps) / maximum(1, s->steps - s->warmup_steps);
}

static double half_wave(double cycles, double progress) { return 0.5 * (1.0 + cos(M_PI * cycles * 2.0 * progress)); }

static double cosine_factor(const Schedule *s, int64_t step) {
  if (s->quadratic_warmup) return fmax(0.0, half_wave(s->cycles, progress(s, step)));
  Schedule shorter = *s;
  if (s->cosine_min_ratio > 0 && s->cosine_constant_ratio > 0) {
    shorter.steps = (int64_t)((double)s->steps * s->cosine_constant_ratio);
    if (step > shorter.steps) step = shorter.steps;
  }
  double factor = half_wave(s->cycles, progress(&shorter, step));
  return fmax(0.0, factor * (1 - s->cosine_min_ratio) + s->cosine_min_ratio);
}

static double linear_factor(const Schedule *s, int64_t step) {
  return fmax(0.0, (double)(s->steps - step) / maximum(1, s->steps - s->warmup_steps));
}

static double constant_factor(const Schedule *s, int64_t step) {
  (void)s, (void)step;
  return 1.0;
}

static double restarts_factor(const Schedule *s, int64_t step) {
  double part = progress(s, step);
  return part >= 1.0 ? 0.0 : fmax(0.0, 0.5 * (1.0 + cos(M_PI * fmod(s->cycles * part, 1.0))));
}

static double minimum_of(const Schedule *s) {
  if (!isnan(s->min_ratio)) return s->min_ratio;
  return s->learning_rate > 0 ? s->min_rate / s->learning_rate : 0;
}

static double min_lr_factor(const Schedule *s, int64_t step) {
  double least = minimum_of(s);
  return fmax(0.0, half_wave(s->cycles, progress(s, step)) * (1 - least) + least);
}

static double min_lr_next_factor(const Schedule *s, int64_t step) { return min_lr_factor(s, step + 1); }

static double min_lr_warmup(const Schedule *s, int64_t step) {
  if (isnan(s->warmup_ratio)) return ((double)step + 1.0) / maximum(1, s->warmup_steps);
  return s->warmup_ratio + (1.0 - s->warmup_ratio) * (double)step / maximum(1, s->warmup_steps - 1);
}

static double polynomial_factor(const Schedule *s, int64_t step) {
  if (step > s->steps) return s->end_rate / s->learning_rate;
  double left = 1 - progress(s, step), range = s->learning_rate - s->end_rate;
  return (range * pow(left, s->power) + s->end_rate) / s->learning_rate;
}

static double inverse_sqrt_factor(const Schedule *s, int64_t step) {
  double scale = s->timescale;
  if (isnan(scale)) scale = s->warmup_steps > 0 ? (double)s->warmup_steps : 10000;
  return 1.0 / sqrt(((double)step + (scale - (double)s->warmup_steps)) / scale);
}

static double rise(ScheduleShape shape, double part) {
  if (shape == SHAPE_LINEAR) return part;
  return shape == SHAPE_COSINE ? 0.5 * (1.0 - cos(M_PI * part)) : 1.0 - sqrt(1.0 - part);
}

static double fall(const Schedule *s, double part) {
  if (s->fall == SHAPE_LINEAR) return 1.0 - part;
  return s->fall == SHAPE_COSINE ? half_wave(s->cycles, part) : 1.0 - sqrt(part);
}

static double stable_warmup(const Schedule *s, int64_t step) {
  double factor = rise(s->rise, (double)step / maximum(1, s->warmup_steps));
  return fmax(0.0, factor * (1.0 - s->min_ratio) + s->min_ratio);
}

static double stable_factor(const Schedule *s, int64_t step) {
  double warmup = (double)s->warmup_steps, decay = s->decay_steps;
  double stable = isnan(s->stable_steps) ? (double)s->steps - warmup - decay : s->stable_steps;
  if ((double)step < warmup + stable) return 1.0;
  if ((double)step >= warmup + stable + decay) return s->min_ratio;
  double factor = fall(s, ((double)step - warmup - stable) / fmax(1, decay));
  return fmax(0.0, factor * (1.0 - s->min_ratio) + s->min_ratio);
}

static double between(ScheduleShape shape, double start, double end, double part) {
  if (shape == SHAPE_LINEAR) return (end - start) * part + start;
  return end + (start - end) / 2.0 * (cos(M_PI * part) + 1);
}

// Where a step is in a cycle of two phases, or three: the phase and how far into it. The last goes on beyond its end.
static int cycle_phase(const Schedule *s, int64_t step, double *part) {
  double steps = (double)s->steps, share = isnan(s->start_share) ? (double)s->warmup_steps / steps : s->start_share;
  double ends[3] = {share * steps - 1, s->three_phases ? 2 * share * steps - 2 : steps - 1, steps - 1};
  int last = s->three_phases ? 2 : 1, phase = 0;
  while (phase < last && (double)step > ends[phase]) phase++;
  double start = phase ? ends[phase - 1] : 0.0;
  *part = ends[phase] > start ? ((double)step - start) / (ends[phase] - start) : 1;
  return phase;
}

static double one_cycle_factor(const Schedule *s, int64_t step) {
  double part, low = 1 / s->start_divisor, least = low / s->end_divisor;
  int phase = cycle_phase(s, step, &part);
  if (phase == 0) return between(s->fall, low, 1, part);
  if (!s->three_phases) return between(s->fall, 1, least, part);
  return phase == 1 ? between(s->fall, 1, low, part) : between(s->fall, low, least, part);
}

double schedule_momentum(const Schedule *s, int64_t step) {
  if (s->kind != SCHEDULE_ONE_CYCLE || !s->cycles_momentum) return NAN;
  double part;
  int phase = cycle_phase(s, step, &part);
  if (phase == 0) return between(s->fall, s->most_momentum, s->least_momentum, part);
  return phase == 1 ? between(s->fall, s->least_momentum, s->most_momentum, part) : s->most_momentum;
}

static double rex_factor(const Schedule *s, int64_t step) {
  int64_t after = step - s->warmup_steps, left = s->steps - s->warmup_steps;
  double least = s->cosine_min_ratio;
  if (step >= 1 && step <= s->warmup_steps) return (double)step / (double)s->warmup_steps;
  if (after >= left || after == -1 || left <= 0) return least;
  int64_t place = (after % left + left) % left;
  double z = (double)(left - place) / (double)left;
  return least + (1.0 - least) * (z / (0.1 + 0.9 * z));
}

static double no_warmup(const Schedule *s, int64_t step);
static double plain_warmup(const Schedule *s, int64_t step) {
  double part = (double)step / maximum(1, s->warmup_steps);
  return s->quadratic_warmup && s->kind == SCHEDULE_COSINE ? part * part : part;
}

static const struct {
  const char *name;
  double (*warmup)(const Schedule *s, int64_t step);  // before the last step of the warm-up; no_warmup: as after it
  double (*factor)(const Schedule *s, int64_t step);
} kinds[SCHEDULE_COUNT] = {
    [SCHEDULE_COSINE] = {"cosine", plain_warmup, cosine_factor},
    [SCHEDULE_LINEAR] = {"linear", plain_warmup, linear_factor},
    [SCHEDULE_CONSTANT] = {"constant", no_warmup, constant_factor},
    [SCHEDULE_CONSTANT_WITH_WARMUP] = {"constant_with_warmup", plain_warmup, constant_factor},
    [SCHEDULE_COSINE_WITH_RESTARTS] = {"cosine_with_restarts", plain_warmup, restarts_factor},
    [SCHEDULE_COSINE_WITH_MIN_LR] = {"cosine_with_min_lr", plain_warmup, min_lr_factor},
    [SCHEDULE_COSINE_WARMUP_WITH_MIN_LR] = {"cosine_warmup_with_min_lr", min_lr_warmup, min_lr_next_factor},
    [SCHEDULE_POLYNOMIAL] = {"polynomial", plain_warmup, polynomial_factor},
    [SCHEDULE_INVERSE_SQRT] = {"inverse_sqrt", plain_warmup, inverse_sqrt_factor},
    [SCHEDULE_WARMUP_STABLE_DECAY] = {"warmup_stable_decay", stable_warmup, stable_factor},
    [SCHEDULE_ONE_CYCLE] = {"one_cycle", no_warmup, one_cycle_factor},
    [SCHEDULE_REX] = {"rex", no_warmup, rex_factor},
};

static double no_warmup(const Schedule *s, int64_t step) { return kinds[s->kind].factor(s, step); }

double schedule_factor(const Schedule *schedule, int64_t step) {
  bool is_warming = step < schedule->warmup_steps;
  return is_warming ? kinds[schedule->kind].warmup(schedule, step) : kinds[schedule->kind].factor(schedule, step);
}

Status schedule_new(Schedule *schedule, const char *name) {
  const char *names[SCHEDULE_COUNT];
  for (int i = 0; i < SCHEDULE_COUNT; i++) {
    names[i] = kinds[i].name;
    if (strcmp(kinds[i].name, name ? name : "cosine") != 0) continue;
    *schedule = (Schedule){.kind = (ScheduleKind)i, .learning_rate = 1, .cycles = i == SCHEDULE_COSINE_WITH_RESTARTS ? 1 : 0.5};
    schedule->min_rate = schedule->warmup_ratio = schedule->timescale = schedule->start_share = NAN;
    schedule->stable_steps = schedule->decay_steps = NAN;
    schedule->min_ratio = i == SCHEDULE_WARMUP_STABLE_DECAY ? 0 : NAN;
    schedule->end_rate = 1e-7, schedule->power = 1;
    schedule->fall = SHAPE_COSINE;
    schedule->start_divisor = 25, schedule->end_divisor = 1e4;
    schedule->cycles_momentum = true, schedule->least_momentum = 0.85, schedule->most_momentum = 0.95;
    return STATUS_OK;
  }
  const char *nearest = nearest_name(name, names, SCHEDULE_COUNT);
  return status_fail(STATUS_USAGE, "lr_scheduler: '%s' is not built; use %s%s", name, nearest ? nearest : names[0],
                     nearest ? "" : ", linear, constant or constant_with_warmup");
}

typedef enum ArgumentKind { ARGUMENT_NUMBER, ARGUMENT_SWITCH, ARGUMENT_SHAPE } ArgumentKind;

#define KIND(kind) (1u << SCHEDULE_##kind)
#define COSINES (KIND(COSINE_WITH_MIN_LR) | KIND(COSINE_WARMUP_WITH_MIN_LR))
#define FIELD(name) offsetof(Schedule, name)
static const struct {
  const char *name;
  unsigned kinds;
  ArgumentKind kind;
  size_t offset;
  double least, most;
} arguments[] = {
    {"num_cycles", KIND(COSINE) | KIND(COSINE_WITH_RESTARTS) | KIND(WARMUP_STABLE_DECAY) | COSINES, ARGUMENT_NUMBER, FIELD(cycles), 0, 1e9},
    {"min_lr", COSINES, ARGUMENT_NUMBER, FIELD(min_rate), 0, 1e3},
    {"min_lr_rate", COSINES, ARGUMENT_NUMBER, FIELD(min_ratio), 0, 1},
    {"warmup_lr_rate", KIND(COSINE_WARMUP_WITH_MIN_LR), ARGUMENT_NUMBER, FIELD(warmup_ratio), 0, 1},
    {"lr_end", KIND(POLYNOMIAL), ARGUMENT_NUMBER, FIELD(end_rate), 0, 1e3},
    {"power", KIND(POLYNOMIAL), ARGUMENT_NUMBER, FIELD(power), 0, 1e3},
    {"timescale", KIND(INVERSE_SQRT), ARGUMENT_NUMBER, FIELD(timescale), 1, 9e15},
    {"num_decay_steps", KIND(WARMUP_STABLE_DECAY), ARGUMENT_NUMBER, FIELD(decay_steps), 0, 9e15},
    {"num_stable_steps", KIND(WARMUP_STABLE_DECAY), ARGUMENT_NUMBER, FIELD(stable_steps), 0, 9e15},
    {"warmup_type", KIND(WARMUP_STABLE_DECAY), ARGUMENT_SHAPE, FIELD(rise), 0, 0},
    {"decay_type", KIND(WARMUP_STABLE_DECAY), ARGUMENT_SHAPE, FIELD(fall), 0, 0},
    {"min_lr_ratio", KIND(WARMUP_STABLE_DECAY), ARGUMENT_NUMBER, FIELD(min_ratio), 0, 1},
    {"pct_start", KIND(ONE_CYCLE), ARGUMENT_NUMBER, FIELD(start_share), 0, 1},
    {"anneal_strategy", KIND(ONE_CYCLE), ARGUMENT_SHAPE, FIELD(fall), 0, 0},
    {"div_factor", KIND(ONE_CYCLE), ARGUMENT_NUMBER, FIELD(start_divisor), 1e-9, 1e15},
    {"final_div_factor", KIND(ONE_CYCLE), ARGUMENT_NUMBER, FIELD(end_divisor), 1e-9, 1e15},
    {"three_phase", KIND(ONE_CYCLE), ARGUMENT_SWITCH, FIELD(three_phases), 0, 0},
    {"cycle_momentum", KIND(ONE_CYCLE), ARGUMENT_SWITCH, FIELD(cycles_momentum), 0, 0},
    {"base_momentum", KIND(ONE_CYCLE), ARGUMENT_NUMBER, FIELD(least_momentum), 0, 1},
    {"max_momentum", KIND(ONE_CYCLE), ARGUMENT_NUMBER, FIELD(most_momentum), 0, 1},
};
enum { ARGUMENT_COUNT = sizeof arguments / sizeof *arguments };

static Status refuse_value(const char *name, const char *value, const char *form) {
  return status_fail(STATUS_USAGE, "lr_scheduler_kwargs: %s: must be %s, not '%s'", name, form, value);
}

static Status read_shape(ScheduleShape *shape, const char *name, const char *value) {
  bool is_cycle = strcmp(name, "anneal_strategy") == 0;
  *shape = strcmp(value, "linear") == 0 ? SHAPE_LINEAR : strcmp(value, "1-sqrt") == 0 ? SHAPE_ONE_MINUS_ROOT : SHAPE_COSINE;
  bool is_cosine = strcmp(value, is_cycle ? "cos" : "cosine") == 0;
  if (*shape == SHAPE_LINEAR || is_cosine || (*shape == SHAPE_ONE_MINUS_ROOT && !is_cycle)) return STATUS_OK;
  return refuse_value(name, value, is_cycle ? "cos or linear" : "linear, cosine or 1-sqrt");
}

static Status read_argument(void *field, int index, const char *name, const char *value) {
  if (arguments[index].kind == ARGUMENT_SHAPE) return read_shape(field, name, value);
  if (arguments[index].kind == ARGUMENT_SWITCH) {
    *(bool *)field = strcasecmp(value, "true") == 0;
    return *(bool *)field || strcasecmp(value, "false") == 0 ? STATUS_OK : refuse_value(name, value, "true or false");
  }
  char *end, form[64];
  double number = *(double *)field = strtod(value, &end);
  bool is_number = end != value && *end == 0 && isfinite(number);
  if (is_number && number >= arguments[index].least && number <= arguments[index].most) return STATUS_OK;
  snprintf(form, sizeof form, "a number from %g to %g", arguments[index].least, arguments[index].most);
  return refuse_value(name, value, form);
}

Status schedule_set_argument(Schedule *schedule, const char *name, const char *value) {
  Buffer known = {0};
  for (int i = 0; i < ARGUMENT_COUNT; i++) {
    if (!(arguments[i].kinds >> schedule->kind & 1)) continue;
    buffer_format(&known, "%s%s", known.length ? ", " : "it has ", arguments[i].name);
    if (strcmp(arguments[i].name, name) != 0) continue;
    buffer_release(&known);
    return read_argument((char *)schedule + arguments[i].offset, i, name, value);
  }
  Status status = status_fail(STATUS_USAGE, "lr_scheduler_kwargs: %s has no argument '%s'; %s", kinds[schedule->kind].name, name,
                              known.length ? known.data : "it has none");
  buffer_release(&known);
  return status;
}

Status schedule_check(const Schedule *s) {
  bool is_with_minimum = s->kind == SCHEDULE_COSINE_WITH_MIN_LR || s->kind == SCHEDULE_COSINE_WARMUP_WITH_MIN_LR;
  if (is_with_minimum && isnan(s->min_rate) == isnan(s->min_ratio))
    return status_fail(STATUS_USAGE, "lr_scheduler_kwargs: %s needs one of min_lr and min_lr_rate", kinds[s->kind].name);
  if (s->kind == SCHEDULE_WARMUP_STABLE_DECAY && isnan(s->decay_steps))
    return status_fail(STATUS_USAGE,
                       "lr_scheduler_kwargs: warmup_stable_decay needs num_decay_steps, the last steps, in which the rate falls");
  if (s->kind == SCHEDULE_POLYNOMIAL && !(s->end_rate < s->learning_rate))
    return status_fail(STATUS_USAGE, "lr_scheduler_kwargs: lr_end (%g) must be below learning_rate (%g)", s->end_rate, s->learning_rate);
  return STATUS_OK;
}

int64_t schedule_warmup_steps(int64_t warmup_steps, double warmup_ratio, int64_t steps) {
  int64_t warmup;
  if (warmup_steps >= 0) warmup = warmup_steps;
  else if (warmup_ratio >= 0) warmup = (int64_t)(warmup_ratio * (double)steps);
  else warmup = steps < 3334 ? (int64_t)(0.03 * (double)steps) : 100;
  return warmup == 1 ? 2 : warmup;
}
