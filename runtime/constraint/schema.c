// From a JSON schema to rules: references, types, values.
#include "runtime/constraint/schema.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "runtime/constraint/automaton.h"
#include "runtime/constraint/json_text.h"

Status schema_fail(const char *pointer, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return status_fail(STATUS_BAD_INPUT, "schema: %s: %s", pointer, text);
}

const char *schema_pointer(Schema *schema, const char *pointer, const char *step) {
  return arena_format(&schema->set->arena, "%s/%s", pointer, step);
}

Status schema_count(int64_t *out, const json_t *flat, const char *keyword, int64_t otherwise, const char *pointer) {
  const json_t *value = json_object_get(flat, keyword);
  double number = json_number_value(value);
  *out = otherwise;
  if (!value) return STATUS_OK;
  if (!json_is_number(value) || number < 0 || number != floor(number) || number > 1e9)
    return schema_fail(pointer, "\"%s\" must be a whole number from 0 to 1e9", keyword);
  *out = (int64_t)number;
  return STATUS_OK;
}

// ---- types ----

static SchemaTypes type_of_name(const char *name) {
  static const struct {
    const char *name;
    SchemaTypes types;
  } names[] = {{"null", TYPE_NULL},     {"boolean", TYPE_BOOLEAN}, {"integer", TYPE_INTEGER}, {"number", TYPE_INTEGER | TYPE_NUMBER},
               {"string", TYPE_STRING}, {"array", TYPE_ARRAY},     {"object", TYPE_OBJECT}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(names[i].name, name) == 0) return names[i].types;
  return 0;
}

SchemaTypes schema_named_types(const json_t *flat) {
  const json_t *type = json_object_get(flat, "type"), *name;
  SchemaTypes types = 0;
  size_t i;
  if (!type) return TYPE_ALL;
  if (json_is_string(type)) return type_of_name(json_string_value(type));
  json_array_foreach(type, i, name) types |= type_of_name(json_string_value(name));
  return types;
}

SchemaTypes schema_value_type(const json_t *value) {
  switch (json_typeof(value)) {
    case JSON_NULL: return TYPE_NULL;
    case JSON_TRUE:
    case JSON_FALSE: return TYPE_BOOLEAN;
    case JSON_INTEGER: return TYPE_INTEGER;
    case JSON_REAL: return json_real_value(value) == floor(json_real_value(value)) ? TYPE_INTEGER : TYPE_NUMBER;
    case JSON_STRING: return TYPE_STRING;
    case JSON_ARRAY: return TYPE_ARRAY;
    default: return TYPE_OBJECT;
  }
}

// The types that the keywords are about.
static SchemaTypes keyword_types(const json_t *flat) {
  static const struct {
    const char *keyword;
    SchemaTypes types;
  } about[] = {{"properties", TYPE_OBJECT},
               {"required", TYPE_OBJECT},
               {"additionalProperties", TYPE_OBJECT},
               {"minProperties", TYPE_OBJECT},
               {"maxProperties", TYPE_OBJECT},
               {"items", TYPE_ARRAY},
               {"prefixItems", TYPE_ARRAY},
               {"minItems", TYPE_ARRAY},
               {"maxItems", TYPE_ARRAY},
               {"minLength", TYPE_STRING},
               {"maxLength", TYPE_STRING},
               {"pattern", TYPE_STRING},
               {SCHEMA_PATTERNS, TYPE_STRING},
               {"format", TYPE_STRING},
               {"minimum", TYPE_INTEGER | TYPE_NUMBER},
               {"maximum", TYPE_INTEGER | TYPE_NUMBER},
               {"exclusiveMinimum", TYPE_INTEGER | TYPE_NUMBER},
               {"exclusiveMaximum", TYPE_INTEGER | TYPE_NUMBER},
               {"multipleOf", TYPE_INTEGER | TYPE_NUMBER}};
  SchemaTypes types = 0;
  for (size_t i = 0; i < sizeof about / sizeof *about; i++)
    if (json_object_get(flat, about[i].keyword)) types |= about[i].types;
  return types;
}

SchemaTypes schema_written_types(const json_t *flat) {
  SchemaTypes about = keyword_types(flat);
  return json_object_get(flat, "type") || !about ? schema_named_types(flat) : about;
}

// ---- any value ----

