// Flat schemas: one object of keywords, without $ref and allOf. Merging keeps what both say: the stronger bound, all required keys, for
// each key what either says of it. Keywords that say something about values and are not known here are refused.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "runtime/constraint/schema.h"

enum { MAX_BRANCHES = 256 };

// Keywords that no value depends on.
static const char *const annotations[] = {"$schema",          "$id",         "$comment",        "$anchor",          "$defs",
                                          "$vocabulary",      "definitions", "title",           "description",      "default",
                                          "examples",         "example",     "deprecated",      "readOnly",         "writeOnly",
                                          "discriminator",    "strict",      "contentEncoding", "contentMediaType", "externalDocs",
                                          "propertyOrdering", NULL};
// Keywords that are read where types are compiled, or here.
static const char *const known[] = {"type",
                                    "enum",
                                    "const",
                                    "nullable",
                                    "anyOf",
                                    "oneOf",
                                    "allOf",
                                    "$ref",
                                    "properties",
                                    "required",
                                    "additionalProperties",
                                    "minProperties",
                                    "maxProperties",
                                    "items",
                                    "prefixItems",
                                    "minItems",
                                    "maxItems",
                                    "uniqueItems",
                                    "minLength",
                                    "maxLength",
                                    "pattern",
                                    "format",
                                    "minimum",
                                    "maximum",
                                    "exclusiveMinimum",
                                    "exclusiveMaximum",
                                    "multipleOf",
                                    "patternProperties",
                                    "unevaluatedProperties",
                                    NULL};

static bool is_annotation(const char *keyword) { return word_is_in(annotations, keyword) || text_starts_with(keyword, "x-"); }

static Status check_keywords(const json_t *source, const char *pointer) {
  const char *keyword;
  json_t *value;
  json_object_foreach((json_t *)source, keyword, value) {
    if (is_annotation(keyword)) continue;
    if (!word_is_in(known, keyword)) {
      int count = 0;
      while (known[count]) count++;
      const char *near = nearest_name(keyword, known, count);
      return schema_fail(pointer, "\"%s\" is not supported, and would not be enforced%s%s%s: take it out", keyword, near ? " (is \"" : "",
                         near ? near : "", near ? "\" meant?)" : "");
    }
    if (strcmp(keyword, "patternProperties") == 0 && json_object_size(value))
      return schema_fail(pointer, "\"patternProperties\" is not supported: name the keys in \"properties\"");
    if (strcmp(keyword, "uniqueItems") == 0 && !json_is_false(value))
      return schema_fail(pointer, "\"uniqueItems\" is not supported: a grammar cannot compare items; take it out");
    if (strcmp(keyword, "unevaluatedProperties") == 0 && !json_is_true(value))
      return schema_fail(pointer, "\"unevaluatedProperties\" is not supported: use \"additionalProperties\"");
  }
  return STATUS_OK;
}

// A schema that nothing is valid for, and the opposite, as objects.
static json_t *from_boolean(bool holds) { return holds ? json_object() : json_pack("{s:[]}", "enum"); }

json_t *schema_both(const json_t *a, const json_t *b) {
  if (!a || !b) return a || b ? json_incref((json_t *)(a ? a : b)) : json_true();
  return json_pack("{s:[O, O]}", "allOf", a, b);
}

