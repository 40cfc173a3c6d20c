// Which engine attention goes by (kernels/cuda/attention_engine.h): engines that stand for cuDNN, right and wrong in each way that a trial has
// to find, on the simulated device; and its statistics of rows there and back.
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/backend.h"
#include "kernels/cuda/attention_engine.h"
#include "tests/support/kernel_cases.h"

enum { HEADS = 4, KV_HEADS = 2, SIZE = 16, LENGTH = 150, DOCUMENTS = 4, ROWS = DOCUMENTS * LENGTH };

typedef const AttentionEngine *StandIn(const AttentionEngine *engine);
typedef bool Judge(const AttentionTrial *trial, bool must_be_faster, const char **why);
typedef void Transpose(float *to, const float *from, const int32_t *begins, const int32_t *lengths, int64_t documents, int64_t length,
                       int64_t heads, Device *device);

static StandIn *stand_in;
static Judge *judge;
static Transpose *rows_of_stats, *stats_of_rows;
static const AttentionEngine *own;
static Backend *backend;

static void find(void *function, void *library, const char *name) {
  void *symbol = dlsym(library, name);
  if (!symbol) fail_msg("%s is not there", name);
  memcpy(function, &symbol, sizeof symbol);
}

static int open_library(void **state) {
  (void)state;
  setenv("LORA_CUDA_LIBRARY", LORA_CUDA_SIMULATED, 1);
  void *library = dlopen(LORA_CUDA_SIMULATED, RTLD_NOW);
  if (!library) fail_msg("%s", dlerror());
  find(&stand_in, library, "attention_stand_in");
  find(&judge, library, "attention_judge");
  find(&rows_of_stats, library, "attention_rows_of_stats");
  find(&stats_of_rows, library, "attention_stats_of_rows");
  own = stand_in(NULL);
  return 0;
}

// What the engine that stands for the other does wrong.
typedef enum Fault {
  NO_FAULT,
  IS_SLOW,
  IS_WRONG,
  HAS_NAN,
  WRITES_OTHER_ROWS,
  CHANGES_BITS,
  REFUSES_TO_RUN,
  HAS_NO_WAY,
  IS_WRONG_IN_LARGE,  // and right in the small case
} Fault;

static Fault faults[2];  // forward, backward
static int calls[2], own_calls_of_other, closed;

static int64_t rows_of(const AttentionCall *call) { return call->spans[call->span_count - 1].query_end; }

static bool stand_in_fits(const AttentionCall *call, bool is_backward, Device *device) {
  (void)call, (void)device;
  return faults[is_backward] != HAS_NO_WAY;
}

// Memory of the simulated device is the host's, once its work is done. The two documents of the larger case are timed: there the engine is
// fast because it does nothing after it has once been right.
static bool stand_in_run(const AttentionCall *call, bool is_backward, Device *device) {
  Fault fault = faults[is_backward];
  bool is_timed = call->span_count == 2 && rows_of(call) >= 505;
  int runs = calls[is_backward]++;
  if (fault == REFUSES_TO_RUN) return false;
  uint16_t *first = is_backward ? call->dv : call->o;
  if (is_timed) {
    static const void *done[2][2];
    for (int i = 0; i < 2; i++)
      if (done[is_backward][i] == first && fault != IS_SLOW && *first != 0x5a5a) return true;
    done[is_backward][runs % 2] = first;
  }
  for (int i = 0; i < (fault == IS_SLOW && is_timed ? 3 : 1); i++) {
    if (is_backward) own->backward(call, device);
    else own->forward(call, device);
  }
  own_calls_of_other++;
  if (fault == NO_FAULT || fault == IS_SLOW || (fault == IS_WRONG_IN_LARGE && !is_timed)) return true;
  assert_ok(backend->check(backend));
  uint16_t *at = first + 5 * SIZE;
  if (fault == IS_WRONG || fault == IS_WRONG_IN_LARGE) *at ^= 0x8200;
  if (fault == HAS_NAN) *at = 0x7fc0;
  if (fault == CHANGES_BITS) *at = (uint16_t)(*at ^ (runs % 2));
  if (fault == WRITES_OTHER_ROWS && !is_timed) first[call->spans[1].query_begin * (is_backward ? KV_HEADS : HEADS) * SIZE - 1] = 0;
  return true;
}
static bool stand_in_forward(const AttentionCall *call, Device *device) { return stand_in_run(call, false, device); }
static bool stand_in_backward(const AttentionCall *call, Device *device) { return stand_in_run(call, true, device); }
static void stand_in_close(Device *device) {
  (void)device;
  closed++;
}

enum { FORWARD_BYTES = 1000, BACKWARD_BYTES = 5000 };
static int64_t stand_in_workspace(const AttentionCall *call, bool is_backward, Device *device) {
  (void)call, (void)device;
  return is_backward ? BACKWARD_BYTES : FORWARD_BYTES;
}

