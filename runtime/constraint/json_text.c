// Pieces of JSON as expressions.
#include "runtime/constraint/json_text.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_INDENTATION = 20, FIRST_PRINTABLE = 0x20 };

const Expression *json_ascii(RuleSet *set, const char *characters, bool is_negated) {
  CodeRange ranges[16];
  int count = 0;
  for (const char *p = characters; *p && count < 16; p += 2) ranges[count++] = (CodeRange){(unsigned char)p[0], (unsigned char)p[1]};
  return expression_set(set, ranges, count, is_negated);
}

const Expression *json_digits(RuleSet *set, int64_t min, int64_t max) {
  return expression_repeat(set, json_ascii(set, "09", false), min, max);
}

const Expression *json_space(RuleSet *set) {
  const Expression *indentation = expression_repeat(set, json_ascii(set, "  \t\t", false), 0, MAX_INDENTATION);
  const Expression *line = expression_sequence(set, expression_string(set, "\n"), indentation);
  return expression_optional(set, expression_choice(set, expression_string(set, " "), line));
}

static const Expression *raw_character(RuleSet *set) {
  const CodeRange without[] = {{0, FIRST_PRINTABLE - 1}, {'"', '"'}, {'\\', '\\'}};
  return expression_set(set, without, 3, true);
}

static const Expression *short_escape(RuleSet *set) {
  return expression_sequence(set, expression_string(set, "\\"), json_ascii(set, "\"\"\\\\//bbffnnrrtt", false));
}

static const Expression *hex_digits(RuleSet *set, int64_t count) {
  return expression_repeat(set, json_ascii(set, "09afAF", false), count, count);
}

// \uXXXX of a character that is neither U+0000 nor a surrogate.
static const Expression *unicode_escape(RuleSet *set) {
  const Expression *not_zero = json_ascii(set, "19afAF", false);
  const Expression *digits =
      expression_choice(set, expression_sequence(set, json_ascii(set, "19acACefEF", false), hex_digits(set, 3)),
                        expression_sequence(set, json_ascii(set, "ddDD", false), json_ascii(set, "07", false), hex_digits(set, 2)),
                        expression_sequence(set, expression_string(set, "0"), not_zero, hex_digits(set, 2)),
                        expression_sequence(set, expression_string(set, "00"), not_zero, hex_digits(set, 1)),
                        expression_sequence(set, expression_string(set, "000"), not_zero));
  return expression_sequence(set, expression_string(set, "\\u"), digits);
}

static const Expression *surrogate_pair(RuleSet *set) {
  const Expression *d = json_ascii(set, "ddDD", false), *u = expression_string(set, "\\u");
  return expression_sequence(set, u, d, json_ascii(set, "89abAB", false), hex_digits(set, 2), u, d, json_ascii(set, "cfCF", false),
                             hex_digits(set, 2));
}

const Expression *json_character(RuleSet *set) {
  return expression_choice(set, raw_character(set), short_escape(set), unicode_escape(set), surrogate_pair(set));
}

const Expression *json_plain_character(RuleSet *set) { return expression_choice(set, raw_character(set), short_escape(set)); }

static bool must_be_escaped(uint32_t character) { return character < FIRST_PRINTABLE || character == '"' || character == '\\'; }

static const Expression *escaped(RuleSet *set, uint32_t character) {
  static const char letters[] = "\"\"\\\\\bb\ff\nn\rr\tt";
  char text[8] = {'\\'};
  for (const char *p = letters; *p; p += 2)
    if ((uint32_t)(unsigned char)p[0] == character) return text[1] = p[1], expression_string(set, text);
  char *other = memory_format("\\u%04x", (unsigned)character);
  const Expression *expression = expression_string(set, other);
  free(other);
  return expression;
}

const Expression *json_set(RuleSet *set, const Expression *characters) {
  ExpressionList choices = {0};
  CodeRange *raw = memory_new((size_t)characters->count + 8, sizeof *raw);
  int raw_count = 0;
  for (int i = 0; i < characters->count; i++) {
    CodeRange range = characters->ranges[i];
    // Characters that are escaped are all below 0x5d; the range goes on behind each of them.
    for (uint32_t c = range.first; c <= range.last && c <= '\\'; c++) {
      if (!must_be_escaped(c)) continue;
      if (c > range.first) raw[raw_count++] = (CodeRange){range.first, c - 1};
      range.first = c + 1;
      if (c) expression_list_add(&choices, escaped(set, c));
    }
    if (range.first <= range.last) raw[raw_count++] = range;
  }
  if (raw_count) expression_list_add(&choices, expression_set(set, raw, raw_count, false));
  free(raw);
  return expression_list_end(set, EXPRESSION_CHOICE, &choices);
}

const Expression *json_quoted(RuleSet *set, const Expression *content) {
  const Expression *quote = expression_string(set, "\"");
  return expression_sequence(set, quote, content, quote);
}

// The fewest digits that give the value back.
static char *write_value(const json_t *value) {
  enum { ALWAYS_KEPT = 15, ALWAYS_ENOUGH = 17 };
  for (int digits = ALWAYS_KEPT;; digits++) {
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits));
    json_t *read = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
    bool is_same = json_equal(read, value);
    json_decref(read);
    if (is_same || digits == ALWAYS_ENOUGH) return text;
    free(text);
  }
}

const Expression *json_literal(RuleSet *set, const json_t *value) {
  char *text = write_value(value);
  const Expression *expression = expression_string(set, text ? text : "");
  free(text);
  return expression;
}

static const Expression *unsigned_integer(RuleSet *set) {
  return expression_choice(set, expression_string(set, "0"),
                           expression_sequence(set, json_ascii(set, "19", false), json_digits(set, 0, JSON_MAX_DIGITS - 1)));
}

const Expression *json_integer_number(RuleSet *set) {
  const Expression *negative =
      expression_sequence(set, expression_string(set, "-"), json_ascii(set, "19", false), json_digits(set, 0, JSON_MAX_DIGITS - 1));
  return expression_choice(set, unsigned_integer(set), negative);
}

const Expression *json_number(RuleSet *set) {
  const Expression *fraction = expression_sequence(set, expression_string(set, "."), json_digits(set, 1, JSON_MAX_DIGITS - 1));
  const Expression *sign = expression_optional(set, json_ascii(set, "++--", false));
  const Expression *exponent = expression_sequence(set, json_ascii(set, "eeEE", false), sign, json_digits(set, 1, 2));
  return expression_sequence(set, expression_optional(set, expression_string(set, "-")), unsigned_integer(set),
                             expression_optional(set, fraction), expression_optional(set, exponent));
}
