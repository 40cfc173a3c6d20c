// The engine on a CUDA device, the simulated one: adapters of a bank and pages of every type beside the CPU, and texts whose bits are their own.
#include "adapters/bank.h"
#include "tests/support/decode.h"
#include "tests/support/golden.h"
#include "tests/support/tiny_adapter.h"

static const char tiny[] = TESTS_DIR "/data/tiny.gguf";
enum { PROMPT = 40, WRITTEN = 8, TEXTS = 4 };

typedef struct Side {
  Backend *backend;
  Model *model;
  AdapterBank *bank;
  Engine *engine;
} Side;

static void open_side(Side *side, const char *device, const char *folder, EngineOptions options) {
  assert_ok(backend_new(&side->backend, device, 2));
  side->backend->is_deterministic = true;
  assert_ok(model_open(&side->model, tiny, (ModelOptions){0}, side->backend));
  assert_ok(adapter_bank_new(&side->bank, side->model));
  assert_ok(adapter_bank_add(side->bank, "own", folder, 1));
  options.context = PROMPT + WRITTEN;
  options.chunk = 24;
  options.adapters = side->bank;
  assert_ok(engine_new(&side->engine, side->model, options));
}

static void close_side(Side *side) {
  engine_free(side->engine);
  adapter_bank_free(side->bank);
  model_close(side->model);
  backend_free(side->backend);
}

static const int32_t *ids(int text) {
  static int32_t all[PROMPT + TEXTS];
  Rng rng = rng_new(3, RNG_STREAM_TEST);
  for (int i = 0; i < PROMPT + TEXTS; i++) all[i] = (int32_t)rng_below(&rng, 300);
  return all + text;
}

// Of different lengths, every other one under the adapter.
static void submit(Decoded *out, Engine *engine, int text) {
  decode_submit(out, engine, ids(text), PROMPT - 7 * text, WRITTEN, text % 2 - 1);
}

static void texts_under_adapters_are_those_of_the_cpu(void **state) {
  (void)state;
  char *folder = write_tiny_adapter(test_folder);
  const double tolerances[] = {[PAGES_F32] = 1e-4, [PAGES_F16] = 2e-3, [PAGES_Q8_0] = 5e-2};
  for (PagesType type = PAGES_F32; type <= PAGES_Q8_0; type++) {
    Side cpu, cuda;
    EngineOptions options = {.parallel = TEXTS, .cache_type = type, .is_exact = true};
    open_side(&cpu, "cpu", folder, options);
    open_side(&cuda, "cuda", folder, options);
    Decoded texts[TEXTS];
    for (int i = 0; i < TEXTS; i++) submit(&texts[i], cuda.engine, i);
    assert_ok(engine_run(cuda.engine));
    for (int i = 0; i < TEXTS; i++) {
      Decoded expected;  // the device's text, read by the CPU
      decode_submit(&expected, cpu.engine, texts[i].ids, texts[i].count, 0, i % 2 - 1);
      assert_ok(engine_run(cpu.engine));
      assert_close(texts[i].logits, expected.logits, (texts[i].count - 1) * texts[i].vocabulary, tolerances[type]);
      decoded_release(&expected);
      decoded_release(&texts[i]);
    }
    close_side(&cpu);
    close_side(&cuda);
  }
  free(folder);
}

static void rows_of_a_text_are_its_own_where_that_is_asked_for(void **state) {
  (void)state;
  char *folder = write_tiny_adapter(test_folder);
  Side side;
  open_side(&side, "cuda", folder, (EngineOptions){.parallel = TEXTS, .cache_type = PAGES_F16, .drafts = 3});
  Decoded together[TEXTS];
  for (int i = 0; i < TEXTS; i++) submit(&together[i], side.engine, i);
  assert_ok(engine_run(side.engine));
  for (int i = 0; i < TEXTS; i++) {
    Decoded alone;
    submit(&alone, side.engine, i);
    assert_ok(engine_run(side.engine));
    assert_int_equal(alone.count, together[i].count);
    assert_memory_equal(alone.ids, together[i].ids, (size_t)alone.count * sizeof *alone.ids);
    assert_memory_equal(alone.logits, together[i].logits, (size_t)((alone.count - 1) * alone.vocabulary) * sizeof(float));
    decoded_release(&alone);
    decoded_release(&together[i]);
  }
  close_side(&side);
  free(folder);
}

int main(void) {
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(texts_under_adapters_are_those_of_the_cpu),
      unit_test_in_folder(rows_of_a_text_are_its_own_where_that_is_asked_for),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
