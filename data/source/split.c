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

Status split_parse(RowRanges *ranges, const char *split, int64_t count) {
  *ranges = (RowRanges){0};
  const char *p = split && *split ? split : "train";
  for (;; p++) {
    RowRange range = {0, count};
    p += split_name_length(p);
    if (*p == '[') {
      p++;
      bool good = read_bound(&range.begin, &p, count, 0) && *p == ':';
      if (good) p++;
      good = good && read_bound(&range.end, &p, count, count) && *p == ']';
      if (!good) {
        free(ranges->items);
        *ranges = (RowRanges){0};
        return status_fail(STATUS_USAGE, "split: \"%s\" cannot be read; write it as train[:5%%] or train[10:20]", split);
      }
      p++;
    }
    if (range.begin < range.end) ARRAY_PUSH(ranges->items, ranges->count, ranges->capacity) = range;
    if (*p != '+') break;
  }
  if (*p) {
    free(ranges->items);
    *ranges = (RowRanges){0};
    return status_fail(STATUS_USAGE, "split: \"%s\" cannot be read; write it as train[:5%%] or train[10:20]", split);
  }
  return STATUS_OK;
}
