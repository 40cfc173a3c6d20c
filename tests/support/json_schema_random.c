// Random JSON schemas. Each has values that are valid for it.
#include <math.h>

#include "tests/support/json_schema.h"
#include "tests/support/test.h"

static json_t *any_schema(Rng *rng, int depth);

static bool chance(Rng *rng, uint64_t of) { return rng_below(rng, of) == 0; }

static json_t *number_schema(Rng *rng) {
  bool is_integer = chance(rng, 2);
  json_t *schema = json_pack("{s:s}", "type", is_integer ? "integer" : "number");
  double scale = pow(10, (double)rng_below(rng, 8)), low = floor((rng_uniform(rng) * 2 - 1) * scale),
         width = 1 + floor(rng_uniform(rng) * scale);
  if (!is_integer && chance(rng, 2)) low += (double)rng_below(rng, 1000) / 1000, width = rng_uniform(rng) + 0.01;
  double high = low + width;
  bool has_low = !chance(rng, 3), has_high = !chance(rng, 3);
  json_t *lower = is_integer ? json_integer((json_int_t)low) : json_real(low);
  json_t *upper = is_integer ? json_integer((json_int_t)high + 1) : json_real(high);
  if (has_low) json_object_set(schema, chance(rng, 2) ? "minimum" : "exclusiveMinimum", lower);
  if (has_high) json_object_set(schema, chance(rng, 2) ? "maximum" : "exclusiveMaximum", upper);
  if (chance(rng, 8))
    json_object_set_new(schema, "multipleOf", json_integer(1)), json_object_set_new(schema, "type", json_string("integer"));
  if (json_object_get(schema, "multipleOf") && width < 3)
    json_object_clear(schema), json_object_set_new(schema, "type", json_string("integer"));
  json_decref(lower);
  json_decref(upper);
  return schema;
}

