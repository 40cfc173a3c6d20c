// oneOf: a value must be valid for one branch alone. Branches are taken where no value can be valid for two of them: by their types, by
// values or bounds that exclude each other, by a key that both require with schemas that do, or that one requires and the other forbids.
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/constraint/nfa.h"
#include "runtime/constraint/schema.h"

static Status are_disjoint(bool *disjoint, const char **key, Schema *schema, const json_t *a, const json_t *b, const char *pointer);

static bool is_valid_type(const json_t *value, SchemaTypes types) { return (schema_value_type(value) & types) != 0; }

// No value of the list has a type that the other schema allows, or is in its list.
static bool excludes_values(const json_t *values, const json_t *other) {
  const json_t *others = json_object_get(other, "enum"), *value, *second;
  size_t i, k;
  json_array_foreach(values, i, value) {
    if (!is_valid_type(value, schema_named_types(other))) continue;
    if (!others) return false;
    json_array_foreach(others, k, second) {
      bool are_equal = json_is_number(value) && json_is_number(second) ? json_number_value(value) == json_number_value(second)
                                                                       : json_equal(value, second);
      if (are_equal) return false;
    }
  }
  return true;
}

static double bound_of(const json_t *flat, const char *keyword, const char *exclusive, double otherwise, bool is_lower, bool *is_open) {
  const json_t *closed = json_object_get(flat, keyword), *open = json_object_get(flat, exclusive);
  double bound = json_is_number(closed) ? json_number_value(closed) : otherwise;
  *is_open = false;
  if (!json_is_number(open)) return bound;
  double other = json_number_value(open);
  if (is_lower ? other < bound : other > bound) return bound;
  *is_open = true;
  return other;
}

static bool ends_before(const json_t *a, const json_t *b) {
  bool a_open, b_open;
  double end = bound_of(a, "maximum", "exclusiveMaximum", DBL_MAX, false, &a_open);
  double begin = bound_of(b, "minimum", "exclusiveMinimum", -DBL_MAX, true, &b_open);
  return end < begin || (end == begin && (a_open || b_open));
}

static bool requires(const json_t *flat, const char *key) {
  const json_t *name;
  size_t i;
  json_array_foreach(json_object_get(flat, "required"), i, name) {
    if (json_is_string(name) && strcmp(json_string_value(name), key) == 0) return true;
  }
  return false;
}

static bool forbids(const json_t *flat, const char *key) {
  const json_t *own = json_object_get(json_object_get(flat, "properties"), key);
  return json_is_false(own ? own : json_object_get(flat, "additionalProperties"));
}

static bool requires_what_is_forbidden(const json_t *a, const json_t *b) {
  const json_t *name;
  size_t i;
  json_array_foreach(json_object_get(a, "required"), i, name) {
    if (json_is_string(name) && forbids(b, json_string_value(name))) return true;
  }
  return false;
}

// Whether a key that both have tells them apart.
static Status key_tells(bool *tells, Schema *schema, const json_t *a, const json_t *b, const char *key, const char *pointer) {
  json_t *flat[2] = {NULL, NULL};
  Status status = schema_flatten(&flat[0], schema, json_object_get(json_object_get(a, "properties"), key), pointer);
  if (status == STATUS_OK) status = schema_flatten(&flat[1], schema, json_object_get(json_object_get(b, "properties"), key), pointer);
  if (status == STATUS_OK) status = are_disjoint(tells, NULL, schema, flat[0], flat[1], pointer);
  json_decref(flat[0]);
  json_decref(flat[1]);
  return status;
}

// *key: one that tells them apart if both are made to have it; not asked for when `key` is NULL.
static Status objects_are_disjoint(bool *disjoint, const char **key, Schema *schema, const json_t *a, const json_t *b,
                                   const char *pointer) {
  const char *name;
  json_t *own;
  *disjoint = requires_what_is_forbidden(a, b) || requires_what_is_forbidden(b, a);
  for (int forced = 0; forced <= (key != NULL) && !*disjoint; forced++) {
    json_object_foreach(json_object_get(a, "properties"), name, own) {
      if (!json_object_get(json_object_get(b, "properties"), name) || (!forced && !(requires(a, name) && requires(b, name)))) continue;
      TRY(key_tells(disjoint, schema, a, b, name, pointer));
      if (*disjoint && forced) *key = name;
      if (*disjoint) break;
    }
  }
  return STATUS_OK;
}

