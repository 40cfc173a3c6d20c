// Text as it streams: stop strings over the borders of tokens, characters in pieces, and the end of a text.
#include "runtime/generate.h"

#include "core/text.h"
#include "runtime/text_stream.h"
#include "tests/support/test.h"

// Pushes `pieces` and checks what each brings; "" marks that nothing may be shown yet.
static void assert_streams(const char *const *stops, int stop_count, const char *const *pieces, const char *const *shown, int count,
                           const char *rest, int stopped_by) {
  TextStream stream;
  text_stream_new(&stream, stops, stop_count);
  bool goes_on = true;
  for (int i = 0; i < count; i++) {
    Buffer out = {0};
    assert_true(goes_on);
    goes_on = text_stream_push(&out, &stream, pieces[i], strlen(pieces[i]));
    assert_string_equal(out.data ? out.data : "", shown[i]);
    buffer_release(&out);
  }
  Buffer out = {0};
  text_stream_finish(&out, &stream);
  assert_string_equal(out.data ? out.data : "", rest);
  assert_int_equal(stream.stopped_by, stopped_by);
  assert_int_equal(goes_on, stopped_by < 0);
  buffer_release(&out);
  text_stream_release(&stream);
}

static void stop_strings_are_found_across_pieces(void **state) {
  (void)state;
  const char *stops[] = {"END", "\n\n"};
  assert_streams(stops, 2, (const char *[]){"one E", "N", "D two"}, (const char *[]){"one ", "", ""}, 3, "", 0);
  assert_streams(stops, 2, (const char *[]){"a\n", "\nb"}, (const char *[]){"a", ""}, 2, "", 1);
  assert_streams(stops, 2, (const char *[]){"the END"}, (const char *[]){"the "}, 1, "", 0);
}

static void what_only_looked_like_a_stop_string_is_shown(void **state) {
  (void)state;
  const char *stops[] = {"END"};
  assert_streams(stops, 1, (const char *[]){"E", "N", "x"}, (const char *[]){"", "", "ENx"}, 3, "", -1);
  assert_streams(stops, 1, (const char *[]){"EE", "EN"}, (const char *[]){"E", "E"}, 2, "EN", -1);
  assert_streams(stops, 1, (const char *[]){"EEN", "D"}, (const char *[]){"E", ""}, 2, "", 0);
}

static void the_earliest_stop_string_ends_the_text(void **state) {
  (void)state;
  const char *stops[] = {"cd", "bcde", "bc"};
  assert_streams(stops, 3, (const char *[]){"abcde"}, (const char *[]){"a"}, 1, "", 1);
}

static void characters_are_shown_when_they_are_whole(void **state) {
  (void)state;
  assert_streams(NULL, 0, (const char *[]){"a\xc3", "\xa9z"}, (const char *[]){"a", "\xc3\xa9z"}, 2, "", -1);
  assert_streams(NULL, 0, (const char *[]){"\xf0", "\x9f", "\x98", "\x80!"}, (const char *[]){"", "", "", "\xf0\x9f\x98\x80!"}, 4, "", -1);
}

static void bytes_that_are_no_utf8_become_replacement_characters(void **state) {
  (void)state;
  assert_streams(NULL, 0,
                 (const char *[]){"a\xff"
                                  "b"},
                 (const char *[]){"a\xef\xbf\xbd"
                                  "b"},
                 1, "", -1);
  assert_streams(NULL, 0, (const char *[]){"a\xe2\x82", "b"},
                 (const char *[]){"a",
                                  "\xef\xbf\xbd\xef\xbf\xbd"
                                  "b"},
                 2, "", -1);
  assert_streams(NULL, 0, (const char *[]){"a\xe2\x82"}, (const char *[]){"a"}, 1, "\xef\xbf\xbd\xef\xbf\xbd", -1);
}

// Any cut of any bytes into pieces shows the same text in the end, and valid UTF-8 at every moment.
static void the_cut_into_pieces_does_not_change_the_text(void **state) {
  (void)state;
  Rng rng = rng_new(9, RNG_STREAM_TEST);
  const char *stops[] = {"\xc3\xa9\xc3\xa9"};
  const char *const parts[] = {"a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xff", "\xc3", "\n"};
  for (int round = 0; round < 200; round++) {
    Buffer bytes = {0}, whole = {0}, cut = {0};
    for (int i = 0; i < 12; i++) buffer_append_string(&bytes, parts[rng_below(&rng, 7)]);
    TextStream stream;
    text_stream_new(&stream, stops, 1);
    bool goes_on = text_stream_push(&whole, &stream, bytes.data, bytes.length);
    text_stream_finish(&whole, &stream);
    text_stream_release(&stream);
    text_stream_new(&stream, stops, 1);
    bool still = true;
    for (size_t at = 0; at < bytes.length && still;) {
      size_t n = 1 + (size_t)rng_below(&rng, 3), before = cut.length;
      if (n > bytes.length - at) n = bytes.length - at;
      still = text_stream_push(&cut, &stream, bytes.data + at, n);
      if (cut.length > before) assert_true(utf8_is_valid(cut.data + before, cut.length - before, NULL));
      at += n;
    }
    text_stream_finish(&cut, &stream);
    assert_int_equal(goes_on, still);
    assert_int_equal(whole.length, cut.length);
    if (whole.length) assert_memory_equal(whole.data, cut.data, whole.length);
    text_stream_release(&stream);
    buffer_release(&bytes);
    buffer_release(&whole);
    buffer_release(&cut);
  }
}

typedef struct GenerateTest {
  Backend *backend;
  Model *model;
  Tokenizer *tokenizer;
  Engine *engine;
  TokenList prompt;
} GenerateTest;

