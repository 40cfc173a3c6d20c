// Importance matrices: what is measured against transformers' activations, and both formats of files (tests/tools/make_imatrix_reference.py).
#include "eval/importance.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/file.h"
#include "tests/support/golden.h"
#include "tests/support/test.h"

enum { CONTEXT = 24, CHUNKS = 3, TOKENS = CONTEXT * CHUNKS };

static void fill_ids(int32_t ids[TOKENS]) {
  for (int i = 0; i < TOKENS; i++) ids[i] = (31 * i + 7) % 700;
}

static Model *open_tiny(Backend **backend) {
  Model *model;
  assert_ok(backend_new(backend, "cpu", 2));
  assert_ok(model_open(&model, TESTS_DIR "/data/tiny-hf", (ModelOptions){0}, *backend));
  return model;
}

static void sums_are_those_of_transformers(void **state) {
  (void)state;
  Backend *backend;
  Model *model = open_tiny(&backend);
  ImportanceMatrix expected;
  Importance found;
  int32_t ids[TOKENS];
  fill_ids(ids);
  assert_ok(imatrix_open(&expected, TESTS_DIR "/eval/data/imatrix.gguf"));
  assert_ok(importance_measure(&found, model, ids, TOKENS, CONTEXT, 0, -1));
  assert_int_equal(found.chunks, CHUNKS);
  assert_int_equal(found.count, 21);
  assert_int_equal(found.count, expected.count);
  for (int64_t i = 0; i < found.count; i++) {
    const ImatrixEntry *entry = &found.entries[i];
    const float *means;
    assert_ok(imatrix_find(&means, &expected, entry->name, entry->columns, 0));
    assert_non_null(means);
    assert_true(entry->counts[0] == TOKENS);
    for (int64_t c = 0; c < entry->columns; c++) {
      double mean = (double)entry->sums[c] / TOKENS;
      if (!(fabs(mean - means[c]) <= 1e-4 * means[c] + 1e-12))
        fail_msg("%s, column %lld: %g, not %g", entry->name, (long long)c, mean, (double)means[c]);
    }
  }
  importance_release(&found);
  imatrix_close(&expected);
  model_close(model);
  backend_free(backend);
}

// Adds up by hand what gate and down of each expert see in one pass.
typedef struct ByHand {
  TapeObserver observer;  // first
  const ExpertMatrices *experts;  // of the layer that is looked at
  double *gate, *down;  // [experts, hidden], [experts, width]
  double counts[16];
} ByHand;

static void ignore(TapeObserver *observer, const Matrix *const *weights, int count, const Tensor *x) {
  (void)observer, (void)weights, (void)count, (void)x;
}

static double dot(const Matrix *w, int64_t row, const float *x) {
  float values[128];
  double sum = 0;
  matrix_dequantize(values, w, row, 0, w->columns);
  for (int64_t c = 0; c < w->columns; c++) sum += (double)values[c] * x[c];
  return sum;
}

static void add_by_hand(TapeObserver *observer, const ExpertMatrices *experts, const int32_t *chosen, const Tensor *x) {
  ByHand *sums = (ByHand *)observer;
  if (experts != sums->experts) return;
  for (int64_t i = 0; i < x->rows * experts->used; i++) {
    const float *row = (const float *)x->data + i / experts->used * x->columns;
    int64_t e = chosen[i];
    sums->counts[e]++;
    for (int64_t c = 0; c < experts->hidden; c++) sums->gate[e * experts->hidden + c] += (double)row[c] * row[c];
    for (int64_t r = 0; r < experts->width; r++) {
      double gate = dot(&experts->gate[e], r, row), inner = gate / (1 + exp(-gate)) * dot(&experts->up[e], r, row);
      sums->down[e * experts->width + r] += inner * inner;
    }
  }
}

static void check_entry(const ImatrixEntry *entry, const char *name, const double *sums, const double *counts) {
  assert_string_equal(entry->name, name);
  for (int64_t e = 0; e < entry->experts; e++) {
    assert_true(entry->counts[e] == counts[e]);
    for (int64_t c = e * entry->columns; c < (e + 1) * entry->columns; c++)
      if (!(fabs(entry->sums[c] - sums[c]) <= 1e-4 * sums[c] + 1e-9)) fail_msg("%s: %g, not %g", name, (double)entry->sums[c], sums[c]);
  }
}

static void rows_of_routed_experts_are_summed_by_expert(void **state) {
  (void)state;
  char *path = shared_path("golden/families/mixtral");
  if (!path) skip_test("no reference models");
  Backend *backend;
  Model *model;
  assert_ok(backend_new(&backend, "cpu", 2));
  assert_ok(model_open(&model, path, (ModelOptions){0}, backend));
  int32_t ids[CONTEXT], positions[CONTEXT];
  for (int i = 0; i < CONTEXT; i++) ids[i] = (37 * i + 11) % 320, positions[i] = i;
  Importance found;
  assert_ok(importance_measure(&found, model, ids, CONTEXT, CONTEXT, 0, -1));
  const ExpertMatrices *experts = &model->layers[1].experts.matrices;
  ByHand sums = {.observer = {ignore, add_by_hand}, .experts = experts};
  sums.gate = memory_new((size_t)(experts->experts * experts->hidden), sizeof *sums.gate);
  sums.down = memory_new((size_t)(experts->experts * experts->width), sizeof *sums.down);
  AttentionSpan span = {0, CONTEXT, 0, CONTEXT};
  Tape tape;
  tape_new(&tape, backend);
  tape.observer = &sums.observer;
  tape_begin(&tape, TAPE_FORWARD);
  decoder_hidden(&tape, model, &(DecoderInput){.ids = ids, .positions = positions, .tokens = CONTEXT, .spans = &span, .span_count = 1});
  tape_plan(&tape, 0);
  assert_ok(tape_reserve(&tape));
  tape_forward(&tape);
  tape_free(&tape);
  const ImatrixEntry *layer = &found.entries[model->linear_count + 3];
  check_entry(&layer[0], "blk.1.ffn_gate_exps.weight", sums.gate, sums.counts);
  check_entry(&layer[1], "blk.1.ffn_up_exps.weight", sums.gate, sums.counts);
  check_entry(&layer[2], "blk.1.ffn_down_exps.weight", sums.down, sums.counts);
  free(sums.gate), free(sums.down), free(path);
  importance_release(&found);
  model_close(model);
  backend_free(backend);
}

