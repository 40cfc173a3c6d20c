// GBNF as llama.cpp has it (its grammars/README.md): rules NAME ::= ALTERNATIVES; literals, character classes, '.', groups, references, the
// repetitions * + ? {m} {m,} {m,n}, comments from # to the end of the line. A rule ends with its line, unless a group is open or '|' stands
// at the end of the line or at the start of the next. All escapes (\xXX \uXXXX \UXXXXXXXX and letters) are code points.
#include "runtime/constraint/gbnf.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/map.h"
#include "core/text.h"

enum { MAX_DEPTH = 200, MAX_REPETITIONS = 100000 };

typedef struct GbnfRule {
  const char *used_at;  // where it was first referred to
} GbnfRule;

typedef struct Gbnf {
  RuleSet *set;
  const char *text, *at;
  Map names;  // to rules
  GbnfRule *uses;
  int use_count, use_capacity;
  int depth;
} Gbnf;

static Status fail_at(const Gbnf *gbnf, const char *place, const char *what) {
  int line = 1, column = 1;
  for (const char *p = gbnf->text; p < place; p++) {
    if (*p == '\n') line++, column = 0;
    if (((unsigned char)*p & 0xc0) != 0x80) column++;
  }
  return status_fail(STATUS_BAD_INPUT, "grammar:%d:%d: %s", line, column, what);
}

static Status fail_named(const Gbnf *gbnf, const char *place, const char *format, const char *name) {
  char *what = memory_format(format, name);
  Status status = fail_at(gbnf, place, what);
  free(what);
  return status;
}

static void skip_space(Gbnf *gbnf, bool over_lines) {
  for (;; gbnf->at++) {
    char c = *gbnf->at;
    if (c == '#') {
      gbnf->at += strcspn(gbnf->at, "\r\n");
      c = *gbnf->at;
    }
    if (c != ' ' && c != '\t' && !(over_lines && (c == '\n' || c == '\r'))) return;
  }
}

static bool is_name_character(char c) { return isalnum((unsigned char)c) || c == '-' || c == '_'; }

// The rule of the name at `at`, added if it is new.
static Status parse_name(int *rule, Gbnf *gbnf) {
  const char *begin = gbnf->at;
  while (is_name_character(*gbnf->at)) gbnf->at++;
  size_t length = (size_t)(gbnf->at - begin);
  if (!length) return fail_at(gbnf, begin, "the name of a rule is expected (letters, digits, '-' and '_')");
  int64_t known;
  if (map_get(&gbnf->names, begin, length, &known)) {
    *rule = (int)known;
    return STATUS_OK;
  }
  char *name = memory_format("%.*s", (int)length, begin);
  *rule = rule_add(gbnf->set, name);
  free(name);
  map_set(&gbnf->names, begin, length, *rule);
  ARRAY_PUSH(gbnf->uses, gbnf->use_count, gbnf->use_capacity) = (GbnfRule){begin};
  return STATUS_OK;
}

static Status parse_hex(uint32_t *out, Gbnf *gbnf, int digits) {
  uint32_t value = 0;
  for (int i = 0; i < digits; i++) {
    char c = gbnf->at[i];
    if (!isxdigit((unsigned char)c)) return fail_at(gbnf, gbnf->at + i, "a hexadecimal digit is expected");
    value = value << 4 | (uint32_t)(isdigit((unsigned char)c) ? c - '0' : (c | 32) - 'a' + 10);
  }
  gbnf->at += digits;
  *out = value;
  return STATUS_OK;
}

