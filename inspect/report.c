// The report is built as the JSON object that --json prints; tensors are kept apart until their statistics are there.
#include "inspect/report.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/text.h"

json_t *report_text(const char *text, size_t length) {
  json_t *string = json_stringn(text, length);
  if (string) return string;
  Buffer clean = {0};  // U+FFFD for each byte that is no UTF-8
  for (size_t i = 0; i < length;) {
    int bytes = utf8_length((const unsigned char *)text + i, length - i);
    if (bytes) buffer_append(&clean, text + i, (size_t)bytes);
    else buffer_append_string(&clean, "\xEF\xBF\xBD");
    i += bytes ? (size_t)bytes : 1;
  }
  string = json_stringn(clean.data, clean.length);
  buffer_release(&clean);
  return string ? string : json_null();
}

json_t *report_number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static void add_problem(Report *report, const char *level, const char *where, const char *format, va_list arguments) {
  va_list again;
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, again);
  va_end(again);
  char *message = memory_new((size_t)length + 1, 1);
  vsnprintf(message, (size_t)length + 1, format, arguments);
  json_t *problem = json_object();
  json_object_set_new(problem, "level", json_string(level));
  json_object_set_new(problem, "where", where ? report_text(where, strlen(where)) : json_null());
  json_object_set_new(problem, "message", report_text(message, (size_t)length));
  json_array_append_new(json_object_get(report->root, "problems"), problem);
  free(message);
}

void report_error(Report *report, const char *where, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  add_problem(report, "error", where, format, arguments);
  va_end(arguments);
  report->errors++;
}

void report_warning(Report *report, const char *where, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  add_problem(report, "warning", where, format, arguments);
  va_end(arguments);
  report->warnings++;
}

bool report_status(Report *report, Status status) {
  if (status != STATUS_OK) report_error(report, NULL, "%s", status_message());
  return status == STATUS_OK;
}

void report_set_kind(Report *report, const char *kind, const char *format) {
  json_object_set_new(report->root, "kind", json_string(kind));
  json_object_set_new(report->root, "format", json_string(format));
}

void report_add_file(Report *report, const char *path) {
  struct stat information;
  json_int_t bytes = stat(path, &information) == 0 ? (json_int_t)information.st_size : 0;
  json_t *file = json_object(), *total = json_object_get(report->root, "bytes");
  json_object_set_new(file, "path", report_text(path, strlen(path)));
  json_object_set_new(file, "bytes", json_integer(bytes));
  json_array_append_new(json_object_get(report->root, "files"), file);
  json_integer_set(total, json_integer_value(total) + bytes);
}

static json_t *new_fact(Report *report, const char *key, const char *type) {
  json_t *fact = json_object();
  json_object_set_new(fact, "type", json_string(type));
  json_object_set_new(json_object_get(report->root, "metadata"), key, fact);
  return fact;
}

void report_add_fact(Report *report, const char *key, const char *type, json_t *value) {
  json_object_set_new(new_fact(report, key, type), "value", value);
}

void report_add_array(Report *report, const char *key, const char *type, int64_t count, json_t *first_values) {
  json_t *fact = new_fact(report, key, type);
  json_object_set_new(fact, "count", json_integer(count));
  json_object_set_new(fact, "values", first_values);
}

ReportTensor *report_add_tensor(Report *report, const char *name, const char *type, int dimensions, const int64_t *shape) {
  map_set_string(&report->tensor_index, name, report->tensor_count);
  ReportTensor *tensor = &ARRAY_PUSH(report->tensors, report->tensor_count, report->tensor_capacity);
  *tensor =
      (ReportTensor){.name = arena_copy_string(&report->arena, name), .type = type, .dimensions = dimensions, .elements = 1, .bytes = -1};
  for (int i = 0; i < dimensions; i++) {
    tensor->shape[i] = shape[i];
    tensor->elements *= shape[i];  // the readers have checked that it does not overflow
  }
  return tensor;
}

ReportTensor *report_find_tensor(const Report *report, const char *name) {
  int64_t index;
  return map_get_string(&report->tensor_index, name, &index) ? &report->tensors[index] : NULL;
}

static void judge(Report *report, const ReportTensor *tensor) {
  const Statistics *s = &tensor->statistics;
  if (s->nans || s->infinities)
    report_error(report, tensor->name, "%lld NaN and %lld infinite values among %lld: the file is damaged, or its training diverged",
                 (long long)s->nans, (long long)s->infinities, (long long)tensor->elements);
  else if (s->zeros == tensor->elements && tensor->elements > 0 && !tensor->is_state) {
    // A bias may well be zero; LoRA's pairs are judged as pairs.
    if (strstr(tensor->name, "lora_")) return;
    if (tensor->dimensions > 1) report_error(report, tensor->name, "all %lld values are zero", (long long)tensor->elements);
    else report_warning(report, tensor->name, "all %lld values are zero", (long long)tensor->elements);
  }
}

