// rate = rounds * flop_per_round / seconds. The rounds are cut into far more tasks than there are threads, so that a
// thread which is held up by another process leaves its share to the others.
#include "kernels/peak.h"

#include <stdatomic.h>

#include "core/log.h"

typedef struct PeakRun {
  PeakLoop loop;
  int64_t rounds;  // of a task
} PeakRun;

static _Atomic float peak_sink;  // threads write to it at once

static void run_rounds(void *argument, int64_t task, int thread) {
  (void)task, (void)thread;
  const PeakRun *run = argument;
  atomic_store_explicit(&peak_sink, run->loop(run->rounds), memory_order_relaxed);
}

// So many rounds take a thread about a millisecond.
static int64_t rounds_of_a_task(PeakLoop loop) {
  for (int64_t rounds = 1024;; rounds *= 2) {
    double start = time_seconds();
    atomic_store_explicit(&peak_sink, loop(rounds), memory_order_relaxed);
    double seconds = time_seconds() - start;
    if (seconds > 5e-4) return (int64_t)((double)rounds * 1e-3 / seconds) + 1;
  }
}

double peak_measure(PeakLoop loop, double flop_per_round, Backend *backend) {
  enum { STRETCHES = 3, TASKS = 50 };  // tasks of each thread in a stretch
  PeakRun run = {loop, rounds_of_a_task(loop)};
  int64_t tasks = (int64_t)TASKS * pool_threads(backend->pool);
  double best = 0;
  for (int i = 0; i < STRETCHES; i++) {
    double start = time_seconds();
    pool_run(backend->pool, tasks, run_rounds, &run);
    double rate = (double)tasks * (double)run.rounds * flop_per_round / (time_seconds() - start);
    if (rate > best) best = rate;
  }
  return best;
}

FloatType peak_fastest(double *flops, Backend *backend) {
  double floats = backend->kernels->peak_flops(FLOAT_32, backend), halves = backend->kernels->peak_flops(FLOAT_BF16, backend);
  FloatType half = FLOAT_BF16;
  if (halves == 0) halves = backend->kernels->peak_flops(half = FLOAT_F16, backend);
  *flops = halves > floats ? halves : floats;
  return halves > floats ? half : FLOAT_32;
}