// What is written for one branch must not be valid for the other; a format's strings are too loosely known for that.
static Status strings_are_disjoint(bool *disjoint, Schema *schema, const json_t *a, const json_t *b, const char *pointer) {
  static const char *const keywords[] = {"pattern", "minLength", "maxLength"};
  bool says[2] = {false, false}, meet = true;
  for (int i = 0; i < 3; i++) {
    says[0] |= json_object_get(a, keywords[i]) != NULL;
    says[1] |= json_object_get(b, keywords[i]) != NULL;
  }
  *disjoint = false;
  if (!says[0] || !says[1] || json_object_get(a, "format") || json_object_get(b, "format")) return STATUS_OK;
  const Expression *own[2];
  TRY(schema_string(&own[0], schema, a, pointer));
  TRY(schema_string(&own[1], schema, b, pointer));
  TRY(expressions_meet(&meet, schema->set, own[0], own[1]));
  *disjoint = !meet;
  return STATUS_OK;
}

static Status are_disjoint(bool *disjoint, const char **key, Schema *schema, const json_t *a, const json_t *b, const char *pointer) {
  SchemaTypes both = (schema_written_types(a) & schema_named_types(b)) | (schema_written_types(b) & schema_named_types(a));
  const json_t *values_a = json_object_get(a, "enum"), *values_b = json_object_get(b, "enum");
  bool holds = true;
  *disjoint = (values_a && excludes_values(values_a, b)) || (values_b && excludes_values(values_b, a)) || !both;
  if (*disjoint || (both & (TYPE_NULL | TYPE_BOOLEAN | TYPE_ARRAY))) return STATUS_OK;
  if ((both & (TYPE_INTEGER | TYPE_NUMBER)) && !ends_before(a, b) && !ends_before(b, a)) return STATUS_OK;
  if (both & TYPE_OBJECT) TRY(objects_are_disjoint(&holds, key, schema, a, b, pointer));
  if (holds && (both & TYPE_STRING)) TRY(strings_are_disjoint(&holds, schema, a, b, pointer));
  *disjoint = holds;
  return STATUS_OK;
}

static Status check_pair(const char **key, Schema *schema, const json_t *flats, size_t first, size_t second, const char *pointer) {
  bool disjoint = false;
  *key = NULL;
  TRY(are_disjoint(&disjoint, key, schema, json_array_get(flats, first), json_array_get(flats, second), pointer));
  if (disjoint) return STATUS_OK;
  return schema_fail(
      pointer,
      "\"oneOf\": a value may be valid for branches %zu and %zu at once, which is not ruled out: use \"anyOf\", or give both a "
      "key with different \"const\"",
      first, second);
}

// The branches, with the keys that they must have. Beside the branch, so that a reference stays one.
static json_t *with_required(const json_t *branches, const json_t *keys) {
  json_t *list = json_array(), *own, *branch;
  size_t i;
  json_array_foreach((json_t *)branches, i, branch) {
    own = json_array_get(keys, i);
    if (json_array_size(own)) json_array_append_new(list, json_pack("{s:[O, {s:O}]}", "allOf", branch, "required", own));
    else json_array_append(list, branch);
  }
  return list;
}

Status schema_separate(json_t **out, Schema *schema, const json_t *branches, const json_t *flats, const char *pointer) {
  size_t count = json_array_size(branches);
  json_t *keys = json_array();
  Status status = STATUS_OK;
  for (size_t i = 0; i < count; i++) json_array_append_new(keys, json_array());
  for (size_t i = 0; i < count; i++) {
    for (size_t k = 0; k < i; k++) {
      const char *key;
      TRY_DONE(check_pair(&key, schema, flats, k, i, pointer));
      if (!key) continue;
      json_array_append_new(json_array_get(keys, k), json_string(key));
      json_array_append_new(json_array_get(keys, i), json_string(key));
    }
  }
  *out = with_required(branches, keys);
done:
  json_decref(keys);
  return status;
}
