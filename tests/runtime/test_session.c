// Decoding with a cache against the whole forward pass, on the tiny model: in float32, and with activations in 8 bits.
#include <math.h>

#include "runtime/session.h"
#include "tests/support/golden.h"

enum { TOKENS = 23 };

typedef struct SessionTest {
  Backend *backend;
  Model *model;
  int32_t ids[TOKENS];
  float *expected;  // [TOKENS, vocabulary]
} SessionTest;

static int start(void **state) {
  SessionTest *test = memory_new(1, sizeof *test);
  assert_ok(backend_new(&test->backend, "cpu", 2));
  assert_ok(model_open(&test->model, TESTS_DIR "/data/tiny.gguf", (ModelOptions){0}, test->backend));
  Rng rng = rng_new(5, RNG_STREAM_TEST);
  for (int i = 0; i < TOKENS; i++) test->ids[i] = (int32_t)rng_below(&rng, (uint64_t)test->model->config.vocabulary);
  test->expected = golden_logits(test->model, test->ids, 1, TOKENS);
  *state = test;
  return 0;
}

static int end(void **state) {
  SessionTest *test = *state;
  model_close(test->model);
  backend_free(test->backend);
  free(test->expected);
  free(test);
  return 0;
}

static void assert_logits_after(const Session *session, const SessionTest *test, int64_t tokens) {
  int64_t vocabulary = test->model->config.vocabulary;
  assert_int_equal(session_length(session), tokens);
  assert_memory_equal(session_tokens(session), test->ids, (size_t)tokens * sizeof *test->ids);
  // The same sums over the same values, only in rows of other blocks: a few roundings of float32 apart.
  assert_close(session_logits(session), test->expected + (tokens - 1) * vocabulary, vocabulary, 1e-5);
}

static void a_prompt_in_chunks_of_any_size_gives_the_whole_pass_logits(void **state) {
  const SessionTest *test = *state;
  for (int64_t chunk = 1; chunk <= TOKENS + 1; chunk += 3) {
    Session *session;
    assert_ok(session_new(&session, test->model, (SessionOptions){.capacity = TOKENS + 1, .chunk = chunk, .is_exact = true}));
    assert_ok(session_feed(session, test->ids, TOKENS));
    assert_logits_after(session, test, TOKENS);
    session_free(session);
  }
}

static void token_by_token_every_step_gives_the_whole_pass_logits(void **state) {
  const SessionTest *test = *state;
  Session *session;
  assert_ok(session_new(&session, test->model, (SessionOptions){.capacity = TOKENS, .is_exact = true}));
  for (int64_t i = 0; i < TOKENS; i++) {
    assert_ok(session_feed(session, test->ids + i, 1));
    assert_logits_after(session, test, i + 1);
  }
  session_free(session);
}

static void feeds_of_different_lengths_follow_each_other(void **state) {
  const SessionTest *test = *state;
  Session *session;
  assert_ok(session_new(&session, test->model, (SessionOptions){.capacity = TOKENS, .chunk = 4, .is_exact = true}));
  const int64_t lengths[] = {5, 1, 9, 1, 1, 4, 2};
  int64_t done = 0;
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    assert_ok(session_feed(session, test->ids + done, lengths[i]));
    done += lengths[i];
    assert_logits_after(session, test, done);
  }
  assert_int_equal(done, TOKENS);
  session_free(session);
}

