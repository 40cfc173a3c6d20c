// The engine: texts that are read and written at once by one model, a pass of the decoder after another. Each pass takes the next token of every
// text that is being written (their rows go by kernels that compute a row by itself) and a chunk of the prompts that are still to be read
// (continuous batching: Yu et al. 2022, "Orca"; chunked prefill: Agrawal et al. 2023, "SARATHI"). Keys and values lie in pages (runtime/pages.h),
// which texts that begin alike share, also with texts that have ended.
// What a text becomes depends on its request alone, not on what else is worked on: rows of prompts and rows of writing are each computed with
// the same bits whatever their number; requests that are `is_repeatable` take from earlier texts only pages that were computed as a prompt's.
//
//   engine_new -> engine_submit (any thread, any number) -> engine_step until there is nothing to do -> engine_free
//
// Adapters in the model's slots hold for every text; those of `adapters` for the requests that name them.
#ifndef RUNTIME_ENGINE_H
#define RUNTIME_ENGINE_H

#include "adapters/bank.h"
#include "data/tokenizer/tokenizer.h"
#include "models/model.h"
#include "runtime/chances.h"
#include "runtime/constraint.h"
#include "runtime/sampler.h"

typedef struct Engine Engine;

enum {
  ENGINE_CHUNK = 512,  // rows of one pass over prompts: from there the matrix products are at full rate
  ENGINE_TOP = 20,  // most likely tokens that a request may ask for
  ENGINE_DRAFTS = 16,  // tokens that may be proposed at once
};

typedef struct EngineOptions {
  int64_t context;  // tokens that one text can have, prompt and answer
  int64_t parallel;  // texts that are worked on at once; others wait
  int64_t cache_tokens;  // that keys and values are kept of, of all texts and of earlier ones; 0: parallel * context
  int64_t chunk;  // rows of one pass over prompts; 0: ENGINE_CHUNK
  PagesType cache_type;
  int64_t drafts;  // speculative decoding by prompt lookup: tokens that are proposed at most; 0: none. No text depends on it.
  bool is_exact;  // float32 throughout; else the products of writing see activations in 8 bits (Kernels.linear_forward_rows)
  const Tokenizer *tokenizer;  // whose end tokens end a text; NULL: nothing does
  AdapterBank *adapters;  // that requests may name; NULL: none
} EngineOptions;

typedef enum FinishReason {
  FINISH_STOP,  // the model ended its text, or the reader said that it is enough
  FINISH_LENGTH,  // max_tokens, or the context is full
  FINISH_CANCEL,  // engine_cancel
  FINISH_ERROR,  // the status and message say why
} FinishReason;
const char *finish_reason_name(FinishReason reason);  // "stop", "length", "cancel", "error"

// Log-probabilities are natural logarithms of the softmax of the model's own logits: before penalties, masks and temperature.
typedef struct EngineToken {
  int32_t id;
  int64_t position;  // in the text, from 0
  float log_probability;  // of id, where the request wants it; else 0
  const float *logits;  // [vocabulary]: the model's own that it was drawn from
  const TokenChance *top;  // [top_count], most likely first; the value of id, where it is among them, is log_probability, bit for bit
  int top_count;
} EngineToken;

typedef struct EngineUsage {
  int64_t prompt_tokens, reused_tokens, new_tokens;  // reused: of the prompt, not computed again
  int64_t draft_tokens, accepted_tokens;  // that prompt lookup proposed, and that were right
  double wait_seconds, prompt_seconds, seconds;  // until work on it began; reading the prompt; writing
} EngineUsage;

// All are called by the thread that is in engine_step, in the order of the text; any but `end` may be NULL.
typedef struct EngineReader {
  void (*prompt_token)(const EngineToken *token, void *context);  // tokens of the prompt, from request.chances_from on
  bool (*token)(const EngineToken *token, void *context);  // a new token (no end token); false: it is enough (FINISH_STOP)
  void (*embedding)(const float *mean, int64_t columns, void *context);  // of request.wants_embedding
  void (*end)(FinishReason reason, const EngineUsage *usage, Status status, const char *message, void *context);  // the last call
  void *context;
} EngineReader;

typedef struct EngineRequest {
  const int32_t *prompt;  // [prompt_count], at least one; copied
  int64_t prompt_count;
  int64_t max_tokens;  // new ones, an end token not counted; 0: the prompt is only read
  SamplerSettings sampling;
  int adapter;  // number in the bank; -1: none
  bool wants_chances;  // log-probabilities of new tokens
  int64_t chances_from;  // log-probabilities of the prompt's tokens from this position (>= 1) on; 0: of none
  int top;  // how many of the most likely tokens each comes with, up to ENGINE_TOP, where log-probabilities are wanted
  bool wants_embedding;  // the mean over the prompt of the hidden states after the last norm
  bool ignores_end;  // end tokens are tokens like others
  bool is_repeatable;  // see above
  Constraint *constraint;  // what the text may be; moved on with it; must stay until `end`. NULL: anything
  EngineReader reader;
} EngineRequest;

// STATUS_NO_SPACE names the memory that the cache needs.
Status engine_new(Engine **out, const Model *model, EngineOptions options);
void engine_free(Engine *engine);  // texts that are under way end with FINISH_CANCEL

// Any thread. STATUS_USAGE when prompt (and one token more, where any is wanted) does not fit in the context, STATUS_BAD_INPUT for an id that
// the model does not have; `end` is then not called. *number: for engine_cancel.
Status engine_submit(int64_t *number, Engine *engine, const EngineRequest *request);
// A bank's adapter has another share from the next pass on; nothing that was computed with the former one is used for later requests.
Status engine_set_scale(Engine *engine, int adapter, double scale);  // any thread; adapter_bank_set_scale's status
void engine_cancel(Engine *engine, int64_t number);  // any thread; the text ends at the next pass, if it has not already

// One pass. *is_idle: there was nothing to do. One thread at a time. A request's failure is told to its reader, and is no failure here.
Status engine_step(Engine *engine, bool *is_idle);
Status engine_run(Engine *engine);  // until there is nothing to do
void engine_wait(Engine *engine, double seconds);  // until there is something to do, or engine_wake, or so long
void engine_wake(Engine *engine);

typedef struct EngineCounts {
  int64_t running, waiting;  // texts
  int64_t pages, free_pages, kept_pages;  // kept: of earlier texts
  int64_t prompt_tokens, reused_tokens, new_tokens, draft_tokens, accepted_tokens, passes;  // since engine_new
} EngineCounts;
EngineCounts engine_counts(Engine *engine);  // any thread
int64_t engine_context(const Engine *engine);
int64_t engine_vocabulary(const Engine *engine);

#endif
