// AdamW (Loshchilov and Hutter 2019) in the order of torch.optim.AdamW, with g the gradient times gradient_scale:
//   p <- p (1 - rate * weight_decay)
//   m <- m + (1 - beta1) (g - m),  v <- beta2 v + (1 - beta2) g^2
//   p <- p - rate / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + epsilon)
// With moments in 8 bits (kernels/adamw_8bit.h), a thread takes whole blocks of them and does the same on what their codes stand for.
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/moments.h"

enum { GRAIN = 16384, BLOCK_GRAIN = 32 };

typedef struct Update {
  float *p, *m, *v;
  const float *g;
  double gradient_scale, decay, one_minus_beta1, beta2, one_minus_beta2, step_size, correction, epsilon;
} Update;

// In double, as a step of full size may hang on the last bits of a gradient near zero.
static inline void update_lanes(VecD *p, VecD *m, VecD *v, VecD g, const Update *u) {
  g *= u->gradient_scale;
  *m += u->one_minus_beta1 * (g - *m);
  *v = u->beta2 * *v + u->one_minus_beta2 * g * g;
  *p = *p * u->decay - u->step_size * *m / (vec_sqrt_double(*v) / u->correction + u->epsilon);
}

static void update_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Update *u = argument;
  for (int64_t i = begin; i < end; i += VL) {
    int64_t left = end - i;
    Vec p = vec_load_first(u->p + i, left), m = vec_load_first(u->m + i, left), v = vec_load_first(u->v + i, left);
    Vec g = vec_load_first(u->g + i, left);
    VecD low[3] = {vec_low_double(p), vec_low_double(m), vec_low_double(v)};
    VecD high[3] = {vec_high_double(p), vec_high_double(m), vec_high_double(v)};
    update_lanes(&low[0], &low[1], &low[2], vec_low_double(g), u);
    update_lanes(&high[0], &high[1], &high[2], vec_high_double(g), u);
    vec_store_first(u->p + i, vec_from_doubles(low[0], high[0]), left);
    vec_store_first(u->m + i, vec_from_doubles(low[1], high[1]), left);
    vec_store_first(u->v + i, vec_from_doubles(low[2], high[2]), left);
  }
}

static Update update_new(float *p, const float *g, AdamwSettings settings) {
  double beta1 = settings.beta1, beta2 = settings.beta2, rate = settings.learning_rate;
  return (Update){
      .p = p,
      .g = g,
      .gradient_scale = settings.gradient_scale,
      .decay = 1 - rate * settings.weight_decay,
      .one_minus_beta1 = 1 - beta1,
      .beta2 = beta2,
      .one_minus_beta2 = 1 - beta2,
      .step_size = rate / (1 - pow(beta1, (double)settings.step)),
      .correction = sqrt(1 - pow(beta2, (double)settings.step)),
      .epsilon = settings.epsilon,
  };
}

void cpu_adamw(float *p, float *m, float *v, const float *g, int64_t count, AdamwSettings settings, Backend *backend) {
  Update update = update_new(p, g, settings);
  update.m = m, update.v = v;
  run_ranges(backend, count, GRAIN, update_range, &update);
}

typedef struct Coded {
  Update update;
  int64_t count;
  uint8_t *codes[MOMENT_COUNT];
  float *scales[MOMENT_COUNT];
  Coder coders[MOMENT_COUNT];
} Coded;

static void update_blocks(void *argument, int64_t begin, int64_t end, int thread) {
  const Coded *coded = argument;
  float values[MOMENT_COUNT][MOMENT_BLOCK];
  for (int64_t block = begin; block < end; block++) {
    int64_t first = block * MOMENT_BLOCK, n = smaller(coded->count - first, MOMENT_BLOCK);
    if (n < MOMENT_BLOCK) memset(values, 0, sizeof values);
    for (int k = 0; k < MOMENT_COUNT; k++) moments_load(values[k], coded->codes[k] + first, coded->scales[k][block], n, &coded->coders[k]);
    Update update = coded->update;
    update.p += first, update.g += first;
    update.m = values[MOMENT_FIRST], update.v = values[MOMENT_SECOND];
    update_range(&update, 0, n, thread);
    for (int k = 0; k < MOMENT_COUNT; k++)
      coded->scales[k][block] = moments_store(coded->codes[k] + first, values[k], n, &coded->coders[k]);
  }
}

void cpu_adamw_8bit(float *p, uint8_t *m, float *m_scales, uint8_t *v, float *v_scales, const float *g, int64_t count,
                    AdamwSettings settings, Backend *backend) {
  Coded coded = {.update = update_new(p, g, settings), .count = count, .codes = {m, v}, .scales = {m_scales, v_scales}};
  for (int k = 0; k < MOMENT_COUNT; k++) coder_new(&coded.coders[k], k);
  run_ranges(backend, moment_blocks(count), BLOCK_GRAIN, update_blocks, &coded);
}
