// Results of tasks as a table for people and as JSON for programs.
#ifndef EVAL_REPORT_H
#define EVAL_REPORT_H

#include <stdio.h>

#include <jansson.h>

#include "eval/evaluate.h"

typedef struct ReportEntry {
  const TaskSet *set;
  TaskResult result;  // with `has_base` the adapter's
  bool has_base;
  TaskResult base;  // the same items by the model without its adapter
} ReportEntry;

void task_report_print(FILE *out, const ReportEntry *entries, int count);

// A new object: {TASK: {"acc": .., "acc_stderr": .., "n": .., "groups": {NAME: {..}}, "base": {..}, "comparison": {"acc": {"difference":
// .., "stderr": .., "low": .., "high": .., "better": .., "worse": .., "same": ..}}}}. What can't be computed is null; a metric that not
// all items count for once says by "METRIC_n" of how many it is the mean.
json_t *task_report_json(const ReportEntry *entries, int count);

#endif
