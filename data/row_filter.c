#include "data/row_filter.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void cut_row(TokenRow *row, int64_t length) {
  row->count = length;
  row->trained = 0;
  for (int64_t i = 1; i < length; i++) row->trained += row->labels[i] != LABEL_MASKED;
}

// Whether the row stays; each other fate is reported.
static bool judge_row(RowSet *set, TokenRow *row, const char *strategy, int64_t longest, int64_t shortest) {
  if (row->count < shortest || row->count == 0) {
    row_set_event(set, ROW_TOO_SHORT, row->source, "%" PRId64 " tokens, min_sample_len is %" PRId64, row->count, shortest);
    return false;
  }
  int64_t length = row->count;
  if (length > longest && strcmp(strategy, "truncate") != 0) {
    row_set_event(set, ROW_TOO_LONG, row->source, "%" PRId64 " tokens, sequence_len is %" PRId64, length, longest);
    return false;
  }
  if (length > longest) cut_row(row, longest);
  if (row->trained == 0) {
    row_set_event(set, ROW_UNTRAINED, row->source,
                  length > longest ? "its trained tokens lie behind sequence_len" : "all its labels are masked");
    return false;
  }
  if (length > longest) row_set_event(set, ROW_CUT, row->source, "%" PRId64 " tokens, sequence_len is %" PRId64, length, longest);
  return true;
}

Status row_filter(RowSet *set, const Recipe *recipe, int64_t longest) {
  const char *strategy = recipe->excess_length_strategy ? recipe->excess_length_strategy : "drop";
  int64_t kept = 0;
  if (longest <= 0) longest = INT64_MAX;
  for (int64_t r = 0; r < set->count; r++) {
    TokenRow row = set->rows[r];
    if (row.count > longest && strcmp(strategy, "raise") == 0) {
      return status_fail(STATUS_BAD_INPUT,
                         "%s: %" PRId64 " tokens, but sequence_len is %" PRId64
                         " and excess_length_strategy is raise; raise sequence_len, or choose drop or truncate",
                         row.source, row.count, longest);
    }
    if (judge_row(set, &row, strategy, longest, recipe->min_sample_len)) set->rows[kept++] = row;
  }
  set->count = kept;
  return STATUS_OK;
}

static bool same_row(const TokenRow *a, const TokenRow *b) {
  size_t bytes = (size_t)a->count * sizeof *a->ids;
  return a->count == b->count && memcmp(a->ids, b->ids, bytes) == 0 && memcmp(a->labels, b->labels, bytes) == 0;
}

void row_filter_duplicates(RowSet *set, UniqueRows *unique) {
  int64_t kept = 0;
  for (int64_t r = 0; r < set->count; r++) {
    TokenRow row = set->rows[r];
    uint64_t key[2] = {hash_bytes(row.ids, (size_t)row.count * sizeof *row.ids),
                       hash_bytes(row.labels, (size_t)row.count * sizeof *row.labels)};
    int64_t first;
    if (map_get(&unique->by_hash, key, sizeof key, &first) && same_row(&unique->rows[first], &row)) {
      row_set_event(set, ROW_DUPLICATE, row.source, "the same as %s", unique->rows[first].source);
      continue;
    }
    map_set(&unique->by_hash, key, sizeof key, unique->count);
    ARRAY_PUSH(unique->rows, unique->count, unique->capacity) = row;
    set->rows[kept++] = row;
  }
  set->count = kept;
}

void unique_rows_release(UniqueRows *unique) {
  map_release(&unique->by_hash);
  free(unique->rows);
  *unique = (UniqueRows){0};
}
