// A pool of threads that is created once. A task's result must not depend on which thread runs it,
// so that any number of threads gives the same bits.
#ifndef CORE_THREAD_H
#define CORE_THREAD_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

typedef struct ThreadPool ThreadPool;
typedef void (*TaskFunction)(void *argument, int64_t task, int thread);

ThreadPool *pool_new(int threads);  // <= 0: as many as the processors that this process may use
int pool_threads(const ThreadPool *pool);
// Runs task 0 .. tasks-1, handed out in order, and returns when all are done. Not reentrant: a task must not call it.
void pool_run(ThreadPool *pool, int64_t tasks, TaskFunction function, void *argument);
void pool_free(ThreadPool *pool);

// A condition whose waits go by the monotonic clock, and the time on it that is so long from now, for pthread_cond_timedwait.
void condition_new(pthread_cond_t *condition);
struct timespec condition_time(double seconds);

#endif
