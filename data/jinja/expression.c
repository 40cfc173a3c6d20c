// The evaluation of expressions: Python's operators on Python's types, calls, filters and tests.
#include <math.h>
#include <string.h>

#include "data/jinja/parts.h"

// ---- Arithmetic.

static Status operand_fail(Run *run, const char *sign, Value a, Value b) {
  if (a.type == VALUE_UNDEFINED) return undefined_fail(run, a);
  if (b.type == VALUE_UNDEFINED) return undefined_fail(run, b);
  return run_fail(run, "unsupported operand type(s) for %s: '%s' and '%s'", sign, value_type_name(a), value_type_name(b));
}

static Status overflow_fail(Run *run) { return run_fail(run, "an integer is too large: 64 bits are what there is"); }

static Value joined_lists(Run *run, const List *a, const List *b) {
  List *list = list_new(run, a->count + b->count);
  for (int64_t i = 0; i < a->count; i++) list_push(run, list, a->items[i]);
  for (int64_t i = 0; i < b->count; i++) list_push(run, list, b->items[i]);
  return value_list(list);
}

// Markup escapes the string that it is added to.
static Value joined_strings(Run *run, const String *a, const String *b) {
  Builder builder;
  bool safe = a->safe || b->safe;
  if (safe) a = string_escape(run, a).as.string, b = string_escape(run, b).as.string;
  builder_begin(&builder, run);
  builder_expect(&builder, a->length + b->length, a->origins || b->origins);
  builder_string(&builder, a);
  builder_string(&builder, b);
  return builder_value(&builder, safe);
}

static Status add(Value *out, Run *run, Value a, Value b) {
  if (value_is_integer(a) && value_is_integer(b)) {
    int64_t sum;
    if (__builtin_add_overflow(value_integer(a), value_integer(b), &sum)) return overflow_fail(run);
    *out = value_int(sum);
  } else if (value_is_number(a) && value_is_number(b)) {
    *out = value_float(value_real(a) + value_real(b));
  } else if (a.type == VALUE_STRING && b.type == VALUE_STRING) {
    *out = joined_strings(run, a.as.string, b.as.string);
  } else if (a.type == b.type && (a.type == VALUE_LIST || a.type == VALUE_TUPLE)) {
    *out = joined_lists(run, a.as.list, b.as.list);
    out->type = a.type;
  } else {
    return operand_fail(run, "+", a, b);
  }
  return STATUS_OK;
}

static Status subtract(Value *out, Run *run, Value a, Value b) {
  if (!value_is_number(a) || !value_is_number(b)) return operand_fail(run, "-", a, b);
  int64_t difference;
  if (a.type == VALUE_FLOAT || b.type == VALUE_FLOAT) *out = value_float(value_real(a) - value_real(b));
  else if (__builtin_sub_overflow(value_integer(a), value_integer(b), &difference)) return overflow_fail(run);
  else *out = value_int(difference);
  return STATUS_OK;
}

static Status repeat(Value *out, Run *run, Value sequence, int64_t count) {
  if (count < 0) count = 0;
  if (sequence.type == VALUE_STRING) {
    Builder builder;
    TRY(run_reserve(run, count, sequence.as.string->length));
    builder_begin(&builder, run);
    if (sequence.as.string->length > 0) builder_fill(&builder, sequence.as.string, count);
    *out = builder_value(&builder, sequence.as.string->safe);
    return run_check(run);
  }
  const List *items = sequence.as.list;
  TRY(run_reserve(run, count, (size_t)items->count * sizeof(Value)));
  List *list = list_new(run, count * items->count);
  for (int64_t i = 0; i < count && items->count > 0; i++)
    for (int64_t k = 0; k < items->count; k++) list_push(run, list, items->items[k]);
  *out = (Value){.type = sequence.type, .as.list = list};
  return STATUS_OK;
}

static bool is_sequence(Value value) { return value.type == VALUE_STRING || value.type == VALUE_LIST || value.type == VALUE_TUPLE; }

