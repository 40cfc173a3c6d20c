// Through the whole of the tiny model: every adapted projection's gradient against finite differences, the adapter
// switched off or at zero against the base, and bits that do not depend on recomputation or threads.
#include <math.h>

#include "adapters/adapter.h"
#include "tests/support/golden.h"

enum { TOKENS = 48, DOCUMENTS = 3, TRAINED_TOKENS = 5 };
static const int32_t trained_tokens[TRAINED_TOKENS] = {7, 8, 9, 300, 3};

typedef struct Fixture {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  int32_t ids[TOKENS], positions[TOKENS], rows[TOKENS], targets[TOKENS];
  AttentionSpan spans[DOCUMENTS];
  int64_t labelled;
} Fixture;

// What is trained: LoRA over all linear layers, and on the embedding and the head as well; or modules in full; or some tokens' rows.
typedef enum Kind { KIND_LORA, KIND_VOCABULARY, KIND_MODULES, KIND_TOKENS } Kind;

static void open_kind(Fixture *f, Kind kind, int threads, double dropout) {
  *f = (Fixture){0};
  assert_ok(backend_new(&f->backend, "cpu", threads));
  assert_ok(model_open(&f->model, TESTS_DIR "/data/tiny.gguf", (ModelOptions){0}, f->backend));
  AdapterSettings settings = {.rank = 4, .alpha = 8, .dropout = dropout, .all_linear = true, .seed = 7};
  const char *const vocabulary[] = {"embed_tokens", "lm_head"}, *const modules[] = {"embed_tokens", "lm_head", "down_proj", "norm"};
  if (kind == KIND_VOCABULARY) settings.targets = vocabulary, settings.target_count = 2;
  if (kind == KIND_MODULES) settings.modules_to_save = modules, settings.modules_to_save_count = 4;
  if (kind == KIND_TOKENS) settings.tokens = trained_tokens, settings.token_count = TRAINED_TOKENS;
  assert_ok(adapter_create(&f->adapter, f->model, &settings));
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  for (int i = 0; i < f->adapter->count; i++) {
    Parameter *b = &f->adapter->pairs[i].b;
    fill_normal(b->data, b->rows * b->columns, 0.05, &rng);
    Parameter *a = &f->adapter->pairs[i].a;  // of the embedding it begins at zero
    if (f->adapter->linears[i] == &f->model->embedding) fill_normal(a->data, a->rows * a->columns, 0.5, &rng);
  }
  const int64_t begins[DOCUMENTS + 1] = {0, 5, 22, TOKENS};
  for (int d = 0; d < DOCUMENTS; d++) {
    f->spans[d] = (AttentionSpan){begins[d], begins[d + 1], begins[d], begins[d + 1]};
    for (int64_t i = begins[d]; i < begins[d + 1]; i++) {
      f->ids[i] = (int32_t)rng_below(&rng, (uint64_t)f->model->config.vocabulary);
      if (kind == KIND_TOKENS && i % 4 == 1) f->ids[i] = trained_tokens[i / 4 % TRAINED_TOKENS];
      f->positions[i] = (int32_t)(i - begins[d]);
      if (i % 3 == 0) continue;
      f->rows[f->labelled] = (int32_t)i;
      f->targets[f->labelled++] = (int32_t)rng_below(&rng, (uint64_t)f->model->config.vocabulary);
      if (kind == KIND_TOKENS && i % 4 == 2) f->targets[f->labelled - 1] = trained_tokens[i / 4 % TRAINED_TOKENS];
    }
  }
}

static void open_fixture(Fixture *f, int threads, double dropout) { open_kind(f, KIND_LORA, threads, dropout); }

static void close_fixture(Fixture *f) {
  adapter_close(f->adapter);
  model_close(f->model);
  backend_free(f->backend);
}

// The sum of -log p; with `train` the gradients are set to its own. *bytes (may be NULL): the step's planned memory.
static double run(Fixture *f, bool train, int checkpointed, int64_t *bytes) {
  Tape tape;
  tape_new(&tape, f->backend);
  tape_begin(&tape, train ? TAPE_TRAIN : TAPE_FORWARD);
  tape.dropout_seed = 5;
  DecoderInput input = {.ids = f->ids,
                        .positions = f->positions,
                        .tokens = TOKENS,
                        .spans = f->spans,
                        .span_count = DOCUMENTS,
                        .rows = f->rows,
                        .row_count = f->labelled};
  Tensor *hidden = decoder_hidden(&tape, f->model, &input);
  Tensor *loss = decoder_loss(&tape, f->model, hidden, tape_input(&tape, f->targets, f->labelled, 1), 1);
  tape_plan(&tape, checkpointed);
  if (bytes) *bytes = tape_plan_bytes(&tape);
  assert_ok(tape_reserve(&tape));
  if (train) f->backend->kernels->fill(f->adapter->gradient, 0, f->adapter->size, f->backend);
  tape_forward(&tape);  // which gives a head its gradient
  if (train) tape_backward(&tape);
  float nll[TOKENS];
  tape_read(nll, &tape, loss);
  double sum = 0;
  for (int64_t i = 0; i < f->labelled; i++) sum += nll[i];
  tape_free(&tape);
  return sum;
}

static void check_parameter(Fixture *f, Parameter *parameter, const char *name, Rng *rng) {
  int64_t count = parameter->rows * parameter->columns;
  float *saved = memory_new((size_t)count, sizeof *saved), *direction = memory_new((size_t)count, sizeof *direction);
  memcpy(saved, parameter->data, (size_t)count * sizeof *saved);
  // Along the gradient itself, with some noise: the change of the loss is then well above float32's rounding.
  double norm = 0, expected = 0, measured[2];
  for (int64_t i = 0; i < count; i++) norm += (double)parameter->gradient[i] * parameter->gradient[i];
  norm = sqrt(norm);
  if (!(norm > 0)) fail_msg("%s has no gradient", name);
  for (int64_t i = 0; i < count; i++) {
    direction[i] = (float)(parameter->gradient[i] / norm + 0.3 * rng_normal(rng) / sqrt((double)count));
    expected += (double)direction[i] * parameter->gradient[i];
  }
  const float step = 4e-3f;
  for (int side = 0; side < 2; side++) {
    for (int64_t i = 0; i < count; i++) parameter->data[i] = saved[i] + (side ? -step : step) * direction[i];
    measured[side] = run(f, false, 0, NULL);
  }
  memcpy(parameter->data, saved, (size_t)count * sizeof *saved);
  double slope = (measured[0] - measured[1]) / (2 * (double)step);
  if (!(fabs(slope - expected) <= 0.01 * fabs(expected) + 2e-2)) fail_msg("%s: slope %g, gradient says %g", name, slope, expected);
  free(saved);
  free(direction);
}

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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_adapted_projection_has_the_gradient_of_finite_differences),
      cmocka_unit_test(whatever_else_is_trained_has_the_gradient_of_finite_differences),
      cmocka_unit_test(adapter_off_or_at_zero_gives_the_base_bit_for_bit),
      cmocka_unit_test(recomputation_and_threads_do_not_change_bits_and_recomputation_saves_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