static void a_common_beginning_is_reused_and_the_rest_replaced(void **state) {
  const SessionTest *test = *state;
  Session *session;
  assert_ok(session_new(&session, test->model, (SessionOptions){.capacity = TOKENS, .chunk = 8, .is_exact = true}));
  int32_t other[12];
  memcpy(other, test->ids, sizeof other);
  for (int i = 7; i < 12; i++) other[i] = (other[i] + 1) % (int32_t)test->model->config.vocabulary;
  int64_t reused = -1;
  assert_ok(session_match(session, other, 12, &reused));
  assert_int_equal(reused, 0);
  assert_ok(session_match(session, test->ids, TOKENS, &reused));
  assert_int_equal(reused, 7);
  assert_logits_after(session, test, TOKENS);
  // The same text again: its last token is fed anew, for the logits.
  assert_ok(session_match(session, test->ids, TOKENS, &reused));
  assert_int_equal(reused, TOKENS - 1);
  assert_logits_after(session, test, TOKENS);
  // A shorter one.
  assert_ok(session_match(session, test->ids, 9, &reused));
  assert_int_equal(reused, 8);
  assert_logits_after(session, test, 9);
  session_free(session);
}

static void a_full_context_is_refused_and_the_session_stays(void **state) {
  const SessionTest *test = *state;
  Session *session;
  assert_ok(session_new(&session, test->model, (SessionOptions){.capacity = 10, .chunk = 4, .is_exact = true}));
  assert_ok(session_feed(session, test->ids, 8));
  assert_fails(STATUS_USAGE, session_feed(session, test->ids + 8, 3), "context is full", "8 of 10", "3 more");
  assert_logits_after(session, test, 8);
  assert_fails(STATUS_USAGE, session_match(session, test->ids, 11, NULL), "context is full");
  assert_int_equal(session_length(session), 8);
  assert_ok(session_feed(session, test->ids + 8, 2));
  assert_logits_after(session, test, 10);
  assert_fails(STATUS_USAGE, session_feed(session, test->ids, 1), "context is full");
  session_free(session);
}

static void a_token_that_the_model_lacks_is_refused(void **state) {
  const SessionTest *test = *state;
  Session *session;
  assert_ok(session_new(&session, test->model, (SessionOptions){.capacity = 10, .is_exact = true}));
  const int32_t beyond = (int32_t)test->model->config.vocabulary, negative = -1;
  assert_fails(STATUS_BAD_INPUT, session_feed(session, &beyond, 1), "tiny.gguf", "do not belong together");
  assert_fails(STATUS_BAD_INPUT, session_feed(session, &negative, 1), "do not belong together");
  assert_int_equal(session_length(session), 0);
  session_free(session);
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
  const SessionTest *test = *state;
  const ModelConfig *config = &test->model->config;
  double bound = sqrt(32.0) / 127 / sqrt(12.0) * sqrt(4.0 * (double)config->layers + 1);
  for (int64_t feed = 1; feed <= SESSION_INT8_ROWS; feed += 2) {
    Session *session;
    double squares = 0;
    int64_t feeds = 0;
    assert_ok(session_new(&session, test->model, (SessionOptions){.capacity = TOKENS}));
    for (int64_t done = 0; done < TOKENS; feeds++) {
      int64_t count = TOKENS - done < feed ? TOKENS - done : feed;
      assert_ok(session_feed(session, test->ids + done, count));
      done += count;
      squares += squared_distance(session_logits(session), test->expected + (done - 1) * config->vocabulary, config->vocabulary);
    }
    session_free(session);
    double off = sqrt(squares / (double)feeds);
    print_message("%lld at once: logits are %.3g off, %.3g allowed\n", (long long)feed, off, bound);
    assert_true(off <= bound);
    assert_true(off > 1e-4);  // they were rounded
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_prompt_in_chunks_of_any_size_gives_the_whole_pass_logits),
      cmocka_unit_test(token_by_token_every_step_gives_the_whole_pass_logits),
      cmocka_unit_test(feeds_of_different_lengths_follow_each_other),
      cmocka_unit_test(a_common_beginning_is_reused_and_the_rest_replaced),
      cmocka_unit_test(a_full_context_is_refused_and_the_session_stays),
      cmocka_unit_test(a_token_that_the_model_lacks_is_refused),
      cmocka_unit_test(activations_in_8_bits_move_the_logits_as_little_as_their_rounding),
  };
  return cmocka_run_group_tests(tests, start, end);
}
