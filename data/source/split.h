// Which of `count` rows a split takes: "train", "train[:5%]", "train[10:-20]", "train[:10]+train[-10:]".
// Percentages are rounded to the nearest row, halves to the even one, as Hugging Face's datasets does.
#ifndef DATA_SOURCE_SPLIT_H
#define DATA_SOURCE_SPLIT_H

#include <stdint.h>

#include "core/memory.h"
#include "core/status.h"

typedef struct RowRange {
  int64_t begin, end;
} RowRange;

typedef struct RowRanges {
  RowRange *items;
  int64_t count, capacity;
} RowRanges;

Status split_parse(RowRanges *ranges, const char *split, int64_t count);
size_t split_name_length(const char *split);  // of the name without its slice: 5 of "train[:5%]"

#endif
