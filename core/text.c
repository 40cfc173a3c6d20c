#include "core/text.h"

#include <string.h>

int edit_distance(const char *a, const char *b) {
  enum { LIMIT = 64 };
  int n = (int)strlen(a), m = (int)strlen(b);
  if (n > LIMIT || m > LIMIT) return n > m ? n : m;
  int rows[3][LIMIT + 1];
  for (int j = 0; j <= m; j++) rows[0][j] = j;
  for (int i = 1; i <= n; i++) {
    int *row = rows[i % 3], *above = rows[(i + 2) % 3], *twice = rows[(i + 1) % 3];
    row[0] = i;
    for (int j = 1; j <= m; j++) {
      int best = above[j - 1] + (a[i - 1] != b[j - 1]);
      if (above[j] + 1 < best) best = above[j] + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && twice[j - 2] + 1 < best) best = twice[j - 2] + 1;
      row[j] = best;
    }
  }
  return rows[n % 3][m];
}

const char *nearest_name(const char *name, const char *const *candidates, int count) {
  int limit = (int)strlen(name) / 3 + 1;
  const char *nearest = NULL;
  for (int i = 0; i < count; i++) {
    int distance = edit_distance(name, candidates[i]);
    if (distance <= limit) nearest = candidates[i], limit = distance - 1;
  }
  return nearest;
}

bool text_starts_with(const char *text, const char *prefix) { return strncmp(text, prefix, strlen(prefix)) == 0; }

bool text_ends_with(const char *text, const char *suffix) {
  size_t length = strlen(text), tail = strlen(suffix);
  return length >= tail && memcmp(text + length - tail, suffix, tail) == 0;
}

int utf8_length(const unsigned char *p, size_t available) {
  if (available == 0) return 0;
  if (p[0] < 0x80) return 1;
  int length = p[0] >= 0xC2 && p[0] < 0xE0 ? 2 : (p[0] & 0xF0) == 0xE0 ? 3 : p[0] >= 0xF0 && p[0] < 0xF5 ? 4 : 0;
  if (length == 0 || (size_t)length > available) return 0;
  for (int i = 1; i < length; i++)
    if ((p[i] & 0xC0) != 0x80) return 0;
  if (p[0] == 0xE0 && p[1] < 0xA0) return 0;  // longer than needed
  if (p[0] == 0xED && p[1] >= 0xA0) return 0;  // surrogates
  if (p[0] == 0xF0 && p[1] < 0x90) return 0;
  if (p[0] == 0xF4 && p[1] >= 0x90) return 0;  // past U+10FFFF
  return length;
}

bool utf8_is_valid(const char *text, size_t length, size_t *offset) {
  size_t i = 0;
  while (i < length) {
    int step = utf8_length((const unsigned char *)text + i, length - i);
    if (step == 0) {
      if (offset) *offset = i;
      return false;
    }
    i += (size_t)step;
  }
  return true;
}

bool text_is_printable(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++)
    if ((unsigned char)text[i] < ' ' || text[i] == 0x7F) return false;
  return length > 0 && utf8_is_valid(text, length, NULL);
}
