// The engine beside the whole forward pass, on the tiny model: texts alone and together, in float32 and as it is for users.
#include <math.h>

#include "tests/support/decode.h"
#include "tests/support/golden.h"

enum { TOKENS = 90 };

typedef struct EngineTest {
  Backend *backend;
  Model *model;
  int32_t ids[TOKENS];
} EngineTest;

static int start(void **state) {
  EngineTest *test = memory_new(1, sizeof *test);
  assert_ok(backend_new(&test->backend, "cpu", 2));
  assert_ok(model_open(&test->model, TESTS_DIR "/data/tiny.gguf", (ModelOptions){0}, test->backend));
  Rng rng = rng_new(5, RNG_STREAM_TEST);
  for (int i = 0; i < TOKENS; i++) test->ids[i] = (int32_t)rng_below(&rng, (uint64_t)test->model->config.vocabulary);
  *state = test;
  return 0;
}

static int end(void **state) {
  EngineTest *test = *state;
  model_close(test->model);
  backend_free(test->backend);
  free(test);
  return 0;
}

// The same sums over the same values, only in rows of other blocks: a few roundings of float32 apart.
static void a_prompt_in_chunks_of_any_size_gives_the_whole_pass_logits(void **state) {
  const EngineTest *test = *state;
  for (int64_t chunk = 1; chunk <= TOKENS + 1; chunk += chunk < 10 ? 3 : 31) {
    Decoded decoded = decode(test->model, (EngineOptions){.chunk = chunk, .is_exact = true}, test->ids, TOKENS, 0);
    assert_int_equal(decoded.usage.prompt_tokens, TOKENS);
    assert_decodes(test->model, &decoded, 1e-5);
    decoded_release(&decoded);
  }
}

static void token_by_token_every_step_gives_the_whole_pass_logits(void **state) {
  const EngineTest *test = *state;
  Decoded decoded = decode(test->model, (EngineOptions){.is_exact = true}, test->ids, 2, TOKENS - 2);
  assert_int_equal(decoded.count, TOKENS);
  assert_int_equal(decoded.usage.new_tokens, TOKENS - 2);
  assert_int_equal(decoded.finish, FINISH_LENGTH);
  assert_decodes(test->model, &decoded, 1e-5);
  decoded_release(&decoded);
}

static void pages_of_fewer_bits_move_the_logits_a_little(void **state) {
  const EngineTest *test = *state;
  const struct {
    PagesType type;
    double least, most;  // of the largest difference, relative to the largest logit
  } cases[] = {{PAGES_F16, 1e-6, 2e-3}, {PAGES_Q8_0, 1e-4, 5e-2}};
  for (int i = 0; i < 2; i++) {
    Decoded decoded = decode(test->model, (EngineOptions){.cache_type = cases[i].type, .is_exact = true}, test->ids, 40, TOKENS - 40);
    float *expected = golden_logits(test->model, decoded.ids, 1, decoded.count);
    double off = 0, largest = 0;
    for (int64_t j = 0; j < (decoded.count - 1) * decoded.vocabulary; j++) {
      off = fmax(off, fabs((double)decoded.logits[j] - expected[j]));
      largest = fmax(largest, fabs((double)expected[j]));
    }
    print_message("%s: %.3g off\n", pages_type_name(cases[i].type), off / largest);
    assert_true(off / largest >= cases[i].least && off / largest <= cases[i].most);
    free(expected);
    decoded_release(&decoded);
  }
}

static void assert_same_text(const Decoded *a, const Decoded *b) {
  assert_int_equal(a->count, b->count);
  assert_memory_equal(a->ids, b->ids, (size_t)a->count * sizeof *a->ids);
  assert_memory_equal(a->logits, b->logits, (size_t)((a->count - a->from) * a->vocabulary) * sizeof *a->logits);
}

static EngineOptions usual(int64_t parallel) {
  return (EngineOptions){.context = TOKENS, .parallel = parallel, .chunk = 24, .cache_type = PAGES_F16};
}

