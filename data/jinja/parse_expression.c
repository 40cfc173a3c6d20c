// Expressions, after Jinja2's parser. From the weakest to the strongest: `a if b else c`, or, and, not, comparisons, + and -, ~,
// * / // %, **, unary + and -, and behind an operand: attributes, items, calls, filters and tests.
#include <string.h>

#include "data/jinja/parts.h"

static Status parse_unary(Node **out, Parser *parser, bool with_filters);
static Status parse_or(Node **out, Parser *parser);

const String *compile_string(Jinja *jinja, const char *bytes, size_t length) {
  String *string = arena_new(&jinja->arena, 1, sizeof *string);
  *string = (String){.bytes = arena_copy_bytes(&jinja->arena, bytes, length), .length = length, .characters = 0};
  for (size_t i = 0; i < length; i++) string->characters += ((unsigned char)bytes[i] & 0xC0) != 0x80;
  return string;
}

// One node higher than its operand: long chains of operators are trees that the evaluation descends.
static Status raise_height(Parser *parser, Node *node, const Node *operand) {
  if (operand && operand->height >= node->height) node->height = operand->height + 1;
  if (node->height > EXPRESSION_HEIGHT_MOST) return parser_fail(parser, node->line, "an expression is nested too deep");
  return STATUS_OK;
}

static Status binary_node(Node **out, Parser *parser, NodeType type, Operator operator, int line, Node *left, Node *right) {
  Node *node = parser_node(parser, type, line);
  node->as.binary.left = left;
  node->as.binary.right = right;
  node->as.binary.operator= operator;
  TRY(raise_height(parser, node, left));
  TRY(raise_height(parser, node, right));
  *out = node;
  return STATUS_OK;
}

static Node *constant_node(Parser *parser, int line, Value value) {
  Node *node = parser_node(parser, NODE_CONSTANT, line);
  node->as.constant = value;
  return node;
}

static Node *string_node(Parser *parser, int line, const char *bytes, size_t length) {
  return constant_node(parser, line, value_of_string(compile_string(parser->jinja, bytes, length)));
}

static Status push_operand(Parser *parser, Node *node, NodeList *list, Node *operand) {
  node_list_push(parser, list, operand);
  return raise_height(parser, node, operand);
}

// ---- Operators.

static Status parse_condition(Node **out, Parser *parser) {
  int line = parser->token->line;
  TRY(parse_or(out, parser));
  while (parser_skip_name(parser, "if")) {
    Node *node = parser_node(parser, NODE_CONDITION, line);
    node->as.condition.then = *out;
    TRY(parse_or(&node->as.condition.test, parser));
    if (parser_skip_name(parser, "else")) TRY(parse_expression(&node->as.condition.otherwise, parser, true));
    TRY(raise_height(parser, node, node->as.condition.then));
    TRY(raise_height(parser, node, node->as.condition.test));
    TRY(raise_height(parser, node, node->as.condition.otherwise));
    *out = node;
    line = parser->token->line;
  }
  return STATUS_OK;
}

static Status enter(Parser *parser) {
  if (++parser->depth > PARSE_DEPTH_MOST) return parser_fail(parser, parser->token->line, "an expression is nested too deep");
  return STATUS_OK;
}

Status parse_expression(Node **out, Parser *parser, bool with_condition) {
  TRY(enter(parser));
  TRY(with_condition ? parse_condition(out, parser) : parse_or(out, parser));
  parser->depth--;
  return STATUS_OK;
}

static Status parse_compare(Node **out, Parser *parser);

static Status parse_not(Node **out, Parser *parser) {
  int line = parser->token->line;
  if (!parser_skip_name(parser, "not")) return parse_compare(out, parser);
  Node *operand;
  TRY(enter(parser));
  TRY(parse_not(&operand, parser));
  parser->depth--;
  return binary_node(out, parser, NODE_UNARY, OPERATOR_NOT, line, operand, NULL);
}

