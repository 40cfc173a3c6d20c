// A warm training step allocates nothing: every call of the C library's allocator is counted here, whoever makes it.
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "data/rows.h"
#include "optim/optimizer.h"
#include "tests/support/test.h"
#include "trainer/step.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define CANNOT_COUNT
#else
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *block, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

static atomic_int allocations;

void *malloc(size_t bytes) {
  atomic_fetch_add(&allocations, 1);
  return __libc_malloc(bytes);
}
void *calloc(size_t count, size_t bytes) {
  atomic_fetch_add(&allocations, 1);
  return __libc_calloc(count, bytes);
}
void *realloc(void *block, size_t bytes) {
  atomic_fetch_add(&allocations, 1);
  return __libc_realloc(block, bytes);
}
void *aligned_alloc(size_t alignment, size_t bytes) {
  atomic_fetch_add(&allocations, 1);
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void **block, size_t alignment, size_t bytes) {
  atomic_fetch_add(&allocations, 1);
  *block = __libc_memalign(alignment, bytes);
  return *block ? 0 : ENOMEM;
}
#endif

enum { BATCHES = 3 };

// Batches of packed documents: the first is the largest, the others are shorter in different ways.
static void fill_batches(Batch batches[BATCHES], const Model *model) {
  static const int64_t lengths[BATCHES][4] = {{90, 60, 33, 17}, {64, 1, 40, 0}, {150, 0, 0, 0}};
  Rng rng = rng_new(5, RNG_STREAM_TEST);
  for (int b = 0; b < BATCHES; b++) {
    RowSet rows = {0};
    for (int d = 0; d < 4 && lengths[b][d]; d++) {
      int32_t ids[200], labels[200];
      for (int64_t i = 0; i < lengths[b][d]; i++) {
        ids[i] = (int32_t)rng_below(&rng, (uint64_t)model->config.vocabulary);
        labels[i] = i % 3 ? ids[i] : -100;
      }
      row_set_add(&rows, ids, labels, lengths[b][d], "");
    }
    BatchOptions options = {
        .packing = true, .sequence_len = 200, .group_size = 100, .bin_size = 100, .micro_batch_size = 1, .in_order = true};
    BatchPlan plan;
    assert_ok(batch_plan_create(&plan, &rows, &options, 0));
    batch_reserve(&batches[b], &plan);
    batch_fill(&batches[b], &plan, 0);
    batch_plan_release(&plan);
    row_set_release(&rows);
  }
}

static void train_once(Step *step, const Batch *batch, Adapter *adapter, Optimizer *optimizer, Backend *backend) {
  double nll;
  OptimizerReport report;
  backend->kernels->fill(adapter->gradient, 0, adapter->size, backend);
  step_seed(step, 1, 2);
  assert_ok(step_run(step, batch, TAPE_TRAIN, 0.01f));
  assert_ok(step_loss(&nll, step));
  assert_ok(optimizer_step(optimizer, adapter->data, adapter->gradient, 1e-4, nll, &report));
  assert_false(report.skipped);
}

static void check_warm_steps(FloatType activations, Checkpointing checkpointing, double dropout, bool dora, float kl_weight) {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  Optimizer *optimizer;
  const OptimizerMethod *method;
  const char *notice;
  Batch batches[BATCHES] = {0};
  Step step;
  assert_ok(backend_new(&backend, "cpu", 2));
  assert_ok(model_open(&model, TESTS_DIR "/data/tiny.gguf", (ModelOptions){0}, backend));
  AdapterSettings settings = {.rank = 4, .alpha = 8, .dropout = dropout, .all_linear = true, .dora = dora, .seed = 7};
  assert_ok(adapter_create(&adapter, model, &settings));
  assert_ok(optimizer_find(&method, &notice, NULL));
  OptimizerSettings adam = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
  ParameterTensor all = {.rows = 1, .columns = adapter->size, .rate_multiplier = 1};
  assert_ok(optimizer_new(&optimizer, method, adam, &all, 1, backend));
  fill_batches(batches, model);
  step_new(&step, model, activations, checkpointing, (int64_t)1 << 30);
  step.kl_weight = kl_weight, step.adapter = adapter;
  assert_ok(step_reserve(&step, &batches[0], TAPE_TRAIN));
  for (int b = 0; b < BATCHES; b++) train_once(&step, &batches[b], adapter, optimizer, backend);
#ifndef CANNOT_COUNT
  int before = allocations;
  for (int b = 0; b < 2 * BATCHES; b++) train_once(&step, &batches[b % BATCHES], adapter, optimizer, backend);
  assert_int_equal(allocations - before, 0);
  free(malloc(1));
  assert_int_equal(allocations - before, 1);  // they are counted
#endif
  step_free(&step);
  for (int b = 0; b < BATCHES; b++) batch_release(&batches[b]);
  optimizer_free(optimizer);
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
}

static void a_warm_step_allocates_nothing(void **state) {
  (void)state;
  static const Checkpointing ways[] = {CHECKPOINT_AUTO, CHECKPOINT_ALL, CHECKPOINT_OFFLOAD};
  for (int i = 0; i < 12; i++) check_warm_steps(i & 1 ? FLOAT_BF16 : FLOAT_32, ways[i / 4], i & 2 ? 0.1 : 0, false, 0);
  for (int i = 0; i < 6; i++) check_warm_steps(i & 1 ? FLOAT_BF16 : FLOAT_32, ways[i / 2], 0.1, true, 0);
  for (int i = 0; i < 6; i++) check_warm_steps(i & 1 ? FLOAT_BF16 : FLOAT_32, ways[i / 2], 0.1, false, 0.5f);
#ifdef CANNOT_COUNT
  skip_test("allocations cannot be counted under a sanitizer");
#endif
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_warm_step_allocates_nothing)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
