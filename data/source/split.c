#include "data/source/split.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

size_t split_name_length(const char *split) { return strcspn(split, "[+"); }

// One end of a slice: "", "10", "-10", "5%".
static bool read_bound(int64_t *bound, const char **p, int64_t count, int64_t otherwise) {
  *bound = otherwise;
  if (**p != '-' && !isdigit((unsigned char)**p)) return true;
  char *end;
  errno = 0;
  long long value = strtoll(*p, &end, 10);
  if (errno || end == *p) return false;
  bool percent = *end == '%';
  if (percent && (value > 100 || value < -100)) return false;
  *bound = percent ? (int64_t)rint((double)value * (double)count / 100.0) : value;
  if (*bound < 0) *bound = *bound + count < 0 ? 0 : *bound + count;
  if (*bound > count) *bound = count;
  *p = end + percent;
  return true;
}

// Reads one part, "NAME" or "NAME[BEGIN:END]", and moves *p behind it.
static bool read_part(RowRange *range, const char **p, int64_t count) {
  *range = (RowRange){0, count};
  *p += split_name_length(*p);
  if (**p != '[') return true;
  ++*p;
  if (!read_bound(&range->begin, p, count, 0) || *(*p)++ != ':') return false;
  return read_bound(&range->end, p, count, count) && *(*p)++ == ']';
}

static Status read_parts(RowRanges *ranges, const char *split, int64_t count) {
  size_t name = split_name_length(split);
  for (const char *p = split;; p++) {
    RowRange range;
    if (split_name_length(p) != name || strncmp(p, split, name) != 0)
      return status_fail(STATUS_USAGE, "split: \"%s\" joins two splits; write a dataset entry for each", split);
    if (!read_part(&range, &p, count) || (*p && *p != '+'))
      return status_fail(STATUS_USAGE, "split: \"%s\" cannot be read; write it as train[:5%%] or train[10:20]", split);
    if (range.begin < range.end) ARRAY_PUSH(ranges->items, ranges->count, ranges->capacity) = range;
    if (!*p) return STATUS_OK;
  }
}

Status split_parse(RowRanges *ranges, const char *split, int64_t count) {
  *ranges = (RowRanges){0};
  Status status = read_parts(ranges, split && *split ? split : "train", count);
  if (status == STATUS_OK) return STATUS_OK;
  free(ranges->items);
  *ranges = (RowRanges){0};
  return status;
}
