// Cross entropy of softmax, a row of logits z[vocabulary] at a time; the maximum is taken out, so that no
// exponential overflows:
//   nll = max + log sum_j exp(z_j - max) - z_target
//   z_j <- gradient_scale * (exp(z_j - max) / sum - [j = target])
// Two passes over a row, a piece that stays in the first cache at a time: the first takes the exponentials for the largest logit so far,
// and leaves them where a gradient is wanted; the second multiplies each piece by what it lacks. With a softcap c, logits become
// z = c tanh(logit / c) before; the second pass then needs z, takes the exponentials once more, and multiplies by 1 - (z / c)^2, too.
#include <math.h>

#include "kernels/cpu/typed.h"

enum { CHUNK = 4096, CHUNKS = 256 };  // a chunk is summed in float32, chunks in double; the chunks of very long rows are longer

typedef struct LogitRows {
  float *nll, *logits;
  const int32_t *targets;
  const float *gradient_scale;
  FloatType type;
  int64_t step, vocabulary;
  float softcap;
} LogitRows;

static void cap_values(float *z, int64_t count, float cap) {
  for (int64_t j = 0; j < count; j += VL)
    vec_store_first(z + j, vec_set(cap) * vec_tanh(vec_load_first(z + j, count - j) / vec_set(cap)), count - j);
}

typedef struct Capped {
  float *y, cap;
} Capped;

static void cap_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Capped *capped = argument;
  cap_values(capped->y + begin, end - begin, capped->cap);
}

void cpu_softcap(float *y, int64_t count, float cap, Backend *backend) {
  if (cap > 0) run_ranges(backend, count, CHUNK, cap_range, &(Capped){y, cap});
}

static float largest_of(const float *z, int64_t count) {
  Vec maxima[2] = {vec_set(-INFINITY), vec_set(-INFINITY)};
  int64_t j = 0;
  for (; j + 2 * VL <= count; j += 2 * VL) {
    maxima[0] = vec_max(maxima[0], vec_load(z + j));
    maxima[1] = vec_max(maxima[1], vec_load(z + j + VL));
  }
  float maximum = vec_largest(vec_max(maxima[0], maxima[1]));
  for (; j < count; j++) maximum = z[j] > maximum ? z[j] : maximum;
  return maximum;
}

// sum exp(z - maximum); a NaN anywhere makes it NaN. `keep`: z becomes the exponentials.
ALWAYS_INLINE float sum_of_exponentials(float *z, int64_t count, float maximum, bool keep) {
  Vec sums[2] = {vec_zero(), vec_zero()};
  int64_t j = 0;
  for (; j + 2 * VL <= count; j += 2 * VL)
    for (int i = 0; i < 2; i++) {
      Vec e = vec_exp(vec_load(z + j + i * VL) - vec_set(maximum));
      sums[i] += e;
      if (keep) vec_store(z + j + i * VL, e);
    }
  for (; j < count; j += VL) {
    Vec e = vec_exp(vec_load_first(z + j, count - j) - vec_set(maximum));
    sums[0] += (Vec)((VecI)e & vec_first(count - j));
    if (keep) vec_store_first(z + j, e, count - j);
  }
  return vec_sum(sums[0] + sums[1]);
}

// z[first .. end - 1] * factor, to the row's beginning in its type: bfloat16 is written behind what is read.
ALWAYS_INLINE void scale_chunk(float *z, int64_t first, int64_t end, float factor, int type) {
  for (int64_t j = first; j < end; j += VL) typed_store(z, j, vec_set(factor) * vec_load_first(z + j, end - j), end - j, type);
}

static void store_one(float *z, int64_t j, float value, FloatType type) {
  Vec v = vec_set(value);
  BY_TYPE(type, typed_store(z, j, v, 1, TYPE));
}

// The gradient of z[begin .. end - 1], which are capped logits.
ALWAYS_INLINE void capped_gradient(float *z, int64_t begin, int64_t end, float maximum, float factor, float cap, int type) {
  for (int64_t j = begin; j < end; j += VL) {
    Vec own = vec_load_first(z + j, end - j), turned = own / vec_set(cap);
    Vec e = vec_exp(own - vec_set(maximum)) * vec_set(factor);
    typed_store(z, j, e * vec_fnma(turned, turned, vec_set(1)), end - j, type);
  }
}

static void loss_row(const LogitRows *rows, int64_t i) {
  float *z = rows->logits + i * rows->step, maximum = -INFINITY, maxima[CHUNKS];
  int64_t chunk = larger(CHUNK, round_up(divide_up(rows->vocabulary, CHUNKS), VL));
  int32_t target = rows->targets[i];
  if (rows->softcap > 0) cap_values(z, rows->vocabulary, rows->softcap);
  double sum = 0, at_target = z[target];
  for (int64_t first = 0, c = 0; first < rows->vocabulary; first += chunk, c++) {
    int64_t count = smaller(chunk, rows->vocabulary - first);
    float largest = largest_of(z + first, count);
    if (largest > maximum) {
      sum *= exp((double)maximum - largest);
      maximum = largest;
    }
    maxima[c] = maximum;
    bool keep = rows->gradient_scale && !(rows->softcap > 0);
    sum += (double)(keep ? sum_of_exponentials(z + first, count, maximum, true) : sum_of_exponentials(z + first, count, maximum, false));
  }
  rows->nll[i] = (float)((double)maximum - at_target + log(sum));
  if (!rows->gradient_scale) return;
  double factor = rows->gradient_scale[i] / sum;
  for (int64_t first = 0, c = 0; first < rows->vocabulary; first += chunk, c++) {
    int64_t end = smaller(first + chunk, rows->vocabulary);
    if (rows->softcap > 0) {
      BY_TYPE(rows->type, capped_gradient(z, first, end, maximum, (float)factor, rows->softcap, TYPE));
      continue;
    }
    float own = (float)(factor * exp((double)maxima[c] - maximum));
    BY_TYPE(rows->type, scale_chunk(z, first, end, own, TYPE));
  }
  // From the exponential itself: 1 - p would lose what is left of a probability near one.
  double turned = rows->softcap > 0 ? at_target / rows->softcap : 0;
  store_one(z, target, (float)(rows->gradient_scale[i] * (exp(at_target - maximum) / sum - 1) * (1 - turned * turned)), rows->type);
}

static void loss_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  for (int64_t i = begin; i < end; i++) loss_row(argument, i);
}

void cpu_cross_entropy(float *nll, float *logits, int64_t step, const int32_t *targets, const float *gradient_scale, FloatType type,
                       int64_t n, int64_t vocabulary, float softcap, Backend *backend) {
  run_rows(backend, n, vocabulary, loss_rows, &(LogitRows){nll, logits, targets, gradient_scale, type, step, vocabulary, softcap});
}
