// Requests go to the engine in the order of their ids, so that those that begin alike follow each other, and answers come back in the
// order in which they were asked for.
#include "eval/scorer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine.h"
#include "runtime/text_stream.h"

enum { CONTEXT_STEP = 256 };

typedef struct EngineScorer {
  const Model *model;
  const Tokenizer *tokenizer;
  int64_t most_tokens, parallel;
  Engine *engine;  // NULL until there is a request
} EngineScorer;

// What has come of one call's requests.
typedef struct Batch {
  int64_t ended;
  Status status;  // of the first that failed
  char *message;
} Batch;

// One request under way.
typedef struct Reading {
  Batch *batch;
  Likelihood *likelihood;
  Buffer *text;
  TextStream stream;
  const Tokenizer *tokenizer;
  Buffer piece;
} Reading;

static void drop_engine(EngineScorer *scorer) {
  if (scorer->engine) engine_free(scorer->engine);
  scorer->engine = NULL;
}

// An engine whose texts can be so long; a larger one takes the place of one that is too small.
static Status need_context(EngineScorer *scorer, int64_t tokens) {
  if (scorer->engine && engine_context(scorer->engine) >= tokens) return STATUS_OK;
  drop_engine(scorer);
  int64_t context = (tokens + CONTEXT_STEP - 1) / CONTEXT_STEP * CONTEXT_STEP;
  int64_t most = tokens > scorer->most_tokens ? tokens : scorer->most_tokens;
  EngineOptions options = {.context = context < most ? context : most,
                           .parallel = scorer->parallel,
                           .cache_type = PAGES_F32,
                           .is_exact = true,
                           .tokenizer = scorer->tokenizer};
  return engine_new(&scorer->engine, scorer->model, options);
}

static SamplerSettings greedy(void) {
  SamplerSettings settings = sampler_defaults();
  settings.temperature = 0;
  return settings;
}

// ---- Readers ----

static void read_prompt_token(const EngineToken *token, void *context) {
  Likelihood *out = ((Reading *)context)->likelihood;
  out->log_probability += token->log_probability;
  out->is_greedy = out->is_greedy && token->top_count > 0 && token->top[0].id == token->id;
}

static bool read_token(const EngineToken *token, void *context) {
  Reading *reading = context;
  reading->piece.length = 0;
  tokenizer_decode_piece(&reading->piece, reading->tokenizer, token->id, false);
  return reading->piece.length == 0 || text_stream_push(reading->text, &reading->stream, reading->piece.data, reading->piece.length);
}

static void read_end(FinishReason reason, const EngineUsage *usage, Status status, const char *message, void *context) {
  Reading *reading = context;
  (void)usage;
  if (reading->text) text_stream_finish(reading->text, &reading->stream);
  reading->batch->ended++;
  if (reason != FINISH_ERROR || reading->batch->status != STATUS_OK) return;
  reading->batch->status = status;
  reading->batch->message = memory_copy_string(message);
}

// ---- Order ----

typedef struct Place {
  const int32_t *ids;
  int64_t count, index;
} Place;

static int compare_places(const void *a, const void *b) {
  const Place *first = a, *second = b;
  int64_t shorter = first->count < second->count ? first->count : second->count;
  for (int64_t i = 0; i < shorter; i++)
    if (first->ids[i] != second->ids[i]) return first->ids[i] < second->ids[i] ? -1 : 1;
  if (first->count != second->count) return first->count < second->count ? -1 : 1;
  return first->index < second->index ? -1 : 1;
}

// ---- Runs ----

// Until all requests have ended, or one has failed.
static Status run(EngineScorer *scorer, Batch *batch, int64_t submitted, ScorerProgress progress) {
  Status status = STATUS_OK;
  bool is_idle = false;
  while (status == STATUS_OK && batch->status == STATUS_OK && batch->ended < submitted && !is_idle) {
    int64_t before = batch->ended;
    status = engine_step(scorer->engine, &is_idle);
    if (progress.show && batch->ended > before) progress.show(batch->ended, progress.context);
  }
  if (status == STATUS_OK && batch->status == STATUS_OK && batch->ended < submitted)
    status = status_fail(STATUS_FAILED, "the engine has ended with %" PRId64 " of %" PRId64 " texts", batch->ended, submitted);
  if (status == STATUS_OK && batch->status != STATUS_OK) status = status_fail(batch->status, "%s", batch->message ? batch->message : "");
  if (status == STATUS_OK) return STATUS_OK;
  // Readers are about to go: nothing may be under way any more. The message of the failure stays.
  drop_engine(scorer);
  return status;
}

