// Cross entropy of softmax, a row of logits z[vocabulary] at a time; the maximum is taken out, so that no
// exponential overflows:
//   nll = max + log sum_j exp(z_j - max) - z_target
//   z_j <- gradient_scale * (exp(z_j - max) / sum - [j = target])
// Three passes over a row that stays in cache; the exponentials of the second are kept in place for the third.
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

enum { CHUNK = 4096 };  // summed in float32; chunks in double

typedef struct LogitRows {
  float *nll, *logits;
  const int32_t *targets;
  const float *gradient_scale;
  int64_t vocabulary;
} LogitRows;

static float row_maximum(const float *z, int64_t count) {
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
static double sum_of_exponentials(float *z, int64_t count, float maximum, bool keep) {
  double total = 0;
  for (int64_t first = 0; first < count; first += CHUNK) {
    int64_t end = smaller(first + CHUNK, count);
    Vec sum = vec_zero();
    for (int64_t j = first; j < end; j += VL) {
      Vec e = vec_exp(vec_load_first(z + j, end - j) - vec_set(maximum));
      if (keep) vec_store_first(z + j, e, end - j);
      if (end - j < VL) e = (Vec)((VecI)e & vec_first(end - j));
      sum += e;
    }
    total += (double)vec_sum(sum);
  }
  return total;
}

static void loss_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const LogitRows *rows = argument;
  for (int64_t i = begin; i < end; i++) {
    float *z = rows->logits + i * rows->vocabulary;
    int32_t target = rows->targets[i];
    float maximum = row_maximum(z, rows->vocabulary), at_target = z[target];
    double sum = sum_of_exponentials(z, rows->vocabulary, maximum, rows->gradient_scale != NULL);
    rows->nll[i] = (float)((double)maximum - at_target + log(sum));
    if (!rows->gradient_scale) continue;
    // From the exponential itself: 1 - p would lose what is left of a probability near one.
    float scale = rows->gradient_scale[i], expected = (float)((double)scale * (z[target] / sum - 1));
    Vec factor = vec_set((float)(scale / sum));
    for (int64_t j = 0; j < rows->vocabulary; j += VL)
      vec_store_first(z + j, factor * vec_load_first(z + j, rows->vocabulary - j), rows->vocabulary - j);
    z[target] = expected;
  }
}

void cpu_cross_entropy(float *nll, float *logits, const int32_t *targets, const float *gradient_scale, int64_t n, int64_t vocabulary,
                       Backend *backend) {
  run_rows(backend, n, vocabulary, loss_rows, &(LogitRows){nll, logits, targets, gradient_scale, vocabulary});
}