static Status multiply(Value *out, Run *run, Value a, Value b) {
  if (is_sequence(a) && value_is_integer(b)) return repeat(out, run, a, value_integer(b));
  if (is_sequence(b) && value_is_integer(a)) return repeat(out, run, b, value_integer(a));
  if (!value_is_number(a) || !value_is_number(b)) return operand_fail(run, "*", a, b);
  int64_t product;
  if (a.type == VALUE_FLOAT || b.type == VALUE_FLOAT) *out = value_float(value_real(a) * value_real(b));
  else if (__builtin_mul_overflow(value_integer(a), value_integer(b), &product)) return overflow_fail(run);
  else *out = value_int(product);
  return STATUS_OK;
}

static void float_divide(double *quotient, double *remainder, double a, double b) {
  double mod = fmod(a, b), div = (a - mod) / b;
  if (mod != 0 && (b < 0) != (mod < 0)) mod += b, div -= 1;
  else if (mod == 0) mod = copysign(0, b);
  double whole = div != 0 ? floor(div) : copysign(0, a / b);
  if (div != 0 && div - whole > 0.5) whole += 1;
  *quotient = whole;
  *remainder = mod;
}

static Status divide(Value *out, Run *run, Operator operator, Value a, Value b) {
  const char *sign = operator== OPERATOR_DIVIDE ? "/" : operator== OPERATOR_FLOOR_DIVIDE ? "//" : "%";
  if (!value_is_number(a) || !value_is_number(b)) return operand_fail(run, sign, a, b);
  if (value_real(b) == 0) return run_fail(run, "division by zero");
  if (operator== OPERATOR_DIVIDE) {
    *out = value_float(value_real(a) / value_real(b));
  } else if (a.type == VALUE_FLOAT || b.type == VALUE_FLOAT) {
    double quotient, remainder;
    float_divide(&quotient, &remainder, value_real(a), value_real(b));
    *out = value_float(operator== OPERATOR_MODULO ? remainder : quotient);
  } else {
    int64_t x = value_integer(a), y = value_integer(b);
    if (x == INT64_MIN && y == -1) return operator== OPERATOR_MODULO ? (*out = value_int(0), STATUS_OK) : overflow_fail(run);
    int64_t quotient = x / y, remainder = x % y;
    if (remainder != 0 && (remainder < 0) != (y < 0)) quotient--, remainder += y;
    *out = value_int(operator== OPERATOR_MODULO ? remainder : quotient);
  }
  return STATUS_OK;
}

static Status power(Value *out, Run *run, Value a, Value b) {
  if (!value_is_number(a) || !value_is_number(b)) return operand_fail(run, "**", a, b);
  if (value_is_integer(a) && value_is_integer(b) && value_integer(b) >= 0) {
    int64_t base = value_integer(a), exponent = value_integer(b), result = 1;
    while (exponent > 0) {
      if (exponent & 1 && __builtin_mul_overflow(result, base, &result)) return overflow_fail(run);
      exponent >>= 1;
      if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return overflow_fail(run);
    }
    *out = value_int(result);
    return STATUS_OK;
  }
  double base = value_real(a), exponent = value_real(b), result = pow(base, exponent);
  if (base == 0 && exponent < 0) return run_fail(run, "0.0 cannot be raised to a negative power");
  if (base < 0 && isfinite(exponent) && floor(exponent) != exponent) return run_fail(run, "complex numbers are not supported");
  if (isinf(result) && isfinite(base) && isfinite(exponent)) return run_fail(run, "the result of ** is too large");
  *out = value_float(result);
  return STATUS_OK;
}

static Status negate(Value *out, Run *run, Operator operator, Value a) {
  if (a.type == VALUE_UNDEFINED) return undefined_fail(run, a);
  if (!value_is_number(a))
    return run_fail(run, "bad operand type for unary %s: '%s'", operator== OPERATOR_NEGATE ? "-" : "+", value_type_name(a));
  bool negative = operator== OPERATOR_NEGATE;
  if (a.type == VALUE_FLOAT) *out = value_float(negative ? -a.as.real : a.as.real);
  else if (negative && value_integer(a) == INT64_MIN) return overflow_fail(run);
  else *out = value_int(negative ? -value_integer(a) : value_integer(a));
  return STATUS_OK;
}

