#include "data/row_filter.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

// ---- Rows of supervised training

static bool is_cutting(const Recipe *recipe) {
  return recipe->excess_length_strategy && strcmp(recipe->excess_length_strategy, "truncate") == 0;
}

static bool is_raising(const Recipe *recipe) {
  return recipe->excess_length_strategy && strcmp(recipe->excess_length_strategy, "raise") == 0;
}

// Whether the row stays; each other fate is reported.
static bool judge_row(RowSet *set, TokenRow *row, const Recipe *recipe, int64_t longest) {
  if (row->count < recipe->min_sample_len || row->count == 0) {
    row_set_event(set, ROW_TOO_SHORT, row->source, "%" PRId64 " tokens, min_sample_len is %" PRId64, row->count, recipe->min_sample_len);
    return false;
  }
  int64_t length = row->count;
  if (length > longest && !is_cutting(recipe)) {
    row_set_event(set, ROW_TOO_LONG, row->source, "%" PRId64 " tokens, sequence_len is %" PRId64, length, longest);
    return false;
  }
  if (length > longest) {
    row->count = longest;
    row->trained = row_count_trained(row);
  }
  if (row->trained == 0) {
    row_set_event(set, ROW_UNTRAINED, row->source,
                  length > longest ? "its trained tokens lie behind sequence_len" : "all its labels are masked");
    return false;
  }
  if (length > longest) row_set_event(set, ROW_CUT, row->source, "%" PRId64 " tokens, sequence_len is %" PRId64, length, longest);
  return true;
}

// ---- Rows of preference training

// Tokens of the row's replies; `second` is -1 where there is only one.
typedef struct ReplyLengths {
  int64_t first, second;
} ReplyLengths;

static ReplyLengths reply_lengths(const TokenRow *row, bool paired) {
  if (!paired) return (ReplyLengths){row->count - row->prompt, -1};
  return (ReplyLengths){row->rejected - row->prompt, row->count - row->rejected};
}

static int64_t preference_length(const TokenRow *row, bool paired) {
  ReplyLengths replies = reply_lengths(row, paired);
  return row->prompt + (replies.first > replies.second ? replies.first : replies.second);
}

static bool replies_are_equal(const TokenRow *row) {
  int64_t length = row->count - row->rejected;
  return row->rejected - row->prompt == length &&
         memcmp(row->ids + row->prompt, row->ids + row->rejected, (size_t)length * sizeof *row->ids) == 0;
}

// Cuts the ends of replies that reach beyond `longest`. The tokens of a row lie in memory of its own set: the worse reply moves up.
static void cut_replies(TokenRow *row, bool paired, int64_t longest) {
  int64_t room = longest - row->prompt;
  ReplyLengths replies = reply_lengths(row, paired);
  int64_t first = replies.first < room ? replies.first : room, second = replies.second < room ? replies.second : room;
  if (paired) {
    memmove(row->ids + row->prompt + first, row->ids + row->rejected, (size_t)second * sizeof *row->ids);
    memmove(row->labels + row->prompt + first, row->labels + row->rejected, (size_t)second * sizeof *row->labels);
    row->rejected = row->prompt + first;
  }
  row->count = row->prompt + first + (paired ? second : 0);
  row->trained = row_count_trained(row);
}

static bool drop_long_prompt(RowSet *set, const TokenRow *row, const Recipe *recipe, int64_t longest) {
  if (recipe->max_prompt_len > 0 && row->prompt > recipe->max_prompt_len) {
    row_set_event(set, ROW_TOO_LONG, row->source, "a prompt of %" PRId64 " tokens, max_prompt_len is %" PRId64, row->prompt,
                  recipe->max_prompt_len);
    return true;
  }
  if (row->prompt < longest) return false;
  row_set_event(set, ROW_TOO_LONG, row->source, "a prompt of %" PRId64 " tokens, sequence_len is %" PRId64, row->prompt, longest);
  return true;
}

static bool drop_without_preference(RowSet *set, const TokenRow *row, bool paired) {
  ReplyLengths replies = reply_lengths(row, paired);
  if (replies.first == 0 || replies.second == 0) {
    const char *which = !paired ? "the reply" : replies.first == 0 ? "the better reply" : "the worse reply";
    row_set_event(set, ROW_EMPTY_REPLY, row->source, "%s has no token", which);
    return true;
  }
  if (!paired || !replies_are_equal(row)) return false;
  row_set_event(set, ROW_EQUAL_REPLIES, row->source, "both replies are the same %" PRId64 " tokens", replies.first);
  return true;
}