static const AttentionEngine engine = {"a stand-in",      stand_in_fits,      stand_in_forward,
                                       stand_in_backward, stand_in_workspace, stand_in_close};

// A call of both passes; results are not looked at, for the stand-in's are our own.
typedef struct Problem {
  Arena arena;
  AttentionSpan spans[DOCUMENTS];
  AttentionShape shape;
  int64_t count;
  FloatType type;
  const int32_t *query_ends;
  void *blocks[10];
} Problem;

static void problem_new(Problem *p, FloatType type) {
  static const int64_t columns[] = {HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE, HEADS * SIZE,    HEADS * SIZE,
                                    HEADS,        HEADS * SIZE,    KV_HEADS * SIZE, KV_HEADS * SIZE, HEADS * (1 + SIZE)};
  Rng rng = rng_new(7, RNG_STREAM_TEST);
  *p = (Problem){.count = DOCUMENTS, .type = type};
  p->shape = (AttentionShape){.heads = HEADS, .kv_heads = KV_HEADS, .head_size = SIZE, .value_size = SIZE, .scale = 0.25f};
  for (int64_t i = 0; i < DOCUMENTS; i++) p->spans[i] = (AttentionSpan){i * LENGTH, (i + 1) * LENGTH, i * LENGTH, (i + 1) * LENGTH};
  for (int i = 0; i < 10; i++) {
    FloatType kind = i == 5 || i == 9 ? FLOAT_32 : type;
    Rows rows = random_rows(&p->arena, &rng, ROWS, columns[i], kind);
    int64_t bytes = ROWS * columns[i] * float_bytes(kind);
    assert_ok(backend->allocate(&p->blocks[i], bytes, "a test", backend));
    backend->upload(p->blocks[i], rows.data, bytes, backend);
  }
}

static void problem_free(Problem *p) {
  for (int i = 0; i < 10; i++) backend->release(p->blocks[i], backend);
  arena_release(&p->arena);
}

// How many of the two passes the other engine did.
static int run(const Problem *p, bool is_backward) {
  void *const *b = p->blocks;
  int before = calls[is_backward];
  if (is_backward)
    backend->kernels->attention_backward(b[6], b[7], b[8], b[9], b[3], b[4], b[5], b[0], b[1], b[2], p->type, p->spans, p->count,
                                         p->query_ends, p->shape, backend);
  else backend->kernels->attention_forward(b[4], b[5], b[0], b[1], b[2], p->type, p->spans, p->count, p->query_ends, p->shape, backend);
  assert_ok(backend->check(backend));
  return calls[is_backward] - before;
}

static void open_with(const char *choice, Fault forward, Fault backward) {
  if (choice) setenv("LORA_CUDA_ATTENTION", choice, 1);
  else unsetenv("LORA_CUDA_ATTENTION");
  stand_in(&engine);
  faults[0] = forward, faults[1] = backward;
  assert_ok(backend_new(&backend, "cuda", 1));
}

// Whether a pass goes by the other engine once it has been tried.
static void expect(const char *choice, Fault forward, Fault backward, bool takes_forward, bool takes_backward) {
  open_with(choice, forward, backward);
  Problem p;
  problem_new(&p, FLOAT_BF16);
  (void)run(&p, false);
  int tried = calls[0] + calls[1];
  bool forward_taken = run(&p, false) > 0, backward_taken = run(&p, true) > 0;
  if (forward_taken != takes_forward || backward_taken != takes_backward)
    fail_msg("faults %d and %d with %s: forward by %s, back by %s", forward, backward, choice ? choice : "nothing",
             forward_taken ? "it" : "us", backward_taken ? "it" : "us");
  assert_int_equal(calls[0] + calls[1] - tried, forward_taken + backward_taken);  // tried once
  problem_free(&p);
  backend_free(backend);
}

static void an_engine_that_agrees_and_is_faster_is_taken(void **state) {
  (void)state;
  int before = closed;
  expect("auto", NO_FAULT, NO_FAULT, true, true);
  assert_int_equal(closed - before, 1);
}

static void each_pass_is_judged_for_itself(void **state) {
  (void)state;
  expect("auto", NO_FAULT, HAS_NO_WAY, true, false);
  expect("auto", IS_SLOW, NO_FAULT, false, true);
}

static void an_engine_that_is_wrong_is_not_taken(void **state) {
  (void)state;
  for (int fault = IS_WRONG; fault <= IS_WRONG_IN_LARGE; fault++) {
    expect("auto", (Fault)fault, (Fault)fault, false, false);
    expect("cudnn", (Fault)fault, (Fault)fault, false, false);
  }
}

