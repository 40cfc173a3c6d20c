#define _GNU_SOURCE
#include "core/thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/log.h"
#include "core/memory.h"

struct Worker {
  ThreadPool *pool;
  int index;
  pthread_t thread;
};

// A run is published by `remaining`: who takes one of it that is above zero has a task of the present run, whose function, argument and
// number of tasks stand still until all its tasks are done. So the caller never waits for a worker that has not woken up.
struct ThreadPool {
  int threads;
  struct Worker *workers;  // threads - 1 of them; the caller is thread 0
  TaskFunction function;
  void *argument;
  int64_t tasks;
  atomic_int_fast64_t remaining, done;  // tasks not yet taken (below 1: none), tasks that are done
  bool spins;  // threads that wait look out for a while before they sleep
  // Sleeping:
  pthread_mutex_t mutex;
  pthread_cond_t start, finish;
  atomic_int sleepers;  // workers that have to be woken
  atomic_bool caller_sleeps, stop;
};

// Waking a thread takes some 50 us, more than most kernels' runs: it is worth as long a look-out.
enum { SPIN_MICROSECONDS = 50 };

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

typedef bool (*Condition)(ThreadPool *pool);

static bool has_work(ThreadPool *pool) { return atomic_load(&pool->remaining) > 0 || atomic_load(&pool->stop); }
static bool is_done(ThreadPool *pool) { return atomic_load(&pool->done) == pool->tasks; }

static bool spin_until(ThreadPool *pool, Condition condition) {
  if (condition(pool)) return true;
  if (!pool->spins) return false;
  double end = time_seconds() + SPIN_MICROSECONDS * 1e-6;
  do {
    for (int i = 0; i < 32; i++) {
      if (condition(pool)) return true;
      relax();
    }
  } while (time_seconds() < end);
  return false;
}

static void run_tasks(ThreadPool *pool, int thread) {
  for (;;) {
    int64_t taken = atomic_fetch_sub(&pool->remaining, 1);
    if (taken <= 0) return;
    int64_t tasks = pool->tasks;
    pool->function(pool->argument, tasks - taken, thread);
    if (atomic_fetch_add(&pool->done, 1) + 1 < tasks || !atomic_load(&pool->caller_sleeps)) continue;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_signal(&pool->finish);
    pthread_mutex_unlock(&pool->mutex);
  }
}

static void *worker_main(void *argument) {
  struct Worker *worker = argument;
  ThreadPool *pool = worker->pool;
  while (!atomic_load(&pool->stop)) {
    if (!spin_until(pool, has_work)) {
      pthread_mutex_lock(&pool->mutex);
      atomic_fetch_add(&pool->sleepers, 1);
      while (!has_work(pool)) pthread_cond_wait(&pool->start, &pool->mutex);
      atomic_fetch_sub(&pool->sleepers, 1);
      pthread_mutex_unlock(&pool->mutex);
    }
    run_tasks(pool, worker->index);
  }
  return NULL;
}

static int processors(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return 1;
}

ThreadPool *pool_new(int threads) {
  ThreadPool *pool = memory_new(1, sizeof *pool);
  pool->threads = threads > 0 ? threads : processors();
  pool->spins = pool->threads <= processors();
  pool->workers = memory_new((size_t)pool->threads, sizeof *pool->workers);
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->start, NULL);
  pthread_cond_init(&pool->finish, NULL);
  int created = 1;
  for (int i = 1; i < pool->threads; i++, created++) {
    pool->workers[i - 1] = (struct Worker){.pool = pool, .index = i};
    if (pthread_create(&pool->workers[i - 1].thread, NULL, worker_main, &pool->workers[i - 1]) != 0) break;
  }
  pool->threads = created;
  return pool;
}

int pool_threads(const ThreadPool *pool) { return pool->threads; }

static void wake(ThreadPool *pool) {
  if (!atomic_load(&pool->sleepers)) return;
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_broadcast(&pool->start);
  pthread_mutex_unlock(&pool->mutex);
}

void pool_run(ThreadPool *pool, int64_t tasks, TaskFunction function, void *argument) {
  if (tasks <= 0) return;
  if (pool->threads == 1 || tasks == 1) {
    for (int64_t task = 0; task < tasks; task++) function(argument, task, 0);
    return;
  }
  pool->function = function;
  pool->argument = argument;
  pool->tasks = tasks;
  atomic_store(&pool->done, 0);
  atomic_store(&pool->remaining, tasks);
  wake(pool);
  run_tasks(pool, 0);
  if (spin_until(pool, is_done)) return;
  pthread_mutex_lock(&pool->mutex);
  atomic_store(&pool->caller_sleeps, true);
  while (!is_done(pool)) pthread_cond_wait(&pool->finish, &pool->mutex);
  atomic_store(&pool->caller_sleeps, false);
  pthread_mutex_unlock(&pool->mutex);
}

void pool_free(ThreadPool *pool) {
  if (!pool) return;
  atomic_store(&pool->stop, true);
  wake(pool);
  for (int i = 1; i < pool->threads; i++) pthread_join(pool->workers[i - 1].thread, NULL);
  pthread_mutex_destroy(&pool->mutex);
  pthread_cond_destroy(&pool->start);
  pthread_cond_destroy(&pool->finish);
  free(pool->workers);
  free(pool);
}

void condition_new(pthread_cond_t *condition) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(condition, &attributes);
  pthread_condattr_destroy(&attributes);
}

struct timespec condition_time(double seconds) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  int64_t whole = (int64_t)seconds, nanoseconds = time.tv_nsec + (int64_t)((seconds - (double)whole) * 1e9);
  time.tv_sec += whole + nanoseconds / 1000000000;
  time.tv_nsec = nanoseconds % 1000000000;
  return time;
}
