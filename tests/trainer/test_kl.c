// kl_weight: training held near to the base. Loss, divergence and gradients beside PEFT's (tests/tools/make_kl_reference.py), gradients
// beside finite differences whatever is trained, bits, memory, and whole runs of the program.
#include <jansson.h>
#include <math.h>

#include "core/file.h"
#include "core/text.h"
#include "models/balance.h"
#include "tests/support/golden.h"
#include "tests/support/training.h"
#include "trainer/step.h"

static const char families[] = TESTS_DIR "/adapters/data/families", trained[] = TESTS_DIR "/adapters/data/trained";

typedef struct Fixture {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  Step step;
  Batch batch;
} Fixture;

static void open_model(Fixture *f, const char *path) {
  *f = (Fixture){0};
  assert_ok(backend_new(&f->backend, "cpu", 2));
  assert_ok(model_open(&f->model, path, (ModelOptions){0}, f->backend));
}

static void open_step(Fixture *f, FloatType type, Checkpointing checkpointing, float kl_weight) {
  step_new(&f->step, f->model, type, checkpointing, (int64_t)1 << 30);
  f->step.kl_weight = kl_weight, f->step.adapter = f->adapter;
}

static void close_fixture(Fixture *f) {
  step_free(&f->step);
  batch_release(&f->batch);
  adapter_close(f->adapter);
  model_close(f->model);
  backend_free(f->backend);
}

static void fill_batch(Batch *batch, const RowSet *rows) {
  BatchOptions options = {.sequence_len = 512, .micro_batch_size = rows->count, .in_order = true};
  BatchPlan plan;
  assert_ok(batch_plan_create(&plan, rows, &options, 0));
  batch_reserve(batch, &plan);
  batch_fill(batch, &plan, 0);
  batch_plan_release(&plan);
}

// More labelled tokens than a chunk of the loss has.
static void fill_random(Fixture *f) {
  static const int64_t lengths[] = {19, 1, 43, 8};
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  RowSet rows = {0};
  for (int d = 0; d < 4; d++) {
    int32_t ids[64], labels[64];
    for (int64_t i = 0; i < lengths[d]; i++) {
      ids[i] = (int32_t)rng_below(&rng, (uint64_t)f->model->config.vocabulary);
      labels[i] = i % 4 ? ids[i] : -100;
    }
    row_set_add(&rows, ids, labels, lengths[d], "");
  }
  fill_batch(&f->batch, &rows);
  row_set_release(&rows);
}

// Sums over the tokens of -log p and of KL; the adapter's gradient is that of scale * (nll + kl_weight * kl).
typedef struct Sums {
  double nll, kl;
} Sums;

static Sums run(Fixture *f, float scale) {
  Sums sums;
  f->backend->kernels->fill(f->adapter->gradient, 0, f->adapter->size, f->backend);
  step_seed(&f->step, 3, 5);
  assert_ok(step_run(&f->step, &f->batch, TAPE_TRAIN, scale));
  assert_ok(step_loss(&sums.nll, &f->step));
  sums.kl = f->step.kl;
  return sums;
}

// ---- Beside PEFT

enum { SAMPLES = 16 };

static void check_sample(const Parameter *p, const Safetensors *golden, const char *name) {
  int64_t count = p->rows * p->columns;
  float *expected = golden_floats(golden, name), actual[SAMPLES + 1];
  double norm = 0;
  for (int64_t i = 0; i < count; i++) norm += (double)p->gradient[i] * p->gradient[i];
  for (int i = 0; i < SAMPLES; i++) actual[i] = p->gradient[i * count / SAMPLES];
  actual[SAMPLES] = (float)sqrt(norm);
  assert_true(expected[SAMPLES] > 0);
  assert_close_at(actual, expected, SAMPLES + 1, 1e-4, name, __FILE__, __LINE__);
  free(expected);
}

