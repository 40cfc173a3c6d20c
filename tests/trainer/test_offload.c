// Steps whose residual stream waits in the host's memory for the backward pass: the bits of steps that keep it, also where copies run as late
// as their order allows; the memory that the plan needs; evaluation and batches of other sizes in between.
#include <math.h>
#include <stdlib.h>

#include "autograd/ops.h"
#include "core/log.h"
#include "tests/support/golden.h"
#include "trainer/step.h"

static const char tiny[] = TESTS_DIR "/data/tiny.gguf";

// A CPU whose copies wait until they are waited for, as those of a slow bus might: what is written over too soon, or read too soon, shows.
enum { LATE_COPIES = 64 };
static struct {
  void *to;
  const void *from;
  int64_t bytes;
} late[LATE_COPIES];
static int64_t late_asked, late_done;

static int64_t late_copy(void *to, const void *from, int64_t bytes, Backend *backend) {
  (void)backend;
  assert_true(late_asked - late_done < LATE_COPIES);
  late[late_asked % LATE_COPIES].to = to;
  late[late_asked % LATE_COPIES].from = from;
  late[late_asked % LATE_COPIES].bytes = bytes;
  return late_asked++;
}

static int64_t late_fetch(void *to, const void *from, int64_t bytes, Backend *backend) {
  memset(to, 0xff, (size_t)bytes);  // NaN until the copy is there
  return late_copy(to, from, bytes, backend);
}

static void late_await(int64_t copy, Backend *backend) {
  (void)backend;
  for (; late_done <= copy; late_done++)
    memcpy(late[late_done % LATE_COPIES].to, late[late_done % LATE_COPIES].from, (size_t)late[late_done % LATE_COPIES].bytes);
}

static void make_late(Backend *backend) {
  backend->offload = late_copy;
  backend->fetch = late_fetch;
  backend->await_copy = late_await;
}

typedef struct Side {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  Step step;
} Side;

static void open_side(Side *side, const char *path, FloatType type, Checkpointing checkpointing, bool is_late) {
  assert_ok(backend_new(&side->backend, "cpu", 2));
  if (is_late) make_late(side->backend);
  assert_ok(model_open(&side->model, path, (ModelOptions){0}, side->backend));
  AdapterSettings settings = {.rank = 4, .alpha = 8, .dropout = 0.1, .all_linear = true, .seed = 7};
  assert_ok(adapter_create(&side->adapter, side->model, &settings));
  Rng rng = rng_new(3, RNG_STREAM_TEST);
  fill_normal(side->adapter->data, side->adapter->size, 0.05, &rng);  // both factors, so that every gradient is there
  step_new(&side->step, side->model, type, checkpointing, (int64_t)1 << 30);
}

static void close_side(Side *side) {
  step_free(&side->step);
  adapter_close(side->adapter);
  model_close(side->model);
  backend_free(side->backend);
}

