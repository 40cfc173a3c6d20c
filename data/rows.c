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
      [ROW_EMPTY_REPLY] = "dropped: empty reply",
      [ROW_EQUAL_REPLIES] = "dropped: equal replies",
      [ROW_BAD] = "dropped: bad row",
  };
  return names[fate];
}

int64_t row_count_trained(const TokenRow *row) {
  int64_t trained = 0;
  for (int64_t i = 1; i < row->count; i++) trained += row->labels[i] != LABEL_MASKED;
  // Behind an empty prompt nothing predicts the worse reply's first token either.
  bool unpredicted = row->prompt == 0 && row->rejected > 0 && row->rejected < row->count && row->labels[row->rejected] != LABEL_MASKED;
  return trained - unpredicted;
}

bool row_is_preference(const TokenRow *row) { return row->prompt > 0 || row->rejected > 0 || row->is_undesirable; }

void row_set_add_row(RowSet *set, const TokenRow *row) {
  TokenRow copy = *row;
  copy.ids = arena_new(&set->arena, 2 * (size_t)row->count, sizeof *copy.ids);
  copy.labels = copy.ids + row->count;
  if (row->count) {
    memcpy(copy.ids, row->ids, (size_t)row->count * sizeof *row->ids);
    memcpy(copy.labels, row->labels, (size_t)row->count * sizeof *row->labels);
  }
  copy.trained = row_count_trained(&copy);
  ARRAY_PUSH(set->rows, set->count, set->capacity) = copy;
}

void row_set_add(RowSet *set, const int32_t *ids, const int32_t *labels, int64_t count, const char *source) {
  TokenRow row = {.ids = (int32_t *)(uintptr_t)ids, .labels = (int32_t *)(uintptr_t)labels, .count = count, .source = source};
  row_set_add_row(set, &row);
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

// What tokens are to people, and how they are marked.
typedef enum RunKind { RUN_MASKED, RUN_TRAINED, RUN_REJECTED } RunKind;

static RunKind run_kind(const TokenRow *row, int64_t token) {
  if (row->labels[token] == LABEL_MASKED) return RUN_MASKED;
  return row->is_undesirable || (row->rejected > 0 && token >= row->rejected) ? RUN_REJECTED : RUN_TRAINED;
}

static void show_run(Buffer *out, const TokenRow *row, const Tokenizer *tokenizer, int64_t begin, int64_t end, bool colour, bool with_ids) {
  static const char *const colours[] = {[RUN_MASKED] = "\033[90m", [RUN_TRAINED] = "\033[32m", [RUN_REJECTED] = "\033[31m"};
  RunKind kind = run_kind(row, begin);
  Buffer text = {0};
  if (tokenizer) tokenizer_decode(&text, tokenizer, row->ids + begin, end - begin, true);
  if (with_ids) buffer_format(out, "%8" PRId32 " %8" PRId32 "  ", row->ids[begin], row->labels[begin]);
  buffer_append_string(out, colour ? colours[kind] : kind == RUN_MASKED ? "" : "[[");
  append_visible(out, text.length ? text.data : "", text.length, with_ids);
  buffer_append_string(out, colour ? "\033[0m" : kind == RUN_MASKED ? "" : "]]");
  if (with_ids) buffer_append_string(out, "\n");
  buffer_release(&text);
}

// What stands before a reply; NULL where none begins.
static const char *reply_heading(const TokenRow *row, int64_t token) {
  if (!row_is_preference(row)) return NULL;
  if (row->rejected > 0 && token == row->rejected) return "rejected: ";
  if (token != row->prompt) return NULL;
  return row->rejected > 0 ? "chosen: " : row->is_undesirable ? "undesirable: " : "desirable: ";
}

static void show_heading(Buffer *out, const char *heading, bool own_line) {
  if (out->length && out->data[out->length - 1] != '\n') buffer_append_string(out, "\n");
  buffer_append_string(out, heading);
  if (own_line) buffer_append_string(out, "\n");
}

void row_show(Buffer *out, const TokenRow *row, const Tokenizer *tokenizer, bool colour, bool with_ids) {
  for (int64_t begin = 0, end; begin < row->count; begin = end) {
    bool by_token = with_ids || !tokenizer;  // a row without a tokenizer has nothing to print but its ids
    const char *heading = reply_heading(row, begin);
    if (heading) show_heading(out, heading, by_token);
    end = begin + 1;
    while (!by_token && end < row->count && run_kind(row, end) == run_kind(row, begin) && !reply_heading(row, end)) end++;
    show_run(out, row, tokenizer, begin, end, colour, by_token);
  }
  if (!with_ids && tokenizer) buffer_append_string(out, "\n");
}

Rng data_rng(int64_t seed, DataOrder purpose, int64_t number) {
  return rng_new((uint64_t)seed, RNG_STREAM_DATA + ((uint64_t)purpose << 16) + ((uint64_t)number << 32));
}
