// Whole training steps on a CUDA device beside the CPU: the reference models of every family and the tiny one, packed documents, every
// gradient, five optimiser steps, recomputation, dropout, NF4; and generation. On the simulated device unless LORA_CUDA_LIBRARY names another
// library.
//   test_cuda once    one step of each model: for the library that looks for races
#include <math.h>
#include <stdlib.h>

#include "core/file.h"
#include "core/log.h"
#include "kernels/cuda_library.h"
#include "kernels/selfcheck.h"
#include "optim/optimizer.h"
#include "tests/support/decode.h"
#include "tests/support/golden.h"
#include "trainer/step.h"

static const char tiny[] = TESTS_DIR "/data/tiny.gguf";
static FloatType half;  // of 16 bits: bfloat16, where the device multiplies it

typedef struct Setting {
  FloatType type;
  bool nf4;
  Checkpointing checkpointing;
  double dropout;
  bool dora, q8_0;
  AdapterStart start;
  bool groups;  // experts go through grouped products, however few rows they have
  float kl_weight;
} Setting;

// A model on one device, ready to train.
typedef struct Side {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  Optimizer *optimizer;
  Step step;
  float *values;  // [adapter->size]: gradients or parameters as they were read last
} Side;

static void open_adapter(Side *side, const char *path, const Setting *setting) {
  char *folder = path_join(path, "adapter");
  if (directory_exists(folder) && !setting->dora && !setting->start) {
    assert_ok(adapter_open(&side->adapter, side->model, (const char *const[]){folder}, NULL, 1, true));
    adapter_set_dropout(side->adapter, setting->dropout);
  } else {
    AdapterSettings settings = {.rank = 4,
                                .alpha = 8,
                                .dropout = setting->dropout,
                                .all_linear = true,
                                .dora = setting->dora,
                                .start = setting->start,
                                .start_iterations = 3,
                                .seed = 7};
    assert_ok(adapter_create(&side->adapter, side->model, &settings));
  }
  free(folder);
}

static void open_side(Side *side, const char *path, const char *device, const Setting *setting) {
  *side = (Side){0};
  assert_ok(backend_new(&side->backend, device, 2));
  if (setting->groups && side->backend->tuning_count == TUNING_COUNT) side->backend->tuning[TUNING_GROUPED_PAIRS] = 1;
  assert_ok(model_open(&side->model, path, (ModelOptions){.quantize_nf4 = setting->nf4, .quantize_q8_0 = setting->q8_0}, side->backend));
  open_adapter(side, path, setting);
  const OptimizerMethod *method;
  assert_ok(optimizer_find(&method, NULL, NULL));
  OptimizerSettings adam = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
  ParameterTensor all = {.rows = 1, .columns = side->adapter->size, .weight_decay = 0.01, .rate_multiplier = 1};
  assert_ok(optimizer_new(&side->optimizer, method, adam, &all, 1, side->backend));
  step_new(&side->step, side->model, setting->type, setting->checkpointing, (int64_t)1 << 30);
  side->step.kl_weight = setting->kl_weight, side->step.adapter = side->adapter;
  side->values = memory_new((size_t)side->adapter->size, sizeof *side->values);
}

static void close_side(Side *side) {
  step_free(&side->step);
  optimizer_free(side->optimizer);
  adapter_close(side->adapter);
  model_close(side->model);
  backend_free(side->backend);
  free(side->values);
}

static void read_values(Side *side, const float *device) {
  side->backend->download(side->values, device, side->adapter->size * (int64_t)sizeof(float), side->backend);
}

// Documents of different lengths in one row, some of whose tokens are trained on.
static void fill(Batch *batch, const Model *model) {
  static const int64_t lengths[] = {19, 1, 33, 8};
  enum { DOCUMENTS = sizeof lengths / sizeof *lengths, MOST = 64 };
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  RowSet rows = {0};
  for (int d = 0; d < DOCUMENTS; d++) {
    int32_t ids[MOST], labels[MOST];
    for (int64_t i = 0; i < lengths[d]; i++) {
      ids[i] = (int32_t)rng_below(&rng, (uint64_t)model->config.vocabulary);
      labels[i] = i % 3 ? ids[i] : -100;
    }
    row_set_add(&rows, ids, labels, lengths[d], "");
  }
  BatchOptions options = {
      .packing = true, .sequence_len = MOST, .group_size = 100, .bin_size = 100, .micro_batch_size = 1, .in_order = true};
  BatchPlan plan;
  assert_ok(batch_plan_create(&plan, &rows, &options, 0));
  batch_reserve(batch, &plan);
  batch_fill(batch, &plan, 0);
  batch_plan_release(&plan);
  row_set_release(&rows);
}

