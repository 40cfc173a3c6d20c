// Numbers between bounds, digit by digit: a number is at least another if it has more digits before the point, or as many and a greater one
// at the first place where they differ. Numbers with bounds have no exponent.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/constraint/json_text.h"
#include "runtime/constraint/schema.h"

// Of a number with bounds, so that no two numbers, or a number and its bound, are one as a double: 15 digits are always kept apart.
enum { SIGNIFICANT_DIGITS = 15 };

typedef struct Bound {
  bool is_set, is_exclusive;
  double value;
  char digits[64];  // of the value without its sign, in decimal
  const char *integer, *fraction;  // in `digits`; the fraction without zeros at its end
  int places;  // digits that a fraction may have
} Bound;

static const Expression *digit(RuleSet *set, char first, char last) {
  return expression_set(set, &(CodeRange){(unsigned char)first, (unsigned char)last}, 1, false);
}

static const Expression *fraction(RuleSet *set, int places) {
  return expression_optional(set, expression_sequence(set, expression_string(set, "."), json_digits(set, 1, places)));
}

static const Expression *prefix(RuleSet *set, const char *digits, int count) { return expression_text(set, digits, (size_t)count); }

static const Expression *more_digits(RuleSet *set, int max) { return json_digits(set, 0, max > 0 ? max : 0); }

static const Expression *zeros(RuleSet *set, int max) { return expression_repeat(set, digit(set, '0', '0'), 0, max > 0 ? max : 0); }

// Up to `max` digits, not all of them zero.
static const Expression *not_zeros(RuleSet *set, int max) {
  if (max < 1) return expression_join(set, EXPRESSION_CHOICE, NULL, 0);
  const Expression *digits = expression_sequence(set, zeros(set, max - 1), digit(set, '1', '9'), more_digits(set, max - 1));
  return expression_pair(set, EXPRESSION_BOTH, digits, json_digits(set, 1, max));
}

// Fractions, with their point, that are at least the bound's.
static const Expression *fraction_at_least(RuleSet *set, const Bound *bound) {
  int count = (int)strlen(bound->fraction);
  const Expression *point = expression_string(set, ".");
  if (!count && !bound->is_exclusive) return fraction(set, bound->places);
  ExpressionList list = {0};
  for (int i = 0; i < count && i < bound->places; i++) {
    if (bound->fraction[i] == '9') continue;
    expression_list_add(&list, expression_sequence(set, prefix(set, bound->fraction, i), digit(set, bound->fraction[i] + 1, '9'),
                                                   more_digits(set, bound->places - i - 1)));
  }
  const Expression *rest = bound->is_exclusive ? not_zeros(set, bound->places - count) : more_digits(set, bound->places - count);
  expression_list_add(&list, expression_sequence(set, prefix(set, bound->fraction, count), rest));
  return expression_sequence(set, point, expression_list_end(set, EXPRESSION_CHOICE, &list));
}

static const Expression *fraction_at_most(RuleSet *set, const Bound *bound) {
  int count = (int)strlen(bound->fraction);
  ExpressionList list = {0};
  for (int i = 0; i < count && i < bound->places; i++) {
    if (i) expression_list_add(&list, prefix(set, bound->fraction, i));
    if (bound->fraction[i] == '0') continue;
    expression_list_add(&list, expression_sequence(set, prefix(set, bound->fraction, i), digit(set, '0', bound->fraction[i] - 1),
                                                   more_digits(set, bound->places - i - 1)));
  }
  if (!bound->is_exclusive && count)
    expression_list_add(&list, expression_sequence(set, prefix(set, bound->fraction, count), zeros(set, bound->places - count)));
  if (!bound->is_exclusive && !count)
    expression_list_add(&list, expression_sequence(set, digit(set, '0', '0'), zeros(set, bound->places - 1)));
  const Expression *digits = expression_list_end(set, EXPRESSION_CHOICE, &list);
  const Expression *some = expression_sequence(set, expression_string(set, "."), digits);
  return bound->is_exclusive && !count ? some : expression_optional(set, some);  // without a fraction: less, or equal
}