static void check_case(const char *name, const char *family, const char *adapter, const Safetensors *reference) {
  Fixture f;
  char *folder = path_join(families, family), *golden_path = path_join(folder, "golden.safetensors");
  Safetensors golden;
  open_model(&f, folder);
  assert_ok(adapter_open(&f.adapter, f.model, (const char *const[]){adapter}, NULL, 1, true));
  adapter_set_dropout(f.adapter, 0);
  open_step(&f, FLOAT_32, CHECKPOINT_AUTO, 0.5f);
  assert_ok(safetensors_open(&golden, golden_path));
  int32_t *ids = golden_ids(&golden, "input_ids"), *labels = golden_ids(&golden, "labels");
  const SafetensorsTensor *tensor = golden_tensor(&golden, "input_ids");
  RowSet rows = {0};
  for (int64_t d = 0; d < tensor->shape[0]; d++)
    row_set_add(&rows, ids + d * tensor->shape[1], labels + d * tensor->shape[1], tensor->shape[1], "");
  fill_batch(&f.batch, &rows);
  row_set_release(&rows);
  double tokens = (double)f.batch.trained_tokens;
  Sums sums = run(&f, (float)(1 / tokens));
  for (int i = 0; i < 2; i++) {
    char *key = memory_format("%s.%s", name, i ? "kl" : "loss");
    float *expected = golden_floats(reference, key), actual = (float)((i ? sums.kl : sums.nll) / tokens);
    assert_close_at(&actual, expected, 1, 1e-5, key, __FILE__, __LINE__);
    free(expected);
    free(key);
  }
  int checked = 0;
  for (int i = 0; i < f.adapter->tensor_count; i++) {
    const AdapterTensor *own = &f.adapter->tensors[i];
    const char *role = own->role == TENSOR_LORA_A   ? "lora_A.weight"
                       : own->role == TENSOR_LORA_B ? "lora_B.weight"
                       : own->role == TENSOR_TOKENS ? "token_adapter.trainable_tokens_delta"
                       : own->role == TENSOR_WEIGHT ? "weight"
                                                    : NULL;
    char *key = role ? memory_format("%s.%s.%s", name, own->module, role) : NULL;
    if (key) check_sample(own->parameter, reference, key);
    checked += key != NULL;
    free(key);
  }
  assert_true(checked > 6);
  safetensors_close(&golden);
  close_fixture(&f);
  char *strings[] = {folder, golden_path, (char *)ids, (char *)labels};
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free(strings[i]);
}

static void check_cases(void) {
  static const struct {
    const char *name, *family;
    bool is_family;
  } cases[] = {{"smollm3_nope", "smollm3_nope", true},
               {"gemma2_scalar", "gemma2_scalar", true},
               {"tokens_tied", "gemma2_scalar", false},
               {"lora_vocabulary", "mixtral_window", false},
               {"modules_apart", "starcoder2_window", false}};
  Safetensors reference;
  assert_ok(safetensors_open(&reference, TESTS_DIR "/trainer/data/kl.safetensors"));
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *adapter = memory_format("%s/%s%s", cases[i].is_family ? families : trained, cases[i].name, cases[i].is_family ? "/adapter" : "");
    check_case(cases[i].name, cases[i].family, adapter, &reference);
    free(adapter);
  }
  safetensors_close(&reference);
}

static void loss_divergence_and_gradients_are_those_of_peft(void **state) {
  (void)state;
  check_cases();
  setenv("LORA_CPU", "scalar", 1);
  check_cases();
  unsetenv("LORA_CPU");
}

// ---- Whatever is trained

static const int32_t tokens[] = {7, 8, 9, 3};

typedef struct Kind {
  const char *path, *target, *module;
  bool has_tokens, trains_all;
  double dropout;
  float softcap;  // of the tiny model, which has none
} Kind;

static const Kind kinds[] = {
    {.path = tiny_gguf},
    {.path = tiny_gguf, .dropout = 0.25, .softcap = 2},
    {.path = tiny_gguf, .module = "lm_head", .softcap = 2},
    {.path = tiny_gguf, .target = "lm_head", .dropout = 0.25},
    {.path = tiny_gguf, .has_tokens = true},
    {.path = TESTS_DIR "/adapters/data/families/gemma2_scalar", .trains_all = true},
    {.path = TESTS_DIR "/adapters/data/families/starcoder2_window", .trains_all = true},
};