// Each text's bits are its own, whatever else is worked on and in what order it comes.
static void texts_together_have_the_bits_of_texts_alone(void **state) {
  const EngineTest *test = *state;
  enum { TEXTS = 7 };
  const int64_t prompts[TEXTS] = {3, 41, 17, 1, 32, 33, 60}, written[TEXTS] = {30, 9, 40, 50, 1, 20, 12};
  Decoded alone[TEXTS], together[TEXTS];
  for (int i = 0; i < TEXTS; i++) alone[i] = decode(test->model, usual(1), test->ids + i, prompts[i], written[i]);
  for (int64_t parallel = 2; parallel <= TEXTS; parallel += 5) {
    for (int drafts = 0; drafts <= 4; drafts += 4) {
      EngineOptions options = usual(parallel);
      options.drafts = drafts;
      Engine *engine;
      assert_ok(engine_new(&engine, test->model, options));
      for (int i = 0; i < TEXTS; i++) decode_submit(&together[i], engine, test->ids + i, prompts[i], written[i], -1);
      assert_ok(engine_run(engine));
      for (int i = 0; i < TEXTS; i++) {
        assert_same_text(&together[i], &alone[i]);
        decoded_release(&together[i]);
      }
      engine_free(engine);
    }
  }
  for (int i = 0; i < TEXTS; i++) decoded_release(&alone[i]);
}

// With room for earlier texts.
static EngineOptions roomy(int64_t parallel) {
  EngineOptions options = usual(parallel);
  options.cache_tokens = 20 * TOKENS;
  return options;
}

// Drafts from a text that repeats itself are right, so it takes fewer passes; the text is the same.
static void drafts_save_passes_and_change_nothing(void **state) {
  const EngineTest *test = *state;
  int32_t ids[40];
  for (int i = 0; i < 40; i++) ids[i] = test->ids[i % 8];
  Decoded plain, drafted;
  EngineCounts counts[2];
  for (int drafts = 0; drafts <= 5; drafts += 5) {
    EngineOptions options = {.context = 240, .parallel = 1, .cache_type = PAGES_F16, .drafts = drafts};
    Engine *engine;
    assert_ok(engine_new(&engine, test->model, options));
    decode_submit(drafts ? &drafted : &plain, engine, ids, 40, 200, -1);
    assert_ok(engine_run(engine));
    counts[drafts > 0] = engine_counts(engine);
    engine_free(engine);
  }
  assert_same_text(&drafted, &plain);
  assert_int_equal(plain.usage.draft_tokens, 0);
  assert_true(drafted.usage.accepted_tokens > 20);
  assert_true(drafted.usage.accepted_tokens <= drafted.usage.draft_tokens);
  assert_int_equal(counts[0].passes - counts[1].passes, drafted.usage.accepted_tokens);
  decoded_release(&plain);
  decoded_release(&drafted);
}

static void request_all(Decoded *out, Engine *engine, const int32_t *ids, int64_t prompt, int64_t written) {
  decode_submit(out, engine, ids, prompt, written, -1);
  assert_ok(engine_run(engine));
}

// decode asks for all of the prompt's logits, for which it is read; so another request, that does not, finds what is kept.
static void ended(FinishReason reason, const EngineUsage *usage, Status status, const char *message, void *context) {
  (void)reason, (void)message;
  assert_int_equal(status, STATUS_OK);
  *(EngineUsage *)context = *usage;
}

static EngineUsage usage_of(Engine *engine, const int32_t *ids, int64_t prompt, bool is_repeatable) {
  EngineUsage usage = {0};
  EngineRequest request = {.prompt = ids,
                           .prompt_count = prompt,
                           .max_tokens = 1,
                           .sampling = {.top_p = 1, .repetition_penalty = 1},
                           .adapter = -1,
                           .ignores_end = true,
                           .is_repeatable = is_repeatable,
                           .reader = {.end = ended, .context = &usage}};
  int64_t number;
  assert_ok(engine_submit(&number, engine, &request));
  assert_ok(engine_run(engine));
  return usage;
}

