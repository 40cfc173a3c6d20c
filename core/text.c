#include "core/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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

bool word_is_in(const char *const *words, const char *word) {
  for (; *words; words++)
    if (strcmp(*words, word) == 0) return true;
  return false;
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

int64_t utf8_count(const char *text, size_t length) {
  int64_t count = 0;
  for (size_t i = 0; i < length; i++) count += ((unsigned char)text[i] & 0xC0) != 0x80;
  return count;
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

size_t text_space_length(const char *p, size_t available) {
  static const char *const wide[] = {"\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\xA8",
                                     "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"};
  unsigned char c = available ? (unsigned char)*p : 0;
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F);
  if (available >= 3 && memcmp(p, "\xE2\x80", 2) == 0 && (unsigned char)p[2] >= 0x80 && (unsigned char)p[2] <= 0x8A)
    return 3;  // U+2000..200A
  for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
    size_t length = strlen(wide[i]);
    if (length <= available && memcmp(p, wide[i], length) == 0) return length;
  }
  return 0;
}

void text_strip(const char **text, size_t *length) {
  const char *begin = *text, *end = begin + *length;
  for (size_t step; (step = text_space_length(begin, (size_t)(end - begin))); begin += step) continue;
  for (bool found = true; found && end > begin;) {
    found = false;
    for (size_t step = 1; step <= 3 && step <= (size_t)(end - begin) && !found; step++)
      if (text_space_length(end - step, step) == step) end -= step, found = true;
  }
  *text = begin;
  *length = (size_t)(end - begin);
}

// The shortest decimal that reads back as the same double; exponents below -4 and from 16 on are written with an "e".
void text_from_float(char text[40], double value) {
  if (isnan(value) || isinf(value)) {
    strcpy(text, isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
    return;
  }
  int precision = 0;
  do snprintf(text, 40, "%.*e", precision, value);
  while (strtod(text, NULL) != value && ++precision < 17);
  int exponent = atoi(strchr(text, 'e') + 1);
  if (exponent >= 16 || exponent < -4) return;
  int decimals = precision - exponent;
  snprintf(text, 40, "%.*f", decimals > 0 ? decimals : 0, value);
  if (decimals <= 0) strcat(text, ".0");
}