// Away from the base.
static void open_kind(Fixture *f, const Kind *kind) {
  open_model(f, kind->path);
  if (kind->softcap > 0) f->model->config.final_softcap = kind->softcap;
  AdapterSettings settings = {.rank = 4,
                              .alpha = 8,
                              .dropout = kind->dropout,
                              .all_linear = true,
                              .targets = &kind->target,
                              .target_count = kind->target != NULL,
                              .modules_to_save = &kind->module,
                              .modules_to_save_count = kind->module != NULL,
                              .tokens = kind->has_tokens ? tokens : NULL,
                              .token_count = kind->has_tokens ? 4 : 0,
                              .trains_all = kind->trains_all,
                              .seed = 7};
  assert_ok(adapter_create(&f->adapter, f->model, &settings));
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  for (int64_t i = 0; i < f->adapter->size; i++) f->adapter->data[i] += (float)(0.03 * rng_normal(&rng));
  fill_random(f);
}

static double loss_of(Fixture *f) {
  Sums sums = run(f, 0);
  return sums.nll + (double)f->step.kl_weight * sums.kl;
}

// The slope of the loss along a tensor's gradient, with some noise.
static void check_slope(Fixture *f, const AdapterTensor *tensor, const float *gradient, Rng *rng) {
  const Parameter *p = tensor->parameter;
  int64_t count = p->rows * p->columns;
  float *saved = memory_new((size_t)count, sizeof *saved), *direction = memory_new((size_t)count, sizeof *direction);
  double norm = 0, expected = 0, measured[2];
  memcpy(saved, p->data, (size_t)count * sizeof *saved);
  for (int64_t i = 0; i < count; i++) norm += (double)gradient[i] * gradient[i];
  norm = sqrt(norm);
  if (!(norm > 0)) fail_msg("%s has no gradient", tensor->module);
  for (int64_t i = 0; i < count; i++) {
    direction[i] = (float)(gradient[i] / norm + 0.3 * rng_normal(rng) / sqrt((double)count));
    expected += (double)direction[i] * gradient[i];
  }
  const float step = 4e-3f;
  for (int side = 0; side < 2; side++) {
    for (int64_t i = 0; i < count; i++) p->data[i] = saved[i] + (side ? -step : step) * direction[i];
    measured[side] = loss_of(f);
  }
  memcpy(p->data, saved, (size_t)count * sizeof *saved);
  double slope = (measured[0] - measured[1]) / (2 * (double)step);
  if (!(fabs(slope - expected) <= 0.01 * fabs(expected) + 2e-2))
    fail_msg("%s (role %d): slope %g, gradient says %g", tensor->module, tensor->role, slope, expected);
  free(saved);
  free(direction);
}

static void every_gradient_is_that_of_finite_differences(void **state) {
  (void)state;
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    Fixture f;
    open_kind(&f, &kinds[k]);
    open_step(&f, FLOAT_32, CHECKPOINT_AUTO, 3);
    Sums sums = run(&f, 1);
    assert_true(sums.kl > 0.01 * (double)f.batch.trained_tokens);
    float *gradient = memory_new((size_t)f.adapter->size, sizeof *gradient);
    memcpy(gradient, f.adapter->gradient, (size_t)f.adapter->size * sizeof *gradient);
    Rng rng = rng_new(3, RNG_STREAM_TEST);
    for (int i = 0; i < f.adapter->tensor_count; i++) {
      const AdapterTensor *tensor = &f.adapter->tensors[i];
      bool is_of_head = strstr(tensor->module, "lm_head") || strstr(tensor->module, "embed") || strcmp(tensor->module, "model.norm") == 0;
      if (i % 5 == 0 || is_of_head) check_slope(&f, tensor, gradient + (tensor->parameter->gradient - f.adapter->gradient), &rng);
    }
    free(gradient);
    close_fixture(&f);
  }
}

static void recomputation_changes_no_bit(void **state) {
  (void)state;
  static const Checkpointing ways[] = {CHECKPOINT_NONE, CHECKPOINT_ALL, CHECKPOINT_OFFLOAD};
  for (size_t k = 0; k < 10; k++) {
    Fixture fixtures[3];
    Sums sums[3];
    for (int w = 0; w < 3; w++) {
      Fixture *f = &fixtures[w];
      open_kind(f, &kinds[k / 2]);
      open_step(f, k % 2 ? FLOAT_BF16 : FLOAT_32, ways[w], 0.5f);
      assert_ok(step_reserve(&f->step, &f->batch, TAPE_TRAIN));
      sums[w] = run(f, 0.01f);
      assert_true(sums[w].nll == sums[0].nll && sums[w].kl == sums[0].kl);
      assert_memory_equal(f->adapter->gradient, fixtures[0].adapter->gradient, (size_t)f->adapter->size * sizeof(float));
    }
    for (int w = 0; w < 3; w++) close_fixture(&fixtures[w]);
  }
}

