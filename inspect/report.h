// What `lora inspect` finds, gathered by the readers of each format (inspect/parts.h) and shown by inspect/print.c or as JSON:
//   {"path", "kind", "format", "files": [{"path", "bytes"}], "bytes", "metadata": {KEY: {"type", "value"} or, for an array,
//    {"type", "count", "values": the first of them}}, "parameters", "tensor_bytes", "bits_per_weight",
//    "types": [{"type", "tensors", "elements", "bytes", "bits_per_weight"}],
//    "tensors": [{"name", "type", "shape", "elements", "bytes", "statistics"}],
//    "adapter": {"rank", "alpha", "pairs": [{"module", "rank", "in", "out", "scale", "a_norm", "b_norm", "delta_norm"}]},
//    "checkpoints": [{"path", "step", "whole"}], "problems": [{"level", "where", "message"}]}
// Shapes are in the order of the file: GGUF's begin with the row's length, those of the other formats end with it.
#ifndef INSPECT_REPORT_H
#define INSPECT_REPORT_H

#include <jansson.h>

#include "core/map.h"
#include "core/memory.h"
#include "core/status.h"
#include "inspect/statistics.h"
#include "kernels/backend.h"

typedef struct ReportTensor {
  const char *name, *type;
  int dimensions;
  int64_t shape[SAFETENSORS_MAX_DIMENSIONS], elements;
  int64_t bytes;  // -1: not known
  bool is_state;  // of an optimiser: all zero is no fault
  ValueSource source;  // data NULL: cannot be read
  Statistics statistics;  // when `measured`
  bool measured;
} ReportTensor;

typedef struct Report {
  json_t *root;
  const char *path;
  Backend *backend;
  bool statistics;  // wanted
  ReportTensor *tensors;
  int64_t tensor_count, tensor_capacity;
  Map tensor_index;
  int errors, warnings;
  bool opens;  // the file was read without a fault of its format
  Arena arena;
} Report;

// Appends an error (what opening would refuse, or what must be wrong) or a warning (what may be). `where`: a tensor, key or file; NULL: all.
void report_error(Report *report, const char *where, const char *format, ...) PRINTF_LIKE(3, 4);
void report_warning(Report *report, const char *where, const char *format, ...) PRINTF_LIKE(3, 4);
bool report_status(Report *report, Status status);  // a failure's message as an error; true when it is STATUS_OK

void report_set_kind(Report *report, const char *kind, const char *format);
void report_add_file(Report *report, const char *path);
// `value` is taken; `type` as the format calls it.
void report_add_fact(Report *report, const char *key, const char *type, json_t *value);
void report_add_array(Report *report, const char *key, const char *type, int64_t count, json_t *first_values);
enum { REPORT_ARRAY_SHOWN = 16 };  // of longer arrays only so many are in the report
json_t *report_text(const char *text, size_t length);  // a JSON string, whatever the bytes are
json_t *report_number(double value);  // null where JSON has no such number

ReportTensor *report_add_tensor(Report *report, const char *name, const char *type, int dimensions, const int64_t *shape);
ReportTensor *report_find_tensor(const Report *report, const char *name);  // NULL when absent
// Statistics of all tensors that can be read, and what they tell: NaN, infinities, zeros only.
void report_measure(Report *report);
void report_finish(Report *report);  // the sums, and tensors as JSON

#endif
