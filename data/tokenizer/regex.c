// Regular expressions of tokenizer.json (Oniguruma, Ruby's syntax, Unicode) as PCRE2 reads them (UTF, UCP). Most of it is the same
// text. What differs is rewritten:
//   \s    PCRE2 counts U+180E, Unicode no longer does        -> the ranges of White_Space
//   \w    PCRE2 leaves out marks                             -> \p{L}\p{M}\p{Nd}\p{Pc}
//   \p{Han}  PCRE2 takes a script's name for Script_Extensions -> \p{sc:Han}
//   \uHHHH                                                    -> \x{HHHH}
//   ^ and $  match at every line                              -> (?m:^) and (?m:$)
// What means something else and cannot be rewritten in place (nested sets, &&, back references, intervals followed by +, option
// letters other than i) is refused by name.
#include <ctype.h>
#include <string.h>

#include "data/tokenizer/parts.h"

#define SPACE_RANGES "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WORD_RANGES "\\p{L}\\p{M}\\p{Nd}\\p{Pc}"

typedef struct Translation {
  Buffer *out;
  const char *pattern, *p;
  bool in_set;
} Translation;

static Status refuse(const Translation *t, const char *what) {
  return status_fail(STATUS_BAD_INPUT, "the regular expression `%s` has %s at byte %td, which is not supported", t->pattern, what,
                     t->p - t->pattern);
}

static void put_set(Translation *t, const char *ranges, bool negated) {
  if (t->in_set) {
    buffer_append_string(t->out, ranges);
  } else {
    buffer_format(t->out, "[%s%s]", negated ? "^" : "", ranges);
  }
}

// p stands on the p or P of \p{Name}.
static Status translate_property(Translation *t) {
  char kind = *t->p;
  const char *name = t->p + 2, *close = t->p[1] == '{' ? strchr(name, '}') : NULL;
  if (!close) return refuse(t, "a property without braces");
  const char *caret = *name == '^' ? "^" : "";
  name += strlen(caret);
  size_t length = (size_t)(close - name);
  for (size_t i = 0; i < length; i++) {
    if (!isalpha((unsigned char)name[i]) && name[i] != '_') return refuse(t, "a property that is no general category or script");
  }
  if (length == 0) return refuse(t, "a property without a name");
  buffer_format(t->out, "\\%c{%s%s%.*s}", kind, caret, length > 2 ? "sc:" : "", (int)length, name);
  t->p = close + 1;
  return STATUS_OK;
}

static Status translate_code_point(Translation *t) {
  int digits = 0;
  while (digits < 4 && isxdigit((unsigned char)t->p[1 + digits])) digits++;
  if (digits < 4) return refuse(t, "\\u without four hexadecimal digits");
  buffer_format(t->out, "\\x{%.4s}", t->p + 1);
  t->p += 5;
  return STATUS_OK;
}

static Status translate_hexadecimal(Translation *t) {
  const char *p = t->p + 1;
  if (*p == '{') {
    const char *close = strchr(p, '}');
    if (!close) return refuse(t, "\\x{ without }");
    buffer_append_string(t->out, "\\x");
    buffer_append(t->out, p, (size_t)(close - p) + 1);
    t->p = close + 1;
    return STATUS_OK;
  }
  if (*p < '0' || *p > '7' || !isxdigit((unsigned char)p[1])) return refuse(t, "\\x above 7F, a bare byte");
  buffer_format(t->out, "\\x{%.2s}", p);
  t->p = p + 2;
  return STATUS_OK;
}

static Status translate_escape(Translation *t) {
  char c = *++t->p;
  switch (c) {
    case 's': put_set(t, SPACE_RANGES, false); break;
    case 'w': put_set(t, WORD_RANGES, false); break;
    case 'd': buffer_append_string(t->out, "\\p{Nd}"); break;
    case 'v': buffer_append_string(t->out, "\\x{b}"); break;
    case 'S':
      if (t->in_set) return refuse(t, "\\S inside a set");
      put_set(t, SPACE_RANGES, true);
      break;
    case 'W':
      if (t->in_set) return refuse(t, "\\W inside a set");
      put_set(t, WORD_RANGES, true);
      break;
    case 'D': buffer_append_string(t->out, "\\P{Nd}"); break;
    case 'p':
    case 'P': return translate_property(t);
    case 'u': return translate_code_point(t);
    case 'x': return translate_hexadecimal(t);
    case 'r':
    case 'n':
    case 't':
    case 'f':
    case 'a':
    case 'e': buffer_format(t->out, "\\%c", c); break;
    case 'A':
    case 'z':
      if (t->in_set) return refuse(t, "an anchor inside a set");
      buffer_format(t->out, "\\%c", c);
      break;
    case 0: return refuse(t, "a backslash with nothing behind it");
    default:
      if ((unsigned char)c >= 0x80) {
        t->p--;
        return refuse(t, "an escaped character outside ASCII");
      }
      if (isalnum((unsigned char)c)) return refuse(t, "an escape");
      buffer_format(t->out, "\\%c", c);
  }
  t->p++;
  return STATUS_OK;
}

static Status translate_group(Translation *t) {
  static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    size_t length = strlen(known[i]);
    if (strncmp(t->p, known[i], length) != 0) continue;
    buffer_append(t->out, known[i], length);
    t->p += length;
    return STATUS_OK;
  }
  return refuse(t, "a kind of group");
}

// {m,n} followed by +: possessive in PCRE2, a repeated repetition in Ruby.
static Status check_interval(const Translation *t) {
  const char *close = strchr(t->p, '}');
  if (close && close[1] == '+') return refuse(t, "an interval followed by +");
  return STATUS_OK;
}

static Status translate_one(Translation *t) {
  char c = *t->p;
  if (c == '\\') return translate_escape(t);
  if (t->in_set) {
    if (c == '[') return refuse(t, "a set inside a set");
    if (c == '&' && t->p[1] == '&') return refuse(t, "an intersection of sets");
    if (c == ']') t->in_set = false;
  } else if (c == '[') {
    t->in_set = true;
    buffer_append(t->out, "[", 1);
    t->p++;
    if (*t->p == '^') buffer_append(t->out, t->p++, 1);
    if (*t->p == ']') return refuse(t, "a set that begins with ]");
    return STATUS_OK;
  } else if (c == '(' && t->p[1] == '?') {
    return translate_group(t);
  } else if (c == '(' && t->p[1] == '*') {
    return refuse(t, "a verb");
  } else if (c == '^' || c == '$') {
    buffer_format(t->out, "(?m:%c)", c);
    t->p++;
    return STATUS_OK;
  } else if (c == '{') {
    TRY(check_interval(t));
  }
  buffer_append(t->out, t->p++, 1);
  return STATUS_OK;
}

Status regex_translate(Buffer *out, const char *pattern) {
  Translation t = {.out = out, .pattern = pattern, .p = pattern};
  buffer_append(out, "", 0);
  while (*t.p) TRY(translate_one(&t));
  return STATUS_OK;
}
