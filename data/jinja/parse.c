// Statements, after Jinja2's parser: {% for %}, {% if %}, {% set %}, {% macro %}, {% call %}, {% filter %}, {% with %}, {% break %},
// {% continue %}, {% print %}, and {% generation %} of transformers. What reads other templates is refused by name.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "data/jinja/parts.h"

Status parser_fail(const Parser *parser, int line, const char *format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return status_fail(STATUS_BAD_INPUT, "%s:%d: %s", parser->jinja->name, line, message);
}

Node *parser_node(Parser *parser, NodeType type, int line) {
  Node *node = arena_new(&parser->jinja->arena, 1, sizeof *node);
  node->type = type;
  node->line = line;
  return node;
}

// Arrays of the tree grow by doubling inside the arena.
static void *grow_array(Parser *parser, void *items, int count, int *capacity, size_t size) {
  if (count < *capacity) return items;
  *capacity = *capacity ? *capacity * 2 : 4;
  void *grown = arena_new(&parser->jinja->arena, (size_t)*capacity, size);
  if (count) memcpy(grown, items, (size_t)count * size);
  return grown;
}

void node_list_push(Parser *parser, NodeList *list, Node *node) {
  list->items = grow_array(parser, list->items, list->count, &list->capacity, sizeof(Node *));
  list->items[list->count++] = node;
}

bool parser_at(const Parser *parser, const char *operator) {
  return parser->token->type == TOKEN_OPERATOR && strcmp(parser->token->text, operator) == 0;
}

bool parser_at_name(const Parser *parser, const char *name) {
  return parser->token->type == TOKEN_NAME && strcmp(parser->token->text, name) == 0;
}

bool parser_skip(Parser *parser, const char *operator) {
  bool found = parser_at(parser, operator);
  parser->token += found;
  return found;
}

bool parser_skip_name(Parser *parser, const char *name) {
  bool found = parser_at_name(parser, name);
  parser->token += found;
  return found;
}

static const char *describe_token(const Token *token) {
  switch (token->type) {
    case TOKEN_END: return "the end of the template";
    case TOKEN_DATA: return "text";
    case TOKEN_BLOCK_BEGIN: return "{%";
    case TOKEN_BLOCK_END: return "%}";
    case TOKEN_PRINT_BEGIN: return "{{";
    case TOKEN_PRINT_END: return "}}";
    case TOKEN_STRING: return "a string";
    case TOKEN_INTEGER:
    case TOKEN_FLOAT: return "a number";
    default: return token->text;
  }
}

Status parser_expect(Parser *parser, const char *operator) {
  if (parser_skip(parser, operator)) return STATUS_OK;
  return parser_fail(parser, parser->token->line, "expected `%s`, got `%s`", operator, describe_token(parser->token));
}

Status parser_expect_name(Parser *parser, const Token **name) {
  *name = parser->token;
  if (parser->token->type != TOKEN_NAME)
    return parser_fail(parser, parser->token->line, "expected a name, got `%s`", describe_token(parser->token));
  parser->token++;
  return STATUS_OK;
}

static Status expect_word(Parser *parser, const char *word) {
  if (parser_skip_name(parser, word)) return STATUS_OK;
  return parser_fail(parser, parser->token->line, "expected `%s`, got `%s`", word, describe_token(parser->token));
}

static Status expect_block_end(Parser *parser) {
  if (parser->token->type != TOKEN_BLOCK_END)
    return parser_fail(parser, parser->token->line, "expected the end of the statement, `%%}`, got `%s`", describe_token(parser->token));
  parser->token++;
  return STATUS_OK;
}

static Status parse_until(NodeList *out, Parser *parser, const char *const *ends);