static json_t *merge_types(const json_t *a, const json_t *b) {
  json_t *either[2] = {json_pack("{s:O}", "type", a), json_pack("{s:O}", "type", b)}, *names = json_array();
  SchemaTypes both = schema_named_types(either[0]) & schema_named_types(either[1]);
  static const char *const order[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
  for (int i = 0; i < 7; i++) {
    bool is_whole_number = (both & TYPE_INTEGER) && (both & TYPE_NUMBER);
    if ((both >> i & 1) && !(i == 2 && is_whole_number)) json_array_append_new(names, json_string(order[i]));
  }
  json_decref(either[0]);
  json_decref(either[1]);
  return names;
}

static bool values_equal(const json_t *a, const json_t *b) {
  if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
  return json_equal(a, b);
}

static json_t *merge_enums(const json_t *a, const json_t *b) {
  json_t *both = json_array(), *value, *other;
  size_t i, k;
  json_array_foreach((json_t *)a, i, value) json_array_foreach((json_t *)b, k, other) {
    if (!values_equal(value, other)) continue;
    json_array_append(both, value);
    break;
  }
  return both;
}

static json_t *merge_lists(const json_t *a, const json_t *b) {
  json_t *list = json_copy((json_t *)a);
  json_array_extend(list, (json_t *)b);
  return list;
}

static json_t *stronger_bound(const json_t *a, const json_t *b, bool is_lower) {
  bool takes_a = is_lower ? json_number_value(a) >= json_number_value(b) : json_number_value(a) <= json_number_value(b);
  return json_incref((json_t *)(takes_a ? a : b));
}

// What a schema says of a key: of its own properties, or of all others.
static const json_t *property_schema(const json_t *flat, const char *key) {
  const json_t *own = json_object_get(json_object_get(flat, "properties"), key);
  return own ? own : json_object_get(flat, "additionalProperties");
}

static void merge_properties(json_t *out, const json_t *a, const json_t *b) {
  json_t *merged = json_object(), *value;
  const char *key;
  json_object_foreach(json_object_get(a, "properties"), key, value)
      json_object_set_new(merged, key, schema_both(property_schema(a, key), property_schema(b, key)));
  json_object_foreach(json_object_get(b, "properties"), key, value) {
    if (!json_object_get(merged, key)) json_object_set_new(merged, key, schema_both(property_schema(a, key), property_schema(b, key)));
  }
  const json_t *others[2] = {json_object_get(a, "additionalProperties"), json_object_get(b, "additionalProperties")};
  if (json_object_size(merged)) json_object_set(out, "properties", merged);
  if (others[0] || others[1]) json_object_set_new(out, "additionalProperties", schema_both(others[0], others[1]));
  json_decref(merged);
}

static const json_t *item_schema(const json_t *flat, size_t at) {
  const json_t *own = json_array_get(json_object_get(flat, "prefixItems"), at);
  return own ? own : json_object_get(flat, "items");
}

static void merge_items(json_t *out, const json_t *a, const json_t *b) {
  size_t count_a = json_array_size(json_object_get(a, "prefixItems")), count_b = json_array_size(json_object_get(b, "prefixItems"));
  json_t *merged = json_array();
  for (size_t i = 0; i < count_a || i < count_b; i++) json_array_append_new(merged, schema_both(item_schema(a, i), item_schema(b, i)));
  const json_t *others[2] = {json_object_get(a, "items"), json_object_get(b, "items")};
  if (json_array_size(merged)) json_object_set(out, "prefixItems", merged);
  if (others[0] || others[1]) json_object_set_new(out, "items", schema_both(others[0], others[1]));
  json_decref(merged);
}

// One keyword that both have.
static Status merge_keyword(json_t **out, const char *keyword, const json_t *a, const json_t *b, const char *pointer) {
  static const char *const lower[] = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", NULL},
                           *const upper[] = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", NULL},
                           *const lists[] = {"required", SCHEMA_CHOICES, SCHEMA_PATTERNS, NULL};
  bool is_lower = word_is_in(lower, keyword);
  if (strcmp(keyword, "type") == 0) *out = merge_types(a, b);
  else if (strcmp(keyword, "enum") == 0) *out = merge_enums(a, b);
  else if (word_is_in(lists, keyword)) *out = merge_lists(a, b);
  else if ((is_lower || word_is_in(upper, keyword)) && json_is_number(a) && json_is_number(b)) *out = stronger_bound(a, b, is_lower);
  else if (json_equal(a, b)) *out = json_incref((json_t *)a);
  else return schema_fail(pointer, "several values of \"%s\" for one place cannot be merged", keyword);
  return STATUS_OK;
}

Status schema_merge(json_t **out, Schema *schema, const json_t *a, const json_t *b, const char *pointer) {
  static const char *const apart[] = {"properties", "additionalProperties", "items", "prefixItems", NULL};
  json_t *merged = json_object(), *value;
  const char *keyword;
  (void)schema;
  json_object_foreach((json_t *)a, keyword, value) {
    if (!word_is_in(apart, keyword)) json_object_set(merged, keyword, value);
  }
  json_object_foreach((json_t *)b, keyword, value) {
    const json_t *own = json_object_get(merged, keyword);
    json_t *both = NULL;
    if (word_is_in(apart, keyword)) continue;
    if (own && strcmp(keyword, "pattern") == 0) {
      json_t *patterns = json_object_get(merged, SCHEMA_PATTERNS);
      if (!patterns) json_object_set_new(merged, SCHEMA_PATTERNS, patterns = json_array());
      json_array_append(patterns, value);
      continue;
    }
    Status status = own ? merge_keyword(&both, keyword, own, value, pointer) : STATUS_OK;
    if (status != STATUS_OK) return json_decref(merged), status;
    json_object_set_new(merged, keyword, both ? both : json_incref(value));
  }
  merge_properties(merged, a, b);
  merge_items(merged, a, b);
  *out = merged;
  return STATUS_OK;
}

// Merges another schema into *flat.
static Status merge_into(json_t **flat, Schema *schema, const json_t *source, const char *pointer) {
  json_t *other = NULL, *merged = NULL;
  Status status = schema_flatten(&other, schema, source, pointer);
  if (status == STATUS_OK) status = schema_merge(&merged, schema, *flat, other, pointer);
  json_decref(other);
  if (status != STATUS_OK) return status;
  json_decref(*flat);
  *flat = merged;
  return STATUS_OK;
}

static Status check_branches(const json_t *branches, const char *keyword, const char *pointer) {
  if (!json_is_array(branches) || !json_array_size(branches)) return schema_fail(pointer, "\"%s\" must be a list of schemas", keyword);
  if (json_array_size(branches) > MAX_BRANCHES) return schema_fail(pointer, "\"%s\" has more than %d branches", keyword, MAX_BRANCHES);
  return STATUS_OK;
}

static Status flatten_branches(json_t *flats, Schema *schema, const json_t *branches, const char *pointer) {
  for (size_t i = 0; i < json_array_size(branches); i++) {
    json_t *flat = NULL;
    char *step = memory_format("oneOf/%zu", i);
    Status status = schema_flatten(&flat, schema, json_array_get(branches, i), schema_pointer(schema, pointer, step));
    free(step);
    TRY(status);
    json_array_append_new(flats, flat);
  }
  return STATUS_OK;
}

// anyOf or oneOf becomes one list of choices.
static Status add_choices(json_t *flat, Schema *schema, const json_t *source, const char *keyword, const char *pointer) {
  json_t *branches = json_object_get(source, keyword), *separate = NULL;
  if (!branches) return STATUS_OK;
  TRY(check_branches(branches, keyword, pointer));
  if (strcmp(keyword, "oneOf") == 0) {
    json_t *flats = json_array();
    Status status = flatten_branches(flats, schema, branches, pointer);
    if (status == STATUS_OK) status = schema_separate(&separate, schema, branches, flats, pointer);
    json_decref(flats);
    TRY(status);
  }
  json_t *lists = json_object_get(flat, SCHEMA_CHOICES);
  if (!lists) json_object_set_new(flat, SCHEMA_CHOICES, lists = json_array());
  json_array_append(lists, separate ? separate : branches);
  json_decref(separate);
  return STATUS_OK;
}

static Status check_types(const json_t *flat, const char *pointer) {
  static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object", NULL};
  const json_t *type = json_object_get(flat, "type"), *name;
  size_t i;
  if (!type) return STATUS_OK;
  if (json_is_string(type) && word_is_in(names, json_string_value(type))) return STATUS_OK;
  bool is_known = json_is_array(type);
  json_array_foreach(type, i, name) is_known &= json_is_string(name) && word_is_in(names, json_string_value(name));
  return is_known ? STATUS_OK
                  : schema_fail(pointer, "\"type\" must be one or several of null, boolean, integer, number, string, array, object");
}

static Status check_kinds(const json_t *flat, const char *pointer) {
  static const struct {
    const char *keyword;
    json_type type;
    const char *words;
  } kinds[] = {{"properties", JSON_OBJECT, "an object"}, {"required", JSON_ARRAY, "a list"},   {"enum", JSON_ARRAY, "a list"},
               {"prefixItems", JSON_ARRAY, "a list"},    {"pattern", JSON_STRING, "a string"}, {"format", JSON_STRING, "a string"}};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    const json_t *value = json_object_get(flat, kinds[i].keyword);
    if (value && json_typeof(value) != kinds[i].type) return schema_fail(pointer, "\"%s\" must be %s", kinds[i].keyword, kinds[i].words);
  }
  return check_types(flat, pointer);
}

