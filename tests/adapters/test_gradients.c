// Through the whole of the tiny model: every adapted projection's gradient against finite differences, the adapter
// switched off or at zero against the base, and bits that do not depend on recomputation or threads.
#include "core/file.h"
#include "tests/adapters/gradient_support.h"

enum { TRAINED_TOKENS = 5 };
static const int32_t trained_tokens[TRAINED_TOKENS] = {7, 8, 9, 300, 3};

// What is trained: LoRA over all linear layers, and on the embedding and the head as well; or modules in full; or some tokens' rows.
typedef enum Kind { KIND_LORA, KIND_VOCABULARY, KIND_MODULES, KIND_TOKENS } Kind;

static void open_kind(Fixture *f, Kind kind, int threads, double dropout) {
  AdapterSettings settings = {.rank = 4, .alpha = 8, .dropout = dropout, .all_linear = true, .seed = 7};
  const char *const vocabulary[] = {"embed_tokens", "lm_head"}, *const modules[] = {"embed_tokens", "lm_head", "down_proj", "norm"};
  if (kind == KIND_VOCABULARY) settings.targets = vocabulary, settings.target_count = 2;
  if (kind == KIND_MODULES) settings.modules_to_save = modules, settings.modules_to_save_count = 4;
  if (kind == KIND_TOKENS) settings.tokens = trained_tokens, settings.token_count = TRAINED_TOKENS;
  open_fixture_of(f, TESTS_DIR "/data/tiny.gguf", threads, &settings);
}

static void open_fixture(Fixture *f, int threads, double dropout) { open_kind(f, KIND_LORA, threads, dropout); }

static void every_adapted_projection_has_the_gradient_of_finite_differences(void **state) {
  (void)state;
  for (int dropout = 0; dropout < 2; dropout++) {
    Fixture f;
    open_fixture(&f, 2, dropout ? 0.25 : 0);
    run(&f, true, 0, NULL);
    Rng rng = rng_new(3, RNG_STREAM_TEST);
    for (int i = 0; i < f.adapter->count; i++) {
      check_parameter(&f, &f.adapter->pairs[i].a, f.adapter->linears[i]->name, &rng);
      check_parameter(&f, &f.adapter->pairs[i].b, f.adapter->linears[i]->name, &rng);
    }
    close_fixture(&f);
  }
}

static void whatever_else_is_trained_has_the_gradient_of_finite_differences(void **state) {
  (void)state;
  for (Kind kind = KIND_VOCABULARY; kind <= KIND_TOKENS; kind++)
    for (int dropout = 0; dropout < 1 + (kind == KIND_VOCABULARY); dropout++) {
      Fixture f;
      open_kind(&f, kind, 2, dropout ? 0.25 : 0);
      if (kind == KIND_VOCABULARY) assert_int_equal(f.adapter->count, f.model->linear_count + 2);
      run(&f, true, 0, NULL);
      Rng rng = rng_new(3, RNG_STREAM_TEST);
      for (int i = 0; i < f.adapter->tensor_count; i++)
        check_parameter(&f, f.adapter->tensors[i].parameter, f.adapter->tensors[i].module, &rng);
      close_fixture(&f);
    }
}

static void adapter_off_or_at_zero_gives_the_base_bit_for_bit(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f, 2, 0);
  float *adapted = golden_logits(f.model, f.ids, 1, TOKENS);
  adapter_set_enabled(f.adapter, false);
  float *off = golden_logits(f.model, f.ids, 1, TOKENS);
  adapter_set_enabled(f.adapter, true);
  for (int i = 0; i < f.adapter->count; i++) {
    const Parameter *b = &f.adapter->pairs[i].b;
    f.backend->kernels->fill(b->data, 0, b->rows * b->columns, f.backend);
  }
  float *zero = golden_logits(f.model, f.ids, 1, TOKENS);
  adapter_close(f.adapter);
  float *base = golden_logits(f.model, f.ids, 1, TOKENS);
  size_t bytes = (size_t)(TOKENS * f.model->config.vocabulary) * sizeof *base;
  assert_memory_not_equal(adapted, base, bytes);
  assert_memory_equal(off, base, bytes);
  for (size_t i = 0; i < bytes / sizeof *base; i++) assert_true(zero[i] == base[i]);  // equal as numbers: -0 + 0 is 0
  free(adapted);
  free(off);
  free(zero);
  free(base);
  model_close(f.model);
  backend_free(f.backend);
}

static void check_bits(Kind kind) {
  Fixture f;
  open_kind(&f, kind, 1, 0.1);
  size_t size = (size_t)f.adapter->size * sizeof(float);
  int64_t plain_bytes, bytes;
  double loss = run(&f, true, 0, &plain_bytes);
  float *plain = memory_new(size, 1);
  memcpy(plain, f.adapter->gradient, size);
  int64_t before = plain_bytes;
  for (int segments = 2; segments <= (int)f.model->config.layers + 1; segments++) {
    assert_true(run(&f, true, segments, &bytes) == loss);
    assert_memory_equal(plain, f.adapter->gradient, size);
    assert_true(bytes <= before);
    before = bytes;
  }
  assert_true(bytes < plain_bytes);
  close_fixture(&f);
  for (int threads = 2; threads <= 3; threads++) {
    open_kind(&f, kind, threads, 0.1);
    assert_true(run(&f, true, 1, NULL) == loss);
    assert_memory_equal(plain, f.adapter->gradient, size);
    close_fixture(&f);
  }
  free(plain);
}

static void recomputation_and_threads_do_not_change_bits_and_recomputation_saves_memory(void **state) {
  (void)state;
  for (Kind kind = KIND_LORA; kind <= KIND_TOKENS; kind++) check_bits(kind);
}

static void an_adapter_that_is_not_trained_drops_nothing(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f, 2, 0.4);
  char *folder = path_join(test_folder, "adapter");
  assert_ok(adapter_save_peft(f.adapter, folder, "base"));
  adapter_set_dropout(f.adapter, 0);
  float *expected = golden_logits(f.model, f.ids, 1, TOKENS);
  adapter_close(f.adapter);
  assert_ok(adapter_open(&f.adapter, f.model, (const char *const[]){folder}, NULL, 1, false));
  float *actual = golden_logits(f.model, f.ids, 1, TOKENS);
  assert_memory_equal(actual, expected, (size_t)(TOKENS * f.model->config.vocabulary) * sizeof *actual);
  assert_true(f.adapter->dropout == 0.4);  // what was trained with stays on record
  free(expected);
  free(actual);
  free(folder);
  close_fixture(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_adapted_projection_has_the_gradient_of_finite_differences),
      cmocka_unit_test(whatever_else_is_trained_has_the_gradient_of_finite_differences),
      cmocka_unit_test(adapter_off_or_at_zero_gives_the_base_bit_for_bit),
      cmocka_unit_test(recomputation_and_threads_do_not_change_bits_and_recomputation_saves_memory),
      unit_test_in_folder(an_adapter_that_is_not_trained_drops_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