static double run_step(Side *side, const Batch *batch, uint64_t number) {
  double nll;
  side->backend->kernels->fill(side->adapter->gradient, 0, side->adapter->size, side->backend);
  step_seed(&side->step, 3, number);
  assert_ok(step_run(&side->step, batch, TAPE_TRAIN, 1.0f / (float)batch->trained_tokens));
  assert_ok(step_loss(&nll, &side->step));
  return (nll + (double)side->step.kl_weight * side->step.kl) / (double)batch->trained_tokens;
}

static void update(Side *side, double loss) {
  OptimizerReport report;
  assert_ok(optimizer_step(side->optimizer, side->adapter->data, side->adapter->gradient, 1e-3, loss, &report));
  assert_false(report.skipped);
}

static void check_distance(const float *actual, const float *expected, int64_t count, double allowed, const char *path, const char *name) {
  double off = vector_distance(actual, expected, count);
  if (!(off <= allowed)) fail_msg("%s: the gradient of %s is off by %.3g, %.3g allowed", path, name, off, allowed);
}

// All gradients together, and those of each trainable matrix. Activations of 16 bits are rounded at other places than the CPU's: there the
// truth is the CPU in float32 (`exact`; NULL: none), and what the CPU in bfloat16 is off is one draw of the noise. Tensor cores round more than
// this CPU does: attention's probabilities and their gradients, and an adapted layer's outputs once more. So all gradients together may be
// three times as far off; of a router some near ties fall the other way, to another expert's gradients. A single matrix may be a tenth off:
// there only wrong wiring, which is of the size of the gradient itself, is looked for. What a kernel may be off is tests/kernels/test_cuda.c's.
static void compare_gradients(const Side *sides, const float *exact, const char *path, double tolerance) {
  const Adapter *adapter = sides[0].adapter;
  const float *truth = exact ? exact : sides[0].values;
  bool is_routed = adapter->model->config.experts > 0;
  if (exact && is_routed) tolerance = 5e-2;
  double all = exact ? fmax(tolerance, 3 * vector_distance(sides[0].values, exact, adapter->size)) : tolerance;
  check_distance(sides[1].values, truth, adapter->size, all, path, "all");
  for (int i = 0; i < adapter->count && !(exact && is_routed); i++) {
    const Parameter *parts[2] = {&adapter->pairs[i].a, &adapter->pairs[i].b};
    for (int j = 0; j < 2; j++) {
      int64_t at = parts[j]->data - adapter->data;
      check_distance(sides[1].values + at, truth + at, parts[j]->rows * parts[j]->columns, exact ? 0.1 : tolerance, path,
                     adapter->linears[i]->name);
    }
  }
}

static void compare_losses(double actual, double expected, const char *path, double tolerance) {
  if (!(fabs(actual - expected) <= tolerance * fabs(expected))) fail_msg("%s: the loss is %.9g, on the CPU %.9g", path, actual, expected);
}

// The gradients of the first step on the CPU in float32.
static float *exact_gradients(const char *path, const Setting *setting, const Batch *batch) {
  Setting exact = *setting;
  exact.type = FLOAT_32;
  Side side;
  open_side(&side, path, "cpu", &exact);
  (void)run_step(&side, batch, 0);
  read_values(&side, side.adapter->gradient);
  float *values = side.values;
  side.values = NULL;
  close_side(&side);
  return values;
}