static void build_value(Schema *schema) {
  RuleSet *set = schema->set;
  schema->value_rule = rule_add(set, "any value");
  const Expression *object = schema_any_object(schema), *string = schema_any_string(schema);
  schema->array_rule = rule_add(set, "any array");
  const Expression *value = expression_rule(set, schema->value_rule);
  const Expression *separator = expression_sequence(set, expression_string(set, ","), json_space(set));
  const Expression *items =
      expression_optional(set, expression_sequence(set, value, expression_repeat(set, expression_sequence(set, separator, value), 0, -1)));
  set->rules[schema->array_rule].body =
      expression_sequence(set, expression_string(set, "["), json_space(set), items, json_space(set), expression_string(set, "]"));
  set->rules[schema->value_rule].body =
      expression_choice(set, object, expression_rule(set, schema->array_rule), string, json_number(set), expression_string(set, "true"),
                        expression_string(set, "false"), expression_string(set, "null"));
}

const Expression *schema_any_value(Schema *schema) {
  if (schema->value_rule < 0) build_value(schema);
  return expression_rule(schema->set, schema->value_rule);
}

const Expression *schema_any_object(Schema *schema) {
  RuleSet *set = schema->set;
  if (schema->object_rule < 0) {
    schema->object_rule = rule_add(set, "any object");
    const Expression *member =
        expression_sequence(set, schema_any_key(schema), expression_string(set, ":"), json_space(set), schema_any_value(schema));
    const Expression *separator = expression_sequence(set, expression_string(set, ","), json_space(set));
    const Expression *members = expression_series(set, NULL, NULL, 0, separator, member);
    set->rules[schema->object_rule].body =
        expression_sequence(set, expression_string(set, "{"), json_space(set), members, json_space(set), expression_string(set, "}"));
    schema->has_open_keys = true;
  }
  return expression_rule(set, schema->object_rule);
}

const Expression *schema_any_string(Schema *schema) {
  RuleSet *set = schema->set;
  if (schema->string_rule < 0) {
    schema->string_rule = rule_add(set, "any string");
    set->rules[schema->string_rule].body = json_quoted(set, expression_repeat(set, json_character(set), 0, -1));
    set->rules[schema->string_rule].is_shared = true;
  }
  return expression_rule(set, schema->string_rule);
}

const Expression *schema_any_key(Schema *schema) {
  RuleSet *set = schema->set;
  if (schema->key_rule < 0) {
    const CodeRange escaped[] = {{0, 0x1f}, {'"', '"'}, {'\\', '\\'}};
    schema->key_rule = rule_add(set, "any key");
    set->rules[schema->key_rule].body = json_quoted(set, expression_repeat(set, expression_set(set, escaped, 3, true), 0, -1));
    set->rules[schema->key_rule].is_shared = true;
  }
  return expression_rule(set, schema->key_rule);
}

// ---- references ----

// One step of a pointer, with ~0, ~1 and %XX as what they stand for.
static char *pointer_step(const char *begin, size_t length) {
  Buffer step = {0};
  buffer_append(&step, "", 0);
  for (size_t i = 0; i < length; i++) {
    char c = begin[i];
    if (c == '~' && i + 1 < length && (begin[i + 1] == '0' || begin[i + 1] == '1')) c = begin[++i] == '0' ? '~' : '/';
    if (c == '%' && i + 2 < length && isxdigit((unsigned char)begin[i + 1]) && isxdigit((unsigned char)begin[i + 2])) {
      c = (char)strtol((const char[]){begin[i + 1], begin[i + 2], 0}, NULL, 16);
      i += 2;
    }
    buffer_append(&step, &c, 1);
  }
  return step.data;
}

Status schema_resolve(const json_t **out, const Schema *schema, const char *reference, const char *pointer) {
  const json_t *at = schema->root;
  if (reference[0] != '#' || (reference[1] && reference[1] != '/'))
    return schema_fail(pointer, "\"$ref\": \"%s\" is not supported: only references into the schema itself are, as in #/$defs/name",
                       reference);
  for (const char *p = reference + 1; *p == '/' && at;) {
    size_t length = strcspn(++p, "/");
    char *step = pointer_step(p, length);
    at = json_is_array(at) ? json_array_get(at, (size_t)strtoul(step, NULL, 10)) : json_object_get(at, step);
    free(step);
    p += length;
  }
  if (!at) return schema_fail(pointer, "\"$ref\": there is nothing at \"%s\"", reference);
  *out = at;
  return STATUS_OK;
}

