// Tensors trained in full on a simulated CUDA device beside the CPU: losses and gradients of whole models, and of PEFT's adapters with
// modules, tokens, embedding and head.
#include <math.h>

#include "adapters/adapter.h"
#include "adapters/merge.h"
#include "core/file.h"
#include "tests/support/golden.h"

typedef struct Side {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  double loss;
  float *gradient;  // the host's
} Side;

static void open_side(Side *side, const char *device, const char *base, const char *adapter) {
  assert_ok(backend_new(&side->backend, device, 2));
  assert_ok(model_open(&side->model, base, (ModelOptions){0}, side->backend));
  if (adapter) assert_ok(adapter_open(&side->adapter, side->model, (const char *const[]){adapter}, NULL, 1, true));
  else assert_ok(adapter_create(&side->adapter, side->model, &(AdapterSettings){.trains_all = true}));
}

static void close_side(Side *side) {
  adapter_close(side->adapter);
  model_close(side->model);
  backend_free(side->backend);
  free(side->gradient);
}

static void run_side(Side *side, const int32_t *ids, const int32_t *labels, int64_t documents, int64_t length) {
  side->loss = golden_train(side->model, ids, labels, documents, length, 0);
  side->gradient = memory_new((size_t)side->adapter->size, sizeof *side->gradient);
  side->backend->download(side->gradient, side->adapter->gradient, side->adapter->size * (int64_t)sizeof *side->gradient, side->backend);
  assert_ok(side->backend->check(side->backend));
}

// golden: the rows of a folder.
static void compare(const char *base, const char *adapter, const char *golden_folder) {
  Safetensors golden;
  char *path = path_join(golden_folder, "golden.safetensors");
  assert_ok(safetensors_open(&golden, path));
  int32_t *ids = golden_ids(&golden, "input_ids"), *labels = golden_ids(&golden, "labels");
  int64_t documents = golden_tensor(&golden, "input_ids")->shape[0], length = golden_tensor(&golden, "input_ids")->shape[1];
  Side sides[2] = {{0}, {0}};
  for (int i = 0; i < 2; i++) {
    open_side(&sides[i], i ? "cuda" : "cpu", base, adapter);
    run_side(&sides[i], ids, labels, documents, length);
  }
  if (!(fabs(sides[0].loss - sides[1].loss) <= 1e-5 * sides[0].loss)) fail_msg("%s: loss %g and %g", base, sides[0].loss, sides[1].loss);
  assert_int_equal(sides[0].adapter->size, sides[1].adapter->size);
  for (int i = 0; i < sides[0].adapter->tensor_count; i++) {
    const AdapterTensor *tensor = &sides[0].adapter->tensors[i];
    int64_t offset = tensor->parameter->gradient - sides[0].adapter->gradient;
    assert_close_at(sides[1].gradient + offset, sides[0].gradient + offset, tensor->parameter->rows * tensor->parameter->columns, 1e-4,
                    tensor->module, __FILE__, __LINE__);
  }
  for (int i = 0; i < 2; i++) close_side(&sides[i]);
  safetensors_close(&golden);
  free(ids), free(labels), free(path);
}

static const char *const families[] = {"gemma2_scalar", "gemma3_mixed", "phi3_partial", "smollm3_nope", "starcoder2_window"};

static void whole_models_have_the_gradients_of_the_cpu(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
    char *base = memory_format("%s/adapters/data/families/%s", TESTS_DIR, families[i]);
    compare(base, NULL, base);
    free(base);
  }
}

static void adapters_of_peft_have_the_gradients_of_the_cpu(void **state) {
  (void)state;
  static const char *const cases[][2] = {{"modules_tied", "gemma2_scalar"},     {"modules_apart", "starcoder2_window"},
                                         {"tokens_tied", "gemma2_scalar"},      {"tokens_apart", "mixtral_window"},
                                         {"lora_vocabulary", "mixtral_window"}, {"lora_embedding_tied", "gemma2_scalar"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *adapter = memory_format("%s/adapters/data/trained/%s", TESTS_DIR, cases[i][0]);
    char *base = memory_format("%s/adapters/data/families/%s", TESTS_DIR, cases[i][1]);
    compare(base, adapter, adapter);
    free(adapter), free(base);
  }
}

// What is written from the device is what is written from the host.
static void a_model_is_written_from_the_device(void **state) {
  (void)state;
  char folder[] = "/tmp/lora-trained-XXXXXX";
  assert_non_null(mkdtemp(folder));
  char *path = path_join(folder, "model.safetensors");
  for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
    char *base = memory_format("%s/adapters/data/families/%s", TESTS_DIR, families[i]);
    Buffer files[2] = {{0}, {0}};
    for (int s = 0; s < 2; s++) {
      Side side = {0};
      open_side(&side, s ? "cuda" : "cpu", base, NULL);
      side.backend->kernels->add(side.adapter->data, side.adapter->data, 0.5f, side.adapter->size, side.backend);
      assert_ok(merge_write_files(side.model, folder, NULL));
      assert_ok(file_read(&files[s], path, 1 << 26));
      close_side(&side);
    }
    assert_int_equal(files[0].length, files[1].length);
    assert_memory_equal(files[0].data, files[1].data, files[0].length);
    buffer_release(&files[0]);
    buffer_release(&files[1]);
    free(base);
  }
  free(path);
  assert_ok(directory_remove(folder));
}

int main(void) {
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(whole_models_have_the_gradients_of_the_cpu),
      cmocka_unit_test(adapters_of_peft_have_the_gradients_of_the_cpu),
      cmocka_unit_test(a_model_is_written_from_the_device),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
