// Optimisers' steps, element by element, and Adafactor's; the equations are in kernels/update.h.
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/moments.h"

enum { GRAIN = 16384, BLOCK_GRAIN = 32 };

typedef struct Update {
  float *p;
  float *const *states;
  const float *g;
  UpdateSettings settings;
} Update;

typedef int64_t VecL __attribute__((vector_size(sizeof(VecD))));

static inline VecD vec_sign_double(VecD x) {
  VecL one = (VecL)vec_set_double(1), minus_one = (VecL)vec_set_double(-1);
  return (VecD)(((VecL)(x > 0) & one) | ((VecL)(x < 0) & minus_one));
}

// In double, as AdamW's.
ALWAYS_INLINE VecD update_lanes(VecD p, VecD states[UPDATE_STATES], VecD g, const UpdateSettings *s, int rule) {
  g *= s->gradient_scale;
  VecD decayed = p * (1 - s->learning_rate * s->weight_decay), h = g + s->weight_decay * p;
  if (rule == UPDATE_LION) {
    VecD direction = vec_sign_double(s->beta1 * states[0] + (1 - s->beta1) * g);
    states[0] = s->beta2 * states[0] + (1 - s->beta2) * g;
    return decayed - s->learning_rate * direction;
  }
  if (rule == UPDATE_ADEMAMIX) {
    states[0] = s->beta1 * states[0] + (1 - s->beta1) * g;
    states[1] = s->beta3 * states[1] + (1 - s->beta3) * g;
    states[2] = s->beta2 * states[2] + (1 - s->beta2) * g * g;
    VecD mixed = states[0] / s->correction1 + s->alpha * states[1];
    return decayed - s->learning_rate * mixed / (vec_sqrt_double(states[2]) / s->correction2 + s->epsilon);
  }
  if (rule == UPDATE_MOMENTUM) {
    states[0] = s->beta1 * states[0] + s->gain * h;
    return p - s->learning_rate * (s->direct * h + s->through * states[0]);
  }
  if (rule == UPDATE_ROOT) {
    states[0] = s->beta2 * states[0] + s->gain * h * h;
    return p - s->learning_rate * h / (vec_sqrt_double(states[0]) + s->epsilon);
  }
  if (rule == UPDATE_SCHEDULE_FREE) {
    states[1] = s->beta2 * states[1] + (1 - s->beta2) * g * g;
    VecD direction = g / (vec_sqrt_double(states[1]) / s->correction2 + s->epsilon) + s->weight_decay * p;
    VecD apart = states[0];
    states[0] = (1 - s->average) * (apart - s->learning_rate * s->beta1 * direction);
    return p + s->average * apart - s->learning_rate * (1 - s->beta1 * (1 - s->average)) * direction;
  }
  return p - s->learning_rate * h;
}

ALWAYS_INLINE void update_rule(const Update *u, int64_t begin, int64_t end, int rule) {
  int count = update_states(rule);
  for (int64_t i = begin; i < end; i += VL) {
    int64_t left = end - i;
    Vec p = vec_load_first(u->p + i, left), g = vec_load_first(u->g + i, left);
    VecD low[UPDATE_STATES], high[UPDATE_STATES];
    for (int k = 0; k < count; k++) {
      Vec state = vec_load_first(u->states[k] + i, left);
      low[k] = vec_low_double(state), high[k] = vec_high_double(state);
    }
    VecD low_p = update_lanes(vec_low_double(p), low, vec_low_double(g), &u->settings, rule);
    VecD high_p = update_lanes(vec_high_double(p), high, vec_high_double(g), &u->settings, rule);
    vec_store_first(u->p + i, vec_from_doubles(low_p, high_p), left);
    for (int k = 0; k < count; k++) vec_store_first(u->states[k] + i, vec_from_doubles(low[k], high[k]), left);
  }
}

static void update_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Update *u = argument;
  switch (u->settings.rule) {
    case UPDATE_LION: update_rule(u, begin, end, UPDATE_LION); break;
    case UPDATE_ADEMAMIX: update_rule(u, begin, end, UPDATE_ADEMAMIX); break;
    case UPDATE_GRADIENT: update_rule(u, begin, end, UPDATE_GRADIENT); break;
    case UPDATE_MOMENTUM: update_rule(u, begin, end, UPDATE_MOMENTUM); break;
    case UPDATE_ROOT: update_rule(u, begin, end, UPDATE_ROOT); break;
    case UPDATE_SCHEDULE_FREE: update_rule(u, begin, end, UPDATE_SCHEDULE_FREE); break;
    case UPDATE_COUNT: break;
  }
}

void cpu_update(float *p, float *const *states, const float *g, int64_t count, UpdateSettings settings, Backend *backend) {
  run_ranges(backend, count, GRAIN, update_range, &(Update){p, states, g, settings});
}

typedef struct CodedUpdate {
  float *p;
  const float *g;
  UpdateSettings settings;
  int64_t count;
  uint8_t *const *codes;
  float *const *scales;
  Coder coders[MOMENT_COUNT];
} CodedUpdate;

