// How a step's micro-batches are dealt to ranks: each to one of them, none too many, and so that nobody has much more to do.
#include "tests/support/test.h"
#include "trainer/deal.h"

enum { ROWS = 41, MOST_RANKS = 7 };

static void make_rows(RowSet *rows, Rng *rng) {
  int32_t ids[64];
  for (int i = 0; i < 64; i++) ids[i] = i;
  for (int r = 0; r < ROWS; r++) row_set_add(rows, ids, ids, 2 + (int64_t)(rng_uniform(rng) * 60), "row");
}

static void every_micro_batch_goes_to_one_rank(void **state) {
  (void)state;
  RowSet rows = {0};
  Rng rng = rng_new(1, 0);
  make_rows(&rows, &rng);
  BatchPlan plan;
  BatchOptions options = {.sequence_len = 64, .micro_batch_size = 2};
  assert_ok(batch_plan_create(&plan, &rows, &options, 0));
  for (int ranks = 1; ranks <= MOST_RANKS; ranks++) {
    for (int64_t step = ranks; step <= 3 * ranks; step++) {
      for (int64_t first = 0; first < plan.batch_count; first += step) {
        int64_t count = plan.batch_count - first < step ? plan.batch_count - first : step, rounds = 0, seen[64] = {0};
        int64_t largest = 0, total = 0, most = 0;
        for (int64_t b = 0; b < count; b++) {
          int64_t tokens = batch_plan_tokens(&plan, first + b);
          total += tokens;
          largest = tokens > largest ? tokens : largest;
        }
        for (int r = 0; r < ranks; r++) {
          Deal deal;
          Group group = group_alone();
          group.rank = r, group.size = ranks;
          deal_open(&deal, step, &group);
          deal_micro_batches(&deal, &plan, first, count);
          assert_true(deal.own_count <= deal.most && deal.own_count <= deal.rounds);
          int64_t tokens = 0;
          for (int64_t i = 0; i < deal.own_count; i++) {
            assert_true(i == 0 || deal.own[i] > deal.own[i - 1]);
            seen[deal.own[i]]++;
            tokens += batch_plan_tokens(&plan, first + deal.own[i]);
          }
          most = tokens > most ? tokens : most;
          assert_true(r == 0 || deal.rounds == rounds);  // all ranks see the same
          rounds = deal.rounds;
          deal_close(&deal);
        }
        for (int64_t b = 0; b < count; b++) assert_int_equal(seen[b], 1);
        // Who got the last one had no more than the mean before.
        if (step % ranks == 0 && step == ranks) assert_true(most == largest);
        assert_true(step % ranks != 0 || most <= total / ranks + 2 * largest);
      }
    }
  }
  batch_plan_release(&plan);
  row_set_release(&rows);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_micro_batch_goes_to_one_rank)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