// One document of `length` tokens and one of 7, two thirds of whose tokens are trained on.
static void fill(Batch *batch, const Model *model, int64_t length) {
  enum { MOST = 64 };
  Rng rng = rng_new((uint64_t)length, RNG_STREAM_TEST);
  RowSet rows = {0};
  for (int d = 0; d < 2; d++) {
    int32_t ids[MOST], labels[MOST];
    int64_t own = d ? 7 : length;
    for (int64_t i = 0; i < own; i++) {
      ids[i] = (int32_t)rng_below(&rng, (uint64_t)model->config.vocabulary);
      labels[i] = i % 3 ? ids[i] : -100;
    }
    row_set_add(&rows, ids, labels, own, "");
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

// The loss of the evaluation, then that of a step, whose gradients are left in the adapter.
static void run(double losses[2], Side *side, const Batch *batch) {
  assert_ok(step_run(&side->step, batch, TAPE_FORWARD, 0));
  assert_ok(step_loss(&losses[0], &side->step));
  assert_int_equal(tape_host_bytes(&side->step.tape), 0);
  side->backend->kernels->fill(side->adapter->gradient, 0, side->adapter->size, side->backend);
  step_seed(&side->step, 1, 2);
  assert_ok(step_run(&side->step, batch, TAPE_TRAIN, 0.01f));
  assert_ok(step_loss(&losses[1], &side->step));
  assert_true(isfinite(losses[0]) && isfinite(losses[1]));
  assert_int_equal(late_asked, late_done);
}

static void compare_model(const char *path, FloatType type, bool is_late) {
  enum { SIDES = 3, BATCHES = 3 };
  static const Checkpointing ways[SIDES] = {CHECKPOINT_NONE, CHECKPOINT_ALL, CHECKPOINT_OFFLOAD};
  static const int64_t lengths[BATCHES] = {20, 50, 1};
  Side sides[SIDES];
  for (int s = 0; s < SIDES; s++) open_side(&sides[s], path, type, ways[s], is_late);
  for (int b = 0; b < BATCHES; b++) {
    Batch batch = {0};
    fill(&batch, sides[0].model, lengths[b]);
    double losses[SIDES][2];
    for (int s = 0; s < SIDES; s++) {
      run(losses[s], &sides[s], &batch);
      assert_memory_equal(losses[s], losses[0], sizeof losses[0]);
      assert_memory_equal(sides[s].adapter->gradient, sides[0].adapter->gradient, (size_t)sides[0].adapter->size * sizeof(float));
    }
    int64_t stream = (batch.tokens * sides[0].model->config.hidden * (int64_t)sizeof(float) + 63) / 64 * 64;
    assert_int_equal(tape_host_bytes(&sides[0].step.tape) + tape_host_bytes(&sides[1].step.tape), 0);
    assert_int_equal(tape_host_bytes(&sides[2].step.tape), sides[0].model->config.layers * stream);
    // (Of three layers two are there at once in either case.)
    assert_true((double)tape_plan_bytes(&sides[2].step.tape) <= 1.05 * (double)tape_plan_bytes(&sides[1].step.tape));
    batch_release(&batch);
  }
  for (int s = 0; s < SIDES; s++) close_side(&sides[s]);
}

static void offloaded_steps_have_the_bits_of_kept_ones(void **state) {
  (void)state;
  char **families = golden_families();
  for (int i = 0; i < 4; i++) {
    FloatType type = i & 1 ? FLOAT_BF16 : FLOAT_32;
    compare_model(tiny, type, i & 2);
    for (char **family = families; *family; family++) compare_model(*family, type, i & 2);
  }
  golden_families_free(families);
}

enum { TOKENS = 40, HIDDEN = 32, RANK = 2, VOCABULARY = 8, LAYERS = 9, STREAM = TOKENS * HIDDEN * 4 };

// Sets the bytes of the device and of the host that a model of `layers` adapted projections h + norm(h) (W + BA)^T needs.
static void plan_layers(int64_t bytes[2], int layers, bool offloads, bool keeps_last) {
  Backend *backend;
  assert_ok(backend_new(&backend, "cpu", 1));
  static float weight[HIDDEN * HIDDEN], a[RANK * HIDDEN], b[HIDDEN * RANK], da[RANK * HIDDEN], db[HIDDEN * RANK];
  static const int32_t ids[TOKENS];
  LowRank adapter = {.scale = 1, .enabled = true, .a = {a, da, RANK, HIDDEN}, .b = {b, db, HIDDEN, RANK}};
  Matrix embedding = matrix_f32(weight, VOCABULARY, HIDDEN), projection = matrix_f32(weight, HIDDEN, HIDDEN);
  NormSettings norm = {.weight = weight, .columns = HIDDEN, .epsilon = 1e-5f};
  Tape tape;
  tape_new(&tape, backend);
  tape.offloads = offloads;
  tape_begin(&tape, TAPE_TRAIN);
  Tensor *h = op_embedding(&tape, tape_input(&tape, ids, TOKENS, 1), &embedding, 1);
  for (int i = 0; i < layers; i++) {
    tape_segment(&tape);
    h = op_linear(&tape, op_norm(&tape, h, &norm, NULL), (LinearPart){.weight = &projection, .adapter = &adapter}, h);
    if (keeps_last && i + 2 == layers) tape_keep(h);
  }
  tape_segment(&tape);
  op_cross_entropy(&tape, op_norm(&tape, h, &norm, NULL), &embedding, tape_input(&tape, ids, TOKENS, 1), (LossGradient){.scale = 1}, 0);
  tape_plan(&tape, layers + 1);
  bytes[0] = tape_plan_bytes(&tape);
  bytes[1] = tape_host_bytes(&tape);
  tape_free(&tape);
  backend_free(backend);
}

static void the_device_holds_the_same_for_any_number_of_layers(void **state) {
  (void)state;
  int64_t fewest[2][2], kept[2], offloaded[2];
  for (int i = 0; i < 2; i++) plan_layers(fewest[i], 4 + i, true, false);
  for (int layers = 4; layers <= LAYERS; layers++) {
    plan_layers(kept, layers, false, false);
    plan_layers(offloaded, layers, true, false);
    assert_int_equal(kept[1], 0);
    assert_int_equal(offloaded[1], layers * STREAM);
    assert_int_equal(offloaded[0],
                     fewest[layers % 2][0]);  // (two buffers take turns, so even numbers may be placed otherwise than odd ones)
    // The most is needed at the loss, where of the outputs of all layers and of the embedding only the last is read.
    int64_t saved = kept[0] - offloaded[0];
    assert_true(saved > (layers - 1) * STREAM && saved <= layers * STREAM);
  }
  // What the caller wants to read at the end stays on the device.
  plan_layers(kept, LAYERS, true, true);
  assert_int_equal(kept[1], (LAYERS - 1) * STREAM);
}

static Status no_host_memory(void **block, int64_t bytes, const char *purpose, Backend *backend) {
  (void)backend;
  *block = NULL;
  return status_fail(STATUS_NO_SPACE, "no %lld bytes for %s", (long long)bytes, purpose);
}

static void a_host_without_room_is_told_before_the_step(void **state) {
  (void)state;
  Side side;
  Batch batch = {0};
  open_side(&side, tiny, FLOAT_32, CHECKPOINT_OFFLOAD, false);
  fill(&batch, side.model, 20);
  side.backend->allocate_host = no_host_memory;
  assert_fails(STATUS_NO_SPACE, step_reserve(&side.step, &batch, TAPE_TRAIN), "offloaded activations");
  batch_release(&batch);
  close_side(&side);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(offloaded_steps_have_the_bits_of_kept_ones),
      cmocka_unit_test(the_device_holds_the_same_for_any_number_of_layers),
      cmocka_unit_test(a_host_without_room_is_told_before_the_step),
  };
  log_set_quiet(true);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