static void chunks_and_ids_are_checked(void **state) {
  (void)state;
  Backend *backend;
  Model *model = open_tiny(&backend);
  Importance found;
  int32_t ids[TOKENS];
  fill_ids(ids);
  assert_ok(importance_measure(&found, model, ids, TOKENS, CONTEXT, 2, -1));
  assert_int_equal(found.chunks, 2);
  assert_true(found.entries[0].counts[0] == 2 * CONTEXT);
  importance_release(&found);
  assert_fails(STATUS_USAGE, importance_measure(&found, model, ids, CONTEXT - 1, CONTEXT, 0, -1), "no whole chunk");
  importance_release(&found);
  ids[3] = 100000;
  assert_fails(STATUS_BAD_INPUT, importance_measure(&found, model, ids, TOKENS, CONTEXT, 0, -1), "100000");
  importance_release(&found);
  model_close(model);
  backend_free(backend);
}

static void both_formats_say_the_same(void **state) {
  (void)state;
  ImportanceMatrix now, before;
  assert_ok(imatrix_open(&now, TESTS_DIR "/eval/data/imatrix.gguf"));
  assert_ok(imatrix_open(&before, TESTS_DIR "/eval/data/imatrix.dat"));
  assert_int_equal(now.count, before.count);
  for (int64_t i = 0; i < now.count; i++) {
    const float *a, *b;
    assert_ok(imatrix_find(&a, &now, now.entries[i].name, now.entries[i].columns, 0));
    assert_ok(imatrix_find(&b, &before, now.entries[i].name, now.entries[i].columns, 0));
    for (int64_t c = 0; c < now.entries[i].columns; c++) assert_true(fabsf(a[c] - b[c]) <= 1e-6f * a[c]);
  }
  const float *means;
  assert_ok(imatrix_find(&means, &now, "blk.77.attn_q.weight", 128, 0));
  assert_null(means);
  assert_fails(STATUS_BAD_INPUT, imatrix_find(&means, &now, "blk.0.attn_q.weight", 96, 0), "another model", "imatrix.gguf");
  imatrix_close(&now);
  imatrix_close(&before);
}

static void what_is_written_is_read_again(void **state) {
  (void)state;
  char *folder = temporary_folder(), *path = path_join(folder, "i.gguf");
  float sums[] = {1, 2, 3, 4, 5, 6}, counts[] = {2, 0};
  const ImatrixEntry entry = {"blk.0.ffn_down_exps.weight", 3, 2, sums, counts};
  ImportanceMatrix matrix;
  const float *means;
  assert_ok(imatrix_write(path, &entry, 1, (ImatrixText){"text.txt", 1, 2}));
  assert_ok(imatrix_open(&matrix, path));
  assert_ok(imatrix_find(&means, &matrix, entry.name, 3, 0));
  assert_true(means[0] == 0.5f && means[2] == 1.5f);
  assert_ok(imatrix_find(&means, &matrix, entry.name, 3, 1));
  assert_null(means);  // no token came to this expert
  assert_fails(STATUS_BAD_INPUT, imatrix_find(&means, &matrix, entry.name, 3, 2), "another model");
  imatrix_close(&matrix);
  sums[1] = NAN;
  assert_ok(imatrix_write(path, &entry, 1, (ImatrixText){"text.txt", 1, 2}));
  assert_fails(STATUS_BAD_INPUT, imatrix_open(&matrix, path), "no sum of squares", "column 1", "i.gguf");
  imatrix_close(&matrix);
  (void)directory_remove(folder);
  free(path);
  free(folder);
}

static void other_files_are_refused(void **state) {
  (void)state;
  ImportanceMatrix matrix;
  assert_fails(STATUS_BAD_INPUT, imatrix_open(&matrix, TESTS_DIR "/data/tiny.gguf"), "not \"imatrix\"", "tiny.gguf");
  imatrix_close(&matrix);
  assert_fails(STATUS_BAD_INPUT, imatrix_open(&matrix, TESTS_DIR "/fuzz/corpus/imatrix/cut.dat"), "cut.dat");
  imatrix_close(&matrix);
  assert_fails(STATUS_BAD_INPUT, imatrix_open(&matrix, TESTS_DIR "/fuzz/corpus/imatrix/twice.dat"), "twice");
  imatrix_close(&matrix);
  assert_fails(STATUS_BAD_INPUT, imatrix_open(&matrix, TESTS_DIR "/no/such/file"), "no/such/file");
  imatrix_close(&matrix);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sums_are_those_of_transformers), cmocka_unit_test(chunks_and_ids_are_checked),
      cmocka_unit_test(both_formats_say_the_same),      cmocka_unit_test(what_is_written_is_read_again),
      cmocka_unit_test(other_files_are_refused),        cmocka_unit_test(rows_of_routed_experts_are_summed_by_expert),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
