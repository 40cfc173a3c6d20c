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

// Before anything is sorted: candidate i is token i.
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
static void keep_top_k(Sampler *sampler) {
  int64_t k = sampler->settings.top_k;
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

// Sets the probabilities of the (sorted) candidates: softmax(logit / temperature).
static void set_probabilities(Sampler *sampler, double temperature) {
  double total = 0, largest = sampler->candidates[0].logit;
  for (int64_t i = 0; i < sampler->count; i++) {
    Candidate *candidate = &sampler->candidates[i];
    candidate->probability = exp((candidate->logit - largest) / temperature);
    total += candidate->probability;
  }
  for (int64_t i = 0; i < sampler->count; i++) sampler->candidates[i].probability /= total;
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
  TRY(take_logits(sampler, logits, vocabulary));
  penalise_repetition(sampler, tokens, count);
  keep_top_k(sampler);
  set_probabilities(sampler, 1);
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
  if (sampler->settings.temperature <= 0 && sampler->settings.repetition_penalty == 1) {
    TRY(check_logits(logits, vocabulary));
    *id = largest_logit(logits, vocabulary);
    return STATUS_OK;
  }
  if (sampler->settings.temperature <= 0) {
    TRY(take_logits(sampler, logits, vocabulary));
    penalise_repetition(sampler, tokens, count);
    *id = first_candidate(sampler);
    return STATUS_OK;
  }
  TRY(sampler_filter(sampler, logits, vocabulary, tokens, count));
  set_probabilities(sampler, sampler->settings.temperature);
  double left = rng_uniform(&sampler->rng);
  int64_t chosen = 0;
  // Rounding may leave a little over behind the last: a token that has no chance at all is never taken for it.
  for (int64_t i = 0; i < sampler->count && sampler->candidates[i].probability > 0; i++) {
    chosen = i;
    left -= sampler->candidates[i].probability;
    if (left < 0) break;
  }
  *id = sampler->candidates[chosen].id;
  return STATUS_OK;
}
