// What tasks ask of a model, whoever it is: a scorer is two functions, which tests write themselves. scorer_open gives the one that runs a
// model by the engine (runtime/engine.h).
#ifndef EVAL_SCORER_H
#define EVAL_SCORER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/memory.h"
#include "core/status.h"
#include "data/tokenizer/tokenizer.h"
#include "models/model.h"

typedef struct LikelihoodRequest {
  const int32_t *ids;  // [count]: the context, then what is scored
  int64_t context, count;  // 1 <= context < count
} LikelihoodRequest;

typedef struct Likelihood {
  double log_probability;  // the sum over ids[context ..], in nats
  bool is_greedy;  // each of them was the most likely token
} Likelihood;

typedef struct TextRequest {
  const int32_t *ids;  // [count]
  int64_t count;
  const char *const *stops;  // [stop_count]: the text ends before the first of them
  int stop_count;
  int64_t max_tokens;
} TextRequest;

typedef struct ScorerProgress {
  void (*show)(int64_t done, void *context);  // requests that have ended
  void *context;
} ScorerProgress;

typedef struct Scorer {
  // out[count], in the order of the requests.
  Status (*log_likelihoods)(Likelihood *out, void *context, const LikelihoodRequest *requests, int64_t count, ScorerProgress progress);
  // Appends to texts[count], which begin empty, what is written greedily: valid UTF-8.
  Status (*generate)(Buffer *texts, void *context, const TextRequest *requests, int64_t count, ScorerProgress progress);
  void *context;
  int64_t most_tokens;  // of one request: ids, and of a text the new ones, too
} Scorer;

// Float32 throughout; log-probabilities of the model's own logits. Keys and values are kept for `parallel` texts as long as the longest
// request so far. `most_tokens`: 0 for as many as the model was made for. The model must not change while it is open; close it in any
// case.
Status scorer_open(Scorer *out, const Model *model, const Tokenizer *tokenizer, int64_t most_tokens, int64_t parallel);
void scorer_close(Scorer *scorer);

#endif
