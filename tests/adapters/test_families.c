// Whole models against the reference library's logits, loss, gradients and optimiser steps.
#include <math.h>

#include "adapters/adapter.h"
#include "adapters/merge.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "tests/support/decode.h"
#include "tests/support/golden.h"

typedef struct Case {
  const char *family;
  Safetensors golden;
  Backend *backend;
  Model *model;
  Adapter *adapter;
  int32_t *ids, *labels;
  int64_t documents, length;
} Case;

static void open_case(Case *test, const char *path, const char *device) {
  *test = (Case){.family = path_name(path)};
  char *adapter = path_join(path, "adapter"), *golden = path_join(path, "golden.safetensors");
  assert_ok(backend_new(&test->backend, device, 2));
  assert_ok(model_open(&test->model, path, (ModelOptions){0}, test->backend));
  assert_ok(adapter_open(&test->adapter, test->model, (const char *const[]){adapter}, NULL, 1, true));
  assert_ok(safetensors_open(&test->golden, golden));
  test->ids = golden_ids(&test->golden, "input_ids");
  test->labels = golden_ids(&test->golden, "labels");
  test->documents = golden_tensor(&test->golden, "input_ids")->shape[0];
  test->length = golden_tensor(&test->golden, "input_ids")->shape[1];
  free(adapter);
  free(golden);
}

static void close_case(Case *test) {
  adapter_close(test->adapter);
  model_close(test->model);
  backend_free(test->backend);
  safetensors_close(&test->golden);
  free(test->ids);
  free(test->labels);
}

static void check_logits(const Case *test, const char *name, const int32_t *ids, int64_t documents, int64_t length) {
  float *expected = golden_floats(&test->golden, name), *actual = golden_logits(test->model, ids, documents, length);
  assert_close(actual, expected, documents * length * test->model->config.vocabulary, 1e-4);
  free(expected);
  free(actual);
}

// Runs `check` on every reference model there is.
static void for_each_family(void (*check)(Case *test), const char *device) {
  char **families = golden_families();
  assert_non_null(families[0]);
  for (char **family = families; *family; family++) {
    Case test;
    open_case(&test, *family, device);
    check(&test);
    close_case(&test);
  }
  golden_families_free(families);
}

static void check_both_logits(Case *test) {
  check_logits(test, "logits_lora", test->ids, test->documents, test->length);
  adapter_set_enabled(test->adapter, false);
  check_logits(test, "logits", test->ids, test->documents, test->length);
}

static void logits_match_with_and_without_the_adapter(void **state) {
  (void)state;
  for_each_family(check_both_logits, "cpu");
}

static void check_packed(Case *test) {
  int32_t *packed = golden_ids(&test->golden, "packed_input_ids");
  check_logits(test, "packed_logits", packed, 2, golden_tensor(&test->golden, "packed_input_ids")->shape[1] / 2);
  free(packed);
}

static void packed_row_equals_its_documents(void **state) {
  (void)state;
  for_each_family(check_packed, "cpu");
}

// A first piece at once, then token by token.
static void check_engine(Case *test) {
  int64_t first = test->length / 3;
  Decoded decoded = decode(test->model, (EngineOptions){.is_exact = true}, test->ids, first, test->length - first);
  assert_decodes(test->model, &decoded, 1e-4);
  decoded_release(&decoded);
}

static void generation_sees_the_same_logits(void **state) {
  (void)state;
  for_each_family(check_engine, "cpu");
}

// The loss, with gradients left in the adapter. `checkpointed` segments are recomputed.
static double loss_and_gradients(const Case *test, int checkpointed) {
  test->backend->kernels->fill(test->adapter->gradient, 0, test->adapter->size, test->backend);
  return golden_train(test->model, test->ids, test->labels, test->documents, test->length, checkpointed);
}

// Tensors of which some element's gradient is so near zero that Adam turns its rounding into a step of full size: five steps of the
// reference in float64 (tests/tools/reference_noise.py, the same files) differ from its float32 ones by this much.
static const struct {
  const char *family, *name;
  double noise;
} noisy[] = {{"llama", "model.layers.2.self_attn.k_proj.lora_B", 2.4e-4},
             {"mistral", "model.layers.1.mlp.gate_proj.lora_B", 7.0e-4},
             {"mistral", "model.layers.1.mlp.up_proj.lora_B", 8.3e-5},
             {"gemma3", "model.layers.3.self_attn.q_proj.lora_B", 1.62e-3}};