static void an_engine_that_is_slow_is_taken_only_if_it_is_named(void **state) {
  (void)state;
  expect("auto", IS_SLOW, IS_SLOW, false, false);
  expect("cudnn", IS_SLOW, IS_SLOW, true, true);
}

static void our_own_is_never_tried_against_another_where_it_is_named(void **state) {
  (void)state;
  int before = calls[0] + calls[1];
  expect("own", NO_FAULT, NO_FAULT, false, false);
  assert_int_equal(calls[0] + calls[1], before);
  expect(NULL, NO_FAULT, NO_FAULT, true, true);
}

// What the plan of a training run's memory leaves to the engine that was taken.
static void the_workspace_of_an_engine_is_reserved(void **state) {
  (void)state;
  static const struct {
    const char *choice;
    Fault backward;
    int64_t calls, reserved;
  } cases[] = {{"auto", NO_FAULT, INT64_C(1) << 30, BACKWARD_BYTES},
               {"auto", HAS_NO_WAY, INT64_C(1) << 30, FORWARD_BYTES},
               {"auto", NO_FAULT, 1000, 0},  // too short a run to ask
               {"cudnn", NO_FAULT, 1000, BACKWARD_BYTES},
               {"own", NO_FAULT, INT64_C(1) << 30, 0}};
  const int64_t room = INT64_C(1) << 33;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    open_with(cases[i].choice, NO_FAULT, cases[i].backward);
    Problem p;
    problem_new(&p, FLOAT_BF16);
    StepShape step = {.activations = FLOAT_32,
                      .tokens = ROWS,
                      .columns = 64,
                      .spans = p.spans,
                      .span_count = p.count,
                      .attention = p.shape,
                      .attention_calls = cases[i].calls};
    int64_t without = backend->reserve_workspace(&step, room, backend);  // attention in float32 is ours
    step.activations = FLOAT_BF16;
    int before = calls[0] + calls[1];
    assert_int_equal(backend->reserve_workspace(&step, room, backend) - without, cases[i].reserved);
    assert_true((calls[0] + calls[1] > before) == (cases[i].reserved > 0));
    assert_int_equal(backend->reserve_workspace(&step, without + 8 * BACKWARD_BYTES - 8, backend) - without,
                     cases[i].reserved ? FORWARD_BYTES : 0);  // activations have more use for an eighth
    problem_free(&p);
    backend_free(backend);
  }
}

static void another_word_in_the_environment_is_refused(void **state) {
  (void)state;
  setenv("LORA_CUDA_ATTENTION", "theirs", 1);
  assert_fails(STATUS_USAGE, backend_new(&backend, "cuda", 1), "theirs", "own, cudnn or auto");
  unsetenv("LORA_CUDA_ATTENTION");
}

static void no_engine_is_no_error(void **state) {
  (void)state;
  unsetenv("LORA_CUDA_ATTENTION");
  stand_in(NULL);
  assert_ok(backend_new(&backend, "cuda", 1));
  Problem p;
  problem_new(&p, FLOAT_F16);
  assert_int_equal(run(&p, false) + run(&p, true), 0);
  problem_free(&p);
  backend_free(backend);
}

static void what_is_not_plain_training_is_ours(void **state) {
  (void)state;
  open_with("cudnn", NO_FAULT, NO_FAULT);
  Problem p;
  static int32_t ends[ROWS];
  problem_new(&p, FLOAT_32);
  assert_int_equal(run(&p, false), 0);
  problem_free(&p);
  problem_new(&p, FLOAT_F16);
  Problem q = p;
  q.shape.window = 20;
  assert_int_equal(run(&q, false) + run(&q, true), 0);
  q = p, q.shape.softcap = 30;
  assert_int_equal(run(&q, false) + run(&q, true), 0);
  q = p, q.spans[1].query_begin += 10;  // earlier keys
  assert_int_equal(run(&q, false) + run(&q, true), 0);
  q = p, q.count = 3;  // too few rows
  assert_int_equal(run(&q, false) + run(&q, true), 0);
  for (int i = 0; i < ROWS; i++) ends[i] = i + 1;
  void *there;
  assert_ok(backend->allocate(&there, sizeof ends, "a test", backend));
  backend->upload(there, ends, sizeof ends, backend);
  q = p, q.query_ends = there;
  assert_int_equal(run(&q, false) + run(&q, true), 0);
  assert_true(run(&p, false) > 0);
  backend->release(there, backend);
  problem_free(&p);
  backend_free(backend);
}