static int start(void **state) {
  GenerateTest *test = memory_new(1, sizeof *test);
  const char *path = TESTS_DIR "/data/tiny.gguf",
             *question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";
  assert_ok(backend_new(&test->backend, "cpu", 2));
  assert_ok(model_open(&test->model, path, (ModelOptions){0}, test->backend));
  assert_ok(tokenizer_open(&test->tokenizer, path));
  EngineOptions options = {.context = 64, .parallel = 1, .tokenizer = test->tokenizer};
  assert_ok(engine_new(&test->engine, test->model, options));
  assert_ok(tokenizer_encode(&test->prompt, test->tokenizer, question, strlen(question), TOKENIZE_PARSE_SPECIAL));
  *state = test;
  return 0;
}

static int end(void **state) {
  GenerateTest *test = *state;
  engine_free(test->engine);
  tokenizer_free(test->tokenizer);
  model_close(test->model);
  backend_free(test->backend);
  token_list_release(&test->prompt);
  free(test);
  return 0;
}

static bool collect(const char *text, size_t length, void *context) {
  buffer_append(context, text, length);
  return true;
}

static bool refuse(const char *text, size_t length, void *context) {
  (void)text, (void)length;
  return ++*(int *)context < 2;
}

static GenerateOptions greedy(int64_t max_tokens) {
  GenerateOptions options = {.sampling = sampler_defaults(), .max_tokens = max_tokens};
  options.sampling.temperature = 0;
  return options;
}

static void the_model_answers_and_ends_its_text(void **state) {
  GenerateTest *test = *state;
  Generation result = {0};
  Buffer shown = {0};
  GenerateOptions options = greedy(40);
  options.emit = collect;
  options.context = &shown;
  assert_ok(generate(&result, test->engine, test->tokenizer, test->prompt.ids, test->prompt.count, &options));
  assert_string_equal(result.text.data, "The capital of France is Paris.");
  assert_string_equal(shown.data, result.text.data);
  assert_int_equal(result.finish, FINISH_STOP);
  assert_int_equal(result.usage.prompt_tokens, test->prompt.count);
  Buffer decoded = {0};
  tokenizer_decode(&decoded, test->tokenizer, result.tokens.ids, result.tokens.count, true);
  assert_string_equal(decoded.data, result.text.data);
  buffer_release(&decoded);
  buffer_release(&shown);
  generation_release(&result);
}

static void a_stop_string_ends_the_text_before_it(void **state) {
  GenerateTest *test = *state;
  Generation result = {0};
  const char *stops[] = {"France is"};
  GenerateOptions options = greedy(40);
  options.stops = stops;
  options.stop_count = 1;
  assert_ok(generate(&result, test->engine, test->tokenizer, test->prompt.ids, test->prompt.count, &options));
  assert_string_equal(result.text.data, "The capital of ");
  assert_int_equal(result.finish, FINISH_STOP);
  generation_release(&result);
}

static void length_ends_the_text_by_request_or_by_the_context(void **state) {
  GenerateTest *test = *state;
  Generation result = {0};
  GenerateOptions options = greedy(3);
  assert_ok(generate(&result, test->engine, test->tokenizer, test->prompt.ids, test->prompt.count, &options));
  assert_int_equal(result.tokens.count, 3);
  assert_int_equal(result.finish, FINISH_LENGTH);
  generation_release(&result);
  Engine *tight;
  EngineOptions two_more = {.context = test->prompt.count + 2, .parallel = 1, .tokenizer = test->tokenizer};
  assert_ok(engine_new(&tight, test->model, two_more));
  result = (Generation){0};
  options.max_tokens = 40;
  assert_ok(generate(&result, tight, test->tokenizer, test->prompt.ids, test->prompt.count, &options));
  assert_int_equal(result.tokens.count, 2);
  assert_int_equal(result.finish, FINISH_LENGTH);
  generation_release(&result);
  engine_free(tight);
}

static void a_reader_that_goes_away_ends_the_text(void **state) {
  GenerateTest *test = *state;
  Generation result = {0};
  int calls = 0;
  GenerateOptions options = greedy(40);
  options.emit = refuse;
  options.context = &calls;
  assert_ok(generate(&result, test->engine, test->tokenizer, test->prompt.ids, test->prompt.count, &options));
  assert_int_equal(calls, 2);
  assert_int_equal(result.finish, FINISH_CANCEL);
  generation_release(&result);
}

static void an_empty_prompt_is_refused(void **state) {
  GenerateTest *test = *state;
  Generation result = {0};
  GenerateOptions options = greedy(4);
  assert_fails(STATUS_USAGE, generate(&result, test->engine, test->tokenizer, NULL, 0, &options), "prompt is empty");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(stop_strings_are_found_across_pieces),
      cmocka_unit_test(what_only_looked_like_a_stop_string_is_shown),
      cmocka_unit_test(the_earliest_stop_string_ends_the_text),
      cmocka_unit_test(characters_are_shown_when_they_are_whole),
      cmocka_unit_test(bytes_that_are_no_utf8_become_replacement_characters),
      cmocka_unit_test(the_cut_into_pieces_does_not_change_the_text),
      cmocka_unit_test(the_model_answers_and_ends_its_text),
      cmocka_unit_test(a_stop_string_ends_the_text_before_it),
      cmocka_unit_test(length_ends_the_text_by_request_or_by_the_context),
      cmocka_unit_test(a_reader_that_goes_away_ends_the_text),
      cmocka_unit_test(an_empty_prompt_is_refused),
  };
  return cmocka_run_group_tests(tests, start, end);
}
