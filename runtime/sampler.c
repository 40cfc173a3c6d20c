// Filters over a list of candidates; see the header for their order and sources.
#include "runtime/sampler.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"

SamplerSettings sampler_defaults(void) {
  return (SamplerSettings){.temperature = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05, .repetition_penalty = 1, .repetition_window = 64};
}

void sampler_new(Sampler *sampler, SamplerSettings settings, int64_t vocabulary) {
  *sampler = (Sampler){.settings = settings,
                       .rng = rng_new(settings.seed, RNG_STREAM_SAMPLING),
                       .candidates = memory_new((size_t)vocabulary, sizeof *sampler->candidates),
                       .penalised = memory_new((size_t)vocabulary, sizeof *sampler->penalised)};
}

void sampler_free(Sampler *sampler) {
  free(sampler->candidates);
  free(sampler->penalised);
  *sampler = (Sampler){0};
}

static Status check_logits(const float *logits, int64_t vocabulary) {
  bool has_finite = false;
  for (int64_t i = 0; i < vocabulary; i++) {
    if (isnan(logits[i]) || logits[i] == INFINITY)
      return status_fail(STATUS_FAILED,
                         "the model computed %f for token %" PRId64 ": no text can be drawn from that; the model or the adapter is damaged",
                         (double)logits[i], i);
    has_finite |= isfinite(logits[i]);
  }
  if (!has_finite) return status_fail(STATUS_FAILED, "the model gives no token a finite logit; the model or the adapter is damaged");
  return STATUS_OK;
}

static Status take_logits(Sampler *sampler, const float *logits, int64_t vocabulary) {
  TRY(check_logits(logits, vocabulary));
  for (int64_t i = 0; i < vocabulary; i++) sampler->candidates[i] = (Candidate){.id = (int32_t)i, .logit = logits[i]};
  sampler->count = vocabulary;
  return STATUS_OK;
}

static int32_t largest_logit(const float *logits, int64_t vocabulary) {
  int64_t best = 0;
  for (int64_t i = 1; i < vocabulary; i++)
    if (logits[i] > logits[best]) best = i;
  return (int32_t)best;
}

// Before anything is sorted: candidate i is token i. Ids that the vocabulary has not are passed over.
static void add_biases(Sampler *sampler) {
  for (int i = 0; i < sampler->settings.bias_count; i++) {
    TokenBias bias = sampler->settings.biases[i];
    if (bias.id >= 0 && bias.id < sampler->count) sampler->candidates[bias.id].logit += bias.bias;
  }
}

static void penalise_writing(Sampler *sampler, const int32_t *tokens, int64_t count) {
  double presence = sampler->settings.presence_penalty, frequency = sampler->settings.frequency_penalty;
  if (presence == 0 && frequency == 0) return;
  for (int64_t i = sampler->first_new; i < count; i++) {
    if (tokens[i] < 0 || tokens[i] >= sampler->count) continue;
    sampler->candidates[tokens[i]].logit -= frequency + (sampler->penalised[tokens[i]] ? 0 : presence);
    sampler->penalised[tokens[i]] = true;
  }
  for (int64_t i = sampler->first_new; i < count; i++)
    if (tokens[i] >= 0 && tokens[i] < sampler->count) sampler->penalised[tokens[i]] = false;
}

static void penalise_repetition(Sampler *sampler, const int32_t *tokens, int64_t count) {
  double penalty = sampler->settings.repetition_penalty;
  int64_t window = sampler->settings.repetition_window;
  int64_t first = window >= 0 && window < count ? count - window : 0;
  if (penalty == 1) return;
  for (int64_t i = first; i < count; i++) {
    if (tokens[i] < 0 || tokens[i] >= sampler->count || sampler->penalised[tokens[i]]) continue;
    double *logit = &sampler->candidates[tokens[i]].logit;
    *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
    sampler->penalised[tokens[i]] = true;
  }
  for (int64_t i = first; i < count; i++)
    if (tokens[i] >= 0 && tokens[i] < sampler->count) sampler->penalised[tokens[i]] = false;
}

// What filters and draws are made of: all tokens with their logits after steps 0 and 1.
static Status take_candidates(Sampler *sampler, const float *logits, int64_t vocabulary, const int32_t *tokens, int64_t count) {
  TRY(take_logits(sampler, logits, vocabulary));
  add_biases(sampler);
  penalise_repetition(sampler, tokens, count);
  penalise_writing(sampler, tokens, count);
  return STATUS_OK;
}

static bool changes_logits(const SamplerSettings *settings) {
  return settings->repetition_penalty != 1 || settings->presence_penalty != 0 || settings->frequency_penalty != 0 ||
         settings->bias_count > 0;
}

static bool comes_before(const Candidate *a, const Candidate *b) { return a->logit != b->logit ? a->logit > b->logit : a->id < b->id; }

static int compare_candidates(const void *a, const void *b) { return comes_before(a, b) ? -1 : comes_before(b, a); }

// Restores the heap below `at`: a parent never comes before its children, so that the root is the last of them.
static void sift_down(Candidate *heap, int64_t count, int64_t at) {
  for (;;) {
    int64_t last = at, left = 2 * at + 1;
    if (left < count && comes_before(&heap[last], &heap[left])) last = left;
    if (left + 1 < count && comes_before(&heap[last], &heap[left + 1])) last = left + 1;
    if (last == at) return;
    Candidate swap = heap[at];
    heap[at] = heap[last];
    heap[last] = swap;
    at = last;
  }
}