static void what_earlier_texts_had_is_not_computed_again(void **state) {
  const EngineTest *test = *state;
  Engine *engine;
  assert_ok(engine_new(&engine, test->model, roomy(2)));
  Decoded first;
  request_all(&first, engine, test->ids, 50, 30);
  assert_int_equal(first.usage.reused_tokens, 0);
  assert_int_equal(usage_of(engine, test->ids, 50, true).reused_tokens, 49);  // the last is computed, for its logits
  assert_int_equal(usage_of(engine, test->ids, 20, true).reused_tokens, 19);
  int32_t other[60];
  memcpy(other, test->ids, sizeof other);
  other[41] = (other[41] + 1) % (int32_t)engine_vocabulary(engine);
  assert_int_equal(usage_of(engine, other, 60, true).reused_tokens, 41);
  // What was written is there for the next turn of a talk; but what is to be repeatable has its prompt read as any prompt is.
  assert_int_equal(usage_of(engine, first.ids, 79, false).reused_tokens, 78);
  assert_int_equal(usage_of(engine, first.ids, 79, true).reused_tokens, 50);
  assert_int_equal(usage_of(engine, first.ids, 79, true).reused_tokens, 78);
  decoded_release(&first);
  engine_free(engine);
}

static void repeatable_texts_do_not_build_on_what_was_written(void **state) {
  const EngineTest *test = *state;
  Engine *engine;
  assert_ok(engine_new(&engine, test->model, roomy(1)));
  Decoded first;
  request_all(&first, engine, test->ids, 34, 50);
  assert_int_equal(usage_of(engine, first.ids, 80, true).reused_tokens, 34);
  decoded_release(&first);
  engine_free(engine);
}

// A prefix that another text is reading just now is waited for.
static void texts_that_begin_alike_read_it_once(void **state) {
  const EngineTest *test = *state;
  Engine *engine;
  assert_ok(engine_new(&engine, test->model, usual(4)));
  EngineUsage usages[4] = {{0}};
  int32_t ids[4][70];
  for (int i = 0; i < 4; i++) {
    memcpy(ids[i], test->ids, sizeof ids[i]);
    ids[i][66] = i;
    EngineRequest request = {.prompt = ids[i],
                             .prompt_count = 70,
                             .max_tokens = 2,
                             .sampling = {.top_p = 1, .repetition_penalty = 1},
                             .adapter = -1,
                             .ignores_end = true,
                             .is_repeatable = true,
                             .reader = {.end = ended, .context = &usages[i]}};
    int64_t number;
    assert_ok(engine_submit(&number, engine, &request));
  }
  assert_ok(engine_run(engine));
  assert_int_equal(usages[0].reused_tokens, 0);
  for (int i = 1; i < 4; i++) assert_true(usages[i].reused_tokens >= 64);
  assert_true(engine_counts(engine).prompt_tokens <= 70 + 3 * 6);
  engine_free(engine);
}

static void a_small_cache_gives_away_the_oldest_and_never_fails(void **state) {
  const EngineTest *test = *state;
  EngineOptions options = usual(3);
  options.cache_tokens = 128;
  Engine *engine;
  assert_ok(engine_new(&engine, test->model, options));
  Rng rng = rng_new(9, RNG_STREAM_TEST);
  enum { TEXTS = 40 };
  Decoded texts[TEXTS];
  for (int i = 0; i < TEXTS; i++) {
    int64_t prompt = 1 + (int64_t)rng_below(&rng, 60), written = 1 + (int64_t)rng_below(&rng, 20);
    decode_submit(&texts[i], engine, test->ids + rng_below(&rng, 3), prompt, written, -1);
  }
  assert_ok(engine_run(engine));
  EngineCounts counts = engine_counts(engine);
  assert_int_equal(counts.running + counts.waiting, 0);
  assert_int_equal(counts.free_pages + counts.kept_pages, counts.pages);
  for (int i = 0; i < TEXTS; i++) {
    Decoded alone = decode(test->model, usual(1), texts[i].ids, texts[i].usage.prompt_tokens, texts[i].usage.new_tokens);
    assert_same_text(&texts[i], &alone);
    decoded_release(&alone);
    decoded_release(&texts[i]);
  }
  engine_free(engine);
}