void report_measure(Report *report) {
  if (!report->statistics) return;
  ValueSource *sources = memory_new((size_t)report->tensor_count + 1, sizeof *sources);
  Statistics *statistics = memory_new((size_t)report->tensor_count + 1, sizeof *statistics);
  int64_t count = 0;
  for (int64_t i = 0; i < report->tensor_count; i++)
    if (report->tensors[i].source.data) sources[count++] = report->tensors[i].source;
  statistics_compute(statistics, sources, count, report->backend->pool);
  count = 0;
  for (int64_t i = 0; i < report->tensor_count; i++) {
    ReportTensor *tensor = &report->tensors[i];
    if (!tensor->source.data) continue;
    tensor->statistics = statistics[count++];
    tensor->measured = true;
    judge(report, tensor);
  }
  free(sources);
  free(statistics);
}

static json_t *statistics_json(const Statistics *s) {
  const struct {
    const char *key;
    double value;
  } reals[] = {{"min", s->minimum}, {"max", s->maximum}, {"mean", s->mean}, {"std", s->deviation}, {"rms", s->rms}};
  json_t *object = json_object();
  for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
    json_object_set_new(object, reals[i].key, s->count ? report_number(reals[i].value) : json_null());
  json_object_set_new(object, "zeros", json_integer(s->zeros));
  json_object_set_new(object, "nan", json_integer(s->nans));
  json_object_set_new(object, "inf", json_integer(s->infinities));
  return object;
}

static json_t *tensor_json(const ReportTensor *tensor) {
  json_t *object = json_object(), *shape = json_array();
  for (int i = 0; i < tensor->dimensions; i++) json_array_append_new(shape, json_integer(tensor->shape[i]));
  json_object_set_new(object, "name", report_text(tensor->name, strlen(tensor->name)));
  json_object_set_new(object, "type", json_string(tensor->type));
  json_object_set_new(object, "shape", shape);
  json_object_set_new(object, "elements", json_integer(tensor->elements));
  json_object_set_new(object, "bytes", tensor->bytes >= 0 ? json_integer(tensor->bytes) : json_null());
  json_object_set_new(object, "statistics", tensor->measured ? statistics_json(&tensor->statistics) : json_null());
  return object;
}

static json_t *bits_per_weight(int64_t bytes, int64_t elements) {
  return elements > 0 ? json_real(8 * (double)bytes / (double)elements) : json_null();
}

// Tensors whose type is not built may claim any number of elements, and have no bytes that are known (-1).
static int64_t add(int64_t sum, int64_t more) {
  if (more < 0) return sum;
  return more > INT64_MAX - sum ? INT64_MAX : sum + more;
}

// One entry for each type, in the order in which the types first appear. A type whose size is not known has no bytes.
static json_t *sum_types(const Report *report) {
  json_t *types = json_array();
  Map seen = {0};
  for (int64_t i = 0; i < report->tensor_count; i++) {
    if (map_get_string(&seen, report->tensors[i].type, NULL)) continue;
    map_set_string(&seen, report->tensors[i].type, 0);
    int64_t tensors = 0, elements = 0, bytes = 0;
    for (int64_t j = i; j < report->tensor_count; j++) {
      const ReportTensor *tensor = &report->tensors[j];
      if (strcmp(tensor->type, report->tensors[i].type) != 0) continue;
      tensors++;
      elements = add(elements, tensor->elements);
      bytes = add(bytes, tensor->bytes);
    }
    bool known = report->tensors[i].bytes >= 0;
    json_t *type = json_object();
    json_object_set_new(type, "type", json_string(report->tensors[i].type));
    json_object_set_new(type, "tensors", json_integer(tensors));
    json_object_set_new(type, "elements", json_integer(elements));
    json_object_set_new(type, "bytes", known ? json_integer(bytes) : json_null());
    json_object_set_new(type, "bits_per_weight", known ? bits_per_weight(bytes, elements) : json_null());
    json_array_append_new(types, type);
  }
  map_release(&seen);
  return types;
}

void report_finish(Report *report) {
  json_t *tensors = json_array(), *root = report->root;
  int64_t elements = 0, bytes = 0;
  bool known = true;
  for (int64_t i = 0; i < report->tensor_count; i++) {
    json_array_append_new(tensors, tensor_json(&report->tensors[i]));
    elements = add(elements, report->tensors[i].elements);
    bytes = add(bytes, report->tensors[i].bytes);
    known &= report->tensors[i].bytes >= 0;
  }
  json_object_set_new(root, "parameters", json_integer(elements));
  json_object_set_new(root, "tensor_bytes", known ? json_integer(bytes) : json_null());
  json_object_set_new(root, "bits_per_weight", known ? bits_per_weight(bytes, elements) : json_null());
  json_object_set_new(root, "types", sum_types(report));
  json_object_set_new(root, "tensors", tensors);
}
