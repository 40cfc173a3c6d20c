// The scorer that runs a model, beside whole forward passes and beside generation of one text alone.
#include "eval/scorer.h"

#include <math.h>

#include "core/text.h"
#include "runtime/generate.h"
#include "tests/support/golden.h"

typedef struct ScorerTest {
  Backend *backend;
  Model *model;
  Tokenizer *tokenizer;
} ScorerTest;

static int start(void **state) {
  ScorerTest *test = memory_new(1, sizeof *test);
  assert_ok(backend_new(&test->backend, "cpu", 2));
  assert_ok(model_open(&test->model, TESTS_DIR "/data/tiny.gguf", (ModelOptions){0}, test->backend));
  assert_ok(tokenizer_open(&test->tokenizer, TESTS_DIR "/data/tiny.gguf"));
  *state = test;
  return 0;
}

static int end(void **state) {
  ScorerTest *test = *state;
  tokenizer_free(test->tokenizer);
  model_close(test->model);
  backend_free(test->backend);
  free(test);
  return 0;
}

static void count_ended(int64_t done, void *context) { *(int64_t *)context = done; }

// From the logits of a whole pass, in double.
static Likelihood plain_likelihood(const Model *model, const LikelihoodRequest *request) {
  int64_t vocabulary = model->config.vocabulary;
  float *logits = golden_logits(model, request->ids, 1, request->count);
  Likelihood out = {.is_greedy = true};
  for (int64_t i = request->context; i < request->count; i++) {
    const float *row = logits + (i - 1) * vocabulary;
    double largest = -INFINITY, total = 0;
    for (int64_t k = 0; k < vocabulary; k++) largest = fmax(largest, row[k]);
    for (int64_t k = 0; k < vocabulary; k++) total += exp(row[k] - largest);
    out.log_probability += row[request->ids[i]] - largest - log(total);
    out.is_greedy = out.is_greedy && row[request->ids[i]] == largest;
  }
  free(logits);
  return out;
}

enum { REQUESTS = 40, LONGEST = 120 };

// Requests of many lengths in no order, some alike at their beginning; a fourth of them go on as the model would.
static void make_requests(LikelihoodRequest *requests, int32_t (*ids)[LONGEST], const Model *model) {
  Rng rng = rng_new(77, RNG_STREAM_TEST);
  int64_t vocabulary = model->config.vocabulary;
  for (int i = 0; i < REQUESTS; i++) {
    int64_t count = 2 + (int64_t)rng_below(&rng, LONGEST - 2), context = 1 + (int64_t)rng_below(&rng, (uint64_t)count - 1);
    for (int k = 0; k < LONGEST; k++) ids[i][k] = (int32_t)rng_below(&rng, (uint64_t)vocabulary);
    if (i % 2) memcpy(ids[i], ids[i - 1], 48 * sizeof **ids);
    if (i % 4 == 0) {
      float *logits = golden_logits(model, ids[i], 1, count - 1);
      const float *row = logits + (count - 2) * vocabulary;
      for (int32_t k = 0; k < vocabulary; k++)
        if (row[k] > row[ids[i][count - 1]]) ids[i][count - 1] = k;
      free(logits);
      context = count - 1;
    }
    requests[i] = (LikelihoodRequest){ids[i], context, count};
  }
}

static void log_likelihoods_are_those_of_whole_passes(void **state) {
  const ScorerTest *test = *state;
  static int32_t ids[REQUESTS][LONGEST];
  LikelihoodRequest requests[REQUESTS];
  Likelihood found[REQUESTS];
  make_requests(requests, ids, test->model);
  for (int64_t parallel = 1; parallel <= 8; parallel += 7) {
    Scorer scorer;
    int64_t ended = 0, greedy = 0;
    assert_ok(scorer_open(&scorer, test->model, test->tokenizer, 0, parallel));
    assert_ok(scorer.log_likelihoods(found, scorer.context, requests, 3, (ScorerProgress){0}));  // a smaller engine first
    assert_ok(scorer.log_likelihoods(found, scorer.context, requests, REQUESTS, (ScorerProgress){count_ended, &ended}));
    assert_int_equal(ended, REQUESTS);
    for (int i = 0; i < REQUESTS; i++) {
      Likelihood expected = plain_likelihood(test->model, &requests[i]);
      double difference = fabs(found[i].log_probability - expected.log_probability);
      if (!(difference <= 1e-4 * (double)requests[i].count)) fail_msg("request %d: %g", i, difference);
      assert_int_equal(found[i].is_greedy, expected.is_greedy);
      greedy += expected.is_greedy;
    }
    assert_true(greedy >= REQUESTS / 4 && greedy < REQUESTS);
    scorer_close(&scorer);
  }
}