static void a_full_context_and_a_token_that_the_model_lacks_are_refused(void **state) {
  const EngineTest *test = *state;
  Engine *engine;
  EngineOptions options = usual(1);
  options.context = 10;
  assert_ok(engine_new(&engine, test->model, options));
  int64_t number;
  EngineRequest request = {.prompt = test->ids, .prompt_count = 10, .max_tokens = 1, .adapter = -1};
  assert_fails(STATUS_USAGE, engine_submit(&number, engine, &request), "context is full", "holds 10 tokens", "prompt has 10");
  request.max_tokens = 0;
  assert_ok(engine_submit(&number, engine, &request));
  request.prompt_count = 0;
  assert_fails(STATUS_USAGE, engine_submit(&number, engine, &request), "prompt is empty");
  const int32_t beyond = (int32_t)test->model->config.vocabulary, negative = -1;
  request.prompt_count = 1;
  request.prompt = &beyond;
  assert_fails(STATUS_BAD_INPUT, engine_submit(&number, engine, &request), "tiny.gguf", "do not belong together");
  request.prompt = &negative;
  assert_fails(STATUS_BAD_INPUT, engine_submit(&number, engine, &request), "do not belong together");
  assert_ok(engine_run(engine));
  engine_free(engine);
}

// Log-probabilities are those of the logits, and the value of a token is the same among the most likely.
typedef struct Chances {
  int64_t vocabulary;
  int told;
} Chances;

static bool check_chances(const EngineToken *token, void *context) {
  Chances *chances = context;
  double sum = 0, largest = -INFINITY;
  for (int64_t i = 0; i < chances->vocabulary; i++) largest = fmax(largest, (double)token->logits[i]);
  for (int64_t i = 0; i < chances->vocabulary; i++) sum += exp((double)token->logits[i] - largest);
  assert_float_equal(token->log_probability, (double)token->logits[token->id] - largest - log(sum), 1e-5);
  assert_int_equal(token->top_count, 5);
  for (int i = 0; i < 5; i++) {
    if (i) assert_true(token->top[i].log_probability <= token->top[i - 1].log_probability);
    if (token->top[i].id == token->id) assert_true(token->top[i].log_probability == token->log_probability);
  }
  assert_float_equal(token->logits[token->top[0].id], largest, 0);
  chances->told++;
  return true;
}
static void check_prompt_chances(const EngineToken *token, void *context) { check_chances(token, context); }

static void log_probabilities_are_those_of_the_logits(void **state) {
  const EngineTest *test = *state;
  Engine *engine;
  assert_ok(engine_new(&engine, test->model, usual(1)));
  Chances chances = {.vocabulary = engine_vocabulary(engine)};
  EngineRequest request = {.prompt = test->ids,
                           .prompt_count = 40,
                           .max_tokens = 7,
                           .sampling = {.temperature = 1.5, .top_p = 1, .repetition_penalty = 1, .presence_penalty = 1, .seed = 4},
                           .adapter = -1,
                           .wants_chances = true,
                           .chances_from = 11,
                           .top = 5,
                           .ignores_end = true,
                           .reader = {.prompt_token = check_prompt_chances, .token = check_chances, .context = &chances}};
  int64_t number;
  assert_ok(engine_submit(&number, engine, &request));
  assert_ok(engine_run(engine));
  assert_int_equal(chances.told, 29 + 7);
  engine_free(engine);
}

static void take_mean(const float *mean, int64_t columns, void *context) { memcpy(context, mean, (size_t)columns * sizeof *mean); }

static void embeddings_do_not_depend_on_chunks(void **state) {
  const EngineTest *test = *state;
  int64_t columns = test->model->config.hidden;
  float *means[2];
  for (int i = 0; i < 2; i++) {
    means[i] = memory_new((size_t)columns, sizeof *means[i]);
    EngineOptions options = usual(2);
    options.chunk = i ? 7 : TOKENS;
    Engine *engine;
    assert_ok(engine_new(&engine, test->model, options));
    EngineRequest request = {
        .prompt = test->ids, .prompt_count = 40, .adapter = -1, .wants_embedding = true, .reader = {.embedding = take_mean}};
    request.reader.context = means[i];
    int64_t number;
    assert_ok(engine_submit(&number, engine, &request));
    assert_ok(engine_run(engine));
    engine_free(engine);
  }
  assert_true(means[0][0] != 0);
  assert_close(means[1], means[0], columns, 1e-5);
  free(means[0]);
  free(means[1]);
}

typedef struct Cancelled {
  Engine *engine;
  int64_t number;
  int tokens;
  FinishReason reason;
} Cancelled;

