// Writing text: prompt tokens in, text out as it comes, until the model ends it, a stop string is met, or there is no room.
#ifndef RUNTIME_GENERATE_H
#define RUNTIME_GENERATE_H

#include "data/tokenizer/tokenizer.h"
#include "runtime/sampler.h"
#include "runtime/session.h"

typedef struct GenerateOptions {
  SamplerSettings sampling;
  int64_t max_tokens;  // an end token is not counted
  const char *const *stops;  // not empty strings
  int stop_count;
  // Called with each stretch of new text, valid UTF-8; false ends the text (its reader has gone). May be NULL.
  bool (*emit)(const char *text, size_t length, void *context);
  void *context;
} GenerateOptions;

typedef enum FinishReason {
  FINISH_STOP,  // the model ended its text, or a stop string was met
  FINISH_LENGTH,  // max_tokens, or the context is full
  FINISH_CANCEL,  // `emit` said so
} FinishReason;

typedef struct Generation {
  Buffer text;  // without the stop string
  TokenList tokens;  // as drawn, without an end token
  FinishReason finish;
  int64_t prompt_tokens, reused_tokens;  // of the prompt; those that the session already held
  double prompt_seconds, seconds;  // reading the prompt; writing
} Generation;

// `out` starts zeroed. The session may hold an earlier text: what it has in common with the prompt is not computed again.
Status generate(Generation *out, Session *session, const Tokenizer *tokenizer, const int32_t *prompt, int64_t count,
                const GenerateOptions *options);
void generation_release(Generation *generation);
const char *finish_reason_name(FinishReason reason);  // "stop", "length", "cancel"

// Appends a prompt's tokens: BOS where the model adds one and the text has none yet, never EOS: the text goes on.
Status generate_encode(TokenList *out, const Tokenizer *tokenizer, const char *text, size_t length);

#endif
