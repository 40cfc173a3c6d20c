// The divergence of a policy from a base, a row of logits z and w of either at a time (kernels/reference/cross_entropy.c):
//   d_v = (z_v - max z) - (w_v - max w) - log(sum exp(z - max z) / sum exp(w - max w)),   kl = sum_v p_v d_v,
//   w_v <- scale p_v (d_v - kl) (1 - (z_v / softcap)^2)
// Four passes over what stays in the second cache: maxima, sums of exponentials, kl, gradient.
#include <math.h>

#include "kernels/cpu/typed.h"

enum { CHUNK = 4096 };  // is summed in float32, chunks in double

typedef struct DivergenceRows {
  float *kl, *base;
  const float *logits, *scale;
  int64_t step, vocabulary;
  float softcap;
} DivergenceRows;

// sum exp(z - maximum) of a row.
typedef struct Exponentials {
  float maximum;
  double sum;
} Exponentials;

ALWAYS_INLINE Vec load_capped(const float *z, int64_t count, float cap) {
  Vec v = vec_load_first(z, count);
  if (cap > 0) v = vec_set(cap) * vec_tanh(v / vec_set(cap));
  return v;
}

ALWAYS_INLINE Vec first_lanes(Vec v, int64_t count) { return (Vec)((VecI)v & vec_first(count)); }

static Exponentials row_exponentials(const float *z, int64_t count, float cap) {
  Vec largest = vec_set(-INFINITY);
  for (int64_t j = 0; j < count; j += VL)
    largest = vec_max(largest, vec_select(vec_first(count - j), load_capped(z + j, count - j, cap), vec_set(-INFINITY)));
  Exponentials row = {.maximum = vec_largest(largest)};
  for (int64_t first = 0; first < count; first += CHUNK) {
    Vec sum = vec_zero();
    for (int64_t j = first; j < smaller(first + CHUNK, count); j += VL)
      sum += first_lanes(vec_exp(load_capped(z + j, count - j, cap) - vec_set(row.maximum)), count - j);
    row.sum += (double)vec_sum(sum);
  }
  return row;
}

// Both rows as wholes.
typedef struct Pair {
  float maximum, base_maximum;
  float inverse, log_ratio;  // 1 / the policy's sum, and the logarithm of it by the base's
} Pair;

// p and d of VL tokens; where p is 0 d is, too.
typedef struct Shares {
  Vec z, p, d;
} Shares;

ALWAYS_INLINE Shares load_shares(const float *z, const float *w, int64_t count, float cap, const Pair *pair) {
  Shares s = {.z = load_capped(z, count, cap)};
  Vec below = s.z - vec_set(pair->maximum), base_below = load_capped(w, count, cap) - vec_set(pair->base_maximum);
  s.p = first_lanes(vec_exp(below) * vec_set(pair->inverse), count);
  s.d = vec_select(s.p == vec_zero(), vec_zero(), below - base_below - vec_set(pair->log_ratio));
  return s;
}

static void divergence_row(const DivergenceRows *rows, int64_t i) {
  const float *z = rows->logits + i * rows->step, cap = rows->softcap;
  float *w = rows->base + i * rows->step;
  int64_t count = rows->vocabulary;
  Exponentials policy = row_exponentials(z, count, cap), base = row_exponentials(w, count, cap);
  Pair pair = {policy.maximum, base.maximum, (float)(1 / policy.sum), (float)log(policy.sum / base.sum)};
  double kl = 0;
  for (int64_t first = 0; first < count; first += CHUNK) {
    Vec sum = vec_zero();
    for (int64_t j = first; j < smaller(first + CHUNK, count); j += VL) {
      Shares s = load_shares(z + j, w + j, count - j, cap, &pair);
      sum += s.p * s.d;
    }
    kl += (double)vec_sum(sum);
  }
  rows->kl[i] = (float)kl;
  if (!rows->scale) return;
  for (int64_t j = 0; j < count; j += VL) {
    Shares s = load_shares(z + j, w + j, count - j, cap, &pair);
    Vec gradient = vec_set(rows->scale[i]) * s.p * (s.d - vec_set((float)kl)), turned = s.z / vec_set(cap);
    if (cap > 0) gradient *= vec_fnma(turned, turned, vec_set(1));
    vec_store_first(w + j, gradient, count - j);
  }
}

static void divergence_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  for (int64_t i = begin; i < end; i++) divergence_row(argument, i);
}

void cpu_divergence(float *kl, float *base, const float *logits, int64_t step, const float *scale, int64_t n, int64_t vocabulary,
                    float softcap, Backend *backend) {
  run_rows(backend, n, 2 * vocabulary, divergence_rows, &(DivergenceRows){kl, base, logits, scale, step, vocabulary, softcap});
}
