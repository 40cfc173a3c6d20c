// Quantising to the types with blocks of 256 values (formats/block_k.c and block_codebook.c have the layouts), minimising
//   sum_j w_j (x_j - x'_j)^2,   x'_j = d s_g l_j  or  d s_g l_j - dmin m_g,   w_j as quantize_weights has it.
// Each group's own scale is searched in float (quantize_search.h). The block's d is the one that gives the largest of them the last
// integer; each group then takes the integers nearby that leave the least error, and d and dmin are fitted to all values anew: twice,
// and the best of all is kept.
#include "formats/quantize_search.h"

#include <math.h>

#include "formats/block_rows.h"

enum { VALUES = BLOCK_K_ELEMENTS, VECTORS = VALUES / LANES, MAX_GROUPS = 16, MAX_SETS = MAX_GROUPS / LANES, ROUNDS = 2 };

// A weight's error counts by the mean squared activation that it meets: importance, where that is known. Large weights count more than
// small ones, since they stand where a model has something to say. NaN is written as 0, and infinity as the largest float.
void quantize_weights(float weights[256], float values[256], const float *in, const float *importance, int count) {
  const float largest = 0x1p32f;  // sums of squares stay finite; no scale that is a binary16 reaches so far
  float squares = 0;
  double sum = 0;
  for (int j = 0; j < count; j++) {
    float x = in[j] == in[j] ? in[j] : 0;
    x = x < largest ? x : largest;
    values[j] = x > -largest ? x : -largest;
    squares += values[j] * values[j];
    sum += importance ? importance[j] : 0;
  }
  for (int j = count; j < VALUES; j++) values[j] = 0, weights[j] = 1;
  float mean = count ? squares / (float)count : 0;
  for (int j = 0; j < count; j++) weights[j] = sqrtf(2 * mean + values[j] * values[j]);
  if (sum <= 0) return;
  // Relative to their mean; a column that the text never reached may matter to another text.
  double inverse = (double)count / sum;
  for (int j = 0; j < count; j++) weights[j] *= (float)(importance[j] * inverse) + 1e-3f;
}

// ---- x = d s l ----

typedef struct ScaledBlock {
  float d;
  int8_t scales[MAX_GROUPS];
  int8_t levels[VALUES];
} ScaledBlock;

typedef struct ScaledShape {
  int groups, scale_low, scale_high;  // of the integers s
  Grid grid;
  int steps;
  float step;  // of the search
} ScaledShape;

typedef struct ScaledTrial {
  Lanes scales[MAX_SETS], levels[VECTORS];
  float error, xu, uu;  // sums of w (x - d u)^2, w x u and w u^2, where u = s l
} ScaledTrial;

VECTOR_INLINE float lanes_sum(const Lanes *a) {
  float sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += (*a)[lane];
  return sum;
}

VECTOR_INLINE void scaled_try(ScaledTrial *trial, float d, const Lanes *scales, const Lanes *x, const Lanes *w, ScaledShape shape) {
  int sets = shape.groups / LANES, size = VALUES / shape.groups;
  float inverse_d = d != 0 ? 1 / d : 0;
  trial->error = trial->xu = trial->uu = 0;
  for (int set = 0; set < sets; set++) {
    const Lanes *xs = x + set * size, *ws = w + set * size;
    Lanes nearest = scales[set] * inverse_d, error = LANES_SPLAT(INFINITY), best = LANES_SPLAT(0.0f);
    for (int shift = -1; shift <= 1; shift++) {
      Lanes s = nearest, step, inverse, sum = LANES_SPLAT(0.0f);
      lanes_clamp(&s, (float)shape.scale_low, (float)shape.scale_high);
      s = LANES_ROUND(s) + (float)shift;
      lanes_clamp(&s, (float)shape.scale_low, (float)shape.scale_high);
      step = d * s;
      lanes_inverse(&inverse, &step);
      for (int j = 0; j < size; j++) {
        Lanes value = xs[j] * inverse, level;
        lanes_level(&level, &value, shape.grid);
        Lanes rest = xs[j] - step * level;
        sum += ws[j] * rest * rest;
      }
      LanesMask better = sum < error;
      error = LANES_SELECT(better, sum, error);
      best = LANES_SELECT(better, s, best);
    }
    Lanes step = d * best, inverse, xu = LANES_SPLAT(0.0f), uu = LANES_SPLAT(0.0f);
    lanes_inverse(&inverse, &step);
    for (int j = 0; j < size; j++) {
      Lanes value = xs[j] * inverse, *level = &trial->levels[set * size + j];
      lanes_level(level, &value, shape.grid);
      Lanes u = best * *level;
      xu += ws[j] * xs[j] * u;
      uu += ws[j] * u * u;
    }
    trial->scales[set] = best;
    trial->error += lanes_sum(&error);
    trial->xu += lanes_sum(&xu);
    trial->uu += lanes_sum(&uu);
  }
}

