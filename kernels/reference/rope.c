// Rotary position embedding (Su et al. 2021): with t = position * frequencies[i], the pair (a, b) of index i becomes
//   (a, b) <- magnitude * (a cos t - b sin t, a sin t + b cos t)
// and for the inverse, which is also the transpose and so the backward pass, t is negated. The angle is exact to
// double: at position 100,000 a float32 product would already be off by up to 0.004.
#include <math.h>

#include "kernels/reference/reference.h"

static void rotate_head(float *x, double position, const float *frequencies, int64_t rotary, RopeLayout layout, double magnitude,
                        bool inverse) {
  for (int64_t i = 0; i < rotary / 2; i++) {
    double angle = inverse ? -position * frequencies[i] : position * frequencies[i];
    double cosine = magnitude * cos(angle), sine = magnitude * sin(angle);
    float *first = layout == ROPE_HALVES ? x + i : x + 2 * i;
    float *second = layout == ROPE_HALVES ? x + i + rotary / 2 : x + 2 * i + 1;
    double a = *first, b = *second;
    *first = (float)(a * cosine - b * sine);
    *second = (float)(a * sine + b * cosine);
  }
}

void reference_rope(float *x, const int32_t *positions, const float *frequencies, int64_t n, int64_t heads, int64_t head_size,
                    int64_t rotary, RopeLayout layout, float magnitude, bool inverse, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++)
    for (int64_t h = 0; h < heads; h++)
      rotate_head(x + (i * heads + h) * head_size, positions[i], frequencies, rotary, layout, magnitude, inverse);
}
