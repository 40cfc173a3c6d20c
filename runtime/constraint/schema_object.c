// Objects and arrays. Declared keys come in their declared order, those that are not required may be left out; other keys follow.
#include <stdlib.h>
#include <string.h>

#include "runtime/constraint/json_text.h"
#include "runtime/constraint/schema.h"

enum { MAX_PREFIX_ITEMS = 200 };

typedef struct Members {
  const Expression **items;
  bool *required;
  const Expression **names;
  int count;
} Members;

static const Expression *separator(RuleSet *set) { return expression_sequence(set, expression_string(set, ","), json_space(set)); }

static const Expression *member(RuleSet *set, const Expression *name, const Expression *value) {
  return expression_sequence(set, name, expression_string(set, ":"), json_space(set), value);
}

static const Expression *braces(RuleSet *set, const char *open, const Expression *content, const char *close) {
  return expression_sequence(set, expression_string(set, open), json_space(set), content, json_space(set), expression_string(set, close));
}

static bool is_required(const json_t *flat, const char *key) {
  const json_t *name;
  size_t i;
  json_array_foreach(json_object_get(flat, "required"), i, name) {
    if (json_is_string(name) && strcmp(json_string_value(name), key) == 0) return true;
  }
  return false;
}

static Status add_member(Members *members, Schema *schema, const char *key, const json_t *value, bool required, const char *pointer) {
  const Expression *own = NULL;
  json_t *name = json_string(key);
  members->names[members->count] = json_literal(schema->set, name);
  json_decref(name);
  TRY(schema_compile(&own, schema, value, pointer));
  members->items[members->count] = member(schema->set, members->names[members->count], own);
  members->required[members->count++] = required;
  return STATUS_OK;
}

// Keys that are declared, then keys that are required without it.
static Status add_members(Members *members, Schema *schema, const json_t *flat, const json_t *others, const char *pointer) {
  json_t *properties = json_object_get(flat, "properties"), *value;
  const json_t *name;
  const char *key;
  size_t i;
  json_object_foreach(properties, key, value) {
    const char *place = schema_pointer(schema, schema_pointer(schema, pointer, "properties"), key);
    TRY(add_member(members, schema, key, value, is_required(flat, key), place));
  }
  json_t *seen = json_object();
  Status status = STATUS_OK;
  json_array_foreach(json_object_get(flat, "required"), i, name) {
    if (!json_is_string(name)) TRY_DONE(schema_fail(pointer, "\"required\" must be a list of strings"));
    key = json_string_value(name);
    if (json_object_get(properties, key) || json_object_get(seen, key)) continue;
    json_object_set_new(seen, key, json_true());
    json_t *any = json_true();
    status = add_member(members, schema, key, others ? others : any, true, schema_pointer(schema, pointer, "additionalProperties"));
    json_decref(any);
    if (status != STATUS_OK) break;
  }
done:
  json_decref(seen);
  return status;
}

static Status check_counts(const json_t *flat, const Members *members, bool is_open, const char *pointer) {
  int64_t min, max, required = 0;
  TRY(schema_count(&min, flat, "minProperties", 0, pointer));
  TRY(schema_count(&max, flat, "maxProperties", -1, pointer));
  for (int i = 0; i < members->count; i++) required += members->required[i];
  if (min > required) return schema_fail(pointer, "\"minProperties\" is supported where as many keys are required");
  if (max >= 0 && (is_open || members->count > max))
    return schema_fail(pointer, "\"maxProperties\" is supported where no more keys are declared and others are forbidden");
  return STATUS_OK;
}

// Any number of keys that are not declared.
static Status add_others(const Expression **extra, Schema *schema, const Members *members, const json_t *others, const char *pointer) {
  const Expression *value = NULL, *key = schema_any_key(schema);
  if (others) TRY(schema_compile(&value, schema, others, schema_pointer(schema, pointer, "additionalProperties")));
  else value = schema_any_value(schema);
  if (members->count) {
    const Expression *declared = expression_join(schema->set, EXPRESSION_CHOICE, members->names, members->count);
    key = expression_pair(schema->set, EXPRESSION_EXCEPT, schema->set->rules[schema->key_rule].body, declared);
  }
  *extra = member(schema->set, key, value);
  schema->has_open_keys = true;
  return STATUS_OK;
}