static Status parse_and(Node **out, Parser *parser) {
  TRY(parse_not(out, parser));
  for (int line = parser->token->line; parser_skip_name(parser, "and"); line = parser->token->line) {
    Node *right;
    TRY(parse_not(&right, parser));
    TRY(binary_node(out, parser, NODE_AND, 0, line, *out, right));
  }
  return STATUS_OK;
}

static Status parse_or(Node **out, Parser *parser) {
  TRY(parse_and(out, parser));
  for (int line = parser->token->line; parser_skip_name(parser, "or"); line = parser->token->line) {
    Node *right;
    TRY(parse_and(&right, parser));
    TRY(binary_node(out, parser, NODE_OR, 0, line, *out, right));
  }
  return STATUS_OK;
}

typedef struct OperatorName {
  const char *text;
  Operator operator;
} OperatorName;

static bool skip_operator(Parser *parser, const OperatorName *names, Operator *operator) {
  for (; names->text; names++) {
    if (!parser_skip(parser, names->text)) continue;
    *operator= names->operator;
    return true;
  }
  return false;
}

static bool skip_comparison(Parser *parser, Operator *operator) {
  static const OperatorName names[] = {{"==", OPERATOR_EQUAL},
                                       {"!=", OPERATOR_NOT_EQUAL},
                                       {"<", OPERATOR_LESS},
                                       {"<=", OPERATOR_LESS_EQUAL},
                                       {">", OPERATOR_GREATER},
                                       {">=", OPERATOR_GREATER_EQUAL},
                                       {NULL}};
  if (skip_operator(parser, names, operator)) return true;
  if (parser_skip_name(parser, "in")) {
    *operator= OPERATOR_IN;
    return true;
  }
  if (!parser_at_name(parser, "not") || parser->token[1].type != TOKEN_NAME || strcmp(parser->token[1].text, "in") != 0) return false;
  parser->token += 2;
  *operator= OPERATOR_NOT_IN;
  return true;
}

static Status parse_sum(Node **out, Parser *parser);

static Status parse_compare(Node **out, Parser *parser) {
  int line = parser->token->line;
  TRY(parse_sum(out, parser));
  Operator operator;
  Node *node = NULL, *right;
  Buffer operators = {0};
  Status status = STATUS_OK;
  while (skip_comparison(parser, &operator)) {
    if (!node) {
      node = parser_node(parser, NODE_COMPARE, line);
      TRY_DONE(push_operand(parser, node, &node->as.compare.operands, *out));
    }
    buffer_append(&operators, &operator, sizeof operator);
    TRY_DONE(parse_sum(&right, parser));
    TRY_DONE(push_operand(parser, node, &node->as.compare.operands, right));
  }
  if (node) {
    node->as.compare.operators = (Operator *)(void *)arena_copy_bytes(&parser->jinja->arena, operators.data, operators.length);
    *out = node;
  }
done:
  buffer_release(&operators);
  return status;
}

typedef Status (*ParseFunction)(Node **out, Parser *parser);

static Status parse_chain(Node **out, Parser *parser, const OperatorName *names, ParseFunction operand) {
  int line = parser->token->line;
  TRY(operand(out, parser));
  for (Operator operator; skip_operator(parser, names, &operator); line = parser->token->line) {
    Node *right;
    TRY(operand(&right, parser));
    TRY(binary_node(out, parser, NODE_BINARY, operator, line, *out, right));
  }
  return STATUS_OK;
}

static Status parse_filtered_unary(Node **out, Parser *parser) { return parse_unary(out, parser, true); }

static Status parse_power(Node **out, Parser *parser) {
  static const OperatorName names[] = {{"**", OPERATOR_POWER}, {NULL}};
  return parse_chain(out, parser, names, parse_filtered_unary);
}