static json_t *string_schema(Rng *rng) {
  static const char *const patterns[] = {"^[a-z]+$",
                                         "^(foo|bar)?x{2,4}$",
                                         "\\d{3}",
                                         "^[A-Z]{2}-\\d+$",
                                         "^\\w+@\\w+$",
                                         "[^a-z]",
                                         "^.{2,5}$",
                                         "^\\S+\\s\\S+$",
                                         "^\"[^\"]*\"$",
                                         "a|^b+|c$",
                                         "^(?:[\\x20-\\x7e\\u00e9]|\\n){1,9}$",
                                         "^\\\\(\\/|\\.)*$",
                                         "^[\\^\\-\\]a-c]*$"};
  static const char *const formats[] = {"date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "uri", "hostname"};
  json_t *schema = json_pack("{s:s}", "type", "string");
  int64_t min = (int64_t)rng_below(rng, 12), max = min + (int64_t)rng_below(rng, 20);
  switch (rng_below(rng, 5)) {
    case 0: break;
    case 1: json_object_set_new(schema, "pattern", json_string(patterns[rng_below(rng, sizeof patterns / sizeof *patterns)])); break;
    case 2: json_object_set_new(schema, "format", json_string(formats[rng_below(rng, sizeof formats / sizeof *formats)])); break;
    case 3:
      json_object_set_new(schema, "pattern", json_string(chance(rng, 2) ? "^[a-z]+[0-9]*$" : "[A-Z]"));
      json_object_set_new(schema, "minLength", json_integer(min));
      json_object_set_new(schema, "maxLength", json_integer(max + 1));
      break;
    default:
      if (!chance(rng, 3)) json_object_set_new(schema, "minLength", json_integer(min));
      if (!chance(rng, 3)) json_object_set_new(schema, "maxLength", json_integer(max));
  }
  return schema;
}

static json_t *enum_schema(Rng *rng) {
  static const char *const values[] = {
      "\"red\"", "\"blue\"", "17", "-2.5", "true", "null", "[1, \"x\"]", "{\"a\": {\"b\": []}}", "\"\\u00e9\\\"\\\\\\n\"", "\"\""};
  json_t *list = json_array();
  for (uint64_t i = 0; i <= rng_below(rng, 4); i++)
    json_array_append_new(list, json_loads(values[rng_below(rng, 10)], JSON_DECODE_ANY, NULL));
  json_t *schema = chance(rng, 4) ? json_pack("{s:O}", "const", json_array_get(list, 0)) : json_pack("{s:O}", "enum", list);
  json_decref(list);
  return schema;
}

static json_t *array_schema(Rng *rng, int depth) {
  json_t *schema = json_pack("{s:s}", "type", "array");
  int64_t min = (int64_t)rng_below(rng, 3), prefix = chance(rng, 3) ? 1 + (int64_t)rng_below(rng, 3) : 0;
  if (prefix) json_object_set_new(schema, "prefixItems", json_array());
  for (int64_t i = 0; i < prefix; i++) json_array_append_new(json_object_get(schema, "prefixItems"), any_schema(rng, depth - 1));
  bool is_closed = prefix >= min && prefix && chance(rng, 3);
  if (is_closed) json_object_set_new(schema, "items", json_false());
  else if (!chance(rng, 4)) json_object_set_new(schema, "items", any_schema(rng, depth - 1));
  if (min) json_object_set_new(schema, "minItems", json_integer(min));
  if (chance(rng, 2)) json_object_set_new(schema, "maxItems", json_integer(min + (int64_t)rng_below(rng, 4)));
  return schema;
}

static json_t *object_schema(Rng *rng, int depth) {
  static const char *const names[] = {"a", "name", "na", "value", "\xc3\xa9t\xc3\xa9", "with \"quotes\"", "tab\tbed", "x/y~z", "aa"};
  json_t *schema = json_pack("{s:s, s:{}, s:[]}", "type", "object", "properties", "required");
  for (uint64_t i = 0, count = rng_below(rng, 5); i < count; i++) {
    const char *name = names[rng_below(rng, 9)];
    if (json_object_get(json_object_get(schema, "properties"), name)) continue;
    json_object_set_new(json_object_get(schema, "properties"), name, any_schema(rng, depth - 1));
    if (chance(rng, 2)) json_array_append_new(json_object_get(schema, "required"), json_string(name));
  }
  if (chance(rng, 2)) json_object_set_new(schema, "additionalProperties", json_false());
  else if (chance(rng, 2)) json_object_set_new(schema, "additionalProperties", any_schema(rng, depth - 1));
  if (chance(rng, 8) && !json_is_false(json_object_get(schema, "additionalProperties")))
    json_array_append_new(json_object_get(schema, "required"), json_string("undeclared"));
  return schema;
}

// Branches that a key tells apart, or types do.
static json_t *one_of_schema(Rng *rng, int depth) {
  json_t *branches = json_array();
  if (chance(rng, 2)) {
    json_array_append_new(branches, json_pack("{s:s}", "type", "boolean"));
    json_array_append_new(branches, string_schema(rng));
    json_array_append_new(branches, number_schema(rng));
    json_array_append_new(branches, array_schema(rng, depth - 1));
    return json_pack("{s:o}", "oneOf", branches);
  }
  for (int i = 0; i < 3; i++) {
    json_t *branch = object_schema(rng, depth - 1);
    json_object_set_new(json_object_get(branch, "properties"), "kind",
                        json_pack("{s:s}", "const",
                                  i == 0   ? "one"
                                  : i == 1 ? "two"
                                           : "three"));
    if (chance(rng, 2)) json_array_append_new(json_object_get(branch, "required"), json_string("kind"));
    json_array_append_new(branches, branch);
  }
  return json_pack("{s:o}", "oneOf", branches);
}

static json_t *all_of_schema(Rng *rng, int depth) {
  if (chance(rng, 3))
    return json_pack("{s:[{s:s, s:i}, {s:i, s:i}, {s:f}]}", "allOf", "type", "integer", "minimum", -50, "maximum", 70, "minimum", 10,
                     "exclusiveMaximum", 60.5);
  if (chance(rng, 3))
    return json_pack("{s:[{s:s, s:s}, {s:s, s:i}, {s:s}]}", "allOf", "type", "string", "pattern", "^[a-z]", "pattern", "[0-9]$",
                     "maxLength", 9, "pattern", "^.[^b]");
  json_t *first = object_schema(rng, depth - 1), *second = object_schema(rng, depth - 1);
  json_object_set_new(first, "additionalProperties", json_true());
  json_object_set_new(second, "properties", json_pack("{s:o}", "other", any_schema(rng, depth - 1)));
  json_object_set_new(second, "required", json_pack("[s]", "other"));
  json_object_set_new(second, "additionalProperties", json_true());
  return json_pack("{s:[o, o], s:s}", "allOf", first, second, "description", "two");
}

static json_t *any_of_schema(Rng *rng, int depth) {
  json_t *schema = json_pack("{s:[o, o, {s:s}]}", "anyOf", any_schema(rng, depth - 1), any_schema(rng, depth - 1), "type", "null");
  if (!chance(rng, 3)) return schema;
  json_decref(schema);  // beside other keywords
  return json_pack("{s:s, s:{s:{s:s}, s:{s:s}}, s:[{s:[s]}, {s:[s], s:{s:{s:i}}}]}", "type", "object", "properties", "x", "type", "integer",
                   "y", "type", "string", "anyOf", "required", "x", "required", "y", "properties", "y", "maxLength", 4);
}

static json_t *any_schema(Rng *rng, int depth) {
  uint64_t kind = rng_below(rng, depth > 0 ? 16 : 8);
  switch (kind) {
    case 0:
    case 1: return number_schema(rng);
    case 2:
    case 3: return string_schema(rng);
    case 4: return json_pack("{s:s}", "type", chance(rng, 2) ? "boolean" : "null");
    case 5: return enum_schema(rng);
    case 6: return json_pack("{s:[s, s], s:i, s:i}", "type", "integer", "string", "minimum", 3, "maxLength", 7);
    case 7: return chance(rng, 3) ? json_true() : json_pack("{s:s, s:b}", "type", "integer", "nullable", 1);
    case 8:
    case 9: return array_schema(rng, depth);
    case 10:
    case 11: return object_schema(rng, depth);
    case 12: return one_of_schema(rng, depth);
    case 13: return all_of_schema(rng, depth);
    case 14: return json_pack("{s:s}", "$ref", chance(rng, 2) ? "#/$defs/tree" : "#/$defs/list");
    default: return any_of_schema(rng, depth);
  }
}

json_t *schema_random(Rng *rng, int depth) {
  json_t *schema = NULL;
  while (!json_is_object(schema)) json_decref(schema), schema = any_schema(rng, depth);
  json_object_set_new(schema, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
  json_object_set_new(
      schema, "$defs",
      json_loads(
          "{\"tree\": {\"type\": \"object\", \"properties\": {\"value\": {\"type\": \"integer\"}, \"children\": {\"type\": \"array\","
          " \"items\": {\"$ref\": \"#/$defs/tree\"}, \"maxItems\": 2}}, \"required\": [\"value\"], \"additionalProperties\": false},"
          " \"list\": {\"anyOf\": [{\"type\": \"null\"}, {\"type\": \"object\", \"properties\": {\"head\": {\"$ref\":"
          " \"#/$defs/tree\"}, \"tail\": {\"$ref\": \"#/$defs/list\", \"description\": \"the rest\"}}, \"required\": [\"head\","
          " \"tail\"], \"additionalProperties\": false}]}}",
          0, NULL));
  return schema;
}
