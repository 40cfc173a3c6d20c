// What /metrics tells, in the text format of Prometheus (version 0.0.4): requests by route and status, histograms of times, and the
// engine's own counts.
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include <pthread.h>

#include "core/memory.h"
#include "runtime/engine.h"

typedef enum MetricTime {
  METRIC_REQUEST,  // from a request's first byte to its answer's last
  METRIC_FIRST_TOKEN,  // from the request for a text to its first token
  METRIC_WAIT,  // until work on a text began
  METRIC_TOKEN,  // of one text: seconds of writing by its tokens
  METRIC_TIMES,
} MetricTime;

enum { METRIC_BUCKETS = 16 };

typedef struct RequestCount {
  const char *route;
  int status;
  int64_t count;
} RequestCount;

typedef struct Metrics {
  pthread_mutex_t lock;
  RequestCount *requests;
  int count, capacity;
  struct {
    int64_t buckets[METRIC_BUCKETS + 1];  // the last: above all bounds
    double sum;
  } times[METRIC_TIMES];
} Metrics;

void metrics_new(Metrics *metrics);
void metrics_release(Metrics *metrics);
void metrics_count(Metrics *metrics, const char *route, int status);  // `route` is not copied
void metrics_time(Metrics *metrics, MetricTime kind, double seconds);
// counts: NULL while there is no engine yet.
void metrics_write(Buffer *out, Metrics *metrics, const EngineCounts *counts);

#endif