VECTOR_INLINE float round_to_half(float value) { return half_to_float(half_from_float(value)); }

VECTOR_INLINE void scaled_fit(ScaledBlock *block, const float *in, const float *importance, ScaledShape shape) {
  int sets = shape.groups / LANES, size = VALUES / shape.groups;
  float values[VALUES], weights[VALUES];
  Lanes x[VECTORS], w[VECTORS], scales[MAX_SETS];
  quantize_weights(weights, values, in, importance, VALUES);
  lanes_load(x, values, shape.groups, size);
  lanes_load(w, weights, shape.groups, size);
  float largest = 0;
  for (int set = 0; set < sets; set++) {
    scale_search(&scales[set], x + set * size, w + set * size, size, shape.grid, shape.steps, shape.step);
    for (int lane = 0; lane < LANES; lane++)
      if (fabsf(scales[set][lane]) > fabsf(largest)) largest = scales[set][lane];
  }
  ScaledTrial trials[2], *best = &trials[0], *next = &trials[1];
  float d = round_to_half(largest / (float)shape.scale_low), best_d = d;
  scaled_try(best, d, scales, x, w, shape);
  for (int round = 0; round < ROUNDS; round++) {
    float fitted = best->uu > 0 ? round_to_half(best->xu / best->uu) : 0;
    if (fitted == best_d || !isfinite(fitted)) break;
    scaled_try(next, fitted, scales, x, w, shape);
    if (!(next->error < best->error)) break;
    ScaledTrial *last = best;
    best = next, next = last;
    best_d = fitted;
  }
  block->d = best_d;
  for (int g = 0; g < shape.groups; g++) {
    block->scales[g] = (int8_t)best->scales[g / LANES][g % LANES];
    for (int j = 0; j < size; j++) block->levels[g * size + j] = (int8_t)best->levels[g / LANES * size + j][g % LANES];
  }
}

// ---- x = d s l - dmin m ----

typedef struct RangedBlock {
  float d, dmin;
  uint8_t scales[MAX_GROUPS], minima[MAX_GROUPS];
  uint8_t levels[VALUES];
} RangedBlock;

typedef struct RangedShape {
  int groups, scale_high, top;  // of s and m; of l
  int steps;
  float reach;  // of the search
} RangedShape;

typedef struct RangedTrial {
  Lanes scales[MAX_SETS], minima[MAX_SETS], levels[VECTORS];
  float error, xu, xv, uu, uv, vv;  // sums of w (x - d u + dmin v)^2 and of products; u = s l, v = m
} RangedTrial;

VECTOR_INLINE void ranged_try(RangedTrial *trial, float d, float dmin, const Lanes *scales, const Lanes *least, const Lanes *x,
                              const Lanes *w, RangedShape shape) {
  int sets = shape.groups / LANES, size = VALUES / shape.groups;
  float inverse_d = d > 0 ? 1 / d : 0, inverse_dmin = dmin > 0 ? 1 / dmin : 0, high = (float)shape.scale_high;
  const Grid grid = {0, (float)shape.top, NULL};
  trial->error = trial->xu = trial->xv = trial->uu = trial->uv = trial->vv = 0;
  for (int set = 0; set < sets; set++) {
    const Lanes *xs = x + set * size, *ws = w + set * size;
    Lanes nearest = scales[set] * inverse_d, nearest_m = -least[set] * inverse_dmin, error = LANES_SPLAT(INFINITY),
          best = LANES_SPLAT(0.0f), best_m = LANES_SPLAT(0.0f);
    lanes_clamp(&nearest, 0, high);
    lanes_clamp(&nearest_m, 0, high);
    for (int trial_index = 0; trial_index < 9; trial_index++) {
      Lanes s = LANES_ROUND(nearest) + (float)(trial_index / 3 - 1), m = LANES_ROUND(nearest_m) + (float)(trial_index % 3 - 1);
      lanes_clamp(&s, 0, high);
      lanes_clamp(&m, 0, high);
      Lanes step = d * s, offset = dmin * m, inverse, sum = LANES_SPLAT(0.0f);
      lanes_inverse(&inverse, &step);
      for (int j = 0; j < size; j++) {
        Lanes above = xs[j] + offset, value = above * inverse, level;
        lanes_level(&level, &value, grid);
        Lanes rest = above - step * level;
        sum += ws[j] * rest * rest;
      }
      LanesMask better = sum < error;
      error = LANES_SELECT(better, sum, error);
      best = LANES_SELECT(better, s, best);
      best_m = LANES_SELECT(better, m, best_m);
    }
    Lanes step = d * best, offset = dmin * best_m, inverse, xu = LANES_SPLAT(0.0f), wx = xu, uu = xu, wu = xu, sw = xu;
    lanes_inverse(&inverse, &step);
    for (int j = 0; j < size; j++) {
      Lanes value = (xs[j] + offset) * inverse, *level = &trial->levels[set * size + j];
      lanes_level(level, &value, grid);
      Lanes u = best * *level, weighted = ws[j] * u;
      xu += weighted * xs[j];
      uu += weighted * u;
      wu += weighted;
      wx += ws[j] * xs[j];
      sw += ws[j];
    }
    wx *= best_m;
    wu *= best_m;
    sw *= best_m * best_m;
    trial->scales[set] = best;
    trial->minima[set] = best_m;
    trial->error += lanes_sum(&error);
    trial->xu += lanes_sum(&xu);
    trial->xv += lanes_sum(&wx);
    trial->uu += lanes_sum(&uu);
    trial->uv += lanes_sum(&wu);
    trial->vv += lanes_sum(&sw);
  }
}

