#include "runtime/chances.h"

#include <math.h>

double log_sum_exp(const float *logits, int64_t vocabulary) {
  float largest = -INFINITY;
  for (int64_t i = 0; i < vocabulary; i++) largest = logits[i] > largest ? logits[i] : largest;
  if (!isfinite(largest)) return largest;
  double sum = 0;
  for (int64_t i = 0; i < vocabulary; i++) sum += (double)expf(logits[i] - largest);
  return (double)largest + log(sum);
}

int top_chances(TokenChance *top, int count, const float *logits, int64_t vocabulary, double log_sum) {
  int found = 0;
  for (int64_t i = 0; i < vocabulary && count > 0; i++) {
    if (found == count && !(logits[i] > logits[top[found - 1].id])) continue;
    int at = found < count ? found++ : found - 1;
    for (; at > 0 && logits[i] > logits[top[at - 1].id]; at--) top[at] = top[at - 1];
    top[at].id = (int32_t)i;
  }
  for (int i = 0; i < found; i++) top[i].log_probability = token_log_probability(logits, top[i].id, log_sum);
  return found;
}