// Keeps the first k in order (0: all) and sorts them. A heap of k: a vocabulary is much longer than k.
static void keep_first(Sampler *sampler, int64_t k) {
  Candidate *heap = sampler->candidates;
  if (k > 0 && k < sampler->count) {
    for (int64_t i = k / 2 - 1; i >= 0; i--) sift_down(heap, k, i);
    for (int64_t i = k; i < sampler->count; i++) {
      if (!comes_before(&heap[i], &heap[0])) continue;
      heap[0] = heap[i];
      sift_down(heap, k, 0);
    }
    sampler->count = k;
  }
  qsort(heap, (size_t)sampler->count, sizeof *heap, compare_candidates);
}

static double largest_candidate(const Sampler *sampler) {
  double largest = sampler->candidates[0].logit;
  for (int64_t i = 1; i < sampler->count; i++)
    if (sampler->candidates[i].logit > largest) largest = sampler->candidates[i].logit;
  return largest;
}

// Sets the probabilities of the candidates: softmax(logit / temperature).
static void set_probabilities(Sampler *sampler, double temperature) {
  double total = 0, largest = largest_candidate(sampler);
  for (int64_t i = 0; i < sampler->count; i++) {
    Candidate *candidate = &sampler->candidates[i];
    candidate->probability = exp((candidate->logit - largest) / temperature);
    total += candidate->probability;
  }
  for (int64_t i = 0; i < sampler->count; i++) sampler->candidates[i].probability /= total;
}

// Whether the filters after top-k will keep none but candidates that are among the first `count`, of all of which the probabilities are set.
static bool are_enough(const Sampler *sampler, int64_t count) {
  const SamplerSettings *settings = &sampler->settings;
  double sum = 0;
  for (int64_t i = 0; i < count; i++) sum += sampler->candidates[i].probability;
  return (settings->top_p < 1 && sum >= settings->top_p) ||
         (settings->min_p > 0 && sampler->candidates[count - 1].probability < settings->min_p * sampler->candidates[0].probability * 0.999);
}

enum { FIRST_SORTED = 256 };

// Sorts as many as the filters need, for a vocabulary is long: their probabilities are those among all.
static Status keep_and_sort(Sampler *sampler, const float *logits, int64_t vocabulary, const int32_t *tokens, int64_t count) {
  TRY(take_candidates(sampler, logits, vocabulary, tokens, count));
  if (sampler->settings.top_k > 0) {
    keep_first(sampler, sampler->settings.top_k);
    set_probabilities(sampler, 1);
    return STATUS_OK;
  }
  for (int64_t k = FIRST_SORTED; k < vocabulary; k *= 8) {
    set_probabilities(sampler, 1);
    keep_first(sampler, k);
    if (are_enough(sampler, k)) return STATUS_OK;
    TRY(take_candidates(sampler, logits, vocabulary, tokens, count));  // those that were not kept are lost
  }
  keep_first(sampler, 0);
  set_probabilities(sampler, 1);
  return STATUS_OK;
}

static void keep_top_p(Sampler *sampler) {
  if (sampler->settings.top_p >= 1) return;
  double sum = 0;
  for (int64_t i = 0; i < sampler->count; i++) {
    sum += sampler->candidates[i].probability;
    if (sum >= sampler->settings.top_p) sampler->count = i + 1;
  }
  set_probabilities(sampler, 1);
}

static void keep_min_p(Sampler *sampler) {
  if (sampler->settings.min_p <= 0) return;
  double least = sampler->settings.min_p * sampler->candidates[0].probability;
  int64_t kept = 1;
  while (kept < sampler->count && sampler->candidates[kept].probability >= least) kept++;
  sampler->count = kept;
  set_probabilities(sampler, 1);
}

Status sampler_filter(Sampler *sampler, const float *logits, int64_t vocabulary, const int32_t *tokens, int64_t count) {
  TRY(keep_and_sort(sampler, logits, vocabulary, tokens, count));
  keep_top_p(sampler);
  keep_min_p(sampler);
  return STATUS_OK;
}

static int32_t first_candidate(const Sampler *sampler) {
  const Candidate *best = &sampler->candidates[0];
  for (int64_t i = 1; i < sampler->count; i++)
    if (comes_before(&sampler->candidates[i], best)) best = &sampler->candidates[i];
  return best->id;
}

Status sampler_next(int32_t *id, Sampler *sampler, const float *logits, int64_t vocabulary, const int32_t *tokens, int64_t count) {
  const SamplerSettings *settings = &sampler->settings;
  if (settings->temperature <= 0 && !changes_logits(settings)) {
    TRY(check_logits(logits, vocabulary));
    *id = largest_logit(logits, vocabulary);
    return STATUS_OK;
  }
  if (settings->temperature <= 0) {
    TRY(take_candidates(sampler, logits, vocabulary, tokens, count));
    *id = first_candidate(sampler);
    return STATUS_OK;
  }
  bool is_filtered = settings->top_k > 0 || settings->top_p < 1 || settings->min_p > 0;  // else nothing need be sorted
  TRY((is_filtered ? sampler_filter : take_candidates)(sampler, logits, vocabulary, tokens, count));
  set_probabilities(sampler, settings->temperature);
  double left = rng_uniform(&sampler->rng);
  int64_t chosen = 0;
  // Rounding may leave a little over behind the last: a token that has no chance at all is never taken for it.
  // They are in no order where nothing was filtered, so those without a chance may stand anywhere.
  for (int64_t i = 0; i < sampler->count; i++) {
    if (!(sampler->candidates[i].probability > 0)) continue;
    chosen = i;
    left -= sampler->candidates[i].probability;
    if (left < 0) break;
  }
  *id = sampler->candidates[chosen].id;
  return STATUS_OK;
}
