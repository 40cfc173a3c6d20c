// Rotary position embedding (Su et al. 2021): with t = position * frequencies[i], the pair (a, b) of index i becomes
//   (a, b) <- magnitude * (a cos t - b sin t, a sin t + b cos t)
// and for the inverse, which is also the transpose and so the backward pass, t is negated. The angle is exact to
// double: at position 100,000 a float32 product would already be off by up to 0.004.
#include <math.h>

#include "kernels/reference/reference.h"

static void rotate_head(void *x, FloatType type, int64_t at, double position, const float *frequencies, int64_t rotary, RopeLayout layout,
                        double magnitude, bool inverse) {
  for (int64_t i = 0; i < rotary / 2; i++) {
    double angle = inverse ? -position * frequencies[i] : position * frequencies[i];
    double cosine = magnitude * cos(angle), sine = magnitude * sin(angle);
    int64_t first = at + (layout == ROPE_HALVES ? i : 2 * i), second = at + (layout == ROPE_HALVES ? i + rotary / 2 : 2 * i + 1);
    double a = reference_load(x, type, first), b = reference_load(x, type, second);
    reference_store(x, type, first, a * cosine - b * sine);
    reference_store(x, type, second, a * sine + b * cosine);
  }
}

void reference_rope(void *x, FloatType type, const int32_t *positions, const float *frequencies, int64_t n, int64_t heads,
                    int64_t head_size, int64_t rotary, RopeLayout layout, float magnitude, bool inverse, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++)
    for (int64_t h = 0; h < heads; h++)
      rotate_head(x, type, (i * heads + h) * head_size, positions[i], frequencies, rotary, layout, magnitude, inverse);
}