static double step_tolerance(const Case *test, const char *name, double tolerance) {
  for (size_t i = 0; i < sizeof noisy / sizeof *noisy; i++)
    if (strcmp(test->family, noisy[i].family) == 0 && strstr(name, noisy[i].name)) return fmax(tolerance, 2 * noisy[i].noise);
  if (!text_starts_with(name, "step5.")) return tolerance;
  char *noise = memory_format("noise.%s", name + strlen("step5."));  // of models by tests/tools/make_families.py
  bool is_known = safetensors_find(&test->golden, noise) != NULL;
  float *value = is_known ? golden_floats(&test->golden, noise) : NULL;
  if (is_known) tolerance = fmax(tolerance, 2 * *value);
  free(value);
  free(noise);
  return tolerance;
}

// Each adapter tensor against "PREFIX.base_model.model.MODULE.lora_A.weight"; `values` is laid out like adapter->data.
static void check_adapter(const Case *test, const char *prefix, const float *values, double tolerance) {
  for (int i = 0; i < test->adapter->count; i++) {
    const Parameter *parameters[2] = {&test->adapter->pairs[i].a, &test->adapter->pairs[i].b};
    for (int j = 0; j < 2; j++) {
      char *name = memory_format("%s.base_model.model.%s.lora_%c.weight", prefix, test->adapter->linears[i]->name, "AB"[j]);
      float *expected = golden_floats(&test->golden, name);
      const float *actual = values + (parameters[j]->data - test->adapter->data);
      assert_close_at(actual, expected, parameters[j]->rows * parameters[j]->columns, step_tolerance(test, name, tolerance), name, __FILE__,
                      __LINE__);
      free(expected);
      free(name);
    }
  }
}

static void check_loss_and_gradients(Case *test) {
  float *expected = golden_floats(&test->golden, "loss");
  float actual = (float)loss_and_gradients(test, 0);
  assert_close(&actual, expected, 1, 1e-4);
  check_adapter(test, "grad", test->adapter->gradient, 1e-4);
  free(expected);
}

static void loss_and_every_gradient_match(void **state) {
  (void)state;
  for_each_family(check_loss_and_gradients, "cpu");
}

static void check_steps(Case *test, double tolerance) {
  float *expected = golden_floats(&test->golden, "losses");
  int64_t size = test->adapter->size;
  float *m = memory_new((size_t)size, sizeof *m), *v = memory_new((size_t)size, sizeof *v), losses[5];
  for (int step = 0; step < 5; step++) {
    losses[step] = (float)loss_and_gradients(test, 0);
    AdamwSettings settings = {
        .learning_rate = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01, .step = step + 1, .gradient_scale = 1};
    test->backend->kernels->adamw(test->adapter->data, m, v, test->adapter->gradient, size, settings, test->backend);
  }
  assert_close(losses, expected, 5, 1e-4);
  check_adapter(test, "step5", test->adapter->data, tolerance);
  free(expected);
  free(m);
  free(v);
}

static void check_exact_steps(Case *test) { check_steps(test, 1e-4); }
static void check_vector_steps(Case *test) { check_steps(test, 1e-3); }

static void five_adamw_steps_match(void **state) {
  (void)state;
  setenv("LORA_CPU", "scalar", 1);
  for_each_family(check_exact_steps, "cpu");
  unsetenv("LORA_CPU");
}

// Adam turns the rounding of a gradient near zero into a step of full size, so float32 sums in another order than the
// reference's are seen at a few 1e-4 in single elements.
static void five_adamw_steps_match_on_vectors(void **state) {
  (void)state;
  int count = 0;
  for (const Kernels *table; (table = backend_cpu_kernels(count)) && table != &kernels_scalar; count++) {
    setenv("LORA_CPU", table->name, 1);
    for_each_family(check_vector_steps, "cpu");
    unsetenv("LORA_CPU");
  }
  if (count == 0) skip_test("no vector table for this processor");
}

