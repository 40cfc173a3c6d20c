// Regular expressions of tokenizer.json (Oniguruma, Ruby's syntax, Unicode) as PCRE2 reads them (UTF, UCP). Most of it is the same
// text. What differs is rewritten:
//   \s    PCRE2 counts U+180E, Unicode no longer does        -> the ranges of White_Space
//   \w    PCRE2 leaves out marks and letterlike numbers        -> \p{L}\p{Nl}\p{M}\p{Nd}\p{Pc} and some
//   \p{Han}  PCRE2 takes a script's name for Script_Extensions -> \p{sc:Han}
//   \uHHHH                                                    -> \x{HHHH}
//   \b    between those characters and others
//   ^ and $  match at every line                              -> (?m:^) and (?m:$)
//   [a[bc]]  a set inside a set, where neither is negated      -> [abc]
// What means something else and cannot be rewritten in place (negated sets inside sets, &&, back references, intervals followed by +, option
// letters other than i) is refused by name.
#include <ctype.h>
#include <string.h>

#include "data/tokenizer/parts.h"

// Oniguruma counts the Latin-1 superscripts and fractions too.
#define WORD_RANGES REGEX_WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

typedef struct Translation {
  Buffer *out;
  const char *pattern, *p;
  int in_set;  // how many sets deep
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
    case 's': put_set(t, REGEX_SPACES, false); break;
    case 'w': put_set(t, WORD_RANGES, false); break;
    case 'd': buffer_append_string(t->out, "\\p{Nd}"); break;
    case 'v': buffer_append_string(t->out, "\\x{b}"); break;
    case 'S':
      if (t->in_set) return refuse(t, "\\S inside a set");
      put_set(t, REGEX_SPACES, true);
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
    case 'b':
    case 'B':
      if (t->in_set) return refuse(t, "\\b inside a set");
      buffer_append_string(t->out, c == 'b' ? "(?:(?<=[" WORD_RANGES "])(?![" WORD_RANGES "])|(?<![" WORD_RANGES "])(?=[" WORD_RANGES "]))"
                                            : "(?:(?<=[" WORD_RANGES "])(?=[" WORD_RANGES "])|(?<![" WORD_RANGES "])(?![" WORD_RANGES
                                              "]))");
      break;
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
    if (c == '[' && (t->p[1] == '^' || t->p[1] == ':' || t->p[1] == ']')) return refuse(t, "such a set inside a set");
    if (c == '&' && t->p[1] == '&') return refuse(t, "an intersection of sets");
    if (c == '[' || (c == ']' && t->in_set > 1)) {  // the union is one set
      t->in_set += c == '[' ? 1 : -1;
      t->p++;
      return STATUS_OK;
    }
    if (c == ']') t->in_set = 0;
  } else if (c == '[') {
    t->in_set = 1;
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

// ---- Running ----

enum { JIT_STACK_FIRST = 32 << 10, JIT_STACK_MOST = 4 << 20, MATCH_LIMIT = 10000000 };

Status regex_compile_plain(pcre2_code **code, const char *pattern) {
  int error;
  PCRE2_SIZE offset;
  uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE;
  *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &error, &offset, NULL);
  if (!*code) {
    char message[256] = "";
    pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
    return status_fail(STATUS_BAD_INPUT, "the regular expression `%s`: %s", pattern, message);
  }
  pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE);  // where there is no JIT, pcre2_match interprets
  return STATUS_OK;
}

Status regex_compile(pcre2_code **code, const char *pattern) {
  Buffer translated = {0};
  *code = NULL;
  Status status = regex_translate(&translated, pattern);
  if (status == STATUS_OK) status = regex_compile_plain(code, translated.data);
  buffer_release(&translated);
  return status;
}

static void prepare_matching(Workspace *workspace) {
  if (workspace->match) return;
  workspace->match = pcre2_match_data_create(1, NULL);
  workspace->context = pcre2_match_context_create(NULL);
  workspace->stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MOST, NULL);
  pcre2_set_match_limit(workspace->context, MATCH_LIMIT);
  pcre2_jit_stack_assign(workspace->context, NULL, workspace->stack);
}

Status regex_next(bool *found, RegexScan *scan, Workspace *workspace) {
  prepare_matching(workspace);
  *found = false;
  while (scan->from <= scan->length) {
    int count =
        pcre2_match(scan->code, (PCRE2_SPTR)scan->text, scan->length, scan->from, PCRE2_NO_UTF_CHECK, workspace->match, workspace->context);
    if (count == PCRE2_ERROR_NOMATCH) return STATUS_OK;
    if (count < 0) {
      char message[256] = "";
      pcre2_get_error_message(count, (PCRE2_UCHAR *)message, sizeof message);
      return status_fail(STATUS_FAILED, "the regular expression `%s` on a text of %zu bytes: %s", scan->pattern, scan->length, message);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(workspace->match);
    size_t begin = range[0], end = range[1], before = scan->end;
    scan->from = end;
    if (end <= begin) {  // the next try begins a character later
      scan->from = end + 1;
      while (scan->from < scan->length && ((uint8_t)scan->text[scan->from] & 0xC0) == 0x80) scan->from++;
      if (end < begin || (scan->matched && begin == before)) continue;
    }
    scan->begin = begin;
    scan->end = end;
    scan->matched = *found = true;
    return STATUS_OK;
  }
  return STATUS_OK;
}