static Status compare(Value *out, Run *run, Operator operator, Value a, Value b) {
  static const char *const signs[] = {"<", "<=", ">", ">="};
  int order;
  bool found;
  if (operator== OPERATOR_EQUAL || operator== OPERATOR_NOT_EQUAL) {
    *out = value_bool(value_equal(run, a, b) == (operator== OPERATOR_EQUAL));
    return run_check(run);
  }
  if (operator== OPERATOR_IN || operator== OPERATOR_NOT_IN) {
    TRY(value_contains(&found, run, b, a));
    *out = value_bool(found == (operator== OPERATOR_IN));
    return run_check(run);
  }
  TRY(value_compare(&order, run, a, b, signs[operator- OPERATOR_LESS]));
  bool less = order == -1, equal = order == 0, greater = order == 1;
  if (operator== OPERATOR_LESS) *out = value_bool(less);
  else if (operator== OPERATOR_LESS_EQUAL) *out = value_bool(less || equal);
  else if (operator== OPERATOR_GREATER) *out = value_bool(greater);
  else *out = value_bool(greater || equal);
  return STATUS_OK;
}

Status operate(Value *out, Run *run, Operator operator, Value a, Value b) {
  switch (operator) {
    case OPERATOR_ADD: return add(out, run, a, b);
    case OPERATOR_SUBTRACT: return subtract(out, run, a, b);
    case OPERATOR_MULTIPLY: return multiply(out, run, a, b);
    case OPERATOR_MODULO:
      if (a.type == VALUE_STRING) return format_percent(out, run, a.as.string, b);
      return divide(out, run, operator, a, b);
    case OPERATOR_DIVIDE:
    case OPERATOR_FLOOR_DIVIDE: return divide(out, run, operator, a, b);
    case OPERATOR_POWER: return power(out, run, a, b);
    case OPERATOR_NOT: *out = value_bool(!value_is_true(a)); return STATUS_OK;
    case OPERATOR_NEGATE:
    case OPERATOR_POSITIVE: return negate(out, run, operator, a);
    default: return compare(out, run, operator, a, b);
  }
}

// ---- Calls.

static Status push_keyword(Run *run, Arguments *arguments, const String *name, Value value) {
  for (int i = 0; i < arguments->keyword_count; i++) {
    if (string_equal(arguments->keywords[i].name, name))
      return run_fail(run, "a call has two values for the argument '%.*s'", (int)name->length, name->bytes);
  }
  arguments->keywords[arguments->keyword_count++] = (Keyword){name, value};
  return STATUS_OK;
}

static Status push_star(Arguments *arguments, Run *run, const CallArguments *call) {
  Value star;
  List *rest;
  TRY(evaluate(&star, run, call->star));
  TRY(value_items(&rest, run, star));
  TRY(run_reserve(run, rest->count, sizeof(Value)));
  Value *items = run_allocate(run, ((size_t)arguments->count + (size_t)rest->count + 1) * sizeof *items);
  if (arguments->count) memcpy(items, arguments->items, (size_t)arguments->count * sizeof *items);
  if (rest->count) memcpy(items + arguments->count, rest->items, (size_t)rest->count * sizeof *items);
  arguments->items = items;
  arguments->count += (int)rest->count;
  return STATUS_OK;
}

