#define _GNU_SOURCE
#include "core/thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/memory.h"

struct Worker {
  ThreadPool *pool;
  int index;
  pthread_t thread;
};

struct ThreadPool {
  int threads;
  struct Worker *workers;  // threads - 1 of them; the caller is thread 0
  pthread_mutex_t mutex;
  pthread_cond_t start, finish;
  uint64_t generation;  // one more for each pool_run
  int running;  // workers that have not yet finished this generation
  bool stop;
  TaskFunction function;
  void *argument;
  int64_t tasks;
  atomic_int_fast64_t next;
};

static void run_tasks(ThreadPool *pool, int thread) {
  for (;;) {
    int64_t task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
    if (task >= pool->tasks) return;
    pool->function(pool->argument, task, thread);
  }
}

static void *worker_main(void *argument) {
  struct Worker *worker = argument;
  ThreadPool *pool = worker->pool;
  uint64_t seen = 0;
  pthread_mutex_lock(&pool->mutex);
  for (;;) {
    while (!pool->stop && pool->generation == seen) pthread_cond_wait(&pool->start, &pool->mutex);
    if (pool->stop) break;
    seen = pool->generation;
    pthread_mutex_unlock(&pool->mutex);
    run_tasks(pool, worker->index);
    pthread_mutex_lock(&pool->mutex);
    if (--pool->running == 0) pthread_cond_signal(&pool->finish);
  }
  pthread_mutex_unlock(&pool->mutex);
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

void pool_run(ThreadPool *pool, int64_t tasks, TaskFunction function, void *argument) {
  if (tasks <= 0) return;
  if (pool->threads == 1 || tasks == 1) {
    for (int64_t task = 0; task < tasks; task++) function(argument, task, 0);
    return;
  }
  pthread_mutex_lock(&pool->mutex);
  pool->function = function;
  pool->argument = argument;
  pool->tasks = tasks;
  atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
  pool->running = pool->threads - 1;
  pool->generation++;
  pthread_cond_broadcast(&pool->start);
  pthread_mutex_unlock(&pool->mutex);
  run_tasks(pool, 0);
  pthread_mutex_lock(&pool->mutex);
  while (pool->running > 0) pthread_cond_wait(&pool->finish, &pool->mutex);
  pthread_mutex_unlock(&pool->mutex);
}

void pool_free(ThreadPool *pool) {
  if (!pool) return;
  pthread_mutex_lock(&pool->mutex);
  pool->stop = true;
  pthread_cond_broadcast(&pool->start);
  pthread_mutex_unlock(&pool->mutex);
  for (int i = 1; i < pool->threads; i++) pthread_join(pool->workers[i - 1].thread, NULL);
  pthread_mutex_destroy(&pool->mutex);
  pthread_cond_destroy(&pool->start);
  pthread_cond_destroy(&pool->finish);
  free(pool->workers);
  free(pool);
}
