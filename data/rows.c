// Row sets: storage, the report as text, and rows as people see them.
#include "data/rows.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *row_fate_name(RowFate fate) {
  static const char *const names[ROW_FATES] = {
      [ROW_KEPT] = "kept",
      [ROW_CUT] = "cut to sequence_len",
      [ROW_TOO_LONG] = "dropped: too long",
      [ROW_TOO_SHORT] = "dropped: too short",
      [ROW_UNTRAINED] = "dropped: no trained token",
      [ROW_DUPLICATE] = "dropped: duplicate",
      [ROW_BAD] = "dropped: bad row",
  };
  return names[fate];
}

void row_set_add(RowSet *set, const int32_t *ids, const int32_t *labels, int64_t count, const char *source) {
  TokenRow row = {.count = count, .source = source};
  row.ids = arena_new(&set->arena, 2 * (size_t)count, sizeof *row.ids);
  row.labels = row.ids + count;
  if (count) {
    memcpy(row.ids, ids, (size_t)count * sizeof *ids);
    memcpy(row.labels, labels, (size_t)count * sizeof *labels);
  }
  for (int64_t i = 1; i < count; i++) row.trained += labels[i] != LABEL_MASKED;
  ARRAY_PUSH(set->rows, set->count, set->capacity) = row;
}

void row_set_event(RowSet *set, RowFate fate, const char *source, const char *format, ...) {
  char reason[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  RowReport *report = &set->report;
  report->fates[fate]++;
  ARRAY_PUSH(report->events, report->event_count, report->event_capacity) =
      (RowEvent){fate, source, arena_copy_string(&set->arena, reason)};
}

RowStatistics row_set_statistics(const RowSet *set) {
  RowStatistics statistics = {.rows = set->count};
  for (int64_t r = 0; r < set->count; r++) {
    const TokenRow *row = &set->rows[r];
    statistics.tokens += row->count;
    statistics.trained += row->trained;
    if (row->count > statistics.longest) statistics.longest = row->count;
  }
  if (set->count) statistics.mean = (double)statistics.tokens / (double)set->count;
  return statistics;
}

int32_t row_set_largest_id(const RowSet *set) {
  int32_t largest = -1;
  for (int64_t r = 0; r < set->count; r++) {
    const TokenRow *row = &set->rows[r];
    for (int64_t i = 0; i < row->count; i++)
      if (row->ids[i] > largest) largest = row->ids[i];
    row_set_has_read(set, r);
  }
  return largest;
}

void row_set_describe(Buffer *out, const RowSet *set, int64_t events) {
  const RowReport *report = &set->report;
  RowStatistics statistics = row_set_statistics(set);
  buffer_format(out, "rows: %" PRId64 " read, %" PRId64 " kept\n", report->read, set->count);
  if (report->held_out) buffer_format(out, "  held out for evaluation: %" PRId64 "\n", report->held_out);
  for (int fate = ROW_CUT; fate < ROW_FATES; fate++)
    if (report->fates[fate]) buffer_format(out, "  %s: %" PRId64 "\n", row_fate_name((RowFate)fate), report->fates[fate]);
  buffer_format(out, "tokens: %" PRId64 ", %" PRId64 " trained, %" PRId64 " masked; longest row %" PRId64 ", mean %.1f\n",
                statistics.tokens, statistics.trained, statistics.tokens - statistics.trained, statistics.longest, statistics.mean);
  int64_t shown = events < 0 || events > report->event_count ? report->event_count : events;
  for (int64_t i = 0; i < shown; i++) {
    const RowEvent *event = &report->events[i];
    buffer_format(out, "  %s: %s: %s\n", event->source, row_fate_name(event->fate), event->reason);
  }
  if (shown < report->event_count) buffer_format(out, "  ... and %" PRId64 " more\n", report->event_count - shown);
}

void row_set_release(RowSet *set) {
  arena_release(&set->arena);
  file_unmap(&set->map);
  free(set->rows);
  free(set->report.events);
  *set = (RowSet){0};
}

void row_set_forget(const RowSet *set) {
  if (set->map.size) file_map_forget(set->map.data, set->map.size);
}

void row_set_has_read(const RowSet *set, int64_t row) {
  enum { ROWS = 1024 };
  if (row % ROWS == ROWS - 1) row_set_forget(set);
}

// Data may hold escape sequences; a terminal must not obey them.
static void append_visible(Buffer *out, const char *text, size_t length, bool one_line) {
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    if (one_line && c == '\n') buffer_append_string(out, "\\n");
    else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F) buffer_format(out, "\\x%02X", c);
    else buffer_append(out, text + i, 1);
  }
}

static void show_run(Buffer *out, const TokenRow *row, const Tokenizer *tokenizer, int64_t begin, int64_t end, bool colour, bool with_ids) {
  bool trained = row->labels[begin] != LABEL_MASKED;
  Buffer text = {0};
  if (tokenizer) tokenizer_decode(&text, tokenizer, row->ids + begin, end - begin, true);
  if (with_ids) buffer_format(out, "%8" PRId32 " %8" PRId32 "  ", row->ids[begin], row->labels[begin]);
  buffer_append_string(out, colour ? (trained ? "\033[32m" : "\033[90m") : trained ? "[[" : "");
  append_visible(out, text.length ? text.data : "", text.length, with_ids);
  buffer_append_string(out, colour ? "\033[0m" : trained ? "]]" : "");
  if (with_ids) buffer_append_string(out, "\n");
  buffer_release(&text);
}

void row_show(Buffer *out, const TokenRow *row, const Tokenizer *tokenizer, bool colour, bool with_ids) {
  for (int64_t begin = 0, end; begin < row->count; begin = end) {
    bool trained = row->labels[begin] != LABEL_MASKED;
    end = begin + 1;
    // A row without a tokenizer has nothing to print but its ids.
    while (!with_ids && tokenizer && end < row->count && (row->labels[end] != LABEL_MASKED) == trained) end++;
    show_run(out, row, tokenizer, begin, end, colour, with_ids || !tokenizer);
  }
  if (!with_ids && tokenizer) buffer_append_string(out, "\n");
}

Rng data_rng(int64_t seed, DataOrder purpose, int64_t number) {
  return rng_new((uint64_t)seed, RNG_STREAM_DATA + ((uint64_t)purpose << 16) + ((uint64_t)number << 32));
}