static Status compile_reference(const Expression **out, Schema *schema, const char *reference, const char *pointer) {
  int64_t rule;
  const json_t *target;
  const Expression *body = NULL;
  if (!map_get_string(&schema->references, reference, &rule)) {
    TRY(schema_resolve(&target, schema, reference, pointer));
    rule = rule_add(schema->set, reference);
    map_set_string(&schema->references, reference, rule);
    TRY(schema_compile(&body, schema, target, arena_copy_string(&schema->set->arena, reference)));
    schema->set->rules[rule].body = body;
  }
  *out = expression_rule(schema->set, (int)rule);
  return STATUS_OK;
}

// A schema that says nothing but where it is: the rule of that place, which may be being made just now.
static const char *only_reference(const json_t *source) {
  static const char *const silent[] = {"$ref", "title", "description", "default", "$comment", "examples", NULL};
  const json_t *reference = json_object_get(source, "$ref");
  const char *keyword;
  json_t *value;
  if (!json_is_string(reference)) return NULL;
  json_object_foreach((json_t *)source, keyword, value) {
    if (!word_is_in(silent, keyword)) return NULL;
  }
  return json_string_value(reference);
}

// ---- flat schemas ----

static Status compile_flat(const Expression **out, Schema *schema, const json_t *flat, const char *pointer);

// Branches, each with what is said beside them.
static Status compile_choices(const Expression **out, Schema *schema, const json_t *flat, const char *pointer) {
  json_t *base = json_copy((json_t *)flat), *lists = json_copy(json_object_get(flat, SCHEMA_CHOICES)), *branch;
  json_t *branches = json_incref(json_array_get(lists, json_array_size(lists) - 1));
  ExpressionList list = {0};
  Status status = STATUS_OK;
  size_t i;
  json_array_remove(lists, json_array_size(lists) - 1);
  if (json_array_size(lists)) json_object_set(base, SCHEMA_CHOICES, lists);
  else json_object_del(base, SCHEMA_CHOICES);
  json_array_foreach(branches, i, branch) {
    const Expression *own = NULL;
    json_t *other = NULL, *merged = NULL;
    const char *place = arena_format(&schema->set->arena, "%s/anyOf/%zu", pointer, i);
    if (json_object_size(base) == 0) {
      status = schema_compile(&own, schema, branch, place);
    } else {
      status = schema_flatten(&other, schema, branch, place);
      if (status == STATUS_OK) status = schema_merge(&merged, schema, base, other, place);
      if (status == STATUS_OK) status = compile_flat(&own, schema, merged, place);
    }
    json_decref(other);
    json_decref(merged);
    if (status != STATUS_OK) break;
    expression_list_add(&list, own);
  }
  if (status == STATUS_OK) *out = expression_list_end(schema->set, EXPRESSION_CHOICE, &list);
  free(list.items);
  json_decref(base);
  json_decref(lists);
  json_decref(branches);
  return status;
}

// A value that is given, as far as the other keywords take it.
static Status compile_value(ExpressionList *list, Schema *schema, const json_t *flat, const json_t *value, const char *pointer) {
  SchemaTypes type = schema_value_type(value);
  const Expression *literal = json_literal(schema->set, value), *others = NULL;
  if (!(type & schema_named_types(flat))) return STATUS_OK;
  if (type & keyword_types(flat)) {
    if (type == TYPE_STRING) TRY(schema_string(&others, schema, flat, pointer));
    else if (type & (TYPE_INTEGER | TYPE_NUMBER)) TRY(schema_number(&others, schema, flat, false, pointer));
    else return schema_fail(pointer, "\"enum\" with objects or lists beside other keywords about them is not supported");
    literal = expression_pair(schema->set, EXPRESSION_BOTH, literal, others);
  }
  expression_list_add(list, literal);
  return STATUS_OK;
}

static Status compile_values(const Expression **out, Schema *schema, const json_t *flat, const char *pointer) {
  const json_t *value;
  ExpressionList list = {0};
  Status status = STATUS_OK;
  size_t i;
  json_array_foreach(json_object_get(flat, "enum"), i, value) TRY_DONE(compile_value(&list, schema, flat, value, pointer));
  *out = expression_list_end(schema->set, EXPRESSION_CHOICE, &list);
done:
  free(list.items);
  return status;
}

typedef Status (*TypeCompiler)(const Expression **out, Schema *schema, const json_t *flat, const char *pointer);

