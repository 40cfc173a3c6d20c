#include "runtime/draft.h"

#include <string.h>

// The latest earlier place where the last n tokens stand; 0: none. What it gives is the place behind them.
static int64_t find_last(const int32_t *ids, int64_t count, int64_t n) {
  const int32_t *end = ids + count - n;
  for (int64_t at = count - n - 1; at >= 0; at--)
    if (memcmp(ids + at, end, (size_t)n * sizeof *ids) == 0) return at + n;
  return 0;
}

int64_t draft_lookup(int32_t *out, const int32_t *ids, int64_t count, int64_t most) {
  for (int64_t n = DRAFT_MOST; n >= DRAFT_LEAST; n--) {
    int64_t at = count > n ? find_last(ids, count, n) : 0;
    if (at == 0) continue;
    int64_t found = count - at < most ? count - at : most;
    memcpy(out, ids + at, (size_t)found * sizeof *out);
    return found;
  }
  return 0;
}
