// Routed experts on the tape of a CUDA device: the loss and the gradient of an adapter before them are the CPU's in float32, with the experts
// one after another and all at once, in pieces of any size; and bits do not depend on what is recomputed.
// On the simulated device unless LORA_CUDA_LIBRARY names another library.
#include <math.h>
#include <stdlib.h>

#include "autograd/ops.h"
#include "kernels/cuda_library.h"
#include "tests/support/test.h"

enum { TOKENS = 45, HIDDEN = 32, VOCABULARY = 11, RANK = 4, EXPERTS = 8, USED = 2, WIDTH = 24, MATRICES = 4 + 3 * EXPERTS };

typedef struct Fixture {
  Backend *backend;
  Arena arena;
  LowRank adapter;
  Matrix matrices[MATRICES];  // on the device
  int matrix_count;
  void *blocks[8];
  int block_count;
  ExpertLayer experts;
  float *norm_weight;
  int32_t ids[TOKENS], targets[TOKENS];
} Fixture;

typedef struct Result {
  double loss;
  float a[RANK * HIDDEN], b[HIDDEN * RANK];  // gradients
} Result;

static float *normals(Fixture *f, int64_t count, double deviation, Rng *rng) {
  float *values = arena_new(&f->arena, (size_t)count, sizeof *values);
  fill_normal(values, count, deviation, rng);
  return values;
}

static float *send(Fixture *f, const float *values, int64_t count) {
  void *block;
  assert_ok(f->backend->allocate(&block, count * (int64_t)sizeof(float), "a test", f->backend));
  f->backend->upload(block, values, count * (int64_t)sizeof(float), f->backend);
  return f->blocks[f->block_count++] = block;
}

static const Matrix *random_matrix(Fixture *f, int64_t rows, int64_t columns, double deviation, Rng *rng) {
  Matrix *matrix = &f->matrices[f->matrix_count++];
  *matrix = matrix_f32(normals(f, rows * columns, deviation, rng), rows, columns);
  if (f->backend->upload_matrix) assert_ok(f->backend->upload_matrix(matrix, NULL, f->backend));
  return matrix;
}

static Parameter random_parameter(Fixture *f, int64_t rows, int64_t columns, Rng *rng) {
  float *gradient = arena_new(&f->arena, (size_t)(rows * columns), sizeof *gradient);
  return (Parameter){send(f, normals(f, rows * columns, 0.3, rng), rows * columns), send(f, gradient, rows * columns), rows, columns};
}

enum { EMBEDDING, PROJECTION, HEAD, ROUTER, GATES };

static void open_fixture(Fixture *f, const char *device) {
  *f = (Fixture){0};
  assert_ok(backend_new(&f->backend, device, 2));
  Rng rng = rng_new(23, RNG_STREAM_TEST);
  (void)random_matrix(f, VOCABULARY, HIDDEN, 1, &rng);
  (void)random_matrix(f, HIDDEN, HIDDEN, 0.2, &rng);
  (void)random_matrix(f, VOCABULARY, HIDDEN, 0.4, &rng);
  f->experts.router = *random_matrix(f, EXPERTS, HIDDEN, 0.5, &rng);
  for (int i = 0; i < 3 * EXPERTS; i++)
    (void)random_matrix(f, i < 2 * EXPERTS ? WIDTH : HIDDEN, i < 2 * EXPERTS ? HIDDEN : WIDTH, 0.3, &rng);
  const Matrix *gates = &f->matrices[GATES];
  f->experts.settings = (RouterSettings){.experts = EXPERTS, .used = USED, .is_normalized = true, .scale = 1};
  f->experts.matrices = (ExpertMatrices){gates, gates + EXPERTS, gates + 2 * EXPERTS, EXPERTS, USED, HIDDEN, WIDTH, ACTIVATION_SILU};
  f->norm_weight = send(f, normals(f, HIDDEN, 1, &rng), HIDDEN);
  f->adapter = (LowRank){.scale = 0.7f, .enabled = true};
  f->adapter.a = random_parameter(f, RANK, HIDDEN, &rng);
  f->adapter.b = random_parameter(f, HIDDEN, RANK, &rng);
  for (int i = 0; i < TOKENS; i++) {
    f->ids[i] = (int32_t)rng_below(&rng, VOCABULARY);
    f->targets[i] = (int32_t)rng_below(&rng, VOCABULARY);
  }
}