// Objects, lists and strings are rules of their own, so that what is repeated is not written out.
static Status compile_rule(ExpressionList *list, Schema *schema, const json_t *flat, TypeCompiler compile, const char *pointer) {
  const Expression *body = NULL;
  int rule = rule_add(schema->set, pointer);
  TRY(compile(&body, schema, flat, pointer));
  schema->set->rules[rule].body = body;
  expression_list_add(list, expression_rule(schema->set, rule));
  return STATUS_OK;
}

static Status compile_types(ExpressionList *list, Schema *schema, const json_t *flat, SchemaTypes types, const char *pointer) {
  RuleSet *set = schema->set;
  const Expression *own;
  if (types & TYPE_NULL) expression_list_add(list, expression_string(set, "null"));
  if (types & TYPE_BOOLEAN)
    expression_list_add(list, expression_choice(set, expression_string(set, "true"), expression_string(set, "false")));
  if (types & (TYPE_INTEGER | TYPE_NUMBER)) {
    TRY(schema_number(&own, schema, flat, !(types & TYPE_NUMBER), pointer));
    expression_list_add(list, own);
  }
  if (types & TYPE_STRING) TRY(compile_rule(list, schema, flat, schema_string, pointer));
  if (types & TYPE_ARRAY) TRY(compile_rule(list, schema, flat, schema_array, pointer));
  if (types & TYPE_OBJECT) TRY(compile_rule(list, schema, flat, schema_object, pointer));
  return STATUS_OK;
}

static Status compile_flat(const Expression **out, Schema *schema, const json_t *flat, const char *pointer) {
  if (json_object_get(flat, SCHEMA_CHOICES)) return compile_choices(out, schema, flat, pointer);
  if (json_object_get(flat, "enum")) return compile_values(out, schema, flat, pointer);
  SchemaTypes types = schema_written_types(flat);
  if (types == TYPE_ALL && !keyword_types(flat)) return *out = schema_any_value(schema), STATUS_OK;
  ExpressionList list = {0};
  Status status = compile_types(&list, schema, flat, types, pointer);
  if (status == STATUS_OK) *out = expression_list_end(schema->set, EXPRESSION_CHOICE, &list);
  free(list.items);
  return status;
}

static Status compile_source(const Expression **out, Schema *schema, const json_t *source, const char *pointer) {
  json_t *flat = NULL;
  if (schema->depth >= SCHEMA_MAX_DEPTH) return schema_fail(pointer, "schemas are nested too deeply");
  schema->depth++;
  Status status = schema_flatten(&flat, schema, source, pointer);
  if (status == STATUS_OK) status = compile_flat(out, schema, flat, pointer);
  schema->depth--;
  json_decref(flat);
  return status;
}

// A schema with references becomes one rule wherever it is met: what is behind them may lead back to it.
static Status compile_once(const Expression **out, Schema *schema, const json_t *source, const char *text, const char *pointer) {
  int64_t rule;
  const Expression *body = NULL;
  if (!map_get_string(&schema->references, text, &rule)) {
    rule = rule_add(schema->set, pointer);
    map_set_string(&schema->references, text, rule);
    TRY(compile_source(&body, schema, source, pointer));
    schema->set->rules[rule].body = body;
  }
  *out = expression_rule(schema->set, (int)rule);
  return STATUS_OK;
}

Status schema_compile(const Expression **out, Schema *schema, const json_t *source, const char *pointer) {
  const char *reference = only_reference(source);
  if (reference) return compile_reference(out, schema, reference, pointer);
  char *text = json_dumps(source, JSON_COMPACT | JSON_ENCODE_ANY);  // begins with no '#', as references do
  Status status =
      text && strstr(text, "\"$ref\"") ? compile_once(out, schema, source, text, pointer) : compile_source(out, schema, source, pointer);
  free(text);
  return status;
}

static Status compile_root(Schema *schema) {
  const Expression *body = NULL;
  map_set_string(&schema->references, "#", rule_add(schema->set, "#"));
  if (schema->root) TRY(schema_compile(&body, schema, schema->root, "#"));
  else body = schema_any_object(schema);
  schema->set->rules[0].body = body;
  return STATUS_OK;
}

Status grammar_from_schema(Grammar **out, const json_t *root) {
  RuleSet set = {0};
  Schema schema = {.set = &set, .root = root, .value_rule = -1, .object_rule = -1, .array_rule = -1, .string_rule = -1, .key_rule = -1};
  Status status = compile_root(&schema);
  if (status == STATUS_OK) status = grammar_compile(out, &set);
  if (status == STATUS_OK) (*out)->has_unique_keys = schema.has_open_keys;
  map_release(&schema.references);
  rule_set_release(&set);
  return status;
}
