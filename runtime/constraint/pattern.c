// Regular expressions of JSON schemas: alternatives, groups, classes, quantifiers, escapes, anchors. What needs memory (back references) or
// looks around is refused.
#include "runtime/constraint/pattern.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "runtime/constraint/json_text.h"

enum { MAX_DEPTH = 100, MAX_COUNT = 10000 };

typedef struct Pattern {
  RuleSet *set;
  const char *text, *at;
  int depth;
} Pattern;

typedef struct RangeList {
  CodeRange *items;
  int count, capacity;
} RangeList;

static Status fail_at(const Pattern *pattern, const char *place, const char *what) {
  return status_fail(STATUS_BAD_INPUT, "character %d of the pattern: %s", (int)(place - pattern->text) + 1, what);
}

static void add_range(RangeList *list, uint32_t first, uint32_t last) {
  ARRAY_PUSH(list->items, list->count, list->capacity) = (CodeRange){first, last};
}

static void add_complement(RangeList *list, RuleSet *set, const CodeRange *ranges, int count) {
  const Expression *others = expression_set(set, ranges, count, true);
  for (int i = 0; i < others->count; i++) add_range(list, others->ranges[i].first, others->ranges[i].last);
}

// The classes \d \w \s and, in capitals, their complements; false for another letter.
static bool add_class_escape(RangeList *list, RuleSet *set, char letter) {
  static const CodeRange digits[] = {{'0', '9'}}, words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                         spaces[] = {{9, 13},          {' ', ' '},       {0xa0, 0xa0},     {0x1680, 0x1680}, {0x2000, 0x200a},
                                     {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};
  const CodeRange *ranges = digits;
  int count = 1;
  switch (letter | 32) {
    case 'd': break;
    case 'w': ranges = words, count = sizeof words / sizeof *words; break;
    case 's': ranges = spaces, count = sizeof spaces / sizeof *spaces; break;
    default: return false;
  }
  if (isupper((unsigned char)letter)) add_complement(list, set, ranges, count);
  for (int i = 0; i < count && islower((unsigned char)letter); i++) add_range(list, ranges[i].first, ranges[i].last);
  return true;
}

static Status parse_hex(uint32_t *out, Pattern *pattern, int digits) {
  *out = 0;
  for (int i = 0; i < digits; i++) {
    char c = *pattern->at;
    if (!isxdigit((unsigned char)c)) return fail_at(pattern, pattern->at, "a hexadecimal digit is expected");
    *out = *out << 4 | (uint32_t)(isdigit((unsigned char)c) ? c - '0' : (c | 32) - 'a' + 10);
    pattern->at++;
  }
  return STATUS_OK;
}

static Status parse_unicode_escape(uint32_t *out, Pattern *pattern) {
  if (*pattern->at != '{') return parse_hex(out, pattern, 4);
  const char *end = strchr(pattern->at, '}');
  int digits = end ? (int)(end - pattern->at) - 1 : 0;
  if (digits < 1 || digits > 6) return fail_at(pattern, pattern->at, "\\u{...} has one to six digits");
  pattern->at++;
  TRY(parse_hex(out, pattern, digits));
  pattern->at++;
  return STATUS_OK;
}

// The character of an escape; `at` is behind the backslash.
static Status parse_escape(uint32_t *out, Pattern *pattern) {
  const char *begin = pattern->at - 1;
  static const char letters[] = "t\tn\nr\rf\fv\v";
  char c = *pattern->at;
  if (!c) return fail_at(pattern, begin, "nothing stands behind the last '\\'");
  pattern->at++;
  for (const char *p = letters; *p; p += 2)
    if (p[0] == c) return *out = (uint32_t)(unsigned char)p[1], STATUS_OK;
  if (c == 'x') return parse_hex(out, pattern, 2);
  if (c == 'u') return parse_unicode_escape(out, pattern);
  if (isalnum((unsigned char)c))
    return fail_at(pattern, begin, isdigit((unsigned char)c) ? "references to groups are not supported" : "this escape is not supported");
  if (c & 0x80) return fail_at(pattern, begin, "this escape is not supported");
  *out = (uint32_t)c;
  return STATUS_OK;
}

static Status parse_plain(uint32_t *out, Pattern *pattern) {
  const unsigned char *p = (const unsigned char *)pattern->at;
  int length = utf8_length(p, strlen(pattern->at));
  if (!length) return fail_at(pattern, pattern->at, "this is not valid UTF-8");
  static const unsigned char masks[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
  *out = p[0] & masks[length];
  for (int i = 1; i < length; i++) *out = *out << 6 | (p[i] & 0x3f);
  pattern->at += length;
  return STATUS_OK;
}

static Status parse_class_character(uint32_t *out, bool *is_class, RangeList *list, Pattern *pattern) {
  *is_class = false;
  if (*pattern->at != '\\') return parse_plain(out, pattern);
  pattern->at++;
  if (add_class_escape(list, pattern->set, *pattern->at)) return *is_class = true, pattern->at++, STATUS_OK;
  if (*pattern->at == 'b') return *out = '\b', pattern->at++, STATUS_OK;
  return parse_escape(out, pattern);
}

static Status parse_class(const Expression **out, Pattern *pattern) {
  const char *begin = pattern->at++;
  RangeList list = {0};
  Status status = STATUS_OK;
  bool is_negated = *pattern->at == '^', is_class;
  if (is_negated) pattern->at++;
  while (*pattern->at != ']') {
    uint32_t first, last;
    const char *place = pattern->at;
    if (!*place) TRY_DONE(fail_at(pattern, begin, "this class has no closing ']'"));
    TRY_DONE(parse_class_character(&first, &is_class, &list, pattern));
    if (is_class) continue;
    last = first;
    if (pattern->at[0] == '-' && pattern->at[1] && pattern->at[1] != ']') {
      pattern->at++;
      TRY_DONE(parse_class_character(&last, &is_class, &list, pattern));
      if (is_class) TRY_DONE(fail_at(pattern, place, "a class cannot end a range"));
      if (last < first || last > CODE_POINT_LAST) TRY_DONE(fail_at(pattern, place, "this range ends before it begins"));
    }
    if (last > CODE_POINT_LAST) TRY_DONE(fail_at(pattern, place, "there is no such character"));
    add_range(&list, first, last);
  }
  pattern->at++;
  *out = json_set(pattern->set, expression_set(pattern->set, list.items, list.count, is_negated));
done:
  free(list.items);
  return status;
}

static Status parse_alternatives(const Expression **out, Pattern *pattern);

static Status parse_group(const Expression **out, Pattern *pattern) {
  const char *begin = pattern->at++;
  if (++pattern->depth > MAX_DEPTH) return fail_at(pattern, begin, "groups are nested too deeply");
  if (*pattern->at == '?') {
    const char *name_end = pattern->at[1] == '<' && pattern->at[2] != '=' && pattern->at[2] != '!' ? strchr(pattern->at, '>') : NULL;
    if (pattern->at[1] != ':' && !name_end) return fail_at(pattern, begin, "looking ahead or behind is not supported");
    pattern->at = name_end ? name_end + 1 : pattern->at + 2;
  }
  TRY(parse_alternatives(out, pattern));
  if (*pattern->at != ')') return fail_at(pattern, begin, "this group is not closed");
  pattern->at++;
  pattern->depth--;
  return STATUS_OK;
}

static Status parse_character(const Expression **out, Pattern *pattern) {
  RangeList list = {0};
  uint32_t character;
  const char *place = pattern->at;
  Status status = STATUS_OK;
  if (*pattern->at != '\\') {
    TRY_DONE(parse_plain(&character, pattern));
    add_range(&list, character, character);
  } else {
    pattern->at++;
    if (add_class_escape(&list, pattern->set, *pattern->at)) {
      pattern->at++;
    } else {
      TRY_DONE(parse_escape(&character, pattern));
      if (character > CODE_POINT_LAST) TRY_DONE(fail_at(pattern, place, "there is no such character"));
      add_range(&list, character, character);
    }
  }
  *out = json_set(pattern->set, expression_set(pattern->set, list.items, list.count, false));
done:
  free(list.items);
  return status;
}

static Status parse_atom(const Expression **out, Pattern *pattern) {
  static const CodeRange line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
  switch (*pattern->at) {
    case '(': return parse_group(out, pattern);
    case '[': return parse_class(out, pattern);
    case '.':
      pattern->at++;
      *out = json_set(pattern->set, expression_set(pattern->set, line_ends, 3, true));
      return STATUS_OK;
    case '*':
    case '+':
    case '?':
    case '{': return fail_at(pattern, pattern->at, "there is nothing to repeat");
    case '^':
    case '$':
      return fail_at(pattern, pattern->at,
                     "^ and $ are supported at the beginning and the end of the pattern and of its outermost alternatives");
    default: return parse_character(out, pattern);
  }
}

static Status parse_number(int64_t *out, Pattern *pattern) {
  const char *begin = pattern->at;
  for (*out = 0; isdigit((unsigned char)*pattern->at); pattern->at++) {
    *out = *out * 10 + (*pattern->at - '0');
    if (*out > MAX_COUNT) return fail_at(pattern, begin, "more than 10000 repetitions are not supported");
  }
  return pattern->at == begin ? fail_at(pattern, begin, "a number is expected in {m}, {m,} or {m,n}") : STATUS_OK;
}

static Status parse_braces(int64_t *min, int64_t *max, Pattern *pattern) {
  const char *begin = pattern->at++;
  TRY(parse_number(min, pattern));
  *max = *min;
  if (*pattern->at == ',') {
    pattern->at++;
    *max = -1;
    if (*pattern->at != '}') TRY(parse_number(max, pattern));
  }
  if (*pattern->at != '}') return fail_at(pattern, begin, "'}' is expected");
  if (*max >= 0 && *max < *min) return fail_at(pattern, begin, "{m,n}: n is less than m");
  pattern->at++;
  return STATUS_OK;
}

static Status parse_quantifier(const Expression **part, Pattern *pattern) {
  int64_t min = 0, max = -1;
  char c = *pattern->at;
  if (c != '*' && c != '+' && c != '?' && c != '{') return STATUS_OK;
  if (c == '{') {
    TRY(parse_braces(&min, &max, pattern));
  } else {
    pattern->at++;
    if (c == '+') min = 1;
    if (c == '?') max = 1;
  }
  if (*pattern->at == '?') pattern->at++;  // as few as possible: the same texts
  *part = expression_repeat(pattern->set, *part, min, max);
  return STATUS_OK;
}

static bool is_last_anchor(const Pattern *pattern) {
  return pattern->depth == 0 && pattern->at[0] == '$' && (!pattern->at[1] || pattern->at[1] == '|');
}

static Status parse_sequence(const Expression **out, Pattern *pattern) {
  ExpressionList parts = {0};
  Status status = STATUS_OK;
  const Expression *anything = expression_repeat(pattern->set, json_character(pattern->set), 0, -1);
  if (pattern->depth == 0) {
    if (*pattern->at == '^') pattern->at++;
    else expression_list_add(&parts, anything);
  }
  while (*pattern->at && *pattern->at != '|' && *pattern->at != ')' && !is_last_anchor(pattern)) {
    const Expression *part = NULL;
    TRY_DONE(parse_atom(&part, pattern));
    TRY_DONE(parse_quantifier(&part, pattern));
    expression_list_add(&parts, part);
  }
  if (is_last_anchor(pattern)) pattern->at++;
  else if (pattern->depth == 0) expression_list_add(&parts, anything);
  *out = expression_list_end(pattern->set, EXPRESSION_SEQUENCE, &parts);
done:
  free(parts.items);
  return status;
}

static Status parse_alternatives(const Expression **out, Pattern *pattern) {
  ExpressionList parts = {0};
  Status status = STATUS_OK;
  for (;; pattern->at++) {
    const Expression *part = NULL;
    TRY_DONE(parse_sequence(&part, pattern));
    expression_list_add(&parts, part);
    if (*pattern->at != '|') break;
  }
  *out = expression_list_end(pattern->set, EXPRESSION_CHOICE, &parts);
done:
  free(parts.items);
  return status;
}

Status pattern_parse(const Expression **out, RuleSet *set, const char *text) {
  Pattern pattern = {.set = set, .text = text, .at = text};
  TRY(parse_alternatives(out, &pattern));
  return *pattern.at ? fail_at(&pattern, pattern.at, "this ')' closes nothing") : STATUS_OK;
}