static void as_many_tokens_as_the_model_was_made_for_can_be_read(void **state) {
  const ScorerTest *test = *state;
  int64_t most = test->model->config.context_length;
  int32_t *ids = memory_new((size_t)most + 1, sizeof *ids);
  for (int64_t i = 0; i <= most; i++) ids[i] = (int32_t)(3 + i % 50);
  LikelihoodRequest request = {ids, most - 3, most + 1};
  Likelihood found;
  Scorer scorer;
  assert_ok(scorer_open(&scorer, test->model, test->tokenizer, 0, 2));
  assert_int_equal(scorer.most_tokens, most);
  assert_ok(scorer.log_likelihoods(&found, scorer.context, &request, 1, (ScorerProgress){0}));
  Likelihood expected = plain_likelihood(test->model, &request);
  assert_true(fabs(found.log_probability - expected.log_probability) <= 1e-3);
  scorer_close(&scorer);
  assert_fails(STATUS_USAGE, scorer_open(&scorer, test->model, test->tokenizer, most + 1, 2), "--context");
  scorer_close(&scorer);
  free(ids);
}

static void texts_are_those_of_generation_alone_up_to_their_stops(void **state) {
  const ScorerTest *test = *state;
  static const char *const prompts[] = {"<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
                                        "<|im_start|>user\nWhy is the sea salty?<|im_end|>\n<|im_start|>assistant\n",
                                        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nThe"};
  static const char *const stops[] = {" is"};
  enum { PROMPTS = 3 };
  TokenList ids[PROMPTS] = {{0}};
  TextRequest requests[PROMPTS];
  Buffer texts[PROMPTS] = {{0}};
  SamplerSettings sampling = sampler_defaults();
  sampling.temperature = 0;
  for (int i = 0; i < PROMPTS; i++) {
    assert_ok(generate_encode(&ids[i], test->tokenizer, prompts[i], strlen(prompts[i])));
    requests[i] = (TextRequest){ids[i].ids, ids[i].count, stops, i == 0, 24};
  }
  Scorer scorer;
  assert_ok(scorer_open(&scorer, test->model, test->tokenizer, 0, 2));
  assert_ok(scorer.generate(texts, scorer.context, requests, PROMPTS, (ScorerProgress){0}));
  for (int i = 0; i < PROMPTS; i++) {
    Generation expected = {0};
    Engine *engine;
    EngineOptions alone = {.context = ids[i].count + 24, .parallel = 1, .is_exact = true, .tokenizer = test->tokenizer};
    GenerateOptions options = {.sampling = sampling, .max_tokens = 24, .stops = stops, .stop_count = i == 0};
    assert_ok(engine_new(&engine, test->model, alone));
    assert_ok(generate(&expected, engine, test->tokenizer, ids[i].ids, ids[i].count, &options));
    assert_true(expected.text.length > 0);
    assert_string_equal(texts[i].data, expected.text.data);
    generation_release(&expected);
    engine_free(engine);
    buffer_release(&texts[i]);
    token_list_release(&ids[i]);
  }
  scorer_close(&scorer);
}

static void an_id_that_the_model_does_not_have_is_refused(void **state) {
  const ScorerTest *test = *state;
  const int32_t wrong[] = {3, (int32_t)test->model->config.vocabulary};
  LikelihoodRequest request = {wrong, 1, 2};
  const int32_t right[] = {3, 4};
  LikelihoodRequest good = {right, 1, 2};
  Likelihood found;
  Scorer scorer;
  assert_ok(scorer_open(&scorer, test->model, test->tokenizer, 0, 2));
  assert_int_equal(scorer.log_likelihoods(&found, scorer.context, &request, 1, (ScorerProgress){0}), STATUS_BAD_INPUT);
  assert_ok(scorer.log_likelihoods(&found, scorer.context, &good, 1, (ScorerProgress){0}));  // and it goes on
  scorer_close(&scorer);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(log_likelihoods_are_those_of_whole_passes),
      cmocka_unit_test(as_many_tokens_as_the_model_was_made_for_can_be_read),
      cmocka_unit_test(texts_are_those_of_generation_alone_up_to_their_stops),
      cmocka_unit_test(an_id_that_the_model_does_not_have_is_refused),
  };
  return cmocka_run_group_tests(tests, start, end);
}