static void check_recomputation(Case *test) {
  size_t bytes = (size_t)test->adapter->size * sizeof(float);
  float *plain = memory_new(bytes, 1);
  double loss = loss_and_gradients(test, 0);
  memcpy(plain, test->adapter->gradient, bytes);
  for (int segments = 1; segments <= 6; segments++) {
    assert_true(loss_and_gradients(test, segments) == loss);
    assert_memory_equal(plain, test->adapter->gradient, bytes);
  }
  free(plain);
}

static void checkpointed_and_plain_backward_give_the_same_bits(void **state) {
  (void)state;
  for_each_family(check_recomputation, "cpu");
}

// ---- The same model in the other format, and back ----

static Status write_model(const Model *model, const char *path, bool is_gguf) {
  MergeReport report;
  MergeOptions options = {0};
  return (is_gguf ? merge_write_gguf : merge_write_folder)(&report, model, path, options);
}

// Every tensor of one folder has the same bits in another.
static void assert_same_tensors(const char *expected, const char *actual) {
  Safetensors files[2];
  assert_ok(safetensors_open(&files[0], expected));
  assert_ok(safetensors_open(&files[1], actual));
  assert_int_equal(files[0].tensor_count, files[1].tensor_count);
  for (int64_t i = 0; i < files[0].tensor_count; i++) {
    const SafetensorsTensor *own = &files[0].tensors[i], *other = safetensors_find(&files[1], own->name);
    if (!other) fail_msg("%s: %s is missing", actual, own->name);
    if (other->type != own->type || other->bytes != own->bytes || memcmp(own->data, other->data, own->bytes) != 0)
      fail_msg("%s: %s has other bits", actual, own->name);
  }
  for (int i = 0; i < 2; i++) safetensors_close(&files[i]);
}

static void check_round_trip(Case *test) {
  char *folder = temporary_folder(), *gguf = path_join(folder, "model.gguf"), *back = path_join(folder, "back"),
       *adapter = path_join(folder, "adapter.gguf");
  adapter_set_enabled(test->adapter, false);
  assert_ok(adapter_save_gguf(test->adapter, adapter));
  adapter_close(test->adapter);
  char *source = memory_copy_string(test->model->path);
  const Family *family = test->model->family;
  assert_ok(write_model(test->model, gguf, true));
  model_close(test->model);
  assert_ok(model_open(&test->model, gguf, (ModelOptions){0}, test->backend));
  // (A Mistral without a window is a Llama in GGUF.)
  assert_true(test->model->family == family || family->bit == FAMILY_MISTRAL);
  check_logits(test, "logits", test->ids, test->documents, test->length);
  assert_ok(adapter_open(&test->adapter, test->model, (const char *const[]){adapter}, NULL, 1, false));
  check_logits(test, "logits_lora", test->ids, test->documents, test->length);
  adapter_close(test->adapter);
  assert_ok(write_model(test->model, back, false));
  model_close(test->model);
  assert_same_tensors(source, back);
  assert_ok(model_open(&test->model, back, (ModelOptions){0}, test->backend));
  check_logits(test, "logits", test->ids, test->documents, test->length);
  adapter_close(test->adapter = NULL);
  free(source), free(gguf), free(back), free(adapter);
  assert_ok(directory_remove(folder));
  free(folder);
}

static void a_round_trip_by_gguf_keeps_every_bit_and_the_logits(void **state) {
  (void)state;
  for_each_family(check_round_trip, "cpu");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(logits_match_with_and_without_the_adapter),
      cmocka_unit_test(packed_row_equals_its_documents),
      cmocka_unit_test(generation_sees_the_same_logits),
      cmocka_unit_test(loss_and_every_gradient_match),
      cmocka_unit_test(five_adamw_steps_match),
      cmocka_unit_test(five_adamw_steps_match_on_vectors),
      cmocka_unit_test(checkpointed_and_plain_backward_give_the_same_bits),
      cmocka_unit_test(a_round_trip_by_gguf_keeps_every_bit_and_the_logits),
  };
  log_set_quiet(true);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
