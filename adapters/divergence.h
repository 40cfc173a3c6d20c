// How far a written model's answers are from those it was made of.
#ifndef ADAPTERS_DIVERGENCE_H
#define ADAPTERS_DIVERGENCE_H

#include "models/model.h"

// Texts as tokens, one after another: text i is ids[begins[i]] .. ids[begins[i + 1] - 1].
typedef struct DivergenceTexts {
  const int32_t *ids;
  const int64_t *begins;  // [count + 1]
  int64_t count;
} DivergenceTexts;

typedef struct Divergence {
  double mean;  // of KL(reference || other) over all positions, in nats
  double largest;  // of one position
  double agreement;  // the share of positions where both models' best tokens are the same
  int64_t tokens;
} Divergence;

// The adapters in the models' slots take part. STATUS_BAD_INPUT when the vocabularies differ, or a token is outside them;
// STATUS_NO_SPACE; STATUS_FAILED when a logit is not finite.
Status divergence_measure(Divergence *out, const Model *reference, const Model *other, const DivergenceTexts *texts);

#endif