// The schema's own keywords.
static Status copy_keywords(json_t *flat, const json_t *source, const char *pointer) {
  static const char *const apart[] = {
      "$ref", "allOf", "anyOf", "oneOf", "const", "nullable", "patternProperties", "uniqueItems", "unevaluatedProperties", NULL};
  const char *keyword;
  json_t *value;
  json_object_foreach((json_t *)source, keyword, value) {
    if (!is_annotation(keyword) && !word_is_in(apart, keyword)) json_object_set(flat, keyword, value);
  }
  TRY(check_kinds(flat, pointer));
  const json_t *constant = json_object_get(source, "const"), *values = json_object_get(flat, "enum");
  if (constant) {
    json_t *alone = json_pack("[O]", constant), *both = values ? merge_enums(values, alone) : json_incref(alone);
    json_object_set_new(flat, "enum", both);
    json_decref(alone);
  }
  const json_t *type = json_object_get(flat, "type");
  if (type && json_is_true(json_object_get(source, "nullable"))) {
    json_t *types = json_is_array(type) ? json_copy((json_t *)type) : json_pack("[O]", type);
    json_array_append_new(types, json_string("null"));
    json_object_set_new(flat, "type", types);
  }
  return STATUS_OK;
}

static Status merge_reference(json_t **flat, Schema *schema, const json_t *source, const char *pointer) {
  const json_t *reference = json_object_get(source, "$ref"), *target;
  if (!reference) return STATUS_OK;
  if (!json_is_string(reference)) return schema_fail(pointer, "\"$ref\" must be a string");
  TRY(schema_resolve(&target, schema, json_string_value(reference), pointer));
  return merge_into(flat, schema, target, pointer);
}

