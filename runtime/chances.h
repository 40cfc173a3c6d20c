// Log-probabilities of tokens: log softmax of logits, natural.
#ifndef RUNTIME_CHANCES_H
#define RUNTIME_CHANCES_H

#include <stdint.h>

typedef struct TokenChance {
  int32_t id;
  float log_probability;
} TokenChance;

// log sum exp of logits[vocabulary].
double log_sum_exp(const float *logits, int64_t vocabulary);
// The value of one token, from one formula wherever it is asked for.
static inline float token_log_probability(const float *logits, int32_t id, double log_sum) { return (float)((double)logits[id] - log_sum); }
// The `count` most likely, the first first, ties to the lower id; as many as there are.
int top_chances(TokenChance *top, int count, const float *logits, int64_t vocabulary, double log_sum);

#endif