// The statements up to one of the tags `ends`, whose name is then the present token.
static Status parse_body(NodeList *out, Parser *parser, const char *const *ends) {
  parser_skip(parser, ":");
  TRY(expect_block_end(parser));
  int line = parser->token->line;
  TRY(parse_until(out, parser, ends));
  if (parser->token->type == TOKEN_END) return parser_fail(parser, line, "the template ends before {%% %s %%}", ends[0]);
  return STATUS_OK;
}

// As parse_body with one end, which is skipped.
static Status parse_whole_body(NodeList *out, Parser *parser, const char *end) {
  TRY(parse_body(out, parser, (const char *const[]){end, NULL}));
  parser->token++;
  return STATUS_OK;
}

// ---- Targets of assignments.

static Status make_target(Parser *parser, Node *node, NameUse use) {
  if (node->type == NODE_NAME) {
    node->as.name.use = use;
  } else if (node->type == NODE_TUPLE) {
    for (int i = 0; i < node->as.items.count; i++) TRY(make_target(parser, node->as.items.items[i], use));
  } else if (node->type != NODE_NAMESPACE_NAME) {
    return parser_fail(parser, node->line, "this cannot be assigned to");
  }
  return STATUS_OK;
}

static Status parse_target(Node **out, Parser *parser, NameUse use, const char *end_name, bool namespaces) {
  TRY(parse_tuple(out, parser, (TupleRules){.simple = true, .end_name = end_name, .namespaces = namespaces}));
  return make_target(parser, *out, use);
}

static bool is_constant_name(const char *name) {
  static const char *const names[] = {"true", "false", "none", "True", "False", "None", NULL};
  return word_is_in(names, name);
}

static Status parse_name_target(Node **out, Parser *parser, NameUse use) {
  const Token *token;
  TRY(parser_expect_name(parser, &token));
  if (is_constant_name(token->text)) return parser_fail(parser, token->line, "`%s` cannot be assigned to", token->text);
  *out = parser_node(parser, NODE_NAME, token->line);
  (*out)->as.name.name = token->text;
  (*out)->as.name.use = use;
  return STATUS_OK;
}

// ---- The statements; each begins behind its name.

static Status parse_if(Node **out, Parser *parser, int line) {
  static const char *const ends[] = {"elif", "else", "endif", NULL};
  Node *node = *out = parser_node(parser, NODE_IF, line);
  for (bool has_else = false;;) {
    IfBranch branch = {0};
    if (!has_else) TRY(parse_tuple(&branch.test, parser, (TupleRules){.no_condition = true}));
    TRY(has_else ? parse_body(&branch.body, parser, ends + 2) : parse_body(&branch.body, parser, ends));
    node->as.choice.branches =
        grow_array(parser, node->as.choice.branches, node->as.choice.count, &node->as.choice.capacity, sizeof branch);
    node->as.choice.branches[node->as.choice.count++] = branch;
    if (parser_skip_name(parser, "endif")) return STATUS_OK;
    has_else = parser_at_name(parser, "else");
    parser->token++;
  }
}

static Status parse_for(Node **out, Parser *parser, int line) {
  Node *node = *out = parser_node(parser, NODE_FOR, line);
  TRY(parse_target(&node->as.loop.target, parser, NAME_LOOP_TARGET, "in", false));
  TRY(expect_word(parser, "in"));
  TRY(parse_tuple(&node->as.loop.iterable, parser, (TupleRules){.no_condition = true, .end_name = "recursive"}));
  if (parser_skip_name(parser, "if")) TRY(parse_expression(&node->as.loop.filter, parser, true));
  node->as.loop.recursive = parser_skip_name(parser, "recursive");
  TRY(parse_body(&node->as.loop.body, parser, (const char *const[]){"endfor", "else", NULL}));
  bool has_else = parser_at_name(parser, "else");
  parser->token++;
  return has_else ? parse_whole_body(&node->as.loop.otherwise, parser, "endfor") : STATUS_OK;
}