// One keyword more than the call has is left free, for a call block's `caller`.
static Status evaluate_arguments(Arguments *out, Run *run, const CallArguments *call) {
  Value mapping = value_missing, value;
  *out = (Arguments){.count = call->positional.count};
  if (out->count > 0) out->items = run_allocate(run, (size_t)out->count * sizeof(Value));
  for (int i = 0; i < out->count; i++) TRY(evaluate(&out->items[i], run, call->positional.items[i]));
  if (call->star) TRY(push_star(out, run, call));
  int64_t keywords = call->keyword_values.count + 1;
  Value values[8], *evaluated = call->keyword_values.count <= 8 ? values : run_allocate(run, (size_t)keywords * sizeof *evaluated);
  for (int i = 0; i < call->keyword_values.count; i++) TRY(evaluate(&evaluated[i], run, call->keyword_values.items[i]));
  if (call->star_star) {
    TRY(evaluate(&mapping, run, call->star_star));
    if (mapping.type != VALUE_DICT) return run_fail(run, "the argument behind ** must be a mapping, not %s", value_type_name(mapping));
    keywords += mapping.as.dict->count;
  }
  out->keywords = run_allocate(run, (size_t)keywords * sizeof *out->keywords);
  for (int i = 0; i < call->keyword_values.count; i++) TRY(push_keyword(run, out, call->keyword_names[i], evaluated[i]));
  for (int64_t i = 0; mapping.type == VALUE_DICT && i < mapping.as.dict->count; i++) {
    value = mapping.as.dict->entries[i].key;
    if (value.type != VALUE_STRING) return run_fail(run, "keywords must be strings");
    TRY(push_keyword(run, out, value.as.string, mapping.as.dict->entries[i].value));
  }
  return STATUS_OK;
}

typedef struct Parameter {
  const char *name;
  size_t length;
  bool optional;
} Parameter;

static int read_parameters(Parameter *parameters, const char *text, bool *positional_only) {
  int count = 0;
  *positional_only = *text == '/';
  for (text += *positional_only; *text;) {
    text += strspn(text, " ");
    size_t length = strcspn(text, " ");
    if (length == 0) break;
    bool optional = text[length - 1] == '?';
    parameters[count++] = (Parameter){text, length - optional, optional};
    text += length;
  }
  return count;
}

static Status bind_keywords(Value *given, Run *run, const Function *function, const Arguments *arguments, const Parameter *parameters,
                            int count) {
  for (int k = 0; k < arguments->keyword_count; k++) {
    const String *name = arguments->keywords[k].name;
    int at = 0;
    while (at < count && (parameters[at].length != name->length || memcmp(parameters[at].name, name->bytes, name->length) != 0)) at++;
    if (at == count) return run_fail(run, "%s() got an unexpected keyword argument '%.*s'", function->name, (int)name->length, name->bytes);
    if (given[at].type != VALUE_MISSING)
      return run_fail(run, "%s() got multiple values for argument '%.*s'", function->name, (int)name->length, name->bytes);
    given[at] = arguments->keywords[k].value;
  }
  return STATUS_OK;
}

Status call_function(Value *out, Run *run, const Function *function, const Value *object, const Arguments *arguments) {
  Value given[PARAMETERS_MOST] = {{0}};
  int first = object != NULL;
  if (object) given[0] = *object;
  if (object && object->type == VALUE_STRING) run_charge(run, object->as.string->length / 64);
  if (object && object->type == VALUE_LIST) run_charge(run, (size_t)object->as.list->count / 16);
  if (function->parameters) {
    Parameter parameters[PARAMETERS_MOST];
    bool positional_only;
    int count = read_parameters(parameters, function->parameters, &positional_only);
    if (arguments->count + first > count)
      return run_fail(run, "%s() takes at most %d arguments, %d were given", function->name, count - first, arguments->count);
    if (positional_only && arguments->keyword_count > 0) return run_fail(run, "%s() takes no keyword arguments", function->name);
    for (int i = 0; i < arguments->count; i++) given[first + i] = arguments->items[i];
    TRY(bind_keywords(given, run, function, arguments, parameters, count));
    for (int i = 0; i < count; i++) {
      if (given[i].type == VALUE_MISSING && !parameters[i].optional)
        return run_fail(run, "%s() misses its argument '%.*s'", function->name, (int)parameters[i].length, parameters[i].name);
    }
  }
  TRY(function->call(out, run, given, arguments));
  return run_check(run);
}

