// Micro-batches: nothing is lost or doubled over an epoch, no bin overflows, nothing is predicted across documents.
#include "data/batch.h"

#include "tests/support/test.h"

// Rows of random lengths 1 .. longest; token ids tell the row and the place, so that batches can be traced back.
static void make_rows(RowSet *set, int64_t count, int64_t longest, uint64_t seed) {
  Rng rng = rng_new(seed, RNG_STREAM_TEST);
  int32_t *ids = memory_new((size_t)longest, sizeof *ids), *labels = memory_new((size_t)longest, sizeof *labels);
  for (int64_t r = 0; r < count; r++) {
    int64_t length = 1 + (int64_t)rng_below(&rng, (uint64_t)longest);
    for (int64_t i = 0; i < length; i++) {
      ids[i] = (int32_t)(r * 4096 + i);
      labels[i] = rng_below(&rng, 3) ? ids[i] : LABEL_MASKED;
    }
    row_set_add(set, ids, labels, length, "rows:1");
  }
  free(ids);
  free(labels);
}

static BatchOptions packed_options(void) {
  return (BatchOptions){.packing = true, .sequence_len = 512, .group_size = 100000, .bin_size = 200, .micro_batch_size = 2, .seed = 42};
}

static void check_document(const Batch *batch, int64_t d, const TokenRow *row) {
  int64_t begin = batch->document_begin[d];
  assert_int_equal(batch->document_begin[d + 1] - begin, row->count);
  for (int64_t i = 0; i < row->count; i++) {
    assert_int_equal(batch->ids[begin + i], row->ids[i]);
    assert_int_equal(batch->positions[begin + i], i);
    bool trained = i + 1 < row->count && row->labels[i + 1] != LABEL_MASKED;
    assert_int_equal(batch->targets[begin + i], trained ? row->labels[i + 1] : -1);
  }
}

// Walks through an epoch; returns its tokens.
static int64_t check_epoch(const RowSet *set, const BatchOptions *options, int64_t epoch) {
  BatchPlan plan;
  Batch batch = {0};
  assert_ok(batch_plan_create(&plan, set, options, epoch));
  batch_reserve(&batch, &plan);
  int64_t capacity = batch.token_capacity, total = 0, trained = 0;
  bool *seen = memory_new((size_t)set->count, sizeof *seen);
  for (int64_t b = 0; b < plan.batch_count; b++) {
    batch_fill(&batch, &plan, b);
    int64_t counted = 0;
    for (int64_t d = 0; d < batch.document_count; d++) {
      int64_t row = batch.ids[batch.document_begin[d]] / 4096;
      assert_false(seen[row]);
      seen[row] = true;
      check_document(&batch, d, &set->rows[row]);
      counted += set->rows[row].trained;
    }
    assert_int_equal(batch.trained_tokens, counted);
    assert_int_equal(batch.document_begin[batch.document_count], batch.tokens);
    assert_true(batch.tokens <= plan.most_tokens);
    if (b == plan.largest) assert_int_equal(batch.tokens, plan.most_tokens);
    total += batch.tokens;
    trained += batch.trained_tokens;
  }
  for (int64_t r = 0; r < set->count; r++) assert_true(seen[r]);
  assert_int_equal(batch.token_capacity, capacity);  // filling allocates nothing
  assert_int_equal(trained, row_set_statistics(set).trained);
  free(seen);
  batch_release(&batch);
  batch_plan_release(&plan);
  return total;
}

static void every_row_is_in_an_epoch_once_under_every_option(void **state) {
  (void)state;
  RowSet set = {0};
  make_rows(&set, 700, 512, 1);
  int64_t tokens = row_set_statistics(&set).tokens;
  for (int bits = 0; bits < 16; bits++) {
    BatchOptions options = packed_options();
    options.packing = bits & 1;
    options.sequentially = bits & 2;
    options.in_order = bits & 4;
    options.by_length = bits & 8;
    options.group_size = 130;
    options.micro_batch_size = 1 + bits % 3;
    assert_int_equal(check_epoch(&set, &options, bits), tokens);
  }
  row_set_release(&set);
}

static void packed_sequences_keep_within_length_and_row_limits(void **state) {
  (void)state;
  RowSet set = {0};
  make_rows(&set, 3000, 40, 2);
  BatchOptions options = packed_options();
  options.bin_size = 5;
  BatchPlan plan;
  assert_ok(batch_plan_create(&plan, &set, &options, 0));
  for (int64_t s = 0; s < plan.sequence_count; s++) {
    int64_t tokens = 0;
    for (int64_t d = plan.sequence_begin[s]; d < plan.sequence_begin[s + 1]; d++) tokens += set.rows[plan.documents[d]].count;
    assert_true(tokens <= options.sequence_len);
    assert_in_range(plan.sequence_begin[s + 1] - plan.sequence_begin[s], 1, 5);
  }
  batch_plan_release(&plan);
  row_set_release(&set);
}

