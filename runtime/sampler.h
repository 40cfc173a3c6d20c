// Choosing the next token from logits. The steps, in llama.cpp's order:
//   0. biases are added to logits
//   1. repetition penalty (Keskar et al. 2019): logits of tokens among the last `repetition_window` are divided by it
//      where positive, multiplied where not, each token once; then, as in OpenAI's API, presence_penalty is taken from those of tokens that
//      have been written, and frequency_penalty as often as they have
//   2. top-k: the k largest
//   3. top-p (Holtzman et al. 2020): the fewest, largest first, whose probabilities sum to at least p
//   4. min-p (Nguyen et al. 2024): those with at least p times the largest probability
//   5. temperature: logits divided by it; then one draw from the softmax of what is left
// Filters see probabilities before the temperature. Equal logits are ordered by id, lowest first. Temperature 0 takes the
// largest logit (after step 1). The same seed and logits give the same tokens, on every machine.
#ifndef RUNTIME_SAMPLER_H
#define RUNTIME_SAMPLER_H

#include <stdbool.h>

#include "core/rng.h"
#include "core/status.h"

typedef struct TokenBias {
  int32_t id;
  double bias;
} TokenBias;

typedef struct SamplerSettings {
  double temperature;  // 0: greedy
  int64_t top_k;  // 0: off
  double top_p;  // 1: off
  double min_p;  // 0: off
  double repetition_penalty;  // 1: off
  int64_t repetition_window;  // -1: all tokens
  double presence_penalty, frequency_penalty;  // 0: off
  const TokenBias *biases;  // [bias_count]; must stay
  int bias_count;
  uint64_t seed;
} SamplerSettings;

// What every filter is when nobody asks: temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, no penalty, seed 0.
SamplerSettings sampler_defaults(void);

typedef struct Candidate {
  int32_t id;
  double logit, probability;
} Candidate;

typedef struct Sampler {
  SamplerSettings settings;
  Rng rng;
  Candidate *candidates;  // [vocabulary]
  int64_t count;  // of candidates that are left
  bool *penalised;  // [vocabulary]
  int64_t first_new;  // tokens from here on have been written, those before were the prompt
} Sampler;

void sampler_new(Sampler *sampler, SamplerSettings settings, int64_t vocabulary);
void sampler_free(Sampler *sampler);

// Steps 1 to 5 over logits[vocabulary]; `tokens` are those before, prompt included. STATUS_FAILED when a logit is NaN or
// infinitely large, or none is finite: no token is made up for a broken model.
Status sampler_next(int32_t *id, Sampler *sampler, const float *logits, int64_t vocabulary, const int32_t *tokens, int64_t count);

// Steps 1 to 4 alone: leaves candidates[0 .. count) with their probabilities (before the temperature), largest first.
Status sampler_filter(Sampler *sampler, const float *logits, int64_t vocabulary, const int32_t *tokens, int64_t count);

#endif