static Status call_joiner(Value *out, Run *run, Joiner *joiner, const Arguments *arguments) {
  if (arguments->count > 0 || arguments->keyword_count > 0) return run_fail(run, "a joiner takes no arguments");
  *out = joiner->used ? joiner->separator : value_words(run, "");
  joiner->used = true;
  return STATUS_OK;
}

Status call_value(Value *out, Run *run, Value callee, const Arguments *arguments) {
  switch (callee.type) {
    case VALUE_UNDEFINED: return undefined_fail(run, callee);
    case VALUE_MACRO: return call_macro(out, run, callee.as.macro, arguments);
    case VALUE_METHOD: return call_function(out, run, callee.as.method->function, &callee.as.method->object, arguments);
    case VALUE_FUNCTION: return call_function(out, run, callee.as.function, NULL, arguments);
    case VALUE_LOOP: return call_loop(out, run, callee.as.loop, arguments);
    case VALUE_JOINER: return call_joiner(out, run, callee.as.joiner, arguments);
    default: return run_fail(run, "'%s' object is not callable", value_type_name(callee));
  }
}

Status evaluate_call(Value *out, Run *run, const Node *node, const Value *caller) {
  static const String caller_name = {.bytes = "caller", .length = 6, .characters = 6};
  Value callee;
  Arguments arguments;
  TRY(evaluate(&callee, run, node->as.call.object));
  TRY(evaluate_arguments(&arguments, run, &node->as.call.arguments));
  if (caller) TRY(push_keyword(run, &arguments, &caller_name, *caller));
  run->line = node->line;
  return call_value(out, run, callee, &arguments);
}

Status evaluate_filter(Value *out, Run *run, const Node *node, Value text) {
  Value object = text;
  Arguments arguments;
  if (node->as.call.object)
    TRY(node->as.call.object->type == NODE_FILTER ? evaluate_filter(&object, run, node->as.call.object, text)
                                                  : evaluate(&object, run, node->as.call.object));
  TRY(evaluate_arguments(&arguments, run, &node->as.call.arguments));
  run->line = node->line;
  if (!node->as.call.function) return run_fail(run, "there is no filter named '%s'", node->as.call.name);
  return call_function(out, run, node->as.call.function, &object, &arguments);
}

static Status evaluate_test(Value *out, Run *run, const Node *node) {
  Value object;
  Arguments arguments;
  TRY(evaluate(&object, run, node->as.call.object));
  TRY(evaluate_arguments(&arguments, run, &node->as.call.arguments));
  run->line = node->line;
  if (!node->as.call.function) return run_fail(run, "there is no test named '%s'", node->as.call.name);
  return call_function(out, run, node->as.call.function, &object, &arguments);
}

// ---- The other nodes.

static Status evaluate_list(Value *out, Run *run, const Node *node) {
  List *list = list_new(run, node->as.items.count);
  for (int i = 0; i < node->as.items.count; i++) {
    Value item;
    TRY(evaluate(&item, run, node->as.items.items[i]));
    list_push(run, list, item);
  }
  *out = node->type == NODE_LIST ? value_list(list) : value_tuple(list);
  return STATUS_OK;
}

static Status evaluate_dict(Value *out, Run *run, const Node *node) {
  Dict *dict = dict_new(run);
  for (int i = 0; i < node->as.items.count; i += 2) {
    Value key, value;
    TRY(evaluate(&key, run, node->as.items.items[i]));
    TRY(evaluate(&value, run, node->as.items.items[i + 1]));
    TRY(dict_set(run, dict, key, value));
  }
  *out = value_dict(dict);
  return STATUS_OK;
}

static Status evaluate_concatenation(Value *out, Run *run, const Node *node) {
  Builder builder;
  builder_begin(&builder, run);
  for (int i = 0; i < node->as.items.count; i++) {
    Value item;
    TRY(evaluate(&item, run, node->as.items.items[i]));
    builder_str(&builder, item);
  }
  *out = builder_value(&builder, false);
  return run_check(run);
}