// Numbers from 0 on that are at least the bound.
static const Expression *at_least(RuleSet *set, const Bound *bound, bool is_integer) {
  int count = (int)strlen(bound->integer);
  const Expression *rest = is_integer ? expression_string(set, "") : fraction(set, bound->places);
  ExpressionList list = {0};
  if (count < JSON_MAX_DIGITS)
    expression_list_add(&list, expression_sequence(set, digit(set, '1', '9'), json_digits(set, count, JSON_MAX_DIGITS - 1), rest));
  for (int i = 0; i < count; i++) {
    if (bound->integer[i] == '9') continue;
    expression_list_add(&list, expression_sequence(set, prefix(set, bound->integer, i), digit(set, bound->integer[i] + 1, '9'),
                                                   json_digits(set, count - i - 1, count - i - 1), rest));
  }
  const Expression *equal = is_integer ? expression_string(set, "") : fraction_at_least(set, bound);
  expression_list_add(&list, expression_sequence(set, prefix(set, bound->integer, count), equal));
  return expression_list_end(set, EXPRESSION_CHOICE, &list);
}

static const Expression *at_most(RuleSet *set, const Bound *bound, bool is_integer) {
  int count = (int)strlen(bound->integer);
  const Expression *rest = is_integer ? expression_string(set, "") : fraction(set, bound->places);
  ExpressionList list = {0};
  if (count > 1) {
    const Expression *shorter = expression_sequence(set, digit(set, '1', '9'), json_digits(set, 0, count - 2));
    expression_list_add(&list, expression_sequence(set, expression_choice(set, digit(set, '0', '0'), shorter), rest));
  }
  for (int i = 0; i < count; i++) {
    char lowest = i == 0 && count > 1 ? '1' : '0';
    if (bound->integer[i] == lowest) continue;
    expression_list_add(&list, expression_sequence(set, prefix(set, bound->integer, i), digit(set, lowest, bound->integer[i] - 1),
                                                   json_digits(set, count - i - 1, count - i - 1), rest));
  }
  const Expression *equal = is_integer ? expression_string(set, "") : fraction_at_most(set, bound);
  expression_list_add(&list, expression_sequence(set, prefix(set, bound->integer, count), equal));
  return expression_list_end(set, EXPRESSION_CHOICE, &list);
}

// The fewest decimals that give the value back. Returns how many places the fractions of numbers near it may have, `places` at most.
static int write_digits(Bound *bound, int places) {
  double size = fabs(bound->value);
  for (int decimals = 0; decimals <= 40; decimals++) {
    snprintf(bound->digits, sizeof bound->digits, "%.*f", decimals, size);
    if (strtod(bound->digits, NULL) == size) break;
  }
  char *point = strchr(bound->digits, '.');
  bound->integer = bound->digits;
  bound->fraction = "";
  int left = SIGNIFICANT_DIGITS - (int)(point ? (size_t)(point - bound->digits) : strlen(bound->digits));
  if (left < places) places = left;
  if (!point) return places;
  *point = 0;
  bound->fraction = point + 1;
  for (char *end = bound->digits + strlen(bound->fraction) + (point - bound->digits); end > point && *end == '0'; end--) *end = 0;
  return places;
}

static Status check_size(double value, const char *keyword, const char *pointer) {
  if (fabs(value) < 9e15) return STATUS_OK;
  return schema_fail(pointer, "\"%s\": bounds beyond 9e15 are not supported: leave the bound out", keyword);
}

