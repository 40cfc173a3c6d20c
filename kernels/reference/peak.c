// The multiply-adds of plain C, as the compiler makes them for any processor of the build's kind: kernels/cpu/peak.c tells
// the loop.
#include "kernels/peak.h"

#include "kernels/reference/reference.h"

enum { SUMS = 12 };

static float float32_rounds(int64_t rounds) {
  float sums[SUMS], a = 0.9990234375f, b = 0.0009765625f;
  for (int i = 0; i < SUMS; i++) sums[i] = 1.0f + (float)i;
  for (int64_t round = 0; round < rounds; round++)
    for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * a + b;
  float total = 0;
  for (int i = 0; i < SUMS; i++) total += sums[i];
  return total;
}

double reference_peak_flops(FloatType arithmetic, Backend *backend) {
  return arithmetic == FLOAT_32 ? peak_measure(float32_rounds, 2.0 * SUMS, backend) : 0;
}
