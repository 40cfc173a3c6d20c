// A small validator of JSON schemas, by the words of the specification (draft 2020-12), with formats and patterns as assertions.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tests/support/json_schema.h"

#include <math.h>
#include <pcre2.h>

#include "core/text.h"
#include "tests/support/test.h"

typedef struct Validation {
  const json_t *root;
  Buffer *why;
} Validation;

static bool is_valid(const Validation *validation, const json_t *schema, const json_t *value);

static bool fails(const Validation *validation, const char *keyword, const json_t *value) {
  char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
  if (validation->why) buffer_format(validation->why, "%s for %.80s; ", keyword, text);
  free(text);
  return false;
}

static bool matches(const char *pattern, const char *text) {
  int code;
  PCRE2_SIZE offset;
  pcre2_code *compiled =
      pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_ALT_BSUX, &code, &offset, NULL);
  assert_non_null(compiled);
  pcre2_match_data *data = pcre2_match_data_create_from_pattern(compiled, NULL);
  int found = pcre2_match(compiled, (PCRE2_SPTR)text, strlen(text), 0, 0, data, NULL);
  pcre2_match_data_free(data);
  pcre2_code_free(compiled);
  return found >= 0;
}

static bool has_type(const char *name, const json_t *value) {
  switch (json_typeof(value)) {
    case JSON_NULL: return strcmp(name, "null") == 0;
    case JSON_TRUE:
    case JSON_FALSE: return strcmp(name, "boolean") == 0;
    case JSON_STRING: return strcmp(name, "string") == 0;
    case JSON_ARRAY: return strcmp(name, "array") == 0;
    case JSON_OBJECT: return strcmp(name, "object") == 0;
    default: break;
  }
  double number = json_number_value(value);
  return strcmp(name, "number") == 0 || (strcmp(name, "integer") == 0 && number == floor(number));
}

static bool has_one_type(const json_t *type, const json_t *value) {
  const json_t *name;
  size_t i;
  if (json_is_string(type)) return has_type(json_string_value(type), value);
  json_array_foreach(type, i, name) {
    if (has_type(json_string_value(name), value)) return true;
  }
  return false;
}

static bool is_date(const char *text) {
  int year, month, day, used = 0;
  static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  if (sscanf(text, "%4d-%2d-%2d%n", &year, &month, &day, &used) != 3 || used != 10) return false;
  return month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1];
}

static bool is_time(const char *text) {
  int hour, minute, second, used = 0;
  if (sscanf(text, "%2d:%2d:%2d%n", &hour, &minute, &second, &used) != 3 || used != 8) return false;
  return hour < 24 && minute < 60 && second < 60 && matches("^(\\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$", text + 8);
}

static bool is_ipv4(const char *text) {
  int parts[4], used = 0;
  if (sscanf(text, "%d.%d.%d.%d%n", &parts[0], &parts[1], &parts[2], &parts[3], &used) != 4 || text[used]) return false;
  return (parts[0] | parts[1] | parts[2] | parts[3]) >= 0 && parts[0] < 256 && parts[1] < 256 && parts[2] < 256 && parts[3] < 256;
}

static bool has_format(const char *format, const char *text) {
  if (strcmp(format, "date") == 0) return is_date(text);
  if (strcmp(format, "time") == 0) return is_time(text);
  if (strcmp(format, "date-time") == 0) return text[0] && strlen(text) > 11 && text[10] == 'T' && is_date(text) && is_time(text + 11);
  if (strcmp(format, "ipv4") == 0) return is_ipv4(text);
  if (strcmp(format, "uuid") == 0) return matches("^[[:xdigit:]]{8}(-[[:xdigit:]]{4}){3}-[[:xdigit:]]{12}$", text);
  if (strcmp(format, "email") == 0) return matches("^[^@\\s]+@[^@\\s.]+(\\.[^@\\s.]+)+$", text);
  if (strcmp(format, "uri") == 0) return matches("^[a-z][a-z0-9+.-]*://[^\\s/]+", text);
  if (strcmp(format, "hostname") == 0) return matches("^[[:alnum:].-]+$", text);
  return strcmp(format, "ipv6") == 0 && matches("^[[:xdigit:]:]+$", text) && strchr(text, ':');
}

static int64_t count_characters(const char *text) {
  int64_t count = 0;
  for (; *text; text++) count += ((unsigned char)*text & 0xc0) != 0x80;
  return count;
}

static double number_of(const json_t *schema, const char *keyword, double otherwise) {
  const json_t *value = json_object_get(schema, keyword);
  return value ? json_number_value(value) : otherwise;
}

static bool number_is_valid(const Validation *validation, const json_t *schema, const json_t *value) {
  double number = json_number_value(value);
  if (number < number_of(schema, "minimum", -INFINITY)) return fails(validation, "minimum", value);
  if (number > number_of(schema, "maximum", INFINITY)) return fails(validation, "maximum", value);
  if (json_object_get(schema, "exclusiveMinimum") && number <= number_of(schema, "exclusiveMinimum", 0))
    return fails(validation, "exclusiveMinimum", value);
  if (json_object_get(schema, "exclusiveMaximum") && number >= number_of(schema, "exclusiveMaximum", 0))
    return fails(validation, "exclusiveMaximum", value);
  return true;
}

