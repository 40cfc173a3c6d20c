// Random numbers in kernels. Inverted dropout (Srivastava et al. 2014): y_i (+)= x_i / (1 - p) where element i is kept. The mask is Philox4x32-10
// (core/rng.h) of (seed, stream, i / 4), word i % 4, VL counters at once.
#include <math.h>

#include "kernels/cpu/typed.h"

enum { BLOCK = 4 * VL, GRAIN = 512 * BLOCK };

typedef struct Dropout {
  void *y;
  const void *x;
  FloatType type;
  uint32_t limit;  // a word below it drops its element
  float scale;
  uint64_t seed, stream;
  bool accumulate;
} Dropout;

typedef struct Noise {
  float *y;
  float magnitude;
  uint64_t seed, stream;
} Noise;

// The words of elements first .. first + BLOCK - 1, VL a vector.
static void random_words(VecU words[4], uint64_t seed, uint64_t stream, int64_t first) {
  uint64_t counter = (uint64_t)first / 4;  // a multiple of VL: no lane carries into the high word
  VecU c0 = (VecU)(vec_set_int((int32_t)(uint32_t)counter) + vec_counter_order()), c1 = (VecU){0} + (uint32_t)(counter >> 32);
  VecU c2 = (VecU){0} + (uint32_t)stream, c3 = (VecU){0} + (uint32_t)(stream >> 32);
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    VecU high0 = vec_multiply_high(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
    VecU high1 = vec_multiply_high(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
    c0 = high1 ^ c1 ^ k0;
    c2 = high0 ^ c3 ^ k1;
    c1 = low1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
  vec_counters_to_words(words);
}

ALWAYS_INLINE void drop_some(const Dropout *d, int64_t begin, int64_t end, int type) {
  for (int64_t first = begin; first < end; first += BLOCK) {
    VecU words[4];
    random_words(words, d->seed, d->stream, first);
    for (int v = 0; v < 4 && first + v * VL < end; v++) {
      int64_t i = first + v * VL;
      Vec value = typed_load(d->x, i, end - i, type) * vec_set(d->scale);
      value = (Vec)((VecI)value & (VecI)(words[v] >= d->limit));
      if (d->accumulate) value += typed_load(d->y, i, end - i, type);
      typed_store(d->y, i, value, end - i, type);
    }
  }
}

static void drop_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Dropout *d = argument;
  BY_TYPE(d->type, drop_some(d, begin, end, TYPE));
}

void cpu_dropout(void *y, const void *x, FloatType type, int64_t count, float p, uint64_t seed, uint64_t stream, bool accumulate,
                 Backend *backend) {
  Dropout dropout = {y, x, type, (uint32_t)ceil((double)p * 0x1p32), (float)(1 / (1 - (double)p)), seed, stream, accumulate};
  run_ranges(backend, count, GRAIN, drop_range, &dropout);
}

// y_i += magnitude u_i, u_i by the top 24 bits of a word (Jain et al. 2023, arXiv 2310.05914).
static void noise_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Noise *noise = argument;
  for (int64_t first = begin; first < end; first += BLOCK) {
    VecU words[4];
    random_words(words, noise->seed, noise->stream, first);
    for (int v = 0; v < 4 && first + v * VL < end; v++) {
      int64_t i = first + v * VL;
      Vec unit = vec_from_int((VecI)(words[v] >> 8)) * vec_set(0x1p-23f) - vec_set(1);
      Vec value = typed_load(noise->y, i, end - i, FLOAT_32) + unit * vec_set(noise->magnitude);
      typed_store(noise->y, i, value, end - i, FLOAT_32);
    }
  }
}

void cpu_add_uniform(float *y, int64_t count, float magnitude, uint64_t seed, uint64_t stream, Backend *backend) {
  Noise noise = {y, magnitude, seed, stream};
  run_ranges(backend, count, GRAIN, noise_range, &noise);
}
