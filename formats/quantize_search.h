// The scales of quantised groups by weighted least squares, for eight groups at once: value j of the groups is x[j], a lane a group.
//
// Levels l are rounded from x, so the error sum w (x - scale l - least)^2 is no smooth function of the scale. A search tries a row of
// inverse scales around the one that just spans the group; each gives levels, and for given levels the best scale (and least value) is a
// linear problem in closed form. What is maximised is how much of sum w x^2 a fit explains. The winner is polished: its levels rounded anew,
// its scale fitted anew, as long as that gains. (Lloyd's iteration of 1957, started from many points; ggml's quantisers have the same
// idea and one starting point less.)
//
// Functions are inlined into loops of their own type, so that sizes and grids are constants there.
#ifndef FORMATS_QUANTIZE_SEARCH_H
#define FORMATS_QUANTIZE_SEARCH_H

#include <stdbool.h>
#include <stddef.h>

#include "core/vector.h"
#include "formats/block.h"

// The levels that values are rounded to: integers low .. high, or the 16 of a book, ascending.
typedef struct Grid {
  float low, high;
  const int8_t *book;  // NULL: integers
} Grid;

VECTOR_INLINE void lanes_clamp(Lanes *a, float low, float high) {
  Lanes lowest = LANES_SPLAT(low), highest = LANES_SPLAT(high);
  *a = LANES_SELECT(*a > lowest, *a, lowest);
  *a = LANES_SELECT(*a < highest, *a, highest);
}

VECTOR_INLINE void lanes_level(Lanes *level, const Lanes *value, Grid grid) {
  if (!grid.book) {
    *level = *value;
    lanes_clamp(level, grid.low, grid.high);
    *level = LANES_ROUND(*level);
    return;
  }
  Lanes sum = LANES_SPLAT((float)grid.book[0]);
  for (int i = 1; i < 16; i++) {
    Lanes middle = LANES_SPLAT(0.5f * (float)(grid.book[i - 1] + grid.book[i])),
          step = LANES_SPLAT((float)(grid.book[i] - grid.book[i - 1]));
    sum += (Lanes)((LanesMask)step & (*value > middle));
  }
  *level = sum;
}

VECTOR_INLINE void lanes_inverse(Lanes *out, const Lanes *a) {
  LanesMask zero = *a == 0.0f;
  *out = LANES_SELECT(zero, LANES_SPLAT(0.0f), 1.0f / LANES_SELECT(zero, LANES_SPLAT(1.0f), *a));
}

// ---- x = scale l ----

typedef struct ScaleFit {
  Lanes scale, gain;
} ScaleFit;

VECTOR_INLINE void scale_try(ScaleFit *best, const Lanes *inverse, const Lanes *x, const Lanes *w, int n, Grid grid) {
  Lanes xl = LANES_SPLAT(0.0f), ll = LANES_SPLAT(0.0f);
  for (int j = 0; j < n; j++) {
    Lanes value = x[j] * *inverse, level;
    lanes_level(&level, &value, grid);
    Lanes weighted = w[j] * level;
    xl += weighted * x[j];
    ll += weighted * level;
  }
  Lanes inverse_ll;
  lanes_inverse(&inverse_ll, &ll);
  Lanes scale = xl * inverse_ll, gain = scale * xl;
  LanesMask better = gain > best->gain;
  best->scale = LANES_SELECT(better, scale, best->scale);
  best->gain = LANES_SELECT(better, gain, best->gain);
}

// The largest value is laid near the lowest level, and near the highest: `steps` positions each way around both, `step` levels apart.
VECTOR_INLINE void scale_search(Lanes *scale, const Lanes *x, const Lanes *w, int n, Grid grid, int steps, float step) {
  Lanes largest = LANES_SPLAT(0.0f), magnitude = LANES_SPLAT(0.0f), inverse;
  for (int j = 0; j < n; j++) {
    Lanes absolute = LANES_SELECT(x[j] < 0.0f, -x[j], x[j]);
    LanesMask larger = absolute > magnitude;
    largest = LANES_SELECT(larger, x[j], largest);
    magnitude = LANES_SELECT(larger, absolute, magnitude);
  }
  lanes_inverse(&inverse, &largest);
  ScaleFit best = {LANES_SPLAT(0.0f), LANES_SPLAT(0.0f)};
  for (int i = -steps; i <= steps; i++) {
    Lanes down = inverse * (grid.low + step * (float)i), up = inverse * (grid.high + step * (float)i);
    scale_try(&best, &down, x, w, n, grid);
    scale_try(&best, &up, x, w, n, grid);
  }
  for (int i = 0; i < 2; i++) {
    lanes_inverse(&inverse, &best.scale);
    scale_try(&best, &inverse, x, w, n, grid);
  }
  *scale = best.scale;
}