// d and dmin that suit a trial's integers best: minimises sum w (x - d u + dmin v)^2.
VECTOR_INLINE void ranged_refit(float *d, float *dmin, const RangedTrial *t) {
  double determinant = (double)t->uu * t->vv - (double)t->uv * t->uv;
  if (determinant > 1e-9 * (double)t->uu * t->vv) {
    *d = (float)(((double)t->xu * t->vv - (double)t->uv * t->xv) / determinant);
    *dmin = (float)(((double)t->uv * t->xu - (double)t->uu * t->xv) / determinant);
  } else {
    *d = t->uu > 0 ? t->xu / t->uu : 0;
  }
  *d = round_to_half(*d > 0 ? *d : 0);
  *dmin = round_to_half(*dmin > 0 ? *dmin : 0);
}

VECTOR_INLINE void ranged_fit(RangedBlock *block, const float *in, const float *importance, RangedShape shape) {
  int sets = shape.groups / LANES, size = VALUES / shape.groups;
  float values[VALUES], weights[VALUES];
  Lanes x[VECTORS], w[VECTORS], scales[MAX_SETS], least[MAX_SETS];
  quantize_weights(weights, values, in, importance, VALUES);
  lanes_load(x, values, shape.groups, size);
  lanes_load(w, weights, shape.groups, size);
  float largest = 0, lowest = 0;
  for (int set = 0; set < sets; set++) {
    range_search(&scales[set], &least[set], x + set * size, w + set * size, size, shape.top, shape.steps, shape.reach, true);
    for (int lane = 0; lane < LANES; lane++) {
      if (scales[set][lane] > largest) largest = scales[set][lane];
      if (least[set][lane] < lowest) lowest = least[set][lane];
    }
  }
  RangedTrial trials[2], *best = &trials[0], *next = &trials[1];
  float d = round_to_half(largest / (float)shape.scale_high), dmin = round_to_half(-lowest / (float)shape.scale_high);
  ranged_try(best, d, dmin, scales, least, x, w, shape);
  for (int round = 0; round < ROUNDS; round++) {
    float fitted = d, fitted_min = dmin;
    ranged_refit(&fitted, &fitted_min, best);
    if ((fitted == d && fitted_min == dmin) || !isfinite(fitted) || !isfinite(fitted_min)) break;
    ranged_try(next, fitted, fitted_min, scales, least, x, w, shape);
    if (!(next->error < best->error)) break;
    RangedTrial *last = best;
    best = next, next = last;
    d = fitted, dmin = fitted_min;
  }
  block->d = d;
  block->dmin = dmin;
  for (int g = 0; g < shape.groups; g++) {
    block->scales[g] = (uint8_t)best->scales[g / LANES][g % LANES];
    block->minima[g] = (uint8_t)best->minima[g / LANES][g % LANES];
    for (int j = 0; j < size; j++) block->levels[g * size + j] = (uint8_t)best->levels[g / LANES * size + j][g % LANES];
  }
}

// ---- Layouts ----

static const float *importance_at(const float *importance, int64_t i) { return importance ? importance + i : NULL; }

VECTOR_CLONES void q2_k_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  const RangedShape shape = {.groups = 16, .scale_high = 15, .top = 3, .steps = 16, .reach = 1};
  uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += VALUES, block += 84) {
    RangedBlock fit;
    ranged_fit(&fit, in + i, importance_at(importance, i), shape);
    memset(block, 0, 84);
    for (int g = 0; g < 16; g++) block[g] = (uint8_t)(fit.scales[g] | fit.minima[g] << 4);
    for (int j = 0; j < VALUES; j++) *pair_byte(block + 16, j) |= (uint8_t)(fit.levels[j] << pair_shift(j));
    store_half(block + 80, fit.d);
    store_half(block + 82, fit.dmin);
  }
}