// Takes the bound of one keyword where it says more than the other.
static Status read_bound(Bound *bound, const json_t *flat, const char *keyword, bool is_exclusive, double direction, const char *pointer) {
  const json_t *value = json_object_get(flat, keyword);
  if (!value) return STATUS_OK;
  if (!json_is_number(value)) return schema_fail(pointer, "\"%s\" must be a number", keyword);
  double number = json_number_value(value);
  TRY(check_size(number, keyword, pointer));
  if (bound->is_set && (number * direction < bound->value * direction || (number == bound->value && !is_exclusive))) return STATUS_OK;
  *bound = (Bound){.is_set = true, .is_exclusive = is_exclusive, .value = number};
  return STATUS_OK;
}

// The nearest integer that the bound takes in.
static void round_bound(Bound *bound, double direction) {
  if (!bound->is_set) return;
  double rounded = direction > 0 ? ceil(bound->value) : floor(bound->value);
  if (bound->is_exclusive && rounded == bound->value) rounded += direction;
  bound->value = rounded;
  bound->is_exclusive = false;
}

// Numbers from 0 on between two bounds, which are compared by their digits, without signs.
static const Expression *between(RuleSet *set, Bound *low, Bound *high, bool is_integer) {
  int places = SIGNIFICANT_DIGITS;
  if (low) places = write_digits(low, places);
  if (high) places = write_digits(high, places);
  if (low) low->places = places;
  if (high) high->places = places;
  if (places < 1 && !is_integer) {  // only integers are told apart there
    if (low) low->value = fabs(low->value), round_bound(low, 1), write_digits(low, 0);
    if (high) high->value = fabs(high->value), round_bound(high, -1), write_digits(high, 0);
    is_integer = true;
  }
  if (low && high) return expression_pair(set, EXPRESSION_BOTH, at_least(set, low, is_integer), at_most(set, high, is_integer));
  return low ? at_least(set, low, is_integer) : at_most(set, high, is_integer);
}

static Status check_multiple(const json_t *flat, bool *is_integer, const char *pointer) {
  const json_t *multiple = json_object_get(flat, "multipleOf");
  if (!multiple) return STATUS_OK;
  if (!json_is_number(multiple) || json_number_value(multiple) != 1)
    return schema_fail(pointer, "\"multipleOf\" is supported with the value 1 alone");
  *is_integer = true;
  return STATUS_OK;
}

Status schema_number(const Expression **out, Schema *schema, const json_t *flat, bool is_integer, const char *pointer) {
  RuleSet *set = schema->set;
  Bound low = {0}, high = {0};
  TRY(check_multiple(flat, &is_integer, pointer));
  TRY(read_bound(&low, flat, "minimum", false, 1, pointer));
  TRY(read_bound(&low, flat, "exclusiveMinimum", true, 1, pointer));
  TRY(read_bound(&high, flat, "maximum", false, -1, pointer));
  TRY(read_bound(&high, flat, "exclusiveMaximum", true, -1, pointer));
  if (!low.is_set && !high.is_set) return *out = is_integer ? json_integer_number(set) : json_number(set), STATUS_OK;
  if (is_integer) round_bound(&low, 1), round_bound(&high, -1);
  ExpressionList list = {0};
  Bound zero = {.is_set = true}, one = {.is_set = true, .value = 1};
  if (!high.is_set || high.value >= 0) {
    Bound least = low.is_set && low.value >= 0 ? low : zero, most = high;
    expression_list_add(&list, between(set, &least, high.is_set ? &most : NULL, is_integer));
  }
  if (!low.is_set || low.value < 0) {  // the bounds change places
    Bound least = high.is_set && high.value < 0 ? high : is_integer ? one : zero, most = low;
    if (least.value == 0) least.is_exclusive = high.is_set && high.value == 0 && high.is_exclusive;
    const Expression *size = between(set, &least, low.is_set ? &most : NULL, is_integer);
    expression_list_add(&list, expression_sequence(set, expression_string(set, "-"), size));
  }
  *out = expression_list_end(set, EXPRESSION_CHOICE, &list);
  return STATUS_OK;
}