static Status parse_product(Node **out, Parser *parser) {
  static const OperatorName names[] = {
      {"*", OPERATOR_MULTIPLY}, {"/", OPERATOR_DIVIDE}, {"//", OPERATOR_FLOOR_DIVIDE}, {"%", OPERATOR_MODULO}, {NULL}};
  return parse_chain(out, parser, names, parse_power);
}

static Status parse_concatenation(Node **out, Parser *parser) {
  int line = parser->token->line;
  TRY(parse_product(out, parser));
  if (!parser_at(parser, "~")) return STATUS_OK;
  Node *node = parser_node(parser, NODE_CONCATENATE, line), *operand;
  TRY(push_operand(parser, node, &node->as.items, *out));
  while (parser_skip(parser, "~")) {
    TRY(parse_product(&operand, parser));
    TRY(push_operand(parser, node, &node->as.items, operand));
  }
  *out = node;
  return STATUS_OK;
}

static Status parse_sum(Node **out, Parser *parser) {
  static const OperatorName names[] = {{"+", OPERATOR_ADD}, {"-", OPERATOR_SUBTRACT}, {NULL}};
  return parse_chain(out, parser, names, parse_concatenation);
}

// ---- Operands.

static Status parse_name(Node **out, Parser *parser, bool namespaces) {
  const Token *token = parser->token++;
  const char *text = token->text;
  if (strcmp(text, "true") == 0 || strcmp(text, "True") == 0 || strcmp(text, "false") == 0 || strcmp(text, "False") == 0) {
    *out = constant_node(parser, token->line, value_bool((*text | 0x20) == 't'));
  } else if (strcmp(text, "none") == 0 || strcmp(text, "None") == 0) {
    *out = constant_node(parser, token->line, value_none);
  } else {
    bool is_namespace = namespaces && parser_skip(parser, ".");
    Node *node = *out = parser_node(parser, is_namespace ? NODE_NAMESPACE_NAME : NODE_NAME, token->line);
    node->as.name.name = text;
    if (is_namespace) {
      const Token *attribute;
      TRY(parser_expect_name(parser, &attribute));
      node->as.name.attribute = compile_string(parser->jinja, attribute->text, attribute->length);
    }
  }
  return STATUS_OK;
}

static Status parse_strings(Node **out, Parser *parser) {
  int line = parser->token->line;
  Buffer text = {0};
  for (; parser->token->type == TOKEN_STRING; parser->token++) buffer_append(&text, parser->token->text, parser->token->length);
  *out = string_node(parser, line, text.data, text.length);
  buffer_release(&text);
  return STATUS_OK;
}

static Status parse_list(Node **out, Parser *parser) {
  Node *node = *out = parser_node(parser, NODE_LIST, parser->token++->line), *item;
  while (!parser_at(parser, "]")) {
    if (node->as.items.count > 0) TRY(parser_expect(parser, ","));
    if (parser_at(parser, "]")) break;
    TRY(parse_expression(&item, parser, true));
    TRY(push_operand(parser, node, &node->as.items, item));
  }
  return parser_expect(parser, "]");
}

static Status parse_dict(Node **out, Parser *parser) {
  Node *node = *out = parser_node(parser, NODE_DICT, parser->token++->line), *key, *value;
  while (!parser_at(parser, "}")) {
    if (node->as.items.count > 0) TRY(parser_expect(parser, ","));
    if (parser_at(parser, "}")) break;
    TRY(parse_expression(&key, parser, true));
    TRY(parser_expect(parser, ":"));
    TRY(parse_expression(&value, parser, true));
    TRY(push_operand(parser, node, &node->as.items, key));
    TRY(push_operand(parser, node, &node->as.items, value));
  }
  return parser_expect(parser, "}");
}