static Status evaluate_comparison(Value *out, Run *run, const Node *node) {
  Value left, right;
  TRY(evaluate(&left, run, node->as.compare.operands.items[0]));
  for (int i = 1; i < node->as.compare.operands.count; i++) {
    TRY(evaluate(&right, run, node->as.compare.operands.items[i]));
    TRY(operate(out, run, node->as.compare.operators[i - 1], left, right));
    if (!value_is_true(*out)) break;
    left = right;
  }
  return STATUS_OK;
}

static Status evaluate_condition(Value *out, Run *run, const Node *node) {
  Value test;
  TRY(evaluate(&test, run, node->as.condition.test));
  if (value_is_true(test)) return evaluate(out, run, node->as.condition.then);
  if (node->as.condition.otherwise) return evaluate(out, run, node->as.condition.otherwise);
  *out = value_undefined_hint(run, "the inline if-expression on line %d evaluated to false and no else section was defined.", node->line);
  return STATUS_OK;
}

static Status evaluate_access(Value *out, Run *run, const Node *node) {
  Value object, index = value_none, stop = value_none, step = value_none;
  TRY(evaluate(&object, run, node->as.access.object));
  if (node->as.access.index) TRY(evaluate(&index, run, node->as.access.index));
  if (node->as.access.stop) TRY(evaluate(&stop, run, node->as.access.stop));
  if (node->as.access.step) TRY(evaluate(&step, run, node->as.access.step));
  run->line = node->line;
  if (node->type == NODE_ATTRIBUTE) return get_attribute(out, run, object, node->as.access.name);
  return node->type == NODE_ITEM ? get_item(out, run, object, index) : get_slice(out, run, object, index, stop, step);
}

static Status evaluate_operation(Value *out, Run *run, const Node *node) {
  Value left, right = value_missing;
  TRY(evaluate(&left, run, node->as.binary.left));
  bool decided = (node->type == NODE_AND && !value_is_true(left)) || (node->type == NODE_OR && value_is_true(left));
  if (decided) {
    *out = left;
    return STATUS_OK;
  }
  if (node->type == NODE_AND || node->type == NODE_OR) return evaluate(out, run, node->as.binary.right);
  if (node->as.binary.right) TRY(evaluate(&right, run, node->as.binary.right));
  run->line = node->line;
  return operate(out, run, node->as.binary.operator, left, right);
}

static Status evaluate_node(Value *out, Run *run, const Node *node) {
  switch (node->type) {
    case NODE_CONSTANT: *out = node->as.constant; return STATUS_OK;
    case NODE_NAME:
      *out = *place_value(run, node->as.name.place);
      if (out->type == VALUE_MISSING) *out = value_undefined(run, node->as.name.name);
      return STATUS_OK;
    case NODE_TUPLE:
    case NODE_LIST: return evaluate_list(out, run, node);
    case NODE_DICT: return evaluate_dict(out, run, node);
    case NODE_CONCATENATE: return evaluate_concatenation(out, run, node);
    case NODE_COMPARE: return evaluate_comparison(out, run, node);
    case NODE_CONDITION: return evaluate_condition(out, run, node);
    case NODE_ATTRIBUTE:
    case NODE_ITEM:
    case NODE_SLICE: return evaluate_access(out, run, node);
    case NODE_CALL: return evaluate_call(out, run, node, NULL);
    case NODE_FILTER: return evaluate_filter(out, run, node, value_missing);
    case NODE_TEST: return evaluate_test(out, run, node);
    default: return evaluate_operation(out, run, node);
  }
}

Status evaluate(Value *out, Run *run, const Node *node) {
  run_charge(run, 1);
  run->line = node->line;
  if (!run_enter(run)) return run_check(run);
  TRY(evaluate_node(out, run, node));
  run_leave(run);
  return run_check(run);
}