// One character of a literal or a class, an escape included.
static Status parse_character(uint32_t *out, Gbnf *gbnf) {
  const char *begin = gbnf->at;
  if (*begin != '\\') {
    int length = utf8_length((const unsigned char *)begin, strlen(begin));
    if (!length) return fail_at(gbnf, begin, "this is not valid UTF-8");
    static const unsigned char masks[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    *out = (unsigned char)begin[0] & masks[length];
    for (int i = 1; i < length; i++) *out = *out << 6 | ((unsigned char)begin[i] & 0x3f);
    gbnf->at += length;
    return STATUS_OK;
  }
  gbnf->at += 2;
  switch (begin[1]) {
    case 'x': TRY(parse_hex(out, gbnf, 2)); break;
    case 'u': TRY(parse_hex(out, gbnf, 4)); break;
    case 'U': TRY(parse_hex(out, gbnf, 8)); break;
    case 't': *out = '\t'; break;
    case 'r': *out = '\r'; break;
    case 'n': *out = '\n'; break;
    case '\\':
    case '"':
    case '[':
    case ']':
    case '-':
    case '^': *out = (uint32_t)begin[1]; break;
    default: return fail_at(gbnf, begin, "no such escape: \\x \\u \\U \\t \\r \\n \\\\ \\\" \\[ \\] \\- \\^ are known");
  }
  if (*out > CODE_POINT_LAST || (*out >= 0xd800 && *out <= 0xdfff)) return fail_at(gbnf, begin, "there is no such character");
  return STATUS_OK;
}

static Status parse_literal(const Expression **out, Gbnf *gbnf) {
  const char *begin = gbnf->at++;
  Buffer bytes = {0};
  Status status = STATUS_OK;
  while (*gbnf->at != '"') {
    uint32_t character;
    if (!*gbnf->at || *gbnf->at == '\n') TRY_DONE(fail_at(gbnf, begin, "this text has no closing '\"'"));
    TRY_DONE(parse_character(&character, gbnf));
    unsigned char utf8[4];
    buffer_append(&bytes, utf8, (size_t)utf8_encode(utf8, character));
  }
  gbnf->at++;
  *out = expression_text(gbnf->set, bytes.data ? bytes.data : "", bytes.length);
done:
  buffer_release(&bytes);
  return status;
}

static Status parse_class(const Expression **out, Gbnf *gbnf) {
  const char *begin = gbnf->at++;
  bool is_negated = *gbnf->at == '^';
  CodeRange *ranges = NULL;
  int count = 0, capacity = 0;
  Status status = STATUS_OK;
  if (is_negated) gbnf->at++;
  while (*gbnf->at != ']') {
    CodeRange range;
    const char *first = gbnf->at;
    if (!*gbnf->at || *gbnf->at == '\n') TRY_DONE(fail_at(gbnf, begin, "this class has no closing ']'"));
    TRY_DONE(parse_character(&range.first, gbnf));
    range.last = range.first;
    if (gbnf->at[0] == '-' && gbnf->at[1] && gbnf->at[1] != ']') {
      gbnf->at++;
      TRY_DONE(parse_character(&range.last, gbnf));
      if (range.last < range.first) TRY_DONE(fail_at(gbnf, first, "this range ends before it begins"));
    }
    ARRAY_PUSH(ranges, count, capacity) = range;
  }
  gbnf->at++;
  *out = expression_set(gbnf->set, ranges, count, is_negated);
done:
  free(ranges);
  return status;
}

static Status parse_alternatives(const Expression **out, Gbnf *gbnf);

static Status parse_group(const Expression **out, Gbnf *gbnf) {
  const char *begin = gbnf->at++;
  if (++gbnf->depth > MAX_DEPTH) return fail_at(gbnf, begin, "groups are nested too deeply");
  skip_space(gbnf, true);
  TRY(parse_alternatives(out, gbnf));
  skip_space(gbnf, true);
  if (*gbnf->at != ')') return fail_at(gbnf, *gbnf->at ? gbnf->at : begin, "')' is expected: this group is not closed");
  gbnf->at++;
  gbnf->depth--;
  return STATUS_OK;
}

static Status parse_count(int64_t *out, Gbnf *gbnf) {
  const char *begin = gbnf->at;
  if (!isdigit((unsigned char)*begin)) return fail_at(gbnf, begin, "a number is expected in {m}, {m,} or {m,n}");
  for (*out = 0; isdigit((unsigned char)*gbnf->at); gbnf->at++) {
    *out = *out * 10 + (*gbnf->at - '0');
    if (*out > MAX_REPETITIONS) return fail_at(gbnf, begin, "more than 100000 repetitions are not supported");
  }
  skip_space(gbnf, true);
  return STATUS_OK;
}

static Status parse_braces(int64_t *min, int64_t *max, Gbnf *gbnf) {
  const char *begin = gbnf->at++;
  skip_space(gbnf, true);
  TRY(parse_count(min, gbnf));
  *max = *min;
  if (*gbnf->at == ',') {
    gbnf->at++;
    skip_space(gbnf, true);
    *max = -1;
    if (*gbnf->at != '}') TRY(parse_count(max, gbnf));
  }
  if (*gbnf->at != '}') return fail_at(gbnf, gbnf->at, "'}' is expected");
  if (*max >= 0 && *max < *min) return fail_at(gbnf, begin, "{m,n}: n is less than m");
  gbnf->at++;
  return STATUS_OK;
}

// Any number of repetitions behind one thing.
static Status parse_repetitions(const Expression **part, Gbnf *gbnf) {
  for (int count = 0;; count++) {
    int64_t min = 0, max = -1;
    const char *begin = gbnf->at;
    if (*begin != '*' && *begin != '+' && *begin != '?' && *begin != '{') return STATUS_OK;
    if (count == MAX_DEPTH) return fail_at(gbnf, begin, "too many repetitions of repetitions");
    if (*begin == '{') {
      TRY(parse_braces(&min, &max, gbnf));
    } else {
      gbnf->at++;
      if (*begin == '+') min = 1;
      if (*begin == '?') max = 1;
    }
    *part = expression_repeat(gbnf->set, *part, min, max);
    skip_space(gbnf, gbnf->depth > 0);
  }
}

static Status parse_part(const Expression **out, Gbnf *gbnf) {
  int rule;
  switch (*gbnf->at) {
    case '"': return parse_literal(out, gbnf);
    case '[': return parse_class(out, gbnf);
    case '(': return parse_group(out, gbnf);
    case '.':
      gbnf->at++;
      *out = expression_set(gbnf->set, NULL, 0, true);
      return STATUS_OK;
    default:
      TRY(parse_name(&rule, gbnf));
      *out = expression_rule(gbnf->set, rule);
      return STATUS_OK;
  }
}

static bool begins_part(char c) { return is_name_character(c) || c == '"' || c == '[' || c == '(' || c == '.'; }

static Status parse_sequence(const Expression **out, Gbnf *gbnf) {
  ExpressionList parts = {0};
  Status status = STATUS_OK;
  while (begins_part(*gbnf->at)) {
    const Expression *part = NULL;
    TRY_DONE(parse_part(&part, gbnf));
    skip_space(gbnf, gbnf->depth > 0);
    TRY_DONE(parse_repetitions(&part, gbnf));
    expression_list_add(&parts, part);
  }
  *out = expression_list_end(gbnf->set, EXPRESSION_SEQUENCE, &parts);
done:
  free(parts.items);
  return status;
}

static Status parse_alternatives(const Expression **out, Gbnf *gbnf) {
  ExpressionList parts = {0};
  Status status = STATUS_OK;
  for (;;) {
    const Expression *part = NULL;
    TRY_DONE(parse_sequence(&part, gbnf));
    expression_list_add(&parts, part);
    const char *line_end = gbnf->at;
    skip_space(gbnf, true);
    if (*gbnf->at != '|') {
      gbnf->at = line_end;
      break;
    }
    gbnf->at++;
    skip_space(gbnf, true);
  }
  *out = expression_list_end(gbnf->set, EXPRESSION_CHOICE, &parts);
done:
  free(parts.items);
  return status;
}

static Status parse_rule(Gbnf *gbnf) {
  const char *begin = gbnf->at;
  const Expression *body = NULL;
  int rule;
  TRY(parse_name(&rule, gbnf));
  if (gbnf->set->rules[rule].body) return fail_named(gbnf, begin, "the rule \"%s\" is there already", gbnf->set->rules[rule].name);
  skip_space(gbnf, false);
  if (!text_starts_with(gbnf->at, "::=")) return fail_at(gbnf, gbnf->at, "'::=' is expected behind the name of a rule");
  gbnf->at += 3;
  skip_space(gbnf, true);
  TRY(parse_alternatives(&body, gbnf));
  gbnf->set->rules[rule].body = body;
  skip_space(gbnf, false);
  if (*gbnf->at && *gbnf->at != '\n' && *gbnf->at != '\r')
    return fail_at(gbnf, gbnf->at,
                   *gbnf->at == '<' ? "tokens (<...>) are not supported: write the text that they stand for" : "this is no part of a rule");
  skip_space(gbnf, true);
  return STATUS_OK;
}

static Status parse_rules(Gbnf *gbnf) {
  map_set_string(&gbnf->names, "root", rule_add(gbnf->set, "root"));
  ARRAY_PUSH(gbnf->uses, gbnf->use_count, gbnf->use_capacity) = (GbnfRule){gbnf->text};
  skip_space(gbnf, true);
  while (*gbnf->at) TRY(parse_rule(gbnf));
  for (int i = 0; i < gbnf->set->count; i++) {
    if (gbnf->set->rules[i].body) continue;
    return fail_named(gbnf, gbnf->uses[i].used_at, i ? "there is no rule \"%s\"" : "there is no rule \"%s\", where a text begins",
                      gbnf->set->rules[i].name);
  }
  return STATUS_OK;
}

Status gbnf_parse(RuleSet *set, const char *text) {
  Gbnf gbnf = {.set = set, .text = text, .at = text};
  Status status = parse_rules(&gbnf);
  map_release(&gbnf.names);
  free(gbnf.uses);
  return status;
}
