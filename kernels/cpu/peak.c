// The most multiply-adds that this instruction set can do: sums[i] <- sums[i] * a + b in registers, as many sums side by side
// as hide the latency of an instruction (4 or 5 cycles, two a cycle) and still fit 16 registers with a and b. The values
// tend to b / (1 - a) = 1, so that none becomes denormal or infinite.
#include "kernels/peak.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

enum { SUMS = 12 };

static float float32_rounds(int64_t rounds) {
  Vec sums[SUMS], a = vec_set(0.9990234375f), b = vec_set(0.0009765625f);
  for (int i = 0; i < SUMS; i++) sums[i] = vec_set(1.0f + (float)i);
  for (int64_t round = 0; round < rounds; round++)
    for (int i = 0; i < SUMS; i++) sums[i] = vec_fma(sums[i], a, b);
  Vec total = vec_zero();
  for (int i = 0; i < SUMS; i++) total += sums[i];
  return vec_sum(total);
}

double cpu_peak_flops(FloatType arithmetic, Backend *backend) {
  switch (arithmetic) {
    case FLOAT_32: return peak_measure(float32_rounds, 2.0 * SUMS * VL, backend);
    case FLOAT_BF16: return 0;  // a table with bfloat16 products, such as AMX tiles, puts its loop here
  }
  return 0;
}
