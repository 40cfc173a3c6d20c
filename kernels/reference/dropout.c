// Random numbers in kernels. Inverted dropout (Srivastava et al. 2014): y_i (+)= x_i / (1 - p) where element i is kept, 0 where not. Whether it
// is kept is a function of (seed, stream, i) alone, so that the backward pass draws the same mask again and the
// number of threads does not matter.
#include "core/rng.h"
#include "kernels/reference/reference.h"

void reference_dropout(void *y, const void *x, FloatType type, int64_t count, float p, uint64_t seed, uint64_t stream, bool accumulate,
                       Backend *backend) {
  (void)backend;
  double limit = (double)p * 0x1p32, scale = 1 / (1 - (double)p);
  uint32_t words[4];
  for (int64_t i = 0; i < count; i++) {
    if (i % 4 == 0) philox(words, seed, stream, (uint64_t)i / 4);
    double value = words[i % 4] >= limit ? reference_load(x, type, i) * scale : 0;
    reference_store(y, type, i, accumulate ? reference_load(y, type, i) + value : value);
  }
}

// Noise of NEFTune (Jain et al. 2023, arXiv 2310.05914): y_i += magnitude u_i, u_i uniform in [-1, 1) by the top 24 bits of a word.
void reference_add_uniform(float *y, int64_t count, float magnitude, uint64_t seed, uint64_t stream, Backend *backend) {
  (void)backend;
  uint32_t words[4];
  for (int64_t i = 0; i < count; i++) {
    if (i % 4 == 0) philox(words, seed, stream, (uint64_t)i / 4);
    y[i] = (float)(y[i] + (double)magnitude * ((double)(words[i % 4] >> 8) * 0x1p-23 - 1));
  }
}
