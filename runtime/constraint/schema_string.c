// Strings: lengths, patterns and formats. Several conditions on one string are what their automata have in common.
#include <stdlib.h>
#include <string.h>

#include "runtime/constraint/json_text.h"
#include "runtime/constraint/pattern.h"
#include "runtime/constraint/schema.h"

#define HOUR "([01]\\d|2[0-3])"
#define TIME HOUR ":[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+-]" HOUR ":[0-5]\\d)"
// Days that every year has, of years that all libraries know.
#define DATE "[12]\\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))"
#define BYTE "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define LABEL "[a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?"
#define GROUP "[0-9a-fA-F]{1,4}"

typedef struct Format {
  const char *name, *pattern;
} Format;

// Each takes a part of what its format allows.
static const Format formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
    {"email", "^[a-zA-Z0-9_+-]{1,20}(\\.[a-zA-Z0-9_+-]{1,20}){0,2}@(" LABEL "\\.){1,3}[a-zA-Z]{2,20}$"},
    {"hostname", "^" LABEL "(\\." LABEL "){0,3}$"},
    {"ipv4", "^" BYTE "(\\." BYTE "){3}$"},
    {"ipv6",
     "^(" GROUP "(:" GROUP "){7}|::(" GROUP "(:" GROUP "){0,6})?|" GROUP "::(" GROUP "(:" GROUP "){0,5})?|" GROUP ":" GROUP "::(" GROUP
     "(:" GROUP "){0,4})?|" GROUP "(:" GROUP "){2}::(" GROUP "(:" GROUP "){0,3})?|" GROUP "(:" GROUP "){3}::(" GROUP "(:" GROUP
     "){0,2})?|" GROUP "(:" GROUP "){4}::(" GROUP "(:" GROUP ")?)?|" GROUP "(:" GROUP "){5}::(" GROUP ")?|" GROUP "(:" GROUP "){6}::)$"},
    {"uri", "^[a-z][a-z0-9+.-]{0,20}://" LABEL "(\\." LABEL "){0,3}(:\\d{1,4})?(/[a-zA-Z0-9._~-]*)*(\\?[a-zA-Z0-9._~=&-]*)?"
            "(#[a-zA-Z0-9._~-]*)?$"},
};

static Status add_pattern(const Expression **content, Schema *schema, const char *text, const char *pointer) {
  const Expression *own = NULL;
  Status status = pattern_parse(&own, schema->set, text);
  if (status != STATUS_OK) return status_context(status, "schema: %s: \"pattern\"", pointer);
  *content = *content ? expression_pair(schema->set, EXPRESSION_BOTH, *content, own) : own;
  return STATUS_OK;
}

static Status add_format(const Expression **content, Schema *schema, const char *name, const char *pointer) {
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
    if (strcmp(formats[i].name, name) == 0) return add_pattern(content, schema, formats[i].pattern, pointer);
  return schema_fail(pointer, "\"format\": \"%s\" is not supported: date, time, date-time, uuid, email, hostname, ipv4, ipv6 and uri are",
                     name);
}

static Status add_length(const Expression **content, Schema *schema, const json_t *flat, const char *pointer) {
  int64_t min, max;
  RuleSet *set = schema->set;
  TRY(schema_count(&min, flat, "minLength", 0, pointer));
  TRY(schema_count(&max, flat, "maxLength", -1, pointer));
  if (min == 0 && max < 0) return STATUS_OK;
  if (max >= 0 && max < min) return schema_fail(pointer, "\"maxLength\" is less than \"minLength\"");
  const Expression *counted;
  if (max >= 0) {
    counted = expression_repeat(set, json_plain_character(set), min, max);
  } else {  // only the first characters are counted
    counted = expression_sequence(set, expression_repeat(set, json_plain_character(set), min, min),
                                  expression_repeat(set, json_character(set), 0, -1));
  }
  // A pattern may have characters as \u00XX that are not plain: they are counted, too.
  if (*content) counted = expression_sequence(set, expression_repeat(set, json_character(set), min, max));
  *content = *content ? expression_pair(set, EXPRESSION_BOTH, *content, counted) : counted;
  return STATUS_OK;
}

Status schema_string(const Expression **out, Schema *schema, const json_t *flat, const char *pointer) {
  const json_t *pattern = json_object_get(flat, "pattern"), *format = json_object_get(flat, "format"), *other;
  const Expression *content = NULL;
  size_t i;
  if (format && !json_is_string(format)) return schema_fail(pointer, "\"format\" must be a string");
  if (pattern && !json_is_string(pattern)) return schema_fail(pointer, "\"pattern\" must be a string");
  if (pattern) TRY(add_pattern(&content, schema, json_string_value(pattern), pointer));
  json_array_foreach(json_object_get(flat, SCHEMA_PATTERNS), i, other)
      TRY(add_pattern(&content, schema, json_string_value(other), pointer));
  if (format) TRY(add_format(&content, schema, json_string_value(format), pointer));
  TRY(add_length(&content, schema, flat, pointer));
  *out = content ? json_quoted(schema->set, content) : schema_any_string(schema);
  return STATUS_OK;
}
