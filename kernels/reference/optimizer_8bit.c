// AdamW with moments in 8 bits: kernels/adamw_8bit.h has the equations. Here a step is AdamW's own, on what the codes stand for.
#include "kernels/adamw_8bit.h"

#include <math.h>

#include "kernels/reference/reference.h"

void reference_moments_load(float *x, const uint8_t *codes, float scale, int64_t n, const float *levels) {
  for (int64_t i = 0; i < n; i++) x[i] = levels[codes[i]] * scale;
}

// The codes of a block; returns its scale.
float reference_moments_store(uint8_t *codes, const float *x, int64_t n, const float *bounds) {
  float scale = 0;
  for (int64_t i = 0; i < n; i++) scale = fmaxf(scale, fabsf(x[i]));
  for (int64_t i = 0; i < n; i++) {
    int code = 0;
    for (int step = MOMENT_LEVELS / 2; scale > 0 && step > 0; step /= 2)
      if (bounds[code + step - 1] < x[i] / scale) code += step;
    codes[i] = (uint8_t)code;
  }
  return scale;
}

void reference_adamw_8bit(float *p, uint8_t *m, float *m_scales, uint8_t *v, float *v_scales, const float *g, int64_t count,
                          AdamwSettings settings, Backend *backend) {
  float bounds[MOMENT_COUNT][MOMENT_LEVELS], first[MOMENT_BLOCK], second[MOMENT_BLOCK];
  for (int i = 0; i < MOMENT_COUNT; i++) moment_bounds(bounds[i], i);
  for (int64_t block = 0; block < moment_blocks(count); block++) {
    int64_t begin = block * MOMENT_BLOCK, n = count - begin < MOMENT_BLOCK ? count - begin : MOMENT_BLOCK;
    reference_moments_load(first, m + begin, m_scales[block], n, moment_levels(MOMENT_FIRST));
    reference_moments_load(second, v + begin, v_scales[block], n, moment_levels(MOMENT_SECOND));
    reference_adamw(p + begin, first, second, g + begin, n, settings, backend);
    m_scales[block] = reference_moments_store(m + begin, first, n, bounds[MOMENT_FIRST]);
    v_scales[block] = reference_moments_store(v + begin, second, n, bounds[MOMENT_SECOND]);
  }
}