// B is 0, so the policy is the base to the last bit: the gradient is that of the likelihood, by another way of the loss.
static void an_adapter_that_changes_nothing_has_no_divergence(void **state) {
  (void)state;
  for (int type = 0; type < 2; type++) {
    Fixture f;
    open_model(&f, tiny_gguf);
    assert_ok(adapter_create(&f.adapter, f.model, &(AdapterSettings){.rank = 4, .alpha = 8, .all_linear = true, .seed = 7}));
    fill_random(&f);
    open_step(&f, type ? FLOAT_BF16 : FLOAT_32, CHECKPOINT_AUTO, 0);
    Sums plain = run(&f, 1);
    float *gradient = memory_new((size_t)f.adapter->size, sizeof *gradient);
    memcpy(gradient, f.adapter->gradient, (size_t)f.adapter->size * sizeof *gradient);
    f.step.kl_weight = 1000;
    Sums held = run(&f, 1);
    assert_true(plain.kl == 0 && held.kl == 0);
    assert_true(fabs(held.nll - plain.nll) <= (type ? 1e-3 : 1e-5) * plain.nll);
    assert_close(f.adapter->gradient, gradient, f.adapter->size, type ? 3e-2 : 1e-4);
    free(gradient);
    close_fixture(&f);
  }
}

// Evaluations and the counts of routers are the policy's alone.
static void the_base_leaves_no_trace(void **state) {
  (void)state;
  double balance[2], nll[2];
  for (int held = 0; held < 2; held++) {
    Fixture f;
    open_kind(&f, &(Kind){.path = TESTS_DIR "/adapters/data/families/mixtral_window"});
    open_step(&f, FLOAT_32, CHECKPOINT_AUTO, held ? 2 : 0);
    assert_ok(model_balance_open(f.model));
    assert_true((run(&f, 1).kl > 0) == (held == 1));
    balance[held] = model_balance_loss(f.model);
    assert_ok(step_run(&f.step, &f.batch, TAPE_FORWARD, 0));
    assert_ok(step_loss(&nll[held], &f.step));
    assert_true(f.step.kl == 0);
    close_fixture(&f);
  }
  assert_true(balance[0] > 0 && balance[0] == balance[1]);
  assert_true(nll[0] == nll[1]);
}

static void what_is_kept_of_the_base_is_in_the_plan(void **state) {
  (void)state;
  Fixture f;
  open_kind(&f, &kinds[0]);
  open_step(&f, FLOAT_32, CHECKPOINT_AUTO, 1);
  int64_t before = f.step.budget_bytes, kept = f.batch.tokens * f.model->config.hidden * 4;
  for (int i = 0; i < 2; i++) {
    assert_ok(step_reserve(&f.step, &f.batch, TAPE_TRAIN));
    assert_int_equal(before - f.step.budget_bytes, kept);
  }
  int64_t block = f.step.tape.block_bytes, needed = tape_plan_bytes(&f.step.tape);
  (void)run(&f, 1);
  assert_int_equal(f.step.tape.block_bytes, block);
  assert_int_equal(before - f.step.budget_bytes, kept);
  step_free(&f.step);
  open_step(&f, FLOAT_32, CHECKPOINT_NONE, 1);
  f.step.budget_bytes = needed + kept - 1;
  assert_fails(STATUS_NO_SPACE, step_reserve(&f.step, &f.batch, TAPE_TRAIN), "a micro-batch", "max_memory");
  step_free(&f.step);
  open_step(&f, FLOAT_32, CHECKPOINT_ALL, 1);
  f.step.budget_bytes = kept + 1000;
  assert_fails(STATUS_NO_SPACE, step_reserve(&f.step, &f.batch, TAPE_TRAIN), "the base's pass", "kl_weight");
  close_fixture(&f);
}

// ---- Whole runs

