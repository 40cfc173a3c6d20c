// The load-balancing loss of reference models against transformers' own (tests/tools/make_balance_reference.py).
#include <jansson.h>
#include <math.h>

#include "models/balance.h"
#include "tests/support/golden.h"

typedef struct Case {
  Backend *backend;
  Model *model;
  Safetensors golden;
  int32_t *ids;
  int64_t documents, length;
} Case;

static bool open_case(Case *test, const char *family) {
  char *relative = memory_format("golden/families/%s", family), *path = shared_path(relative);
  free(relative);
  if (!path) return false;
  char *golden = path_join(path, "golden.safetensors");
  *test = (Case){0};
  assert_ok(backend_new(&test->backend, "cpu", 2));
  assert_ok(model_open(&test->model, path, (ModelOptions){0}, test->backend));
  assert_ok(model_balance_open(test->model));
  assert_ok(safetensors_open(&test->golden, golden));
  test->ids = golden_ids(&test->golden, "input_ids");
  test->documents = golden_tensor(&test->golden, "input_ids")->shape[0];
  test->length = golden_tensor(&test->golden, "input_ids")->shape[1];
  free(golden);
  free(path);
  return true;
}

static void close_case(Case *test) {
  model_close(test->model);
  backend_free(test->backend);
  safetensors_close(&test->golden);
  free(test->ids);
}

static void pass(const Case *test, int64_t first, int64_t documents) {
  free(golden_logits(test->model, test->ids + first * test->length, documents, test->length));
}

static void check_loss(const Case *test, double expected) {
  float actual = (float)model_balance_loss(test->model), wanted = (float)expected;
  assert_close(&actual, &wanted, 1, 1e-6);
}

static void the_loss_is_that_of_transformers_over_all_passes_since_it_was_cleared(void **state) {
  (void)state;
  json_t *reference = json_load_file(TESTS_DIR "/models/data/balance.json", 0, NULL);
  const char *family;
  json_t *values;
  assert_true(json_object_size(reference) > 0);
  json_object_foreach(reference, family, values) {
    double expected = json_real_value(json_object_get(values, "all"));
    Case test;
    if (!open_case(&test, family)) {
      json_decref(reference);
      skip_test("no reference models");
    }
    assert_true(isnan(model_balance_loss(test.model)));
    pass(&test, 0, test.documents);
    check_loss(&test, expected);
    model_balance_clear(test.model);
    assert_true(isnan(model_balance_loss(test.model)));
    for (int64_t d = 0; d < test.documents; d++) pass(&test, d, 1);
    check_loss(&test, expected);
    pass(&test, 0, 1);  // now the first document weighs more
    assert_true(fabs(model_balance_loss(test.model) - expected) > 1e-4);
    close_case(&test);
  }
  json_decref(reference);
}

static void a_layer_without_experts_counts_nothing(void **state) {
  (void)state;
  static const char *const families[] = {"deepseek_v2", "deepseek_v3"};  // whose first layer is dense
  for (int f = 0; f < 2; f++) {
    Case test;
    if (!open_case(&test, families[f])) skip_test("no reference models");
    const ModelConfig *config = &test.model->config;
    int64_t sparse = 0;
    for (int64_t i = 0; i < config->layers; i++) {
      assert_int_equal(test.model->layers[i].experts.totals != NULL, test.model->layers[i].kind->is_sparse);
      sparse += test.model->layers[i].kind->is_sparse;
    }
    assert_true(sparse > 0 && sparse < config->layers);
    pass(&test, 0, test.documents);
    double loss = model_balance_loss(test.model);
    assert_true(loss > 0 && loss <= (double)config->experts);
    for (int64_t l = 0; l < sparse; l++) {  // every token went through `used` experts, and its shares sum to 1
      const float *counts = test.model->balance_read + l * 2 * config->experts;
      double chosen = 0, shares = 0;
      for (int64_t e = 0; e < config->experts; e++) chosen += counts[e], shares += counts[config->experts + e];
      assert_true(chosen == (double)(test.documents * test.length * config->experts_used));
      assert_true(fabs(shares - (double)(test.documents * test.length)) < 1e-3);
    }
    close_case(&test);
  }
}

static void a_dense_model_has_none(void **state) {
  (void)state;
  Backend *backend;
  Model *model;
  assert_ok(backend_new(&backend, "cpu", 1));
  assert_ok(model_open(&model, TESTS_DIR "/data/tiny.gguf", (ModelOptions){0}, backend));
  assert_ok(model_balance_open(model));
  assert_null(model->balance);
  model_balance_clear(model);
  assert_true(isnan(model_balance_loss(model)));
  model_close(model);
  backend_free(backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_loss_is_that_of_transformers_over_all_passes_since_it_was_cleared),
      cmocka_unit_test(a_layer_without_experts_counts_nothing),
      cmocka_unit_test(a_dense_model_has_none),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