static Status parse_set(Node **out, Parser *parser, int line) {
  Node *target, *value = NULL;
  TRY(parse_target(&target, parser, NAME_STORE, NULL, true));
  bool is_block = !parser_skip(parser, "=");
  Node *node = *out = parser_node(parser, is_block ? NODE_SET_BLOCK : NODE_SET, line);
  if (is_block) TRY(parse_filter(&value, parser, NULL, false));
  else TRY(parse_tuple(&value, parser, (TupleRules){0}));
  node->as.set.target = target;
  node->as.set.value = value;
  return is_block ? parse_whole_body(&node->as.set.body, parser, "endset") : STATUS_OK;
}

static Status parse_with(Node **out, Parser *parser, int line) {
  Node *node = *out = parser_node(parser, NODE_WITH, line), *target, *value;
  while (parser->token->type != TOKEN_BLOCK_END && parser->token->type != TOKEN_END) {
    if (node->as.with.targets.count > 0) TRY(parser_expect(parser, ","));
    TRY(parse_target(&target, parser, NAME_PARAMETER, NULL, false));
    TRY(parser_expect(parser, "="));
    TRY(parse_expression(&value, parser, true));
    node_list_push(parser, &node->as.with.targets, target);
    node_list_push(parser, &node->as.with.values, value);
  }
  return parse_whole_body(&node->as.with.body, parser, "endwith");
}

static Status parse_signature(MacroBody *macro, Parser *parser) {
  TRY(parser_expect(parser, "("));
  while (!parser_at(parser, ")")) {
    Node *parameter, *value;
    if (macro->parameters.count > 0) TRY(parser_expect(parser, ","));
    TRY(parse_name_target(&parameter, parser, NAME_PARAMETER));
    for (int i = 0; i < macro->parameters.count; i++) {
      if (strcmp(macro->parameters.items[i]->as.name.name, parameter->as.name.name) == 0)
        return parser_fail(parser, parameter->line, "the parameter `%s` is there twice", parameter->as.name.name);
    }
    if (parser_skip(parser, "=")) {
      TRY(parse_expression(&value, parser, true));
      node_list_push(parser, &macro->defaults, value);
    } else if (macro->defaults.count > 0) {
      return parser_fail(parser, parser->token->line, "a parameter without a default follows one with a default");
    }
    node_list_push(parser, &macro->parameters, parameter);
  }
  return parser_expect(parser, ")");
}

static Node *macro_node(Parser *parser, NodeType type, int line) {
  Node *node = parser_node(parser, type, line);
  node->as.macro.body = arena_new(&parser->jinja->arena, 1, sizeof(MacroBody));
  return node;
}

static Status parse_macro(Node **out, Parser *parser, int line) {
  Node *node = *out = macro_node(parser, NODE_MACRO, line), *name;
  TRY(parse_name_target(&name, parser, NAME_STORE));
  node->as.macro.body->name = name->as.name.name;
  TRY(parse_signature(node->as.macro.body, parser));
  return parse_whole_body(&node->as.macro.body->body, parser, "endmacro");
}

static Status parse_call_block(Node **out, Parser *parser, int line) {
  Node *node = *out = macro_node(parser, NODE_CALL_BLOCK, line);
  if (parser_at(parser, "(")) TRY(parse_signature(node->as.macro.body, parser));
  TRY(parse_expression(&node->as.macro.call, parser, true));
  if (node->as.macro.call->type != NODE_CALL) return parser_fail(parser, line, "{%% call %%} needs a call, as `{%% call name() %%}`");
  return parse_whole_body(&node->as.macro.body->body, parser, "endcall");
}

static Status parse_generation(Node **out, Parser *parser, int line) {
  parser->jinja->has_generation = true;
  Node *node = *out = macro_node(parser, NODE_GENERATION, line);
  return parse_whole_body(&node->as.macro.body->body, parser, "endgeneration");
}

static Status parse_filter_block(Node **out, Parser *parser, int line) {
  Node *node = *out = parser_node(parser, NODE_FILTER_BLOCK, line);
  TRY(parse_filter(&node->as.set.value, parser, NULL, true));
  return parse_whole_body(&node->as.set.body, parser, "endfilter");
}