// A figure of the last step's line.
static double last_figure(const char *output, const char *name) {
  Buffer lines = {0};
  char *relative = memory_format("%s/metrics.jsonl", output), *rest = NULL;
  double value = NAN;
  read_whole(&lines, relative);
  for (char *line = strtok_r(lines.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    json_t *object = json_loads(line, 0, NULL);
    const json_t *figure = json_object_get(object, name);
    if (figure) value = json_number_value(figure);
    json_decref(object);
  }
  buffer_release(&lines);
  free(relative);
  return value;
}

static void a_run_with_a_large_weight_stays_near_its_base(void **state) {
  (void)state;
  char *free_run = training_recipe("free.yml", tiny_gguf, "free", "kl_weight: 1e-6\n"),
       *held = training_recipe("held.yml", tiny_gguf, "held", "kl_weight: 20\n");
  char *plain = training_recipe("plain.yml", tiny_gguf, "plain", ""),
       *zero = training_recipe("zero.yml", tiny_gguf, "zero", "kl_weight: 0\n");
  assert_runs("train %s %s", free_run, "");
  assert_runs("train %s %s", held, "");
  assert_runs("train %s %s", plain, "");
  assert_runs("train %s %s", zero, "");
  double far = last_figure("free", "kl_to_base"), near = last_figure("held", "kl_to_base");
  assert_true(far > 0.01);
  if (!(near < 0.2 * far)) fail_msg("%g from the base with kl_weight, %g without", near, far);
  // loss is the likelihood alone: next to nothing of kl_weight is in it, and training that is held learns less.
  double loss = last_figure("plain", "loss"), held_loss = last_figure("held", "loss");
  assert_true(fabs(last_figure("free", "loss") - loss) < 0.02 * loss);
  assert_true(held_loss > loss && held_loss < 12);
  assert_true(isnan(last_figure("plain", "kl_to_base")) && isnan(last_figure("zero", "kl_to_base")));
  assert_same_file("plain/adapter_model.safetensors", "zero/adapter_model.safetensors");
  assert_same_file("plain/checkpoint-8/state.h5", "zero/checkpoint-8/state.h5");
  char *strings[] = {free_run, held, plain, zero};
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free(strings[i]);
}

static void a_resumed_run_has_the_same_bits_and_the_same_weight(void **state) {
  (void)state;
  char *whole = training_recipe("whole.yml", tiny_gguf, "whole", "kl_weight: 0.7\n"),
       *parts = training_recipe("parts.yml", tiny_gguf, "parts", "kl_weight: 0.7\n");
  assert_runs("train %s %s", whole, "");
  assert_runs("train %s %s", parts, "");
  char *removed = path_join(test_folder, "parts/checkpoint-8");
  assert_ok(directory_remove(removed));
  char *other = training_recipe("other.yml", tiny_gguf, "parts", "kl_weight: 0.8\n"),
       *none = training_recipe("none.yml", tiny_gguf, "parts", "");
  assert_refused(STATUS_BAD_INPUT, other, "--resume", "checkpoint-4", "recipe");
  assert_refused(STATUS_BAD_INPUT, none, "--resume", "checkpoint-4", "recipe");
  assert_runs("train %s %s", parts, "--resume");
  assert_same_file("parts/adapter_model.safetensors", "whole/adapter_model.safetensors");
  assert_same_file("parts/checkpoint-8/state.h5", "whole/checkpoint-8/state.h5");
  char *strings[] = {whole, parts, removed, other, none};
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free(strings[i]);
}

static void preference_training_has_its_own(void **state) {
  (void)state;
  char *recipe = training_recipe("rl.yml", tiny_gguf, "rl", "kl_weight: 0.1\nrl: dpo\n");
  assert_refused(STATUS_USAGE, recipe, "", "kl_weight", "rl_beta");
  free(recipe);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(loss_divergence_and_gradients_are_those_of_peft),
      cmocka_unit_test(every_gradient_is_that_of_finite_differences),
      cmocka_unit_test(recomputation_changes_no_bit),
      cmocka_unit_test(an_adapter_that_changes_nothing_has_no_divergence),
      cmocka_unit_test(the_base_leaves_no_trace),
      cmocka_unit_test(what_is_kept_of_the_base_is_in_the_plan),
      unit_test_in_folder(a_run_with_a_large_weight_stays_near_its_base),
      unit_test_in_folder(a_resumed_run_has_the_same_bits_and_the_same_weight),
      unit_test_in_folder(preference_training_has_its_own),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