static Status parse_primary(Node **out, Parser *parser, bool namespaces) {
  const Token *token = parser->token;
  if (token->type == TOKEN_NAME) return parse_name(out, parser, namespaces);
  if (token->type == TOKEN_STRING) return parse_strings(out, parser);
  if (token->type == TOKEN_INTEGER || token->type == TOKEN_FLOAT) {
    parser->token++;
    *out = constant_node(parser, token->line, token->type == TOKEN_INTEGER ? value_int(token->integer) : value_float(token->real));
    return STATUS_OK;
  }
  if (parser_at(parser, "[")) return parse_list(out, parser);
  if (parser_at(parser, "{")) return parse_dict(out, parser);
  if (!parser_skip(parser, "("))
    return parser_fail(parser, token->line, "unexpected `%s`: an expression should stand here",
                       token->type == TOKEN_PRINT_END   ? "}}"
                       : token->type == TOKEN_BLOCK_END ? "%}"
                                                        : token->text);
  TRY(parse_tuple(out, parser, (TupleRules){.parentheses = true}));
  return parser_expect(parser, ")");
}

static bool at_tuple_end(const Parser *parser, TupleRules rules) {
  return parser->token->type == TOKEN_PRINT_END || parser->token->type == TOKEN_BLOCK_END || parser_at(parser, ")") ||
         (rules.end_name && parser_at_name(parser, rules.end_name));
}

Status parse_tuple(Node **out, Parser *parser, TupleRules rules) {
  Node *node = parser_node(parser, NODE_TUPLE, parser->token->line), *item;
  TRY(enter(parser));
  bool is_tuple = false;
  for (;;) {
    if (node->as.items.count > 0) TRY(parser_expect(parser, ","));
    if (at_tuple_end(parser, rules)) break;
    TRY(rules.simple ? parse_primary(&item, parser, rules.namespaces) : parse_expression(&item, parser, !rules.no_condition));
    TRY(push_operand(parser, node, &node->as.items, item));
    if (!parser_at(parser, ",")) break;
    is_tuple = true;
  }
  parser->depth--;
  *out = node;
  if (is_tuple) return STATUS_OK;
  if (node->as.items.count > 0) *out = node->as.items.items[0];
  else if (!rules.parentheses) return parser_fail(parser, parser->token->line, "an expression should stand here");
  return STATUS_OK;
}

// ---- What stands behind an operand.

// One index or slice of `object[...]`.
static Status parse_subscript_part(Node **out, Parser *parser, Node *object) {
  Node *node = parser_node(parser, NODE_SLICE, parser->token->line);
  node->as.access.object = object;
  if (!parser_at(parser, ":")) {
    TRY(parse_expression(&node->as.access.index, parser, true));
    if (!parser_at(parser, ":")) {
      node->type = NODE_ITEM;
      *out = node;
      return raise_height(parser, node, node->as.access.index);
    }
  }
  parser->token++;
  Node **parts[] = {&node->as.access.stop, &node->as.access.step};
  for (int i = 0; i < 2; i++) {
    if (!parser_at(parser, ":") && !parser_at(parser, "]") && !parser_at(parser, ",")) TRY(parse_expression(parts[i], parser, true));
    if (i == 0 && !parser_skip(parser, ":")) break;
  }
  TRY(raise_height(parser, node, node->as.access.index));
  TRY(raise_height(parser, node, node->as.access.stop));
  TRY(raise_height(parser, node, node->as.access.step));
  *out = node;
  return STATUS_OK;
}

static Status parse_brackets(Node **out, Parser *parser, Node *object) {
  int line = parser->token++->line;
  Node *keys = parser_node(parser, NODE_TUPLE, line), *part = NULL;
  bool has_slice = false;
  while (!parser_at(parser, "]")) {
    if (keys->as.items.count > 0) TRY(parser_expect(parser, ","));
    TRY(parse_subscript_part(&part, parser, object));
    has_slice = has_slice || part->type == NODE_SLICE;
    TRY(push_operand(parser, keys, &keys->as.items, part->type == NODE_SLICE ? part : part->as.access.index));
  }
  TRY(parser_expect(parser, "]"));
  if (keys->as.items.count > 1 && has_slice) return parser_fail(parser, line, "several slices at once are not for lists and strings");
  if (keys->as.items.count != 1) {  // a tuple as the key
    part = parser_node(parser, NODE_ITEM, line);
    part->as.access.object = object;
    part->as.access.index = keys;
    TRY(raise_height(parser, part, keys));
  }
  *out = part;
  return raise_height(parser, part, object);
}

