// Cross entropy of softmax, a row of logits z[vocabulary] at a time; the maximum is taken out, so that no
// exponential overflows:
//   nll = max + log sum_j exp(z_j - max) - z_target
//   z_j <- gradient_scale * (exp(z_j - max) / sum - [j = target])
// Two passes over a row: the first keeps the sum for the largest logit so far, a piece that stays in the first cache at a time.
#include <math.h>

#include "kernels/cpu/typed.h"

enum { CHUNK = 4096 };  // summed in float32; chunks in double

typedef struct LogitRows {
  float *nll, *logits;
  const int32_t *targets;
  const float *gradient_scale;
  FloatType type;
  int64_t step, vocabulary;
} LogitRows;

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

// sum exp(z - maximum); a NaN anywhere makes it NaN
static float sum_of_exponentials(const float *z, int64_t count, float maximum) {
  Vec sums[2] = {vec_zero(), vec_zero()};
  int64_t j = 0;
  for (; j + 2 * VL <= count; j += 2 * VL) {
    sums[0] += vec_exp(vec_load(z + j) - vec_set(maximum));
    sums[1] += vec_exp(vec_load(z + j + VL) - vec_set(maximum));
  }
  for (; j < count; j += VL) sums[0] += (Vec)((VecI)vec_exp(vec_load_first(z + j, count - j) - vec_set(maximum)) & vec_first(count - j));
  return vec_sum(sums[0] + sums[1]);
}

// The gradient but for the target's part, over the logits themselves; bfloat16 is written behind what is read.
ALWAYS_INLINE void softmax_row(float *z, int64_t vocabulary, float maximum, float factor, int type) {
  for (int64_t j = 0; j < vocabulary; j += VL) {
    int64_t left = vocabulary - j;
    typed_store(z, j, vec_set(factor) * vec_exp(vec_load_first(z + j, left) - vec_set(maximum)), left, type);
  }
}

static void store_one(float *z, int64_t j, float value, FloatType type) {
  Vec v = vec_set(value);
  BY_TYPE(type, typed_store(z, j, v, 1, TYPE));
}

static void loss_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const LogitRows *rows = argument;
  for (int64_t i = begin; i < end; i++) {
    float *z = rows->logits + i * rows->step, maximum = -INFINITY;
    int32_t target = rows->targets[i];
    double sum = 0, at_target = z[target];
    for (int64_t first = 0; first < rows->vocabulary; first += CHUNK) {
      int64_t count = smaller(CHUNK, rows->vocabulary - first);
      float largest = largest_of(z + first, count);
      if (largest > maximum) {
        sum *= exp((double)maximum - largest);
        maximum = largest;
      }
      sum += (double)sum_of_exponentials(z + first, count, maximum);
    }
    rows->nll[i] = (float)((double)maximum - at_target + log(sum));
    if (!rows->gradient_scale) continue;
    float scale = rows->gradient_scale[i];
    BY_TYPE(rows->type, softmax_row(z, rows->vocabulary, maximum, (float)(scale / sum), TYPE));
    // From the exponential itself: 1 - p would lose what is left of a probability near one.
    store_one(z, target, (float)(scale * (exp(at_target - maximum) / sum - 1)), rows->type);
  }
}

void cpu_cross_entropy(float *nll, float *logits, int64_t step, const int32_t *targets, const float *gradient_scale, FloatType type,
                       int64_t n, int64_t vocabulary, Backend *backend) {
  run_rows(backend, n, vocabulary, loss_rows, &(LogitRows){nll, logits, targets, gradient_scale, type, step, vocabulary});
}
