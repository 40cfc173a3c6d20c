// The tests of `is`, after Jinja2's tests.py.
#include <string.h>

#include "data/jinja/parts.h"

#define TYPE_TEST(name, condition)                                                     \
  static Status name(Value *out, Run *run, Value *given, const Arguments *arguments) { \
    (void)run, (void)arguments;                                                        \
    Value value = given[0];                                                            \
    *out = value_bool(condition);                                                      \
    return STATUS_OK;                                                                  \
  }
TYPE_TEST(test_defined, value.type != VALUE_UNDEFINED)
TYPE_TEST(test_undefined, value.type == VALUE_UNDEFINED)
TYPE_TEST(test_none, value.type == VALUE_NONE)
TYPE_TEST(test_boolean, value.type == VALUE_BOOL)
TYPE_TEST(test_true, value.type == VALUE_BOOL && value.as.truth)
TYPE_TEST(test_false, value.type == VALUE_BOOL && !value.as.truth)
TYPE_TEST(test_integer, value.type == VALUE_INT)
TYPE_TEST(test_float, value.type == VALUE_FLOAT)
TYPE_TEST(test_number, value_is_number(value))
TYPE_TEST(test_string, value.type == VALUE_STRING)
TYPE_TEST(test_mapping, value.type == VALUE_DICT)
TYPE_TEST(test_iterable, value_is_iterable(value) || value.type == VALUE_LOOP)
TYPE_TEST(test_callable, value_is_callable(value))
TYPE_TEST(test_escaped, value.type == VALUE_STRING && value.as.string->safe)
TYPE_TEST(test_sequence, value.type == VALUE_UNDEFINED || value.type == VALUE_STRING || value.type == VALUE_LIST ||
                             value.type == VALUE_TUPLE || value.type == VALUE_DICT || value.type == VALUE_RANGE)

static Status remainder_is(Value *out, Run *run, Value value, Value divisor, int64_t wanted) {
  TRY(operate(out, run, OPERATOR_MODULO, value, divisor));
  *out = value_bool(value_equal(run, *out, value_int(wanted)));
  return STATUS_OK;
}

static Status test_odd(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return remainder_is(out, run, given[0], value_int(2), 1);
}

static Status test_even(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return remainder_is(out, run, given[0], value_int(2), 0);
}

static Status test_divisibleby(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return remainder_is(out, run, given[0], given[1], 0);
}

static Status text_test(Value *out, Run *run, Value value, const char *method) {
  TRY(value_str(&value, run, value));
  return call_function(out, run, find_method(value, method), &value, &(Arguments){0});
}

static Status test_lower(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return text_test(out, run, given[0], "islower");
}

static Status test_upper(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return text_test(out, run, given[0], "isupper");
}

static Status test_sameas(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments, (void)run;
  *out = value_bool(value_same(given[0], given[1]));
  return STATUS_OK;
}

static Status is_known(Value *out, Run *run, Value value, const Function *(*find)(const char *)) {
  char text[64] = "";
  uint64_t hash;
  TRY(value_hash(&hash, run, value));  // a name is looked up in a dict
  if (value.type == VALUE_STRING && value.as.string->length < sizeof text) memcpy(text, value.as.string->bytes, value.as.string->length);
  *out = value_bool(find(text) != NULL);
  return STATUS_OK;
}

static Status test_filter(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return is_known(out, run, given[0], find_filter);
}

static Status test_test(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return is_known(out, run, given[0], find_test);
}

#define OPERATOR_TEST(name, operator)                                                  \
  static Status name(Value *out, Run *run, Value *given, const Arguments *arguments) { \
    (void)arguments;                                                                   \
    return operate(out, run, operator, given[0], given[1]);                            \
  }
OPERATOR_TEST(test_equal, OPERATOR_EQUAL)
OPERATOR_TEST(test_not_equal, OPERATOR_NOT_EQUAL)
OPERATOR_TEST(test_less, OPERATOR_LESS)
OPERATOR_TEST(test_less_equal, OPERATOR_LESS_EQUAL)
OPERATOR_TEST(test_greater, OPERATOR_GREATER)
OPERATOR_TEST(test_greater_equal, OPERATOR_GREATER_EQUAL)
OPERATOR_TEST(test_in, OPERATOR_IN)

const Function *find_test(const char *name) {
  static const Function tests[] = {
      {"defined", "value", test_defined},
      {"undefined", "value", test_undefined},
      {"none", "value", test_none},
      {"boolean", "value", test_boolean},
      {"true", "value", test_true},
      {"false", "value", test_false},
      {"integer", "value", test_integer},
      {"float", "value", test_float},
      {"number", "value", test_number},
      {"string", "value", test_string},
      {"mapping", "value", test_mapping},
      {"iterable", "value", test_iterable},
      {"sequence", "value", test_sequence},
      {"callable", "/value", test_callable},
      {"escaped", "value", test_escaped},
      {"odd", "value", test_odd},
      {"even", "value", test_even},
      {"divisibleby", "value num", test_divisibleby},
      {"lower", "value", test_lower},
      {"upper", "value", test_upper},
      {"sameas", "value other", test_sameas},
      {"filter", "value", test_filter},
      {"test", "value", test_test},
      {"in", "value seq", test_in},
      {"eq", "/a b", test_equal},
      {"==", "/a b", test_equal},
      {"equalto", "/a b", test_equal},
      {"ne", "/a b", test_not_equal},
      {"!=", "/a b", test_not_equal},
      {"lt", "/a b", test_less},
      {"<", "/a b", test_less},
      {"lessthan", "/a b", test_less},
      {"le", "/a b", test_less_equal},
      {"<=", "/a b", test_less_equal},
      {"gt", "/a b", test_greater},
      {">", "/a b", test_greater},
      {"greaterthan", "/a b", test_greater},
      {"ge", "/a b", test_greater_equal},
      {">=", "/a b", test_greater_equal},
  };
  for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
    if (strcmp(tests[i].name, name) == 0) return &tests[i];
  return NULL;
}
