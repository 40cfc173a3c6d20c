// JSON schemas (draft 2020-12) as rules. Each schema is first made flat: references that have siblings and allOf become one object of
// keywords, then each type that it allows becomes an expression. What an expression takes is always valid; some of what is valid may be
// left out (integers written as 1.0, keys in another order), and what would not be enforced is refused.
#ifndef RUNTIME_CONSTRAINT_SCHEMA_H
#define RUNTIME_CONSTRAINT_SCHEMA_H

#include <jansson.h>

#include "core/map.h"
#include "core/status.h"
#include "runtime/constraint/expression.h"

typedef struct Schema {
  RuleSet *set;
  const json_t *root;  // what references start from
  Map references;  // pointers to the rules made of them
  int value_rule, object_rule, array_rule, string_rule, key_rule;  // any value, and what it is made of; -1: not used yet
  bool has_open_keys;
  int depth;
  int64_t work;  // schemas made flat: references and branches can multiply
} Schema;

typedef enum SchemaTypes {
  TYPE_NULL = 1,
  TYPE_BOOLEAN = 2,
  TYPE_INTEGER = 4,
  TYPE_NUMBER = 8,  // numbers that are no integers, where TYPE_INTEGER is not beside it
  TYPE_STRING = 16,
  TYPE_ARRAY = 32,
  TYPE_OBJECT = 64,
  TYPE_ALL = 127,
} SchemaTypes;

// A key of flat schemas that no schema can have: lists of branches, of each of which one must hold; oneOf's are known to exclude each
// other.
#define SCHEMA_CHOICES "\x01choices"
// More regular expressions than one: a list.
#define SCHEMA_PATTERNS "\x01patterns"

enum { SCHEMA_MAX_DEPTH = 100, SCHEMA_MAX_WORK = 100000 };

Status schema_fail(const char *pointer, const char *format, ...) PRINTF_LIKE(2, 3);
const char *schema_pointer(Schema *schema, const char *pointer, const char *step);  // one step further

Status schema_resolve(const json_t **out, const Schema *schema, const char *reference, const char *pointer);
Status schema_flatten(json_t **out, Schema *schema, const json_t *source, const char *pointer);  // a new reference
Status schema_merge(json_t **out, Schema *schema, const json_t *a, const json_t *b, const char *pointer);  // of flat ones: another flat one
// Two flat schemas as one schema that says allOf of both; either may be NULL.
json_t *schema_both(const json_t *a, const json_t *b);
SchemaTypes schema_named_types(const json_t *flat);  // what "type" names; TYPE_ALL without it
SchemaTypes schema_value_type(const json_t *value);
SchemaTypes schema_written_types(const json_t *flat);  // what texts are written for: without "type", what the keywords are about
// The branches of oneOf, changed so that what is written for one is valid for no other: a key that tells two apart becomes required in
// both. `flats`: the same, flat. STATUS_BAD_INPUT where that cannot be had.
Status schema_separate(json_t **out, Schema *schema, const json_t *branches, const json_t *flats, const char *pointer);

Status schema_compile(const Expression **out, Schema *schema, const json_t *source, const char *pointer);
Status schema_object(const Expression **out, Schema *schema, const json_t *flat, const char *pointer);
Status schema_array(const Expression **out, Schema *schema, const json_t *flat, const char *pointer);
Status schema_string(const Expression **out, Schema *schema, const json_t *flat, const char *pointer);
Status schema_number(const Expression **out, Schema *schema, const json_t *flat, bool is_integer, const char *pointer);
const Expression *schema_any_value(Schema *schema);
const Expression *schema_any_object(Schema *schema);
const Expression *schema_any_string(Schema *schema);
const Expression *schema_any_key(Schema *schema);

// The value of a keyword that is a whole number from 0 on; `otherwise` without it.
Status schema_count(int64_t *out, const json_t *flat, const char *keyword, int64_t otherwise, const char *pointer);

#endif