static bool cancel_at_three(const EngineToken *token, void *context) {
  (void)token;
  Cancelled *cancelled = context;
  if (++cancelled->tokens == 3) engine_cancel(cancelled->engine, cancelled->number);
  return true;
}
static void end_cancelled(FinishReason reason, const EngineUsage *usage, Status status, const char *message, void *context) {
  (void)usage, (void)status, (void)message;
  ((Cancelled *)context)->reason = reason;
}

static void a_cancelled_text_ends_at_the_next_pass(void **state) {
  const EngineTest *test = *state;
  Cancelled cancelled = {0};
  assert_ok(engine_new(&cancelled.engine, test->model, usual(1)));
  EngineRequest request = {.prompt = test->ids,
                           .prompt_count = 5,
                           .max_tokens = 50,
                           .sampling = {.top_p = 1, .repetition_penalty = 1},
                           .adapter = -1,
                           .ignores_end = true,
                           .reader = {.token = cancel_at_three, .end = end_cancelled, .context = &cancelled}};
  assert_ok(engine_submit(&cancelled.number, cancelled.engine, &request));
  assert_ok(engine_run(cancelled.engine));
  assert_int_equal(cancelled.tokens, 3);
  assert_int_equal(cancelled.reason, FINISH_CANCEL);
  EngineCounts counts = engine_counts(cancelled.engine);
  assert_int_equal(counts.free_pages + counts.kept_pages, counts.pages);
  engine_free(cancelled.engine);
}

// |a - b|^2 / |b|^2, Euclidean.
static double squared_distance(const float *a, const float *b, int64_t n) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < n; i++) {
    difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    size += (double)b[i] * b[i];
  }
  return difference / size;
}

// A block of 32 that is rounded to 8 bits is off by max / 127 / sqrt(12) (root mean square), and max is at most sqrt(32) times the block's
// own. Four such products follow each other in a layer, and the head; errors that have nothing to do with each other add up by their
// squares. So it is the root mean square over tokens that is compared: of single ones, some are lucky and some are not.
static void activations_in_8_bits_move_the_logits_as_little_as_their_rounding(void **state) {
  const EngineTest *test = *state;
  const ModelConfig *config = &test->model->config;
  double bound = sqrt(32.0) / 127 / sqrt(12.0) * sqrt(4.0 * (double)config->layers + 1), squares = 0;
  Decoded decoded = decode(test->model, (EngineOptions){0}, test->ids, 2, TOKENS - 2);
  float *expected = golden_logits(test->model, decoded.ids, 1, decoded.count);
  for (int64_t i = 2; i < decoded.count; i++)
    squares += squared_distance(decoded.logits + (i - 1) * decoded.vocabulary, expected + (i - 1) * decoded.vocabulary, decoded.vocabulary);
  double off = sqrt(squares / (double)(decoded.count - 2));
  print_message("logits are %.3g off, %.3g allowed\n", off, bound);
  assert_true(off <= bound);
  assert_true(off > 1e-4);  // they were rounded
  free(expected);
  decoded_release(&decoded);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_prompt_in_chunks_of_any_size_gives_the_whole_pass_logits),
      cmocka_unit_test(token_by_token_every_step_gives_the_whole_pass_logits),
      cmocka_unit_test(pages_of_fewer_bits_move_the_logits_a_little),
      cmocka_unit_test(texts_together_have_the_bits_of_texts_alone),
      cmocka_unit_test(drafts_save_passes_and_change_nothing),
      cmocka_unit_test(what_earlier_texts_had_is_not_computed_again),
      cmocka_unit_test(repeatable_texts_do_not_build_on_what_was_written),
      cmocka_unit_test(texts_that_begin_alike_read_it_once),
      cmocka_unit_test(a_small_cache_gives_away_the_oldest_and_never_fails),
      cmocka_unit_test(a_full_context_and_a_token_that_the_model_lacks_are_refused),
      cmocka_unit_test(log_probabilities_are_those_of_the_logits),
      cmocka_unit_test(embeddings_do_not_depend_on_chunks),
      cmocka_unit_test(a_cancelled_text_ends_at_the_next_pass),
      cmocka_unit_test(activations_in_8_bits_move_the_logits_as_little_as_their_rounding),
  };
  return cmocka_run_group_tests(tests, start, end);
}
