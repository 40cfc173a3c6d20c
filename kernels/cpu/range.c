// Loops shared out to the threads of the pool in pieces; small loops stay on the calling thread.
#include "kernels/cpu/cpu.h"

typedef struct Ranges {
  RangeFunction function;
  void *argument;
  int64_t count, grain;
} Ranges;

static void run_range(void *argument, int64_t task, int thread) {
  const Ranges *ranges = argument;
  int64_t begin = task * ranges->grain;
  ranges->function(ranges->argument, begin, smaller(begin + ranges->grain, ranges->count), thread);
}

void run_ranges(Backend *backend, int64_t count, int64_t grain, RangeFunction function, void *argument) {
  Ranges ranges = {function, argument, count, grain};
  pool_run(backend->pool, divide_up(count, grain), run_range, &ranges);
}

void run_rows(Backend *backend, int64_t rows, int64_t columns, RangeFunction function, void *argument) {
  const int64_t elements = 32768;
  run_ranges(backend, rows, larger(1, elements / larger(columns, 1)), function, argument);
}
