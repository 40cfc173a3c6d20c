#include "server/metrics.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const double bounds[METRIC_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300};

void metrics_new(Metrics *metrics) {
  *metrics = (Metrics){0};
  pthread_mutex_init(&metrics->lock, NULL);
}

void metrics_release(Metrics *metrics) {
  pthread_mutex_destroy(&metrics->lock);
  free(metrics->requests);
}

void metrics_count(Metrics *metrics, const char *route, int status) {
  pthread_mutex_lock(&metrics->lock);
  int i = 0;
  while (i < metrics->count && (metrics->requests[i].status != status || strcmp(metrics->requests[i].route, route) != 0)) i++;
  if (i == metrics->count)
    ARRAY_PUSH(metrics->requests, metrics->count, metrics->capacity) = (RequestCount){.route = route, .status = status};
  metrics->requests[i].count++;
  pthread_mutex_unlock(&metrics->lock);
}

void metrics_time(Metrics *metrics, MetricTime kind, double seconds) {
  int bucket = 0;
  while (bucket < METRIC_BUCKETS && seconds > bounds[bucket]) bucket++;
  pthread_mutex_lock(&metrics->lock);
  metrics->times[kind].buckets[bucket]++;
  metrics->times[kind].sum += seconds;
  pthread_mutex_unlock(&metrics->lock);
}

static void write_head(Buffer *out, const char *name, const char *type, const char *help) {
  buffer_format(out, "# HELP lora_%s %s\n# TYPE lora_%s %s\n", name, help, name, type);
}

static void write_value(Buffer *out, const char *name, const char *type, const char *help, int64_t value) {
  write_head(out, name, type, help);
  buffer_format(out, "lora_%s %" PRId64 "\n", name, value);
}

static void write_times(Buffer *out, const Metrics *metrics, MetricTime kind, const char *name, const char *help) {
  int64_t total = 0;
  write_head(out, name, "histogram", help);
  for (int i = 0; i < METRIC_BUCKETS; i++) {
    total += metrics->times[kind].buckets[i];
    buffer_format(out, "lora_%s_bucket{le=\"%g\"} %" PRId64 "\n", name, bounds[i], total);
  }
  total += metrics->times[kind].buckets[METRIC_BUCKETS];
  buffer_format(out, "lora_%s_bucket{le=\"+Inf\"} %" PRId64 "\n", name, total);
  buffer_format(out, "lora_%s_sum %.9g\nlora_%s_count %" PRId64 "\n", name, metrics->times[kind].sum, name, total);
}

static void write_counts(Buffer *out, const EngineCounts *counts) {
  write_value(out, "texts_running", "gauge", "Texts that are worked on.", counts->running);
  write_value(out, "texts_waiting", "gauge", "Texts that wait for a place.", counts->waiting);
  write_value(out, "cache_pages", "gauge", "Pages of the cache of keys and values.", counts->pages);
  write_value(out, "cache_pages_free", "gauge", "Pages that hold nothing.", counts->free_pages);
  write_value(out, "cache_pages_kept", "gauge", "Pages kept of texts that have ended.", counts->kept_pages);
  write_value(out, "prompt_tokens_total", "counter", "Tokens of prompts.", counts->prompt_tokens);
  write_value(out, "prompt_tokens_reused_total", "counter", "Of these, found in the cache.", counts->reused_tokens);
  write_value(out, "new_tokens_total", "counter", "Tokens that were written.", counts->new_tokens);
  write_value(out, "draft_tokens_total", "counter", "Tokens that prompt lookup proposed.", counts->draft_tokens);
  write_value(out, "draft_tokens_accepted_total", "counter", "Of these, those that were right.", counts->accepted_tokens);
  write_value(out, "passes_total", "counter", "Passes of the decoder.", counts->passes);
}

void metrics_write(Buffer *out, Metrics *metrics, const EngineCounts *counts) {
  pthread_mutex_lock(&metrics->lock);
  write_head(out, "requests_total", "counter", "HTTP requests by route and status.");
  for (int i = 0; i < metrics->count; i++)
    buffer_format(out, "lora_requests_total{route=\"%s\",status=\"%d\"} %" PRId64 "\n", metrics->requests[i].route,
                  metrics->requests[i].status, metrics->requests[i].count);
  write_times(out, metrics, METRIC_REQUEST, "request_seconds", "From a request's first byte to its answer's last.");
  write_times(out, metrics, METRIC_FIRST_TOKEN, "first_token_seconds", "From the request for a text to its first token.");
  write_times(out, metrics, METRIC_WAIT, "wait_seconds", "Until work on a text began.");
  write_times(out, metrics, METRIC_TOKEN, "token_seconds", "Of a text: seconds of writing for each of its tokens.");
  pthread_mutex_unlock(&metrics->lock);
  if (counts) write_counts(out, counts);
}