static Status parse_subscript(Node **out, Parser *parser, Node *object) {
  if (parser_at(parser, "[")) return parse_brackets(out, parser, object);
  int line = parser->token++->line;
  const Token *token = parser->token++;
  Node *node = parser_node(parser, token->type == TOKEN_NAME ? NODE_ATTRIBUTE : NODE_ITEM, line);
  node->as.access.object = object;
  if (token->type == TOKEN_NAME) node->as.access.name = compile_string(parser->jinja, token->text, token->length);
  else if (token->type == TOKEN_INTEGER) node->as.access.index = constant_node(parser, line, value_int(token->integer));
  else return parser_fail(parser, token->line, "expected a name or a number behind the dot");
  *out = node;
  return raise_height(parser, node, object);
}

static Status parse_argument(Parser *parser, Node *node, CallArguments *arguments, int line) {
  Node *value;
  bool well_formed = true;
  if (parser_skip(parser, "*")) {
    well_formed = !arguments->star && !arguments->star_star;
    TRY(parse_expression(&arguments->star, parser, true));
    value = arguments->star;
  } else if (parser_skip(parser, "**")) {
    well_formed = !arguments->star_star;
    TRY(parse_expression(&arguments->star_star, parser, true));
    value = arguments->star_star;
  } else if (parser->token->type == TOKEN_NAME && parser->token[1].type == TOKEN_OPERATOR && strcmp(parser->token[1].text, "=") == 0) {
    well_formed = !arguments->star_star;
    int capacity = arguments->keyword_values.capacity;
    const Token *name = parser->token;
    parser->token += 2;
    TRY(parse_expression(&value, parser, true));
    node_list_push(parser, &arguments->keyword_values, value);
    if (arguments->keyword_values.capacity != capacity) {
      const String **names = arena_new(&parser->jinja->arena, (size_t)arguments->keyword_values.capacity, sizeof *names);
      for (int i = 0; i + 1 < arguments->keyword_values.count; i++) names[i] = arguments->keyword_names[i];
      arguments->keyword_names = names;
    }
    for (int i = 0; i + 1 < arguments->keyword_values.count; i++)
      well_formed = well_formed && strcmp(arguments->keyword_names[i]->bytes, name->text) != 0;
    arguments->keyword_names[arguments->keyword_values.count - 1] = compile_string(parser->jinja, name->text, name->length);
  } else {
    well_formed = !arguments->star && !arguments->star_star && arguments->keyword_values.count == 0;
    TRY(parse_expression(&value, parser, true));
    node_list_push(parser, &arguments->positional, value);
  }
  if (!well_formed) return parser_fail(parser, line, "the arguments of a call are in the wrong order, or one is given twice");
  return raise_height(parser, node, value);
}

static Status parse_arguments(CallArguments *arguments, Parser *parser, Node *node) {
  int line = parser->token->line;
  TRY(parser_expect(parser, "("));
  for (bool first = true; !parser_at(parser, ")"); first = false) {
    if (!first) TRY(parser_expect(parser, ","));
    if (!first && parser_at(parser, ")")) break;
    TRY(parse_argument(parser, node, arguments, line));
  }
  return parser_expect(parser, ")");
}

static Status parse_call(Node **out, Parser *parser, Node *object) {
  Node *node = parser_node(parser, NODE_CALL, parser->token->line);
  node->as.call.object = object;
  TRY(parse_arguments(&node->as.call.arguments, parser, node));
  *out = node;
  return raise_height(parser, node, object);
}

