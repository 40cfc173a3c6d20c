// The moving average: its values, what shows it, and that a resumed run has the same.
#include <math.h>

#include "core/file.h"
#include "tests/support/training.h"
#include "trainer/average.h"

static void the_average_follows_its_recurrence(void **state) {
  (void)state;
  Backend *backend;
  Model *model;
  Adapter *adapter;
  assert_ok(backend_new(&backend, "cpu", 2));
  assert_ok(model_open(&model, tiny_gguf, (ModelOptions){0}, backend));
  AdapterSettings settings = {.rank = 2, .alpha = 4, .all_linear = true, .seed = 7};
  assert_ok(adapter_create(&adapter, model, &settings));
  Average average;
  assert_ok(average_open(&average, adapter, 0.75));
  double expected = adapter->data[5];
  Rng rng = rng_new(3, RNG_STREAM_TEST);
  for (int i = 0; i < 10; i++) {
    fill_normal(adapter->data, adapter->size, 1, &rng);
    expected = 0.75 * expected + 0.25 * adapter->data[5];
    average_update(&average);
  }
  assert_true(fabs(average.values[5] - expected) < 1e-6);
  const Parameter *first = adapter->tensors[0].parameter;
  average_show(&average, true);
  assert_ptr_equal(first->data, average.values);
  average_show(&average, false);
  assert_ptr_equal(first->data, adapter->data);
  average_close(&average);
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
}

// The adapter that is exported, and evaluated, is the average; a run that was cut in two leaves the same one.
static void a_resumed_run_has_the_same_average(void **state) {
  (void)state;
  char *plain = training_recipe("plain.yml", tiny_gguf, "plain", ""),
       *whole = training_recipe("whole.yml", tiny_gguf, "whole", "ema_decay: 0.9\n");
  char *parts = training_recipe("parts.yml", tiny_gguf, "parts", "ema_decay: 0.9\nneftune_noise_alpha: 5\n");
  char *noisy = training_recipe("noisy.yml", tiny_gguf, "noisy", "ema_decay: 0.9\nneftune_noise_alpha: 5\n");
  assert_runs("train %s %s", plain, "");
  assert_runs("train %s %s", whole, "");
  assert_runs("train %s %s", noisy, "");
  assert_runs("train %s %s", parts, "");
  char *removed = path_join(test_folder, "parts/checkpoint-8");
  assert_ok(directory_remove(removed));
  assert_runs("train %s %s", parts, "--resume");
  assert_same_file("parts/adapter_model.safetensors", "noisy/adapter_model.safetensors");
  assert_same_file("parts/checkpoint-8/state.h5", "noisy/checkpoint-8/state.h5");
  Buffer first = {0}, second = {0}, third = {0};
  read_whole(&first, "plain/adapter_model.safetensors");
  read_whole(&second, "whole/adapter_model.safetensors");
  read_whole(&third, "noisy/adapter_model.safetensors");
  assert_int_equal(first.length, second.length);
  assert_true(memcmp(first.data, second.data, first.length) != 0);
  assert_true(memcmp(second.data, third.data, second.length) != 0);
  buffer_release(&first);
  buffer_release(&second);
  buffer_release(&third);
  free(removed);
  free(plain);
  free(whole);
  free(parts);
  free(noisy);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_average_follows_its_recurrence),
      unit_test_in_folder(a_resumed_run_has_the_same_average),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