static void update_blocks(void *argument, int64_t begin, int64_t end, int thread) {
  const CodedUpdate *coded = argument;
  float values[UPDATE_STATES][MOMENT_BLOCK];
  float *const states[UPDATE_STATES] = {values[0], values[1], values[2]};
  int state_count = update_states(coded->settings.rule);
  for (int64_t block = begin; block < end; block++) {
    int64_t first = block * MOMENT_BLOCK, n = smaller(coded->count - first, MOMENT_BLOCK);
    if (n < MOMENT_BLOCK) memset(values, 0, sizeof values);
    for (int k = 0; k < state_count; k++)
      moments_load(values[k], coded->codes[k] + first, coded->scales[k][block], n, &coded->coders[update_moment(coded->settings.rule, k)]);
    Update update = {coded->p + first, states, coded->g + first, coded->settings};
    update_range(&update, 0, n, thread);
    for (int k = 0; k < state_count; k++)
      coded->scales[k][block] =
          moments_store(coded->codes[k] + first, values[k], n, &coded->coders[update_moment(coded->settings.rule, k)]);
  }
}

void cpu_update_8bit(float *p, uint8_t *const *codes, float *const *scales, const float *g, int64_t count, UpdateSettings settings,
                     Backend *backend) {
  CodedUpdate coded = {.p = p, .g = g, .settings = settings, .count = count, .codes = codes, .scales = scales};
  for (int k = 0; k < MOMENT_COUNT; k++) coder_new(&coded.coders[k], k);
  run_ranges(backend, moment_blocks(count), BLOCK_GRAIN, update_blocks, &coded);
}

typedef struct Factored {
  float *u, *r, *c;
  const float *g;
  int64_t rows, columns;
  FactoredSettings settings;
  double mean;  // of r
} Factored;

static void square_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Factored *f = argument;
  double scale = f->settings.gradient_scale;
  for (int64_t i = begin; i < end; i++) {
    VecD sums[2] = {{0}, {0}};
    for (int64_t j = 0; j < f->columns; j += VL) {
      Vec g = vec_load_first(f->g + i * f->columns + j, f->columns - j);
      VecD low = scale * vec_low_double(g), high = scale * vec_high_double(g);
      sums[0] += low * low, sums[1] += high * high;
    }
    double mean = vec_sum_double(sums[0] + sums[1]) / (double)f->columns + f->settings.epsilon;
    f->r[i] = (float)(f->settings.beta * f->r[i] + (1 - f->settings.beta) * mean);
  }
}

// A piece of columns, a vector of them at a time, from the first row to the last.
static void square_columns(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Factored *f = argument;
  double scale = f->settings.gradient_scale, beta = f->settings.beta;
  for (int64_t j = begin * VL; j < end * VL && j < f->columns; j += VL) {
    VecD low_sum = {0}, high_sum = {0};
    int64_t left = f->columns - j;
    for (int64_t i = 0; i < f->rows; i++) {
      Vec g = vec_load_first(f->g + i * f->columns + j, left);
      VecD low = scale * vec_low_double(g), high = scale * vec_high_double(g);
      low_sum += low * low, high_sum += high * high;
    }
    Vec c = vec_load_first(f->c + j, left);
    low_sum = beta * vec_low_double(c) + (1 - beta) * (low_sum / (double)f->rows + f->settings.epsilon);
    high_sum = beta * vec_high_double(c) + (1 - beta) * (high_sum / (double)f->rows + f->settings.epsilon);
    vec_store_first(f->c + j, vec_from_doubles(low_sum, high_sum), left);
  }
}

void cpu_factored_moments(float *r, float *c, const float *g, int64_t rows, int64_t columns, FactoredSettings settings, Backend *backend) {
  if (rows == 0) return;
  Factored factored = {.r = r, .c = c, .g = g, .rows = rows, .columns = columns, .settings = settings};
  run_rows(backend, rows, columns, square_rows, &factored);
  run_rows(backend, divide_up(columns, VL), rows * VL, square_columns, &factored);
}

static void factored_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Factored *f = argument;
  for (int64_t i = begin; i < end; i++) {
    double scale = f->settings.gradient_scale / sqrt(f->r[i] / f->mean);
    for (int64_t j = 0; j < f->columns; j += VL) {
      int64_t left = f->columns - j;
      Vec g = vec_load_first(f->g + i * f->columns + j, left), c = vec_load_first(f->c + j, left);
      VecD low = scale * vec_low_double(g) / vec_sqrt_double(vec_low_double(c));
      VecD high = scale * vec_high_double(g) / vec_sqrt_double(vec_high_double(c));
      vec_store_first(f->u + i * f->columns + j, vec_from_doubles(low, high), left);
    }
  }
}

void cpu_factored_update(float *u, const float *g, const float *r, const float *c, int64_t rows, int64_t columns, double gradient_scale,
                         Backend *backend) {
  Factored factored = {.u = u, .r = (float *)(uintptr_t)r, .c = (float *)(uintptr_t)c, .g = g, .rows = rows, .columns = columns};
  factored.settings.gradient_scale = gradient_scale;
  for (int64_t i = 0; i < rows; i++) factored.mean += r[i] / (double)rows;
  run_rows(backend, rows, columns, factored_rows, &factored);
}
