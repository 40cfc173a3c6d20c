// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A number is a function of (seed, stream, index) alone, so results do not
// depend on the number of threads, and the state of a stream is one counter that a checkpoint keeps.
#ifndef CORE_RNG_H
#define CORE_RNG_H

#include <stdint.h>

void philox(uint32_t out[4], uint64_t seed, uint64_t stream, uint64_t index);

typedef struct Rng {
  uint64_t seed, stream, index;  // index: the next block of four 32-bit words
} Rng;

Rng rng_new(uint64_t seed, uint64_t stream);
uint64_t rng_next(Rng *rng);  // 64 uniform bits
double rng_uniform(Rng *rng);  // [0, 1)
uint64_t rng_below(Rng *rng, uint64_t bound);  // 0 .. bound-1, unbiased; bound > 0
double rng_normal(Rng *rng);  // mean 0, deviation 1 (Box-Muller)
void rng_shuffle(Rng *rng, int64_t *items, int64_t count);  // Fisher-Yates

// The streams in use; what a run draws for one purpose never shifts another's numbers.
enum { RNG_STREAM_ADAPTER_INIT = 1, RNG_STREAM_DATA = 2, RNG_STREAM_DROPOUT = 3, RNG_STREAM_SAMPLING = 4, RNG_STREAM_TEST = 5 };

#endif