// Whether the row stays; each other fate is reported.
static bool judge_preference(RowSet *set, TokenRow *row, const Recipe *recipe, int64_t longest) {
  bool paired = strcmp(recipe->rl, "kto") != 0;
  if (drop_without_preference(set, row, paired) || drop_long_prompt(set, row, recipe, longest)) return false;
  int64_t length = preference_length(row, paired);
  if (length < recipe->min_sample_len) {
    row_set_event(set, ROW_TOO_SHORT, row->source, "%" PRId64 " tokens, min_sample_len is %" PRId64, length, recipe->min_sample_len);
    return false;
  }
  if (length > longest && !is_cutting(recipe)) {
    row_set_event(set, ROW_TOO_LONG, row->source, "%" PRId64 " tokens in prompt and reply, sequence_len is %" PRId64, length, longest);
    return false;
  }
  if (length > longest) cut_replies(row, paired, longest);
  if (paired && length > longest && replies_are_equal(row)) {
    row_set_event(set, ROW_EQUAL_REPLIES, row->source, "they differ behind sequence_len alone");
    return false;
  }
  if (row->trained == 0) {
    row_set_event(set, ROW_UNTRAINED, row->source, "its only tokens have nothing before them");
    return false;
  }
  if (length > longest)
    row_set_event(set, ROW_CUT, row->source, "%" PRId64 " tokens in prompt and reply, sequence_len is %" PRId64, length, longest);
  return true;
}

// ---- All rows

static Status fail_long(const TokenRow *row, const char *what, int64_t length, const char *key, int64_t longest) {
  return status_fail(STATUS_BAD_INPUT,
                     "%s: %" PRId64 " tokens%s, but %s is %" PRId64
                     " and excess_length_strategy is raise; raise %s, or choose drop or truncate",
                     row->source, length, what, key, longest, key);
}

static Status check_length(const TokenRow *row, const Recipe *recipe, int64_t longest) {
  bool preference = recipe->rl != NULL, paired = preference && strcmp(recipe->rl, "kto") != 0;
  int64_t length = preference ? preference_length(row, paired) : row->count;
  if (length > longest) return fail_long(row, preference ? " in prompt and reply" : "", length, "sequence_len", longest);
  if (!preference || recipe->max_prompt_len <= 0 || row->prompt <= recipe->max_prompt_len) return STATUS_OK;
  return fail_long(row, " in the prompt", row->prompt, "max_prompt_len", recipe->max_prompt_len);
}

Status row_filter(RowSet *set, const Recipe *recipe, int64_t longest) {
  int64_t kept = 0;
  if (longest <= 0) longest = INT64_MAX;
  for (int64_t r = 0; r < set->count; r++) {
    TokenRow row = set->rows[r];
    if (is_raising(recipe)) TRY(check_length(&row, recipe, longest));
    bool stays = recipe->rl ? judge_preference(set, &row, recipe, longest) : judge_row(set, &row, recipe, longest);
    if (stays) set->rows[kept++] = row;
  }
  set->count = kept;
  return STATUS_OK;
}

// ---- Duplicates

static bool same_row(const TokenRow *a, const TokenRow *b) {
  size_t bytes = (size_t)a->count * sizeof *a->ids;
  if (a->prompt != b->prompt || a->rejected != b->rejected || a->is_undesirable != b->is_undesirable) return false;
  return a->count == b->count && memcmp(a->ids, b->ids, bytes) == 0 && memcmp(a->labels, b->labels, bytes) == 0;
}

void row_filter_duplicates(RowSet *set, UniqueRows *unique) {
  int64_t kept = 0;
  for (int64_t r = 0; r < set->count; r++) {
    TokenRow row = set->rows[r];
    int64_t replies[] = {row.prompt, row.rejected, row.is_undesirable};
    uint64_t key[3] = {hash_bytes(row.ids, (size_t)row.count * sizeof *row.ids),
                       hash_bytes(row.labels, (size_t)row.count * sizeof *row.labels), hash_bytes(replies, sizeof replies)};
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
