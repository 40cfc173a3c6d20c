// Optimisers' steps, element by element; the equations are in kernels/update.h.
#include "kernels/update.h"

#include <math.h>

#include "kernels/reference/reference.h"

static double sign(double x) { return (x > 0) - (x < 0); }

static void update_element(float *p, float *const states[UPDATE_STATES], double g, const UpdateSettings *s) {
  double rate = s->learning_rate, x = *p, decayed = x - rate * s->weight_decay * x, h = g + s->weight_decay * x;
  double old[UPDATE_STATES];
  for (int k = 0; k < update_states(s->rule); k++) old[k] = *states[k];
  switch (s->rule) {
    case UPDATE_LION:
      *p = (float)(decayed - rate * sign(s->beta1 * old[0] + (1 - s->beta1) * g));
      *states[0] = (float)(s->beta2 * old[0] + (1 - s->beta2) * g);
      break;
    case UPDATE_ADEMAMIX: {
      double m = s->beta1 * old[0] + (1 - s->beta1) * g, slow = s->beta3 * old[1] + (1 - s->beta3) * g;
      double v = s->beta2 * old[2] + (1 - s->beta2) * g * g;
      *p = (float)(decayed - rate * (m / s->correction1 + s->alpha * slow) / (sqrt(v) / s->correction2 + s->epsilon));
      *states[0] = (float)m, *states[1] = (float)slow, *states[2] = (float)v;
      break;
    }
    case UPDATE_GRADIENT: *p = (float)(x - rate * h); break;
    case UPDATE_MOMENTUM: {
      double m = s->beta1 * old[0] + s->gain * h;
      *p = (float)(x - rate * (s->direct * h + s->through * m));
      *states[0] = (float)m;
      break;
    }
    case UPDATE_ROOT: {
      double v = s->beta2 * old[0] + s->gain * h * h;
      *p = (float)(x - rate * h / (sqrt(v) + s->epsilon));
      *states[0] = (float)v;
      break;
    }
    case UPDATE_SCHEDULE_FREE: {
      double v = s->beta2 * old[1] + (1 - s->beta2) * g * g;
      double direction = g / (sqrt(v) / s->correction2 + s->epsilon) + s->weight_decay * x;
      *p = (float)(x + s->average * old[0] - rate * (1 - s->beta1 * (1 - s->average)) * direction);
      *states[0] = (float)((1 - s->average) * (old[0] - rate * s->beta1 * direction));
      *states[1] = (float)v;
      break;
    }
    case UPDATE_COUNT: break;
  }
}

void reference_update(float *p, float *const *states, const float *g, int64_t count, UpdateSettings settings, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < count; i++) {
    float *element[UPDATE_STATES];
    for (int k = 0; k < update_states(settings.rule); k++) element[k] = states[k] + i;
    update_element(p + i, element, settings.gradient_scale * g[i], &settings);
  }
}

void reference_update_8bit(float *p, uint8_t *const *codes, float *const *scales, const float *g, int64_t count, UpdateSettings settings,
                           Backend *backend) {
  float values[UPDATE_STATES][MOMENT_BLOCK], bounds[MOMENT_LEVELS];
  float *const states[UPDATE_STATES] = {values[0], values[1], values[2]};
  int state_count = update_states(settings.rule);
  for (int64_t block = 0; block < moment_blocks(count); block++) {
    int64_t begin = block * MOMENT_BLOCK, n = count - begin < MOMENT_BLOCK ? count - begin : MOMENT_BLOCK;
    for (int k = 0; k < state_count; k++)
      reference_moments_load(values[k], codes[k] + begin, scales[k][block], n, moment_levels(update_moment(settings.rule, k)));
    reference_update(p + begin, states, g + begin, n, settings, backend);
    for (int k = 0; k < state_count; k++) {
      moment_bounds(bounds, update_moment(settings.rule, k));
      scales[k][block] = reference_moments_store(codes[k] + begin, values[k], n, bounds);
    }
  }
}

void reference_factored_moments(float *r, float *c, const float *g, int64_t rows, int64_t columns, FactoredSettings settings,
                                Backend *backend) {
  (void)backend;
  double beta = settings.beta;
  for (int64_t i = 0; i < rows; i++) {
    double sum = 0;
    for (int64_t j = 0; j < columns; j++) sum += pow(settings.gradient_scale * g[i * columns + j], 2) + settings.epsilon;
    r[i] = (float)(beta * r[i] + (1 - beta) * sum / (double)columns);
  }
  for (int64_t j = 0; rows > 0 && j < columns; j++) {
    double sum = 0;
    for (int64_t i = 0; i < rows; i++) sum += pow(settings.gradient_scale * g[i * columns + j], 2) + settings.epsilon;
    c[j] = (float)(beta * c[j] + (1 - beta) * sum / (double)rows);
  }
}

void reference_factored_update(float *u, const float *g, const float *r, const float *c, int64_t rows, int64_t columns,
                               double gradient_scale, Backend *backend) {
  (void)backend;
  double mean = 0;
  for (int64_t i = 0; i < rows; i++) mean += r[i] / (double)rows;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++)
      u[i * columns + j] = (float)(gradient_scale * g[i * columns + j] / sqrt(r[i] / mean) / sqrt(c[j]));
}