// Submits `requests` (their readers' contexts are `readings`) in the order of their ids, and runs.
static Status submit_and_run(EngineScorer *scorer, EngineRequest *requests, Reading *readings, int64_t count, ScorerProgress progress) {
  Batch batch = {0};
  Status status = STATUS_OK;
  Place *places = memory_new((size_t)count, sizeof *places);
  int64_t submitted = 0, number;
  for (int64_t i = 0; i < count; i++) {
    readings[i].batch = &batch;
    readings[i].tokenizer = scorer->tokenizer;
    requests[i].adapter = -1;
    requests[i].sampling = greedy();
    requests[i].is_repeatable = true;
    requests[i].reader.end = read_end;
    requests[i].reader.context = &readings[i];
    places[i] = (Place){requests[i].prompt, requests[i].prompt_count, i};
  }
  qsort(places, (size_t)count, sizeof *places, compare_places);
  while (submitted < count && status == STATUS_OK) {
    status = engine_submit(&number, scorer->engine, &requests[places[submitted].index]);
    submitted += status == STATUS_OK;
  }
  if (status == STATUS_OK) status = run(scorer, &batch, submitted, progress);
  else drop_engine(scorer);
  free(batch.message);
  free(places);
  return status;
}

static Status log_likelihoods(Likelihood *out, void *context, const LikelihoodRequest *requests, int64_t count, ScorerProgress progress) {
  EngineScorer *scorer = context;
  int64_t longest = 1;
  for (int64_t i = 0; i < count; i++) longest = requests[i].count > longest ? requests[i].count : longest;
  TRY(need_context(scorer, longest));
  EngineRequest *asked = memory_new((size_t)count, sizeof *asked);
  Reading *readings = memory_new((size_t)count, sizeof *readings);
  for (int64_t i = 0; i < count; i++) {
    out[i] = (Likelihood){.is_greedy = true};
    readings[i].likelihood = &out[i];
    asked[i] = (EngineRequest){.prompt = requests[i].ids,
                               .prompt_count = requests[i].count,
                               .chances_from = requests[i].context,
                               .top = 1,
                               .reader.prompt_token = read_prompt_token};
  }
  Status status = submit_and_run(scorer, asked, readings, count, progress);
  free(asked);
  free(readings);
  return status;
}

static Status generate(Buffer *texts, void *context, const TextRequest *requests, int64_t count, ScorerProgress progress) {
  EngineScorer *scorer = context;
  int64_t longest = 1;
  for (int64_t i = 0; i < count; i++) {
    int64_t tokens = requests[i].count + requests[i].max_tokens;
    longest = tokens > longest ? tokens : longest;
  }
  TRY(need_context(scorer, longest));
  EngineRequest *asked = memory_new((size_t)count, sizeof *asked);
  Reading *readings = memory_new((size_t)count, sizeof *readings);
  for (int64_t i = 0; i < count; i++) {
    readings[i].text = &texts[i];
    text_stream_new(&readings[i].stream, requests[i].stops, requests[i].stop_count);
    asked[i] = (EngineRequest){
        .prompt = requests[i].ids, .prompt_count = requests[i].count, .max_tokens = requests[i].max_tokens, .reader.token = read_token};
  }
  Status status = submit_and_run(scorer, asked, readings, count, progress);
  for (int64_t i = 0; i < count; i++) {
    text_stream_release(&readings[i].stream);
    buffer_release(&readings[i].piece);
  }
  free(asked);
  free(readings);
  return status;
}

Status scorer_open(Scorer *out, const Model *model, const Tokenizer *tokenizer, int64_t most_tokens, int64_t parallel) {
  int64_t own = model->config.context_length;
  *out = (Scorer){.log_likelihoods = log_likelihoods, .generate = generate};
  if (most_tokens > own)
    return status_fail(STATUS_USAGE, "--context %" PRId64 " is more than the %" PRId64 " tokens that %s was made for", most_tokens, own,
                       model->path);
  EngineScorer *scorer = memory_new(1, sizeof *scorer);
  *scorer =
      (EngineScorer){.model = model, .tokenizer = tokenizer, .most_tokens = most_tokens > 0 ? most_tokens : own, .parallel = parallel};
  out->context = scorer;
  out->most_tokens = scorer->most_tokens;
  return STATUS_OK;
}

void scorer_close(Scorer *scorer) {
  EngineScorer *own = scorer->context;
  if (own) drop_engine(own);
  free(own);
  *scorer = (Scorer){0};
}