static void compare_training(const char *path, const Setting *setting, int steps) {
  double tolerance = setting->type == FLOAT_32 ? 1e-4 : 2e-2;
  Side sides[2];
  Batch batch = {0};
  open_side(&sides[0], path, "cpu", setting);
  open_side(&sides[1], path, "cuda", setting);
  fill(&batch, sides[0].model);
  float *exact = setting->type == FLOAT_32 ? NULL : exact_gradients(path, setting, &batch);
  for (int step = 0; step < steps; step++) {
    double losses[2];
    for (int s = 0; s < 2; s++) {
      losses[s] = run_step(&sides[s], &batch, (uint64_t)step);
      read_values(&sides[s], sides[s].adapter->gradient);
    }
    compare_losses(losses[1], losses[0], path, tolerance);
    if (step == 0) compare_gradients(sides, exact, path, tolerance);
    for (int s = 0; s < 2; s++) update(&sides[s], losses[s]);
  }
  free(exact);
  batch_release(&batch);
  for (int s = 0; s < 2; s++) close_side(&sides[s]);
}

static void for_each_model(const Setting *setting, int steps) {
  compare_training(tiny, setting, steps);
  char **families = golden_families();
  for (char **family = families; *family; family++) compare_training(*family, setting, steps);
  golden_families_free(families);
}

static void steps_in_float32_match_the_cpu(void **state) {
  (void)state;
  for_each_model(&(Setting){.type = FLOAT_32}, 5);
}

static void a_step_of_each_model(void **state) {
  (void)state;
  for_each_model(&(Setting){.type = FLOAT_32}, 1);
  for_each_model(&(Setting){.type = half, .groups = true}, 1);
  compare_training(tiny, &(Setting){.type = half, .dora = true}, 1);
}

static void steps_in_bfloat16_match_the_cpu(void **state) {
  (void)state;
  if (half != FLOAT_BF16) skip_test("this device does not multiply bfloat16");
  for_each_model(&(Setting){.type = FLOAT_BF16}, 2);
}

static void recomputed_steps_with_dropout_match_the_cpu(void **state) {
  (void)state;
  for_each_model(&(Setting){.type = FLOAT_32, .checkpointing = CHECKPOINT_ALL, .dropout = 0.2, .groups = true}, 2);
}

static void dora_steps_match_the_cpu(void **state) {
  (void)state;
  for_each_model(&(Setting){.type = FLOAT_32, .dora = true, .dropout = 0.2}, 2);
  if (half == FLOAT_BF16) compare_training(tiny, &(Setting){.type = half, .dora = true, .checkpointing = CHECKPOINT_ALL, .nf4 = true}, 2);
}

// Weights that stand in place of the base's lie on the device as those do; off, the base's own are there.
static void steps_on_what_a_start_leaves_match_the_cpu(void **state) {
  (void)state;
  static const char folder[] = TESTS_DIR "/data/tiny-hf";
  compare_training(folder, &(Setting){.type = FLOAT_32, .start = START_PISSA}, 2);
  compare_training(folder, &(Setting){.type = FLOAT_32, .start = START_OLORA, .nf4 = true, .dora = true}, 2);
  compare_training(folder, &(Setting){.type = FLOAT_32, .start = START_LOFTQ, .nf4 = true}, 2);
  compare_training(folder, &(Setting){.type = FLOAT_32, .start = START_PISSA, .q8_0 = true}, 2);
  Side side;
  open_side(&side, folder, "cuda", &(Setting){.type = FLOAT_32, .start = START_PISSA});
  enum { LENGTH = 9 };
  const int32_t ids[LENGTH] = {1, 300, 17, 402, 99, 45, 511, 260, 3};
  adapter_set_enabled(side.adapter, false);
  float *off = golden_logits(side.model, ids, 1, LENGTH);
  adapter_set_enabled(side.adapter, true);
  int64_t available = side.backend->available_bytes(side.backend);
  adapter_close(side.adapter);
  side.adapter = NULL;
  assert_true(side.backend->available_bytes(side.backend) > available);  // given back
  float *base = golden_logits(side.model, ids, 1, LENGTH);
  assert_memory_equal(off, base, (size_t)(LENGTH * side.model->config.vocabulary) * sizeof *base);
  free(off);
  free(base);
  close_side(&side);
}

static void steps_on_nf4_match_the_cpu(void **state) {
  (void)state;
  for_each_model(&(Setting){.type = FLOAT_32, .nf4 = true}, 2);
}

