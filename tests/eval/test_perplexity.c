// Perplexity against a plain computation from the logits of the whole forward pass.
#include "eval/perplexity.h"

#include <math.h>

#include "core/file.h"
#include "tests/support/golden.h"

typedef struct PerplexityTest {
  Backend *backend;
  Model *model;
  Tokenizer *tokenizer;
} PerplexityTest;

static int start(void **state) {
  PerplexityTest *test = memory_new(1, sizeof *test);
  assert_ok(backend_new(&test->backend, "cpu", 2));
  assert_ok(model_open(&test->model, TESTS_DIR "/data/tiny.gguf", (ModelOptions){0}, test->backend));
  assert_ok(tokenizer_open(&test->tokenizer, TESTS_DIR "/data/tiny.gguf"));
  *state = test;
  return 0;
}

static int end(void **state) {
  PerplexityTest *test = *state;
  tokenizer_free(test->tokenizer);
  model_close(test->model);
  backend_free(test->backend);
  free(test);
  return 0;
}

// -log softmax(logits)[target], in double.
static double plain_nll(const float *logits, int64_t vocabulary, int32_t target) {
  double largest = -INFINITY, total = 0;
  for (int64_t i = 0; i < vocabulary; i++) largest = fmax(largest, logits[i]);
  for (int64_t i = 0; i < vocabulary; i++) total += exp(logits[i] - largest);
  return largest + log(total) - logits[target];
}

// llama.cpp's loop: of each chunk, the row j foretells token j + 1, from j = context / 2 on.
static Perplexity plain_perplexity(const Model *model, const int32_t *ids, int64_t count, int64_t context, int32_t bos) {
  Perplexity result = {.chunks = count / context};
  int64_t vocabulary = model->config.vocabulary;
  int32_t *chunk = memory_new((size_t)context, sizeof *chunk);
  for (int64_t c = 0; c < result.chunks; c++) {
    memcpy(chunk, ids + c * context, (size_t)context * sizeof *chunk);
    if (bos >= 0) chunk[0] = bos;
    float *logits = golden_logits(model, chunk, 1, context);
    for (int64_t j = context / 2; j + 1 < context; j++) {
      result.nll += plain_nll(logits + j * vocabulary, vocabulary, chunk[j + 1]);
      result.tokens++;
    }
    free(logits);
  }
  free(chunk);
  return result;
}

static void perplexity_is_the_plain_computation_at_every_context(void **state) {
  const PerplexityTest *test = *state;
  enum { COUNT = 150 };
  int32_t ids[COUNT];
  Rng rng = rng_new(21, RNG_STREAM_TEST);
  for (int i = 0; i < COUNT; i++) ids[i] = (int32_t)rng_below(&rng, (uint64_t)test->model->config.vocabulary);
  const int64_t contexts[] = {4, 7, 32, 150};
  for (int i = 0; i < 8; i++) {
    int64_t context = contexts[i / 2];
    int32_t bos = i % 2 ? 1 : -1;
    Perplexity expected = plain_perplexity(test->model, ids, COUNT, context, bos), actual;
    assert_ok(perplexity_measure(&actual, test->model, ids, COUNT, context, bos));
    assert_int_equal(actual.tokens, expected.tokens);
    assert_int_equal(actual.chunks, expected.chunks);
    // Each row's likelihood is a float32; the sums are in double.
    assert_true(fabs(actual.nll - expected.nll) <= 1e-6 * expected.nll);
    assert_true(fabs(perplexity_value(&actual) - exp(actual.nll / (double)actual.tokens)) <= 1e-12 * perplexity_value(&actual));
  }
}

static void a_text_begins_with_bos_where_the_model_adds_one(void **state) {
  const PerplexityTest *test = *state;
  TokenList plain = {0}, ids = {0};
  const char *text = "The sea is salty.<|im_end|>";
  assert_ok(tokenizer_encode(&plain, test->tokenizer, text, strlen(text), 0));
  assert_ok(perplexity_encode(&ids, test->tokenizer, text, strlen(text)));
  int64_t added = tokenizer_adds_bos(test->tokenizer) ? 1 : 0;
  assert_int_equal(ids.count, plain.count + added);
  if (added) assert_int_equal(ids.ids[0], tokenizer_bos(test->tokenizer));
  assert_memory_equal(ids.ids + added, plain.ids, (size_t)plain.count * sizeof *plain.ids);
  token_list_release(&plain);
  token_list_release(&ids);
}

static void a_text_shorter_than_a_chunk_is_refused(void **state) {
  const PerplexityTest *test = *state;
  Perplexity result;
  const int32_t ids[] = {1, 2, 3, 4, 5};
  assert_fails(STATUS_USAGE, perplexity_measure(&result, test->model, ids, 5, 6, -1), "5 tokens", "chunk of 6", "--context");
}

static void a_token_that_the_model_lacks_is_refused(void **state) {
  const PerplexityTest *test = *state;
  Perplexity result;
  const int32_t ids[] = {1, 2, 3, (int32_t)test->model->config.vocabulary};
  assert_fails(STATUS_BAD_INPUT, perplexity_measure(&result, test->model, ids, 4, 4, -1), "do not belong together");
}

static void the_command_ends_with_the_perplexity(void **state) {
  const PerplexityTest *test = *state;
  const char *text = TESTS_DIR "/tools/tiny_corpus.txt";
  FileMap map;
  TokenList ids = {0};
  Perplexity result;
  assert_ok(file_map(&map, text));
  assert_ok(perplexity_encode(&ids, test->tokenizer, (const char *)map.data, map.size));
  int32_t bos = tokenizer_adds_bos(test->tokenizer) ? tokenizer_bos(test->tokenizer) : -1;
  assert_ok(perplexity_measure(&result, test->model, ids.ids, ids.count, 64, bos));
  char *expected = memory_format("perplexity %.4f over %lld tokens\n", perplexity_value(&result), (long long)result.tokens);
  Buffer output = {0};
  assert_int_equal(run_program(&output, "perplexity --quiet --context 64 --model " TESTS_DIR "/data/tiny.gguf --text %s", text), 0);
  assert_string_equal(output.data, expected);
  output.length = 0;
  assert_int_equal(run_program(&output, "perplexity --model " TESTS_DIR "/data/tiny.gguf --context 1000000 --text %s", text), 2);
  assert_non_null(strstr(output.data, "was made for"));
  buffer_release(&output);
  free(expected);
  token_list_release(&ids);
  file_unmap(&map);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(perplexity_is_the_plain_computation_at_every_context),
      cmocka_unit_test(a_text_begins_with_bos_where_the_model_adds_one),
      cmocka_unit_test(a_text_shorter_than_a_chunk_is_refused),
      cmocka_unit_test(a_token_that_the_model_lacks_is_refused),
      cmocka_unit_test(the_command_ends_with_the_perplexity),
  };
  return cmocka_run_group_tests(tests, start, end);
}