// The name of a filter or a test, which may have dots.
static Status parse_dotted_name(const char **out, Parser *parser) {
  const Token *token;
  TRY(parser_expect_name(parser, &token));
  *out = token->text;
  while (parser_skip(parser, ".")) {
    TRY(parser_expect_name(parser, &token));
    *out = arena_format(&parser->jinja->arena, "%s.%s", *out, token->text);
  }
  return STATUS_OK;
}

Status parse_filter(Node **out, Parser *parser, Node *object, bool start_inline) {
  *out = object;
  while (start_inline || parser_skip(parser, "|")) {
    start_inline = false;
    Node *node = parser_node(parser, NODE_FILTER, parser->token->line);
    node->as.call.object = *out;
    TRY(parse_dotted_name(&node->as.call.name, parser));
    if (parser_at(parser, "(")) TRY(parse_arguments(&node->as.call.arguments, parser, node));
    TRY(raise_height(parser, node, *out));
    *out = node;
  }
  return STATUS_OK;
}

static Status parse_postfix(Node **out, Parser *parser) {
  for (;;) {
    if (parser_at(parser, ".") || parser_at(parser, "[")) TRY(parse_subscript(out, parser, *out));
    else if (parser_at(parser, "(")) TRY(parse_call(out, parser, *out));
    else return STATUS_OK;
  }
}

// A test may have one argument without parentheses, as in `is divisibleby 3`.
static bool at_bare_argument(const Parser *parser) {
  TokenType type = parser->token->type;
  if (type == TOKEN_STRING || type == TOKEN_INTEGER || type == TOKEN_FLOAT || parser_at(parser, "[") || parser_at(parser, "{")) return true;
  return type == TOKEN_NAME && !parser_at_name(parser, "else") && !parser_at_name(parser, "or") && !parser_at_name(parser, "and");
}

static Status parse_test(Node **out, Parser *parser) {
  int line = parser->token++->line;
  bool negated = parser_skip_name(parser, "not");
  Node *node = parser_node(parser, NODE_TEST, line), *argument;
  node->as.call.object = *out;
  TRY(parse_dotted_name(&node->as.call.name, parser));
  if (parser_at(parser, "(")) {
    TRY(parse_arguments(&node->as.call.arguments, parser, node));
  } else if (at_bare_argument(parser)) {
    if (parser_at_name(parser, "is")) return parser_fail(parser, line, "several tests cannot be chained with `is`");
    TRY(parse_primary(&argument, parser, false));
    TRY(parse_postfix(&argument, parser));
    TRY(push_operand(parser, node, &node->as.call.arguments.positional, argument));
  }
  TRY(raise_height(parser, node, *out));
  *out = node;
  return negated ? binary_node(out, parser, NODE_UNARY, OPERATOR_NOT, line, node, NULL) : STATUS_OK;
}

static Status parse_unary(Node **out, Parser *parser, bool with_filters) {
  int line = parser->token->line;
  bool minus = parser_skip(parser, "-");
  if (minus || parser_skip(parser, "+")) {
    Node *operand;
    TRY(enter(parser));
    TRY(parse_unary(&operand, parser, false));
    parser->depth--;
    TRY(binary_node(out, parser, NODE_UNARY, minus ? OPERATOR_NEGATE : OPERATOR_POSITIVE, line, operand, NULL));
  } else {
    TRY(parse_primary(out, parser, false));
  }
  TRY(parse_postfix(out, parser));
  while (with_filters) {
    if (parser_at(parser, "|")) TRY(parse_filter(out, parser, *out, false));
    else if (parser_at_name(parser, "is")) TRY(parse_test(out, parser));
    else if (parser_at(parser, "(")) TRY(parse_call(out, parser, *out));
    else break;
  }
  return STATUS_OK;
}