static void steps_on_nf4_in_bfloat16_match_the_cpu(void **state) {
  (void)state;
  if (half != FLOAT_BF16) skip_test("this device does not multiply bfloat16");
  for_each_model(&(Setting){.type = FLOAT_BF16, .nf4 = true}, 2);
}

// The adapters of the families are far enough from their bases for a divergence from the first step on.
static void steps_held_near_to_the_base_match_the_cpu(void **state) {
  (void)state;
  for_each_model(&(Setting){.type = FLOAT_32, .dropout = 0.1, .kl_weight = 3}, 2);
  static const char *const some[] = {"gemma2_scalar", "smollm3_nope"};
  for (int i = 0; i < 2 && half == FLOAT_BF16; i++) {
    char *path = path_join(TESTS_DIR "/adapters/data/families", some[i]);
    compare_training(path, &(Setting){.type = half, .kl_weight = 3}, 2);
    free(path);
  }
}

static void a_repeated_step_gives_the_same_bits(void **state) {
  (void)state;
  Side side;
  Batch batch = {0};
  open_side(&side, tiny, "cuda", &(Setting){.type = half, .dropout = 0.1});
  fill(&batch, side.model);
  double loss = run_step(&side, &batch, 1);
  read_values(&side, side.adapter->gradient);
  float *before = memory_new((size_t)side.adapter->size, sizeof *before);
  memcpy(before, side.values, (size_t)side.adapter->size * sizeof *before);
  assert_true(run_step(&side, &batch, 1) == loss);
  read_values(&side, side.adapter->gradient);
  assert_memory_equal(before, side.values, (size_t)side.adapter->size * sizeof *before);
  free(before);
  batch_release(&batch);
  close_side(&side);
}

static int waits;
static void (*device_download)(void *host, const void *device, int64_t bytes, Backend *backend);
static Status (*device_check)(Backend *backend);

static void counted_download(void *host, const void *device, int64_t bytes, Backend *backend) {
  waits++;
  device_download(host, device, bytes, backend);
}
static Status counted_check(Backend *backend) {
  waits++;
  return device_check(backend);
}

// Nothing of a micro-batch comes to the host but its losses, when they are asked for: of routed models neither, unless their sizes are no
// multiples of 8.
static void check_waits(const char *path, float kl_weight) {
  enum { MICRO_BATCHES = 3 };
  Side side;
  Batch batch = {0};
  open_side(&side, path, "cuda", &(Setting){.type = half, .groups = true, .kl_weight = kl_weight});
  fill(&batch, side.model);
  double one = run_step(&side, &batch, 0) * (double)batch.trained_tokens, all;
  device_download = side.backend->download, device_check = side.backend->check;
  side.backend->download = counted_download, side.backend->check = counted_check;
  waits = 0;
  for (int i = 0; i < MICRO_BATCHES; i++) assert_ok(step_run(&side.step, &batch, TAPE_TRAIN, 1));
  const ModelConfig *config = &side.model->config;
  bool is_odd = config->experts > 0 && (config->hidden % 8 || config->expert_feed_forward % 8);
  if (waits && !is_odd) fail_msg("%s: a step waits for the device %d times before its loss is asked for", path, waits);
  assert_ok(step_loss(&all, &side.step));
  all += (double)kl_weight * side.step.kl;
  assert_true(fabs(all - MICRO_BATCHES * one) <= 1e-12 * all);
  assert_ok(step_loss(&all, &side.step));
  assert_true(all == 0);
  batch_release(&batch);
  close_side(&side);
}

static void micro_batches_are_queued_without_a_wait(void **state) {
  (void)state;
  check_waits(tiny, 0);
  check_waits(tiny, 0.5f);
  char **families = golden_families();
  for (char **family = families; *family; family++) check_waits(*family, 0);
  golden_families_free(families);
}

