#include "tests/support/test.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/thread.h"

enum { MOST_TASKS = 64 };

typedef struct Runs {
  atomic_int times[MOST_TASKS];  // that each task of the present run was done
  atomic_bool is_taken[8];  // whether a thread's number is in use
  atomic_int clashes;
  int spin;
} Runs;

static void count_task(void *argument, int64_t task, int thread) {
  Runs *runs = argument;
  if (atomic_exchange(&runs->is_taken[thread], true)) atomic_fetch_add(&runs->clashes, 1);
  for (volatile int i = 0; i < runs->spin; i++) {}
  atomic_fetch_add(&runs->times[task], 1);
  atomic_store(&runs->is_taken[thread], false);
}

// More threads than processors, too: those do not look out but sleep. Pauses let all fall asleep between two runs.
static void every_task_of_every_run_is_done_once(void **state) {
  (void)state;
  for (int threads = 1; threads <= 8; threads++) {
    ThreadPool *pool = pool_new(threads);
    assert_int_equal(pool_threads(pool), threads);
    Runs runs = {.spin = 0};
    for (int run = 0; run < 3000; run++) {
      int64_t tasks = run % MOST_TASKS;
      runs.spin = run % 7 * 50;
      if (run % 500 == 0) usleep(2000);
      pool_run(pool, tasks, count_task, &runs);
      for (int64_t i = 0; i < tasks; i++) assert_int_equal(atomic_exchange(&runs.times[i], 0), 1);
    }
    assert_int_equal(runs.clashes, 0);
    pool_free(pool);
  }
}

static void a_pool_that_never_ran_can_be_freed(void **state) {
  (void)state;
  for (int i = 0; i < 100; i++) pool_free(pool_new(4));
  pool_free(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_task_of_every_run_is_done_once),
      cmocka_unit_test(a_pool_that_never_ran_can_be_freed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