Status schema_object(const Expression **out, Schema *schema, const json_t *flat, const char *pointer) {
  const json_t *others = json_object_get(flat, "additionalProperties");
  size_t room = json_object_size(json_object_get(flat, "properties")) + json_array_size(json_object_get(flat, "required")) + 1;
  Members members = {.items = memory_new(room, sizeof *members.items),
                     .required = memory_new(room, sizeof *members.required),
                     .names = memory_new(room, sizeof *members.names)};
  const Expression *extra = NULL;
  Status status;
  TRY_DONE(add_members(&members, schema, flat, others, pointer));
  TRY_DONE(check_counts(flat, &members, !json_is_false(others), pointer));
  if (!json_is_false(others)) TRY_DONE(add_others(&extra, schema, &members, others, pointer));
  *out = braces(schema->set, "{",
                expression_series(schema->set, members.items, members.required, members.count, separator(schema->set), extra), "}");
done:
  free(members.items);
  free(members.required);
  free(members.names);
  return status;
}

// Items behind `count` others: as many as the bounds leave.
static const Expression *more_items(RuleSet *set, const Expression *item, int64_t count, int64_t min, int64_t max) {
  int64_t least = min > count ? min - count : 0, most = max < 0 ? -1 : max - count;
  if (!item) return least ? expression_join(set, EXPRESSION_CHOICE, NULL, 0) : expression_string(set, "");
  if (count) return expression_repeat(set, expression_sequence(set, separator(set), item), least, most);
  if (most == 0) return expression_string(set, "");
  const Expression *next =
      expression_repeat(set, expression_sequence(set, separator(set), item), least ? least - 1 : 0, most < 0 ? -1 : most - 1);
  const Expression *some = expression_sequence(set, item, next);
  return least ? some : expression_optional(set, some);
}

static Status compile_prefix(const Expression **prefix, Schema *schema, const json_t *items, const char *pointer) {
  for (size_t i = 0; i < json_array_size(items); i++) {
    char *step = memory_format("prefixItems/%zu", i);
    Status status = schema_compile(&prefix[i], schema, json_array_get(items, i), schema_pointer(schema, pointer, step));
    free(step);
    TRY(status);
  }
  return STATUS_OK;
}

Status schema_array(const Expression **out, Schema *schema, const json_t *flat, const char *pointer) {
  RuleSet *set = schema->set;
  const json_t *items = json_object_get(flat, "items"), *prefix_items = json_object_get(flat, "prefixItems");
  const Expression *prefix[MAX_PREFIX_ITEMS], *item = NULL;
  int64_t min, max, count = (int64_t)json_array_size(prefix_items);
  TRY(schema_count(&min, flat, "minItems", 0, pointer));
  TRY(schema_count(&max, flat, "maxItems", -1, pointer));
  if (max >= 0 && max < min) return schema_fail(pointer, "\"maxItems\" is less than \"minItems\"");
  if (count > MAX_PREFIX_ITEMS) return schema_fail(pointer, "\"prefixItems\" has more than %d schemas", MAX_PREFIX_ITEMS);
  TRY(compile_prefix(prefix, schema, prefix_items, pointer));
  if (max >= 0 && count > max) count = max;
  bool takes_more = (max < 0 || max > count) && !json_is_false(items);
  if (takes_more && items) TRY(schema_compile(&item, schema, items, schema_pointer(schema, pointer, "items")));
  else if (takes_more) item = schema_any_value(schema);
  const Expression *content = more_items(set, item, count, min, max);
  for (int64_t i = count - 1; i >= 0; i--) {
    content = i ? expression_sequence(set, separator(set), prefix[i], content) : expression_sequence(set, prefix[i], content);
    if (i >= min) content = expression_optional(set, content);
  }
  *out = braces(set, "[", content, "]");
  return STATUS_OK;
}