// ---- x = scale l + least ----

typedef struct RangeFit {
  Lanes scale, least, gain;
} RangeFit;

typedef struct RangeSums {
  Lanes w, x;  // sums of w and w x
} RangeSums;

VECTOR_INLINE void range_try(RangeFit *best, const Lanes *inverse, const Lanes *least, const Lanes *x, const Lanes *w, int n, int top,
                             const RangeSums *sums, bool least_below_zero) {
  Lanes l = LANES_SPLAT(0.0f), ll = LANES_SPLAT(0.0f), xl = LANES_SPLAT(0.0f);
  const Grid grid = {0, (float)top, NULL};
  for (int j = 0; j < n; j++) {
    Lanes value = (x[j] - *least) * *inverse, level;
    lanes_level(&level, &value, grid);
    Lanes weighted = w[j] * level;
    l += weighted;
    ll += weighted * level;
    xl += weighted * x[j];
  }
  Lanes determinant = sums->w * ll - l * l, inverse_determinant, inverse_ll;
  LanesMask solvable = determinant > 1e-6f * sums->w * ll;
  determinant = LANES_SELECT(solvable, determinant, LANES_SPLAT(0.0f));
  lanes_inverse(&inverse_determinant, &determinant);
  lanes_inverse(&inverse_ll, &ll);
  Lanes scale = (sums->w * xl - sums->x * l) * inverse_determinant, offset = (ll * sums->x - l * xl) * inverse_determinant;
  if (least_below_zero) {
    LanesMask above = (offset > 0.0f) | ~solvable;
    scale = LANES_SELECT(above, xl * inverse_ll, scale);
    offset = LANES_SELECT(above, LANES_SPLAT(0.0f), offset);
  }
  Lanes gain = 2.0f * (scale * xl + offset * sums->x) - scale * scale * ll - 2.0f * scale * offset * l - offset * offset * sums->w;
  LanesMask better = (gain > best->gain) & (scale > 0.0f);
  best->scale = LANES_SELECT(better, scale, best->scale);
  best->least = LANES_SELECT(better, offset, best->least);
  best->gain = LANES_SELECT(better, gain, best->gain);
}

// Inverse scales from (top - reach) to (top + reach) levels over the span of the values.
VECTOR_INLINE void range_search(Lanes *scale, Lanes *least, const Lanes *x, const Lanes *w, int n, int top, int steps, float reach,
                                bool least_below_zero) {
  Lanes low = x[0], high = x[0];
  RangeSums sums = {LANES_SPLAT(0.0f), LANES_SPLAT(0.0f)};
  for (int j = 0; j < n; j++) {
    low = LANES_SELECT(x[j] < low, x[j], low);
    high = LANES_SELECT(x[j] > high, x[j], high);
    sums.w += w[j];
    sums.x += w[j] * x[j];
  }
  if (least_below_zero) low = LANES_SELECT(low > 0.0f, LANES_SPLAT(0.0f), low);
  Lanes span = high - low, inverse_span;
  lanes_inverse(&inverse_span, &span);
  // What one value for all explains is the least that a fit has to.
  RangeFit best = {LANES_SPLAT(0.0f), low, 2.0f * low * sums.x - low * low * sums.w};
  for (int i = 0; i <= steps; i++) {
    Lanes inverse = inverse_span * ((float)top + reach * (2.0f * (float)i / (float)steps - 1.0f));
    range_try(&best, &inverse, &low, x, w, n, top, &sums, least_below_zero);
  }
  for (int i = 0; i < 2; i++) {
    Lanes inverse, from = best.least;
    lanes_inverse(&inverse, &best.scale);
    range_try(&best, &inverse, &from, x, w, n, top, &sums, least_below_zero);
  }
  *scale = best.scale;
  *least = best.least;
}

// ---- Values and weights ----

// values[groups * size] as lanes: value j of group g is out[g / LANES * size + j][g % LANES].
VECTOR_INLINE void lanes_load(Lanes *out, const float *values, int groups, int size) {
  for (int g = 0; g < groups; g++)
    for (int j = 0; j < size; j++) out[g / LANES * size + j][g % LANES] = values[g * size + j];
}

// How much each of 256 values counts: formats/quantize_k.c.
void quantize_weights(float weights[256], float values[256], const float *in, const float *importance, int count);

#endif
