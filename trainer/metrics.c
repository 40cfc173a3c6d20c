// Lines are appended by one write each; a resumed run first rewrites the file without what it will do again.
#include "trainer/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "core/memory.h"

enum { METRICS_LIMIT = 1 << 30 };

// The step of a line; -1 when it is not a metrics line.
static int64_t line_step(const char *line, size_t length) {
  json_t *object = json_loadb(line, length, 0, NULL), *step = json_object_get(object, "step");
  int64_t value = json_is_integer(step) ? json_integer_value(step) : -1;
  json_decref(object);
  return value;
}

static void lines_keep(Buffer *kept, const Buffer *text, int64_t last_step) {
  for (size_t begin = 0; begin < text->length;) {
    const char *line = text->data + begin, *end = memchr(line, '\n', text->length - begin);
    if (!end) break;  // a crash came before its end
    size_t length = (size_t)(end - line);
    int64_t step = line_step(line, length);
    if (step >= 0 && step <= last_step) buffer_append(kept, line, length + 1);
    begin += length + 1;
  }
}

static Status file_cut(const char *path, int64_t last_step, int64_t *length) {
  Buffer text = {0}, kept = {0};
  Status status = file_exists(path) && last_step >= 0 ? file_read(&text, path, METRICS_LIMIT) : STATUS_OK;
  if (status == STATUS_OK) {
    lines_keep(&kept, &text, last_step);
    status = file_write_whole(path, kept.length ? kept.data : "", kept.length);
  }
  *length = (int64_t)kept.length;
  buffer_release(&text);
  buffer_release(&kept);
  return status;
}

Status metrics_open(MetricsWriter *writer, const char *output_dir, int64_t last_step) {
  *writer = (MetricsWriter){.descriptor = -1, .path = path_join(output_dir, "metrics.jsonl")};
  Status status = file_cut(writer->path, last_step, &writer->length);
  if (status == STATUS_OK) {
    writer->descriptor = open(writer->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (writer->descriptor < 0) status = status_errno(STATUS_FAILED, errno, "%s: cannot be written", writer->path);
  }
  if (status != STATUS_OK) metrics_close(writer);
  return status;
}

void metrics_close(MetricsWriter *writer) {
  if (writer->descriptor >= 0) close(writer->descriptor);
  free(writer->path);
  *writer = (MetricsWriter){.descriptor = -1};
}

static void put_real(Buffer *line, const char *name, double value) {
  char text[32] = "null";
  for (int digits = 1; isfinite(value) && digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    if (strtod(text, NULL) == value) break;
  }
  buffer_format(line, ", \"%s\": %s", name, text);
}

static void put_integer(Buffer *line, const char *name, int64_t value) { buffer_format(line, ", \"%s\": %lld", name, (long long)value); }

static void put_figures(Buffer *line, const char *prefix, const Figures *figures) {
  for (int i = 0; i < figures->count; i++) {
    char name[64];
    snprintf(name, sizeof name, "%s%s", prefix, figures->items[i].name);
    put_real(line, name, figures->items[i].value);
  }
}

static Status line_write(MetricsWriter *writer, Buffer *line) {
  buffer_append_string(line, "}\n");
  ssize_t put = write(writer->descriptor, line->data, line->length);
  int error = put < 0 ? errno : ENOSPC;  // a write falls short when the disk is full
  bool whole = put == (ssize_t)line->length;
  if (whole) writer->length += put;
  buffer_release(line);
  if (whole) return STATUS_OK;
  if (ftruncate(writer->descriptor, (off_t)writer->length) != 0) error = errno;
  return status_errno(STATUS_FAILED, error, "%s: cannot be written", writer->path);
}

Status metrics_write_step(MetricsWriter *writer, const StepMetrics *metrics) {
  Buffer line = {0};
  buffer_format(&line, "{\"step\": %lld", (long long)metrics->step);
  put_real(&line, "epoch", metrics->epoch);
  put_real(&line, "loss", metrics->loss);
  put_figures(&line, "", &metrics->figures);
  put_real(&line, "grad_norm", metrics->grad_norm);
  put_real(&line, "learning_rate", metrics->learning_rate);
  put_integer(&line, "tokens", metrics->tokens);
  put_integer(&line, "trained_tokens", metrics->trained_tokens);
  put_real(&line, "tokens_per_second", metrics->tokens_per_second);
  put_real(&line, "peak_share", metrics->peak_share);
  put_integer(&line, "peak_memory_bytes", metrics->peak_memory_bytes);
  return line_write(writer, &line);
}

Status metrics_write_evaluation(MetricsWriter *writer, int64_t step, const Evaluation *evaluation) {
  Buffer line = {0};
  buffer_format(&line, "{\"step\": %lld", (long long)step);
  put_real(&line, "eval_loss", evaluation->loss);
  put_real(&line, "eval_perplexity", evaluation->perplexity);
  put_figures(&line, "eval_", &evaluation->figures);
  return line_write(writer, &line);
}