static Status parse_print(Node **out, Parser *parser, int line) {
  Node *node = *out = parser_node(parser, NODE_PRINT, line), *value;
  while (parser->token->type != TOKEN_BLOCK_END && parser->token->type != TOKEN_END) {
    if (node->as.items.count > 0) TRY(parser_expect(parser, ","));
    TRY(parse_expression(&value, parser, true));
    node_list_push(parser, &node->as.items, value);
  }
  return STATUS_OK;
}

static Status parse_break(Node **out, Parser *parser, int line) {
  *out = parser_node(parser, NODE_BREAK, line);
  return STATUS_OK;
}

static Status parse_continue(Node **out, Parser *parser, int line) {
  *out = parser_node(parser, NODE_CONTINUE, line);
  return STATUS_OK;
}

static const struct {
  const char *name;
  Status (*parse)(Node **out, Parser *parser, int line);
} statements[] = {
    {"if", parse_if},
    {"for", parse_for},
    {"set", parse_set},
    {"with", parse_with},
    {"macro", parse_macro},
    {"call", parse_call_block},
    {"filter", parse_filter_block},
    {"print", parse_print},
    {"generation", parse_generation},
    {"break", parse_break},
    {"continue", parse_continue},
};

static Status parse_statement(Node **out, Parser *parser) {
  static const char *const refused[] = {"include", "import", "from", "extends", "block", "autoescape", NULL};
  const Token *token;
  TRY(parser_expect_name(parser, &token));
  for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
    if (strcmp(statements[i].name, token->text) == 0) return statements[i].parse(out, parser, token->line);
  if (word_is_in(refused, token->text))
    return parser_fail(parser, token->line, "{%% %s %%} is not for chat templates: they stand alone", token->text);
  return parser_fail(parser, token->line, "unknown tag `%s`", token->text);
}

static Node *text_node(Parser *parser) {
  Node *node = parser_node(parser, NODE_TEXT, parser->token->line);
  node->as.text.string = compile_string(parser->jinja, parser->token->text, parser->token->length);
  return node;
}

static Status parse_printed(Node **out, Parser *parser) {
  Node *node = *out = parser_node(parser, NODE_PRINT, parser->token->line), *value;
  TRY(parse_tuple(&value, parser, (TupleRules){0}));
  node_list_push(parser, &node->as.items, value);
  if (parser->token->type != TOKEN_PRINT_END)
    return parser_fail(parser, parser->token->line, "expected the end of the expression, `}}`, got `%s`", describe_token(parser->token));
  parser->token++;
  return STATUS_OK;
}

static bool at_end(const Parser *parser, const char *const *ends) {
  for (; ends && *ends; ends++)
    if (parser_at_name(parser, *ends)) return true;
  return false;
}

static Status parse_until(NodeList *out, Parser *parser, const char *const *ends) {
  if (++parser->depth > PARSE_DEPTH_MOST) return parser_fail(parser, parser->token->line, "statements are nested too deep");
  while (parser->token->type != TOKEN_END) {
    Node *node = NULL;
    if (parser->token->type == TOKEN_DATA) {
      node = text_node(parser);
      parser->token++;
    } else if (parser->token->type == TOKEN_PRINT_BEGIN) {
      parser->token++;
      TRY(parse_printed(&node, parser));
    } else {
      parser->token++;
      if (at_end(parser, ends)) break;
      TRY(parse_statement(&node, parser));
      TRY(expect_block_end(parser));
    }
    node_list_push(parser, out, node);
  }
  parser->depth--;
  return STATUS_OK;
}

Status jinja_parse(Jinja *jinja, const Token *tokens) {
  Parser parser = {.jinja = jinja, .token = tokens};
  return parse_until(&jinja->body, &parser, NULL);
}
