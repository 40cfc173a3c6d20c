// Which rows stay: not too long, not too short, with something to train, each once. What goes is told in the set's report.
#ifndef DATA_ROW_FILTER_H
#define DATA_ROW_FILTER_H

#include "core/map.h"
#include "data/rows.h"
#include "recipes/recipe.h"

// By excess_length_strategy and min_sample_len; longest <= 0: any length. STATUS_BAD_INPUT: too long a row, with `raise`.
// With `rl` a row's length is that of its prompt with its longer reply, and `truncate` cuts the ends of replies; a prompt is never cut,
// so a row whose prompt leaves no room goes in any case, as in Axolotl, and so does one whose prompt is longer than max_prompt_len. A row
// with an empty reply, or whose replies are equal, has no preference to teach, and goes too.
Status row_filter(RowSet *set, const Recipe *recipe, int64_t longest);

// The rows met so far, each once.
typedef struct UniqueRows {
  Map by_hash;  // of a row's ids, labels and replies: its number in rows
  TokenRow *rows;  // borrowed
  int64_t count, capacity;
} UniqueRows;

void row_filter_duplicates(RowSet *set, UniqueRows *unique);
void unique_rows_release(UniqueRows *unique);

#endif
