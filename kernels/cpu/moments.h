// Moments in 8 bits (kernels/adamw_8bit.h) as the CPU's kernels read and write them.
#ifndef KERNELS_CPU_MOMENTS_H
#define KERNELS_CPU_MOMENTS_H

#include <assert.h>
#include <string.h>

#include "kernels/adamw_8bit.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

// Codes are found by the first bits of a number: its sign, exponent and 7 bits of its fraction. Between two numbers that begin alike there is
// one bound at most, so a comparison with the first bound from the smaller on tells the code. All below 2^-22 begins alike.
enum { KEY_SHIFT = 16, FIRST_KEY = (127 - 22) << 7, KEYS = (22 << 7) + 1 };

typedef struct Coder {
  const float *levels;
  float bounds[MOMENT_LEVELS];
  uint8_t starts[2][KEYS];  // of numbers from zero up and of those below: how many bounds are below all of them
} Coder;

static inline float key_begin(int key) {
  uint32_t bits = (uint32_t)(key + FIRST_KEY) << KEY_SHIFT;
  float x;
  memcpy(&x, &bits, sizeof x);
  return key > 0 ? x : 0;
}

static inline void coder_new(Coder *coder, Moment moment) {
  coder->levels = moment_levels(moment);
  moment_bounds(coder->bounds, moment);
  int code = 0;
  for (int key = KEYS - 1; key >= 0; key--) {
    while (coder->bounds[code] <= -key_begin(key + 1)) code++;
    coder->starts[1][key] = (uint8_t)code;
  }
  for (int key = 0; key < KEYS; key++) {
    while (coder->bounds[code] < key_begin(key)) code++;
    coder->starts[0][key] = (uint8_t)code;
    assert(code == MOMENT_LEVELS - 1 || coder->bounds[code + 1] >= key_begin(key + 1));
  }
}

static inline uint8_t code_of(const Coder *coder, float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  int64_t key = smaller(larger((bits & 0x7fffffff) >> KEY_SHIFT, FIRST_KEY) - FIRST_KEY, KEYS - 1);  // a NaN, too, has a place
  uint8_t start = coder->starts[bits >> 31][key];
  return (uint8_t)(start + (coder->bounds[start] < x));
}

// The codes of x[MOMENT_BLOCK], zeros from n on, which become quotients; returns the scale.
static inline float moments_store(uint8_t *codes, float *x, int64_t n, const Coder *coder) {
  Vec largest = vec_zero();
  for (int i = 0; i < MOMENT_BLOCK; i += VL) largest = vec_max(largest, vec_abs(vec_load(x + i)));
  float scale = vec_largest(largest);
  if (scale == 0) memset(codes, 0, (size_t)n);
  if (scale == 0) return 0;
  for (int i = 0; i < MOMENT_BLOCK; i += VL) vec_store(x + i, vec_load(x + i) / vec_set(scale));
  for (int64_t i = 0; i < n; i++) codes[i] = code_of(coder, x[i]);
  return scale;
}

static inline void moments_load(float *x, const uint8_t *codes, float scale, int64_t n, const Coder *coder) {
  for (int64_t i = 0; i < n; i++) x[i] = coder->levels[codes[i]] * scale;
}

#endif
