#include "eval/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// The scores of one metric, [*count]: of a group, or of all items (-1). free() it.
static Score *metric_scores(int64_t *count, const TaskSet *set, const TaskResult *result, int metric, int group) {
  Score *scores = memory_new((size_t)set->item_count, sizeof *scores);
  *count = 0;
  for (int64_t i = 0; i < set->item_count; i++)
    if (group < 0 || set->items[i].group == group) scores[(*count)++] = result->scores[i * METRICS_MAX + metric];
  return scores;
}

static Estimate estimate(int64_t *count, const TaskSet *set, const TaskResult *result, int metric, int group) {
  Score *scores = metric_scores(count, set, result, metric, group);
  Estimate out = metric_estimate(&set->task->metrics[metric], scores, *count);
  free(scores);
  return out;
}

static Comparison compare(const ReportEntry *entry, int metric) {
  int64_t count;
  Score *base = metric_scores(&count, entry->set, &entry->base, metric, -1);
  Score *adapter = metric_scores(&count, entry->set, &entry->result, metric, -1);
  Comparison out = metric_compare(&entry->set->task->metrics[metric], base, adapter, count);
  free(base);
  free(adapter);
  return out;
}

// ---- JSON ----

static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static void set_formatted(json_t *object, const char *name, const char *ending, json_t *value) {
  char *key = memory_format("%s%s", name, ending);
  json_object_set_new(object, key, value);
  free(key);
}

static json_t *values_json(const TaskSet *set, const TaskResult *result, int group) {
  json_t *out = json_object();
  int64_t count = 0;
  for (int m = 0; m < task_metric_count(set->task); m++) {
    const char *name = set->task->metrics[m].name;
    Estimate found = estimate(&count, set, result, m, group);
    json_object_set_new(out, name, number(found.value));
    set_formatted(out, name, "_stderr", number(found.error));
    if (found.count != count) set_formatted(out, name, "_n", json_integer(found.count));
  }
  json_object_set_new(out, "n", json_integer(count));
  return out;
}

static json_t *comparison_json(const ReportEntry *entry) {
  json_t *out = json_object();
  for (int m = 0; m < task_metric_count(entry->set->task); m++) {
    Comparison c = compare(entry, m);
    json_object_set_new(out, entry->set->task->metrics[m].name,
                        json_pack("{s:o, s:o, s:o, s:o, s:I, s:I, s:I}", "difference", number(c.difference), "stderr", number(c.error),
                                  "low", number(c.low), "high", number(c.high), "better", (json_int_t)c.better, "worse",
                                  (json_int_t)c.worse, "same", (json_int_t)c.same));
  }
  return out;
}

static json_t *entry_json(const ReportEntry *entry) {
  const TaskSet *set = entry->set;
  json_t *out = values_json(set, &entry->result, -1);
  json_object_set_new(out, "seconds", json_real(entry->result.seconds));
  if (entry->result.truncated) json_object_set_new(out, "truncated", json_integer(entry->result.truncated));
  if (set->group_count > 1) {
    json_t *groups = json_object();
    for (int g = 0; g < set->group_count; g++) json_object_set_new(groups, set->groups[g].name, values_json(set, &entry->result, g));
    json_object_set_new(out, "groups", groups);
  }
  if (set->task->note) set->task->note(out, set);
  if (!entry->has_base) return out;
  json_object_set_new(out, "base", values_json(set, &entry->base, -1));
  json_object_set_new(out, "comparison", comparison_json(entry));
  return out;
}

json_t *task_report_json(const ReportEntry *entries, int count) {
  json_t *out = json_object();
  for (int i = 0; i < count; i++) json_object_set_new(out, entries[i].set->name, entry_json(&entries[i]));
  return out;
}

// ---- The table ----

typedef struct Widths {
  int task, metric;
} Widths;

static Widths widths_of(const ReportEntry *entries, int count) {
  Widths out = {4, 6};
  for (int i = 0; i < count; i++) {
    int length = (int)strlen(entries[i].set->name);
    if (length > out.task) out.task = length;
    for (int m = 0; m < task_metric_count(entries[i].set->task); m++) {
      length = (int)strlen(entries[i].set->task->metrics[m].name);
      if (length > out.metric) out.metric = length;
    }
  }
  return out;
}

static void print_number(FILE *out, double value, int width) {
  if (isfinite(value)) fprintf(out, "  %*.4f", width, value);
  else fprintf(out, "  %*s", width, "-");
}

static void print_line(FILE *out, const ReportEntry *entry, int metric, Widths widths) {
  int64_t count;
  Estimate found = estimate(&count, entry->set, &entry->result, metric, -1);
  fprintf(out, "%-*s  %-*s", widths.task, metric ? "" : entry->set->name, widths.metric, entry->set->task->metrics[metric].name);
  if (!entry->has_base) {
    print_number(out, found.value, 8);
    print_number(out, found.error, 7);
    fprintf(out, "  %6" PRId64 "\n", found.count);
    return;
  }
  Comparison c = compare(entry, metric);
  print_number(out, estimate(&count, entry->set, &entry->base, metric, -1).value, 8);
  print_number(out, found.value, 8);
  print_number(out, c.difference, 10);
  print_number(out, c.low, 8);
  print_number(out, c.high, 8);
  fprintf(out, "  %6" PRId64 "  %6" PRId64 "  %6" PRId64 "\n", c.better, c.worse, c.same);
}

static void print_notes(FILE *out, const ReportEntry *entry) {
  const char *instruction;
  json_t *notes = json_object(), *count;
  if (entry->set->task->note) entry->set->task->note(notes, entry->set);
  json_t *not_scored = json_object_get(notes, "not_scored");
  if (json_object_size(not_scored)) fprintf(out, "%s: not scored, and prompts that have one not counted:\n", entry->set->name);
  json_object_foreach(not_scored, instruction, count) fprintf(out, "  %4lld  %s\n", (long long)json_integer_value(count), instruction);
  json_decref(notes);
}

void task_report_print(FILE *out, const ReportEntry *entries, int count) {
  Widths widths = widths_of(entries, count);
  bool has_base = count > 0 && entries[0].has_base;
  fprintf(out, "%-*s  %-*s", widths.task, "task", widths.metric, "metric");
  if (has_base)
    fprintf(out, "  %8s  %8s  %10s  %8s  %8s  %6s  %6s  %6s\n", "base", "adapter", "difference", "95% from", "to", "better", "worse",
            "same");
  else fprintf(out, "  %8s  %7s  %6s\n", "value", "stderr", "n");
  for (int i = 0; i < count; i++)
    for (int m = 0; m < task_metric_count(entries[i].set->task); m++) print_line(out, &entries[i], m, widths);
  for (int i = 0; i < count; i++) print_notes(out, &entries[i]);
}