static Status merge_all(json_t **flat, Schema *schema, const json_t *source, const char *pointer) {
  const json_t *all = json_object_get(source, "allOf");
  if (!all) return STATUS_OK;
  TRY(check_branches(all, "allOf", pointer));
  for (size_t i = 0; i < json_array_size(all); i++) TRY(merge_into(flat, schema, json_array_get(all, i), pointer));
  return STATUS_OK;
}

static Status flatten(json_t **flat, Schema *schema, const json_t *source, const char *pointer) {
  TRY(check_keywords(source, pointer));
  TRY(copy_keywords(*flat, source, pointer));
  TRY(add_choices(*flat, schema, source, "anyOf", pointer));
  TRY(add_choices(*flat, schema, source, "oneOf", pointer));
  TRY(merge_reference(flat, schema, source, pointer));
  return merge_all(flat, schema, source, pointer);
}

Status schema_flatten(json_t **out, Schema *schema, const json_t *source, const char *pointer) {
  if (json_is_boolean(source)) return *out = from_boolean(json_is_true(source)), STATUS_OK;
  if (!json_is_object(source)) return schema_fail(pointer, "a schema must be an object, true or false");
  if (schema->depth >= SCHEMA_MAX_DEPTH)
    return schema_fail(pointer, "schemas are nested too deeply, or one refers to itself without anything between");
  if (schema->work++ >= SCHEMA_MAX_WORK) return schema_fail(pointer, "the schema is too large: its branches and references multiply");
  json_t *flat = json_object();
  schema->depth++;
  Status status = flatten(&flat, schema, source, pointer);
  schema->depth--;
  if (status == STATUS_OK) *out = flat;
  else json_decref(flat);
  return status;
}