static void documents_of_one_length_are_a_class_of_their_own(void **state) {
  (void)state;
  open_with("auto", NO_FAULT, HAS_NO_WAY);
  Problem p;
  problem_new(&p, FLOAT_F16);
  assert_true(run(&p, false) > 1);  // tried
  Problem even = p;
  for (int64_t i = 0; i < DOCUMENTS; i++) even.spans[i] = (AttentionSpan){i * 128, (i + 1) * 128, i * 128, (i + 1) * 128};
  assert_true(run(&even, false) > 1);
  assert_int_equal(run(&even, false), 1);
  even.spans[3].query_end += 10, even.spans[3].key_end += 10;
  assert_int_equal(run(&even, false), 1);  // not even: of the first class
  problem_free(&p);
  backend_free(backend);
}

static void judgement_refuses_nan(void **state) {
  (void)state;
  const char *why;
  AttentionTrial trial = {true, true, true, NAN, 2, 1};
  assert_false(judge(&trial, false, &why));
  trial.difference = 0.019;
  assert_true(judge(&trial, true, &why));
  trial.other_ms = 1.95;  // too little to gain
  assert_false(judge(&trial, true, &why));
  assert_true(judge(&trial, false, &why));
  trial.other_ms = NAN;
  assert_false(judge(&trial, true, &why));
  trial.difference = 0.021;
  assert_false(judge(&trial, false, &why));
}

static void stats_go_to_rows_and_back(void **state) {
  (void)state;
  stand_in(NULL);
  assert_ok(backend_new(&backend, "cuda", 1));
  enum { N = 4, MOST = 70, COLUMNS = 37, ALL = 150 };
  static const int32_t tables[2][N] = {{0, 40, 110, 145}, {33, 70, 1, 0}};  // begins, lengths
  static float stats[N][COLUMNS][MOST], back[N][COLUMNS][MOST], rows[ALL][COLUMNS], got[ALL][COLUMNS];
  for (int d = 0; d < N; d++)
    for (int h = 0; h < COLUMNS; h++)
      for (int i = 0; i < MOST; i++) stats[d][h][i] = (float)((d * COLUMNS + h) * MOST + i + 1);
  for (int i = 0; i < ALL; i++)
    for (int h = 0; h < COLUMNS; h++) rows[i][h] = -1;
  void *there[3];
  assert_ok(backend->allocate(&there[0], sizeof stats, "a test", backend));
  assert_ok(backend->allocate(&there[1], sizeof rows, "a test", backend));
  assert_ok(backend->allocate(&there[2], sizeof tables, "a test", backend));
  backend->upload(there[0], stats, sizeof stats, backend);
  backend->upload(there[1], rows, sizeof rows, backend);
  backend->upload(there[2], tables, sizeof tables, backend);
  const int32_t *begins = there[2], *lengths = begins + N;
  rows_of_stats(there[1], there[0], begins, lengths, N, MOST, COLUMNS, backend->state);
  backend->download(got, there[1], sizeof got, backend);
  for (int d = 0; d < N; d++)
    for (int i = 0; i < tables[1][d]; i++)
      for (int h = 0; h < COLUMNS; h++) rows[tables[0][d] + i][h] = stats[d][h][i];
  assert_memory_equal(got, rows, sizeof rows);
  backend->upload(there[0], back, sizeof back, backend);
  stats_of_rows(there[0], there[1], begins, lengths, N, MOST, COLUMNS, backend->state);
  backend->download(back, there[0], sizeof back, backend);
  for (int d = 0; d < N; d++)
    for (int h = 0; h < COLUMNS; h++)
      for (int i = 0; i < MOST; i++)
        if (back[d][h][i] != (i < tables[1][d] ? stats[d][h][i] : 0))
          fail_msg("document %d, head %d, row %d: %g", d, h, i, (double)back[d][h][i]);
  rows_of_stats(there[1], there[0], begins, lengths, 0, MOST, COLUMNS, backend->state);
  assert_ok(backend->check(backend));
  for (int i = 0; i < 3; i++) backend->release(there[i], backend);
  backend_free(backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_engine_that_agrees_and_is_faster_is_taken),
      cmocka_unit_test(each_pass_is_judged_for_itself),
      cmocka_unit_test(an_engine_that_is_wrong_is_not_taken),
      cmocka_unit_test(an_engine_that_is_slow_is_taken_only_if_it_is_named),
      cmocka_unit_test(our_own_is_never_tried_against_another_where_it_is_named),
      cmocka_unit_test(the_workspace_of_an_engine_is_reserved),
      cmocka_unit_test(another_word_in_the_environment_is_refused),
      cmocka_unit_test(no_engine_is_no_error),
      cmocka_unit_test(what_is_not_plain_training_is_ours),
      cmocka_unit_test(documents_of_one_length_are_a_class_of_their_own),
      cmocka_unit_test(judgement_refuses_nan),
      cmocka_unit_test(stats_go_to_rows_and_back),
  };
  return cmocka_run_group_tests(tests, open_library, NULL);
}