static void packing_fills_at_least_95_percent_of_random_lengths(void **state) {
  (void)state;
  for (uint64_t seed = 3; seed < 6; seed++) {
    RowSet set = {0};
    make_rows(&set, 2000, seed == 3 ? 512 : 300, seed);
    BatchOptions options = packed_options();
    BatchPlan plan;
    assert_ok(batch_plan_create(&plan, &set, &options, 0));
    assert_true(plan.efficiency >= 0.95 && plan.efficiency <= 1);
    batch_plan_release(&plan);
    row_set_release(&set);
  }
}

static bool same_plan(const RowSet *set, const BatchOptions *a, int64_t epoch_a, const BatchOptions *b, int64_t epoch_b) {
  BatchPlan first, second;
  assert_ok(batch_plan_create(&first, set, a, epoch_a));
  assert_ok(batch_plan_create(&second, set, b, epoch_b));
  bool same = first.sequence_count == second.sequence_count &&
              memcmp(first.documents, second.documents, (size_t)set->count * sizeof *first.documents) == 0 &&
              memcmp(first.sequence_begin, second.sequence_begin, (size_t)(first.sequence_count + 1) * sizeof(int64_t)) == 0;
  batch_plan_release(&first);
  batch_plan_release(&second);
  return same;
}

static void a_plan_is_a_function_of_seed_and_epoch(void **state) {
  (void)state;
  RowSet set = {0};
  make_rows(&set, 300, 200, 7);
  for (int packing = 0; packing < 2; packing++) {
    BatchOptions options = packed_options(), other;
    options.packing = packing;
    other = options;
    assert_true(same_plan(&set, &options, 3, &options, 3));
    assert_false(same_plan(&set, &options, 3, &options, 4));
    other.seed = 43;
    assert_false(same_plan(&set, &options, 3, &other, 3));
    options.in_order = other.in_order = true;  // nothing is drawn
    assert_true(same_plan(&set, &options, 3, &other, 4));
  }
  row_set_release(&set);
}

static void rows_keep_their_order_when_they_must(void **state) {
  (void)state;
  RowSet set = {0};
  make_rows(&set, 300, 200, 8);
  BatchOptions options = packed_options();
  options.in_order = options.sequentially = true;
  for (int packing = 0; packing < 2; packing++) {
    options.packing = packing;
    BatchPlan plan;
    assert_ok(batch_plan_create(&plan, &set, &options, 5));
    for (int64_t i = 0; i < set.count; i++) assert_int_equal(plan.documents[i], i);
    batch_plan_release(&plan);
  }
  row_set_release(&set);
}

static void group_by_length_puts_similar_rows_together(void **state) {
  (void)state;
  RowSet set = {0};
  make_rows(&set, 400, 500, 9);
  BatchOptions options = packed_options();
  options.packing = false;
  options.by_length = true;
  BatchPlan plan;
  assert_ok(batch_plan_create(&plan, &set, &options, 0));
  for (int64_t i = 1; i < set.count; i++)
    if (i % 100) assert_true(set.rows[plan.documents[i - 1]].count >= set.rows[plan.documents[i]].count);
  batch_plan_release(&plan);
  row_set_release(&set);
}

static void rows_that_cannot_be_batched_are_refused(void **state) {
  (void)state;
  RowSet set = {0};
  BatchOptions options = packed_options();
  BatchPlan plan;
  assert_fails(STATUS_BAD_INPUT, batch_plan_create(&plan, &set, &options, 0), "no rows");
  int32_t ids[600] = {0};
  row_set_add(&set, ids, ids, 600, "long.jsonl:7");
  assert_fails(STATUS_BAD_INPUT, batch_plan_create(&plan, &set, &options, 0), "long.jsonl:7", "600", "512");
  row_set_release(&set);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_row_is_in_an_epoch_once_under_every_option),
      cmocka_unit_test(packed_sequences_keep_within_length_and_row_limits),
      cmocka_unit_test(packing_fills_at_least_95_percent_of_random_lengths),
      cmocka_unit_test(a_plan_is_a_function_of_seed_and_epoch),
      cmocka_unit_test(rows_keep_their_order_when_they_must),
      cmocka_unit_test(group_by_length_puts_similar_rows_together),
      cmocka_unit_test(rows_that_cannot_be_batched_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