static bool string_is_valid(const Validation *validation, const json_t *schema, const json_t *value) {
  const char *text = json_string_value(value);
  const json_t *pattern = json_object_get(schema, "pattern"), *format = json_object_get(schema, "format");
  double length = (double)count_characters(text);
  if (length < number_of(schema, "minLength", 0)) return fails(validation, "minLength", value);
  if (length > number_of(schema, "maxLength", INFINITY)) return fails(validation, "maxLength", value);
  if (pattern && !matches(json_string_value(pattern), text)) return fails(validation, "pattern", value);
  return !format || has_format(json_string_value(format), text) || fails(validation, "format", value);
}

static bool array_is_valid(const Validation *validation, const json_t *schema, const json_t *value) {
  const json_t *prefix = json_object_get(schema, "prefixItems"), *items = json_object_get(schema, "items"), *item;
  size_t i;
  if ((double)json_array_size(value) < number_of(schema, "minItems", 0)) return fails(validation, "minItems", value);
  if ((double)json_array_size(value) > number_of(schema, "maxItems", INFINITY)) return fails(validation, "maxItems", value);
  json_array_foreach(value, i, item) {
    const json_t *own = json_array_get(prefix, i);
    if (!own) own = items;
    if (own && !is_valid(validation, own, item)) return false;
  }
  return true;
}

static bool object_is_valid(const Validation *validation, const json_t *schema, const json_t *value) {
  const json_t *properties = json_object_get(schema, "properties"), *others = json_object_get(schema, "additionalProperties"), *name;
  const char *key;
  json_t *member;
  size_t i;
  json_array_foreach(json_object_get(schema, "required"), i, name) {
    if (!json_object_get(value, json_string_value(name))) return fails(validation, "required", value);
  }
  json_object_foreach((json_t *)value, key, member) {
    const json_t *own = json_object_get(properties, key);
    if (!own) own = others;
    if (own && !is_valid(validation, own, member)) return fails(validation, key, member);
  }
  return true;
}

static bool is_one_of(const json_t *values, const json_t *value) {
  const json_t *other;
  size_t i;
  json_array_foreach(values, i, other) {
    if (json_equal(value, other)) return true;
    if (json_is_number(value) && json_is_number(other) && json_number_value(value) == json_number_value(other)) return true;
  }
  return false;
}

static const json_t *find_reference(const json_t *root, const char *reference) {
  return strcmp(reference, "#") == 0 ? root : json_object_get(json_object_get(root, "$defs"), strrchr(reference, '/') + 1);
}

static int count_valid(const Validation *validation, const json_t *branches, const json_t *value) {
  const json_t *branch;
  size_t i;
  int count = 0;
  const Validation quiet = {.root = validation->root};
  json_array_foreach(branches, i, branch) count += is_valid(&quiet, branch, value);
  return count;
}

static bool combinations_are_valid(const Validation *validation, const json_t *schema, const json_t *value) {
  const json_t *any = json_object_get(schema, "anyOf"), *one = json_object_get(schema, "oneOf"), *all = json_object_get(schema, "allOf");
  const json_t *reference = json_object_get(schema, "$ref");
  if (any && !count_valid(validation, any, value)) return fails(validation, "anyOf", value);
  if (one && count_valid(validation, one, value) != 1) return fails(validation, "oneOf", value);
  if (all && count_valid(validation, all, value) != (int)json_array_size(all)) return fails(validation, "allOf", value);
  return !reference || is_valid(validation, find_reference(validation->root, json_string_value(reference)), value);
}

static bool is_valid(const Validation *validation, const json_t *schema, const json_t *value) {
  const json_t *type = json_object_get(schema, "type"), *values = json_object_get(schema, "enum"), *only = json_object_get(schema, "const");
  if (json_is_boolean(schema)) return json_is_true(schema) || fails(validation, "false", value);
  if (json_is_null(value) && json_is_true(json_object_get(schema, "nullable"))) return true;
  if (type && !has_one_type(type, value)) return fails(validation, "type", value);
  if (values && !is_one_of(values, value)) return fails(validation, "enum", value);
  if (only && !json_equal(only, value)) return fails(validation, "const", value);
  if (!combinations_are_valid(validation, schema, value)) return false;
  if (json_is_number(value)) return number_is_valid(validation, schema, value);
  if (json_is_string(value)) return string_is_valid(validation, schema, value);
  if (json_is_array(value)) return array_is_valid(validation, schema, value);
  return !json_is_object(value) || object_is_valid(validation, schema, value);
}

bool schema_validate(Buffer *why, const json_t *schema, const json_t *root, const json_t *value) {
  const Validation validation = {.root = root, .why = why};
  return is_valid(&validation, schema, value);
}