static void close_fixture(Fixture *f) {
  assert_ok(f->backend->check(f->backend));
  for (int i = 0; i < f->matrix_count && f->backend->release_matrix; i++) f->backend->release_matrix(&f->matrices[i], f->backend);
  for (int i = 0; i < f->block_count; i++) f->backend->release(f->blocks[i], f->backend);
  arena_release(&f->arena);
  backend_free(f->backend);
}

// Two layers of experts that share a stream, of which the first `checkpointed` segments are recomputed.
static void run(Result *result, Fixture *f, FloatType activations, int checkpointed) {
  Backend *backend = f->backend;
  NormSettings norm = {.weight = f->norm_weight, .columns = HIDDEN, .epsilon = 1e-5f, .offset = 1};
  Tape tape;
  tape_new(&tape, backend);
  tape.activations = activations;
  tape_begin(&tape, TAPE_TRAIN);
  Tensor *h = op_embedding(&tape, tape_input(&tape, f->ids, TOKENS, 1), &f->matrices[EMBEDDING], 1);
  tape_segment(&tape);
  h = op_linear(&tape, h, (LinearPart){.weight = &f->matrices[PROJECTION], .adapter = &f->adapter}, h);
  for (int layer = 0; layer < 2; layer++) {
    tape_segment(&tape);
    h = op_experts(&tape, op_norm(&tape, h, &norm, NULL), &f->experts, h);
  }
  tape_segment(&tape);
  Tensor *loss = op_cross_entropy(&tape, op_norm(&tape, h, &norm, NULL), &f->matrices[HEAD], tape_input(&tape, f->targets, TOKENS, 1),
                                  (LossGradient){.scale = 1}, 0);
  tape_plan(&tape, checkpointed);
  assert_ok(tape_reserve(&tape));
  backend->kernels->fill(f->adapter.a.gradient, 0, RANK * HIDDEN, backend);
  backend->kernels->fill(f->adapter.b.gradient, 0, RANK * HIDDEN, backend);
  tape_forward(&tape);
  tape_backward(&tape);
  float nll[TOKENS];
  tape_read(nll, &tape, loss);
  *result = (Result){0};
  for (int i = 0; i < TOKENS; i++) result->loss += nll[i];
  backend->download(result->a, f->adapter.a.gradient, sizeof result->a, backend);
  backend->download(result->b, f->adapter.b.gradient, sizeof result->b, backend);
  tape_free(&tape);
}

static void check(const Result *actual, const Result *expected, double limit, const char *what) {
  double loss = fabs(actual->loss - expected->loss) / expected->loss;
  double a = vector_distance(actual->a, expected->a, RANK * HIDDEN), b = vector_distance(actual->b, expected->b, HIDDEN * RANK);
  if (!(loss <= limit && a <= limit && b <= limit))
    fail_msg("%s: the loss is off by %.3g, the gradients by %.3g and %.3g, %.3g allowed", what, loss, a, b, limit);
}

static void steps_with_experts_match_the_cpu(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int64_t grouped_pairs, piece_bytes;
  } ways[] = {{"one after another", INT64_MAX, 0}, {"at once", 1, 0}, {"at once, in pieces", 1, 8000}};
  Fixture cpu, cuda;
  Result expected, result, again;
  open_fixture(&cpu, "cpu");
  open_fixture(&cuda, "cuda");
  run(&expected, &cpu, FLOAT_32, 0);
  int64_t *tuning = cuda.backend->tuning;
  for (size_t way = 0; way < sizeof ways / sizeof *ways; way++) {
    tuning[TUNING_GROUPED_PAIRS] = ways[way].grouped_pairs, tuning[TUNING_PIECE_BYTES] = ways[way].piece_bytes;
    for (FloatType type = FLOAT_32; type <= FLOAT_F16; type++) {
      if (type == FLOAT_BF16 && cuda.backend->kernels->peak_flops(type, cuda.backend) <= 0) continue;
      for (int checkpointed = 0; checkpointed <= 4; checkpointed += 2) {
        run(&again, &cuda, type, checkpointed);
        if (checkpointed == 0) result = again;
        if (memcmp(&result, &again, sizeof result) != 0) fail_msg("%s: recomputed bits differ, type %d", ways[way].name, type);
      }
      // A token that lies between two experts may go to the other one in 16 bits.
      check(&result, &expected, type == FLOAT_32 ? 1e-5 : 0.1, ways[way].name);
    }
  }
  close_fixture(&cuda);
  close_fixture(&cpu);
}

int main(void) {
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 0);
  const struct CMUnitTest tests[] = {cmocka_unit_test(steps_with_experts_match_the_cpu)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