// The residual stream waits in the host's memory, or on the device: bits of losses and gradients, micro-batches one after another.
static void compare_offloaded(const char *path, FloatType type) {
  Side sides[2];
  Batch batch = {0};
  for (int s = 0; s < 2; s++)
    open_side(&sides[s], path, "cuda", &(Setting){.type = type, .checkpointing = s ? CHECKPOINT_OFFLOAD : CHECKPOINT_ALL, .dropout = 0.1});
  fill(&batch, sides[0].model);
  for (int step = 0; step < 2; step++) {
    double losses[2];
    for (int s = 0; s < 2; s++) {
      losses[s] = run_step(&sides[s], &batch, (uint64_t)step);
      read_values(&sides[s], sides[s].adapter->gradient);
    }
    assert_true(tape_host_bytes(&sides[1].step.tape) > 0);
    // (Two layers' streams are there at once: of three layers as many as otherwise.)
    assert_true((double)tape_plan_bytes(&sides[1].step.tape) <= 1.05 * (double)tape_plan_bytes(&sides[0].step.tape));
    if (losses[0] != losses[1] || memcmp(sides[0].values, sides[1].values, (size_t)sides[0].adapter->size * sizeof(float)) != 0)
      fail_msg("%s: the bits of an offloaded step differ (losses %.9g and %.9g)", path, losses[1], losses[0]);
    for (int s = 0; s < 2; s++) update(&sides[s], losses[s]);
  }
  batch_release(&batch);
  for (int s = 0; s < 2; s++) {
    assert_ok(sides[s].backend->check(sides[s].backend));
    close_side(&sides[s]);
  }
}

static void offloaded_steps_have_the_bits_of_kept_ones(void **state) {
  (void)state;
  compare_offloaded(tiny, half);
  char **families = golden_families();
  for (char **family = families; *family; family++) compare_offloaded(*family, FLOAT_32);
  golden_families_free(families);
}

// A prompt in pieces, then token by token, beside the CPU's whole pass over what was written.
static void generation_matches_the_cpu(void **state) {
  (void)state;
  enum { TOKENS = 24, PROMPT = 17 };
  char **families = golden_families();
  for (char **family = families; *family; family++) {
    Side sides[2];
    Rng rng = rng_new(5, RNG_STREAM_TEST);
    int32_t ids[PROMPT];
    for (int s = 0; s < 2; s++) open_side(&sides[s], *family, s ? "cuda" : "cpu", &(Setting){.type = FLOAT_32});
    for (int i = 0; i < PROMPT; i++) ids[i] = (int32_t)rng_below(&rng, (uint64_t)sides[0].model->config.vocabulary);
    Decoded decoded = decode(sides[1].model, (EngineOptions){.chunk = 7, .is_exact = true}, ids, PROMPT, TOKENS - PROMPT);
    assert_decodes(sides[0].model, &decoded, 1e-4);
    decoded_release(&decoded);
    for (int s = 0; s < 2; s++) close_side(&sides[s]);
  }
  golden_families_free(families);
}

static int ask_device(void **state) {
  (void)state;
  Backend *backend;
  assert_ok(backend_new(&backend, "cuda", 2));
  half = selfcheck_short_type(backend);
  backend_free(backend);
  return 0;
}

int main(int argc, char **argv) {
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(steps_in_float32_match_the_cpu),
      cmocka_unit_test(steps_in_bfloat16_match_the_cpu),
      cmocka_unit_test(recomputed_steps_with_dropout_match_the_cpu),
      cmocka_unit_test(dora_steps_match_the_cpu),
      cmocka_unit_test(steps_on_what_a_start_leaves_match_the_cpu),
      cmocka_unit_test(steps_on_nf4_match_the_cpu),
      cmocka_unit_test(steps_on_nf4_in_bfloat16_match_the_cpu),
      cmocka_unit_test(steps_held_near_to_the_base_match_the_cpu),
      cmocka_unit_test(a_repeated_step_gives_the_same_bits),
      cmocka_unit_test(micro_batches_are_queued_without_a_wait),
      cmocka_unit_test(offloaded_steps_have_the_bits_of_kept_ones),
      cmocka_unit_test(generation_matches_the_cpu),
  };
  log_set_quiet(true);
  const struct CMUnitTest once[] = {cmocka_unit_test(a_step_of_each_model)};
  if (argc > 1 && strcmp(argv[1], "once") == 0) return cmocka_run_group_tests(once, ask_device, NULL);
  return cmocka_run_group_tests(tests, ask_device, NULL);
}
