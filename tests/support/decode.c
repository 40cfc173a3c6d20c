#include "tests/support/decode.h"

#include "tests/support/golden.h"

static void take(const EngineToken *token, Decoded *out) {
  out->ids[token->position] = token->id;
  memcpy(out->logits + (token->position - out->from) * out->vocabulary, token->logits, (size_t)out->vocabulary * sizeof(float));
}

static void take_prompt(const EngineToken *token, void *context) {
  Decoded *out = context;
  assert_int_equal(out->ids[token->position], token->id);
  take(token, out);
}

static bool take_new(const EngineToken *token, void *context) {
  Decoded *out = context;
  assert_int_equal(token->position, out->count);
  take(token, out);
  out->count++;
  return true;
}

static void take_end(FinishReason reason, const EngineUsage *usage, Status status, const char *message, void *context) {
  Decoded *out = context;
  if (status != STATUS_OK) fail_msg("%s", message);
  out->finish = reason;
  out->usage = *usage;
}

void decode_submit(Decoded *out, Engine *engine, const int32_t *ids, int64_t prompt, int64_t written, int adapter) {
  *out = (Decoded){.count = prompt, .from = 1, .vocabulary = engine_vocabulary(engine)};
  out->ids = memory_new((size_t)(prompt + written), sizeof *out->ids);
  memcpy(out->ids, ids, (size_t)prompt * sizeof *ids);
  out->logits = memory_new((size_t)((prompt + written) * out->vocabulary), sizeof *out->logits);
  EngineRequest request = {.prompt = ids,
                           .prompt_count = prompt,
                           .max_tokens = written,
                           .sampling = {.top_p = 1, .repetition_penalty = 1},
                           .adapter = adapter,
                           .chances_from = 1,
                           .ignores_end = true,
                           .reader = {take_prompt, take_new, NULL, take_end, out}};
  int64_t number;
  assert_ok(engine_submit(&number, engine, &request));
}

Decoded decode(const Model *model, EngineOptions options, const int32_t *ids, int64_t prompt, int64_t written) {
  Engine *engine;
  Decoded decoded;
  if (options.context == 0) options.context = prompt + written;
  if (options.parallel == 0) options.parallel = 1;
  assert_ok(engine_new(&engine, model, options));
  decode_submit(&decoded, engine, ids, prompt, written, -1);
  assert_ok(engine_run(engine));
  engine_free(engine);
  return decoded;
}

void decoded_release(Decoded *decoded) {
  free(decoded->ids);
  free(decoded->logits);
}

void assert_decoded(const Decoded *decoded, const float *expected, double tolerance) {
  assert_close(decoded->logits, expected + (decoded->from - 1) * decoded->vocabulary,
               (decoded->count - decoded->from) * decoded->vocabulary, tolerance);
}

void assert_decodes(const Model *model, const Decoded *decoded, double tolerance) {
  float *expected = golden_logits(model, decoded->ids, 1, decoded->count);
  assert_decoded(decoded, expected, tolerance);
  free(expected);
}
