// The most multiply-adds that this instruction set can do: sums[i] <- sums[i] * a + b in registers, as many sums side by side
// as hide the latency of an instruction (4 or 5 cycles, two a cycle) and still fit 16 registers with a and b. The values
// tend to b / (1 - a) = 1, so that none becomes denormal or infinite.
#include "kernels/peak.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"
#ifdef __AMX_BF16__
#include "kernels/cpu/tiles.h"
#endif

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

#ifdef __AMX_BF16__
// Four tiles of sums, as products have them (product_bf16.c). The operands are numbers of all bits and either sign, from 1/2 to 1: with
// zeros alone processors run faster than in any product.
static float tile_rounds(int64_t rounds) {
  _Alignas(64) float sums[AMX_ROWS * AMX_ROWS];
  _Alignas(64) uint16_t operands[4][AMX_ELEMENTS];
  uint32_t bits = 1;
  for (int i = 0; i < 4 * AMX_ELEMENTS; i++) {
    bits = bits * 1664525 + 1013904223;
    operands[i / AMX_ELEMENTS][i % AMX_ELEMENTS] = (uint16_t)((bits >> 16 & 0x807f) | 0x3f00);
  }
  tiles_begin();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, operands[0], 2 * AMX_DEPTH);
  _tile_loadd(5, operands[1], 2 * AMX_DEPTH);
  _tile_loadd(6, operands[2], 2 * AMX_DEPTH);
  _tile_loadd(7, operands[3], 2 * AMX_DEPTH);
  for (int64_t round = 0; round < rounds; round++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, AMX_ROWS * sizeof(float));
  tiles_end();
  return sums[0];
}
#endif

double cpu_peak_flops(FloatType arithmetic, Backend *backend) {
  switch (arithmetic) {
    case FLOAT_32: return peak_measure(float32_rounds, 2.0 * SUMS * VL, backend);
#ifdef __AMX_BF16__
    case FLOAT_BF16: return peak_measure(tile_rounds, 4.0 * 2 * AMX_ROWS * AMX_ROWS * AMX_DEPTH, backend);
#else
    case FLOAT_BF16: return 0;
#endif
    case FLOAT_F16: return 0;
  }
  return 0;
}
