// A text through the engine, with the logits that each of its tokens came after.
#ifndef TESTS_SUPPORT_DECODE_H
#define TESTS_SUPPORT_DECODE_H

#include "runtime/engine.h"

typedef struct Decoded {
  int32_t *ids;  // [count]: the prompt and what was written, greedily
  int64_t count, from, vocabulary;
  float *logits;  // [count - from, vocabulary]: before token from, from + 1, ...
  EngineUsage usage;
  FinishReason finish;
} Decoded;

// Reads ids[prompt] and writes `written` tokens (whatever they are); logits from the prompt's token 1 on.
Decoded decode(const Model *model, EngineOptions options, const int32_t *ids, int64_t prompt, int64_t written);
// The same as one of an engine's requests, under adapter `adapter` of its bank, when the engine runs.
void decode_submit(Decoded *out, Engine *engine, const int32_t *ids, int64_t prompt, int64_t written, int adapter);
void decoded_release(Decoded *decoded);
// That all logits are those of a whole pass over its tokens, expected[count, vocabulary].
void assert_decoded(const Decoded *decoded, const float *expected, double tolerance);
// The same with the whole pass of a model.
void assert_decodes(const Model *model, const Decoded *decoded, double tolerance);

#endif