VECTOR_CLONES void q3_k_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  const ScaledShape shape = {.groups = 16, .scale_low = -32, .scale_high = 31, .grid = {-4, 3, NULL}, .steps = 4, .step = 0.2f};
  uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += VALUES, block += 110) {
    ScaledBlock fit;
    scaled_fit(&fit, in + i, importance_at(importance, i), shape);
    memset(block, 0, 110);
    for (int j = 0; j < VALUES; j++) {
      int level = fit.levels[j] + 4;
      block[j % 32] |= (uint8_t)(level >> 2 << j / 32);
      *pair_byte(block + 32, j) |= (uint8_t)((level & 3) << pair_shift(j));
    }
    for (int t = 0; t < 16; t++) {
      int scale = fit.scales[t] + 32;
      block[96 + t % 8] |= (uint8_t)((scale & 15) << 4 * (t / 8));
      block[104 + t % 4] |= (uint8_t)(scale >> 4 << 2 * (t / 4));
    }
    store_half(block + 108, fit.d);
  }
}

// What Q4_K and Q5_K have in common: d, dmin, twelve bytes of scales, and nibbles in strips of 32 bytes, two groups each.
static void store_ranged(uint8_t *block, uint8_t *nibbles, const RangedBlock *fit) {
  store_half(block, fit->d);
  store_half(block + 2, fit->dmin);
  uint8_t *packed = block + 4;
  for (int g = 0; g < 4; g++) {
    packed[g] = (uint8_t)(fit->scales[g] | fit->scales[g + 4] >> 4 << 6);
    packed[g + 4] = (uint8_t)(fit->minima[g] | fit->minima[g + 4] >> 4 << 6);
    packed[g + 8] = (uint8_t)((fit->scales[g + 4] & 15) | (fit->minima[g + 4] & 15) << 4);
  }
  for (int strip = 0; strip < 4; strip++)
    for (int j = 0; j < 32; j++)
      nibbles[32 * strip + j] = (uint8_t)((fit->levels[64 * strip + j] & 15) | (fit->levels[64 * strip + 32 + j] & 15) << 4);
}

VECTOR_CLONES void q4_k_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  const RangedShape shape = {.groups = 8, .scale_high = 63, .top = 15, .steps = 20, .reach = 1};
  uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += VALUES, block += 144) {
    RangedBlock fit;
    ranged_fit(&fit, in + i, importance_at(importance, i), shape);
    store_ranged(block, block + 16, &fit);
  }
}

VECTOR_CLONES void q5_k_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  const RangedShape shape = {.groups = 8, .scale_high = 63, .top = 31, .steps = 16, .reach = 1};
  uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += VALUES, block += 176) {
    RangedBlock fit;
    ranged_fit(&fit, in + i, importance_at(importance, i), shape);
    store_ranged(block, block + 48, &fit);
    memset(block + 16, 0, 32);
    for (int j = 0; j < VALUES; j++) block[16 + j % 32] |= (uint8_t)(fit.levels[j] >> 4 << j / 32);
  }
}

VECTOR_CLONES void q6_k_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  const ScaledShape shape = {.groups = 16, .scale_low = -128, .scale_high = 127, .grid = {-32, 31, NULL}, .steps = 3, .step = 0.3f};
  uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += VALUES, block += 210) {
    ScaledBlock fit;
    scaled_fit(&fit, in + i, importance_at(importance, i), shape);
    memset(block, 0, 192);
    for (int j = 0; j < VALUES; j++) {
      int level = fit.levels[j] + 32, half = j / 128, k = j % 128;
      block[64 * half + k % 64] |= (uint8_t)((level & 15) << 4 * (k / 64));
      *pair_byte(block + 128, j) |= (uint8_t)(level >> 4 << pair_shift(j));
    }
    memcpy(block + 192, fit.scales, 16);
    store_half(block + 208, fit.d);
  }
}

VECTOR_CLONES void iq4_xs_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  const ScaledShape shape = {.groups = 8, .scale_low = -32, .scale_high = 31, .grid = {-127, 113, iq4_book}, .steps = 3, .step = 2};
  uint8_t *block = blocks;
  for (int64_t i = 0; i < n; i += VALUES, block += 136) {
    ScaledBlock fit;
    scaled_fit(&fit, in + i, importance_at(importance, i), shape);
    memset(block, 0, 8);
    store_half(block, fit.d);
    for (int g = 0; g < 8; g++) {
      int scale = fit.scales[g] + 32;
      block[4 + g / 2] |= (uint8_t)((scale & 15) << 4 * (g % 2));
      block[2 + g / 4] |= (uint8_t)(scale >> 4 << 2 * (g % 4));
      uint8_t q[32];
      for (int j = 0; j < 32; j++) q[j] = book_index(iq4_book, fit.levels[32 * g + j]);
      pack_nibbles(block + 8 + 16 * g, q);
    }
  }
}
