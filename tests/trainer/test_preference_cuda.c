// A step of preference training on a CUDA device beside the CPU: pairs that share their prompt, KTO's mismatched rows, a frozen copy of the
// adapter as the reference, noise. On the simulated device unless LORA_CUDA_LIBRARY names another library.
#include <math.h>
#include <stdlib.h>

#include "core/file.h"
#include "kernels/selfcheck.h"
#include "tests/support/recipe.h"
#include "tests/support/test.h"
#include "trainer/preference.h"

static FloatType half;  // of 16 bits: bfloat16, where the device multiplies it

typedef struct Case {
  const char *lines;  // of the recipe
  const char *family;
  bool is_base;
  float noise;
} Case;

typedef struct Result {
  double loss;
  float *gradient;
  int64_t size;
} Result;

static void add_rows(RowSet *rows, const Model *model, bool is_paired) {
  static const int64_t lengths[][3] = {{30, 9, 14}, {1, 6, 3}, {17, 1, 20}, {41, 12, 2}};
  Rng rng = rng_new(23, RNG_STREAM_TEST);
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    int32_t ids[128], labels[128];
    int64_t prompt = lengths[i][0], better = prompt + lengths[i][1], count = is_paired ? better + lengths[i][2] : better;
    for (int64_t t = 0; t < count; t++) {
      ids[t] = (int32_t)rng_below(&rng, (uint64_t)model->config.vocabulary);
      labels[t] = t < prompt ? LABEL_MASKED : ids[t];
    }
    TokenRow row = {.ids = ids, .labels = labels, .count = count, .source = "row", .prompt = prompt, .is_undesirable = i % 2 == 1};
    row.rejected = is_paired ? better : 0;
    row_set_add_row(rows, &row);
  }
}

static Result run_step(const Case *c, const char *device, FloatType type) {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  Preference *preference;
  Step step;
  RowSet rows = {0};
  BatchPlan plan;
  Batch batch = {0};
  PreferenceSums sums = {0};
  PreferenceShare share = {0};
  char *family = path_join(TESTS_DIR "/adapters/data/families", c->family), *folder = path_join(family, "adapter");
  assert_ok(backend_new(&backend, device, 2));
  assert_ok(model_open(&model, family, (ModelOptions){0}, backend));
  assert_ok(adapter_open(&adapter, model, (const char *[]){folder}, NULL, 1, true));
  adapter_set_dropout(adapter, 0);
  step_new(&step, model, type, CHECKPOINT_ALL, (int64_t)1 << 30);
  step.noise = c->noise;
  assert_ok(preference_open(&preference, &recipe, adapter, &step, c->is_base));
  add_rows(&rows, model, preference->settings.method != METHOD_KTO);
  BatchOptions options = batch_options_from_recipe(&recipe, true);
  assert_ok(batch_plan_create(&plan, &rows, &options, 0));
  batch_fill(&batch, &plan, 0);
  preference_count(&share, preference, &batch);
  step_seed(&step, 5, 1);
  if (preference->start) {  // a policy that has moved on from its start
    float *values = memory_new((size_t)adapter->size, sizeof *values);
    backend->download(values, adapter->data, adapter->size * (int64_t)sizeof *values, backend);
    for (int64_t i = 0; i < adapter->size; i++) values[i] *= 1.1f;
    backend->upload(adapter->data, values, adapter->size * (int64_t)sizeof *values, backend);
    free(values);
  }
  assert_ok(preference_run(&sums, preference, &plan, 0, &batch, TAPE_TRAIN, &share, 1, NULL));
  Result result = {.loss = preference_mean_loss(&sums, &share, preference), .size = adapter->size};
  result.gradient = memory_new((size_t)adapter->size, sizeof *result.gradient);
  backend->download(result.gradient, adapter->gradient, adapter->size * (int64_t)sizeof *result.gradient, backend);
  batch_release(&batch);
  batch_plan_release(&plan);
  row_set_release(&rows);
  preference_close(preference);
  step_free(&step);
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
  free(family);
  free(folder);
  return result;
}

static double distance(const Result *actual, const Result *expected) {
  return vector_distance(actual->gradient, expected->gradient, expected->size);
}

static void check_case(const Case *c) {
  Buffer text = {0};
  buffer_format(&text,
                "base_model: x\ndatasets: [{path: x, type: chatml}]\nlearning_rate: 1e-2\nadapter: lora\nlora_r: 2\nlora_alpha: 4\n"
                "micro_batch_size: 4\ngradient_accumulation_steps: 1\n%s",
                c->lines);
  assert_ok(parse_recipe("recipe.yml", text.data, NULL));
  buffer_release(&text);
  Result exact = run_step(c, "cpu", FLOAT_32), device = run_step(c, "cuda", FLOAT_32);
  Result rounded = run_step(c, "cpu", FLOAT_BF16), device_rounded = run_step(c, "cuda", half);
  if (!(fabs(device.loss - exact.loss) <= 1e-5 * fabs(exact.loss)))
    fail_msg("%s: loss %.9g, on the CPU %.9g", c->lines, device.loss, exact.loss);
  if (!(distance(&device, &exact) <= 1e-4)) fail_msg("%s: the gradient is off by %.3g", c->lines, distance(&device, &exact));
  // In 16 bits the device rounds at other places than the CPU: both are measured by float32 (tests/trainer/test_cuda.c).
  double allowed = fmax(0.02, 3 * distance(&rounded, &exact));
  if (!(distance(&device_rounded, &exact) <= allowed))
    fail_msg("%s: in 16 bits the gradient is off by %.3g, %.3g allowed", c->lines, distance(&device_rounded, &exact), allowed);
  Result *all[] = {&exact, &device, &rounded, &device_rounded};
  for (int i = 0; i < 4; i++) free(all[i]->gradient);
}

static void steps_are_those_of_the_cpu(void **state) {
  (void)state;
  static const Case cases[] = {
      {"rl: dpo\nrl_beta: 0.5\n", "smollm3_nope", true, 0},
      {"rl: dpo\nrl_beta: 0.5\nrpo_alpha: 0.3\n", "gemma2_scalar", false, 5},
      {"rl: orpo\n", "phi3_partial", true, 0},
      {"rl: kto\n", "starcoder2_window", true, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(&cases[i]);
}

int main(void) {
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  Backend *backend;
  if (backend_new(&backend, "cuda", 1) != STATUS_OK) return printf("%s\n", status_message()), 1;
  half = selfcheck_short_type(backend);
  backend_free(backend);
  const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(steps_are_those_of_the_cpu, recipe_set_up, recipe_tear_down)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
