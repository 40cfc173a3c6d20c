#include "core/rng.h"

#include <math.h>

void philox(uint32_t out[4], uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1;
    c3 = (uint32_t)p0;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

Rng rng_new(uint64_t seed, uint64_t stream) { return (Rng){.seed = seed, .stream = stream}; }

uint64_t rng_next(Rng *rng) {
  uint32_t words[4];
  philox(words, rng->seed, rng->stream, rng->index++);
  return (uint64_t)words[1] << 32 | words[0];
}

double rng_uniform(Rng *rng) { return (double)(rng_next(rng) >> 11) * 0x1p-53; }

uint64_t rng_below(Rng *rng, uint64_t bound) {
  uint64_t limit = -bound % bound;  // values under it would be drawn once too often
  uint64_t value;
  do value = rng_next(rng);
  while (value < limit);
  return value % bound;
}

double rng_normal(Rng *rng) {
  double u = 1.0 - rng_uniform(rng);
  double v = rng_uniform(rng);
  return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

void rng_shuffle(Rng *rng, int64_t *items, int64_t count) {
  for (int64_t i = count - 1; i > 0; i--) {
    int64_t j = (int64_t)rng_below(rng, (uint64_t)i + 1);
    int64_t item = items[i];
    items[i] = items[j];
    items[j] = item;
  }
}
