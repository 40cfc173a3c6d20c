// Writing one text: prompt tokens in, text out as it comes, until the model ends it, a stop string is met, or there is no room.
#ifndef RUNTIME_GENERATE_H
#define RUNTIME_GENERATE_H

#include "runtime/engine.h"

typedef struct GenerateOptions {
  SamplerSettings sampling;
  int64_t max_tokens;  // an end token is not counted
  const char *const *stops;  // not empty strings
  int stop_count;
  // Called with each stretch of new text, valid UTF-8; false ends the text (its reader has gone). May be NULL.
  bool (*emit)(const char *text, size_t length, void *context);
  void *context;
} GenerateOptions;

typedef struct Generation {
  Buffer text;  // without the stop string
  TokenList tokens;  // as drawn, without an end token
  FinishReason finish;
  EngineUsage usage;
} Generation;

// `out` starts zeroed. What earlier texts of the engine have in common with the prompt is not computed again.
Status generate(Generation *out, Engine *engine, const Tokenizer *tokenizer, const int32_t *prompt, int64_t count,
                const GenerateOptions *options);
void generation_release(Generation *generation);

// Appends a prompt's tokens: BOS where the model adds one and the text has none yet, never EOS: the text goes on.
Status generate_encode(TokenList *out, const Tokenizer *tokenizer, const char *text, size_t length);

#endif
