#include "server/fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- The object

// How deep brackets stand within brackets; strings are passed over. What is no JSON may give any number: the parser refuses it.
static int json_depth(const char *text, size_t length) {
  int depth = 0, deepest = 0;
  bool is_string = false;
  for (size_t i = 0; i < length; i++) {
    char c = text[i];
    if (is_string && c == '\\') i++;
    else if (c == '"') is_string = !is_string;
    else if (!is_string && (c == '{' || c == '[')) depth++;
    else if (!is_string && (c == '}' || c == ']')) depth--;
    if (depth > deepest) deepest = depth;
  }
  return deepest;
}

Status json_body_read(json_t **out, const char *text, size_t length) {
  *out = NULL;
  if (json_depth(text, length) > JSON_DEPTH_MOST)
    return status_fail(STATUS_USAGE, "the body's JSON is nested more than %d deep", JSON_DEPTH_MOST);
  json_error_t error;
  *out = json_loadb(text ? text : "", length, JSON_REJECT_DUPLICATES, &error);
  if (*out) return STATUS_OK;
  return status_fail(STATUS_USAGE, "the body is no JSON: %s (line %d, column %d)", error.text, error.line, error.column);
}

// ---- One field

static const char *type_name(const json_t *value) {
  switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
  }
}

const json_t *fields_get(const Fields *fields, const char *name) {
  const json_t *value = json_object_get(fields->object, name);
  return json_is_null(value) ? NULL : value;
}

Status fields_fail(Fields *fields, const char *name, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fields->param = name;
  return status_fail(STATUS_USAGE, "%s", text);
}

static Status fail_type(Fields *fields, const char *name, const char *wanted, const json_t *value) {
  return fields_fail(fields, name, "\"%s\" must be %s, and is %s", name, wanted, type_name(value));
}

Status fields_bool(bool *out, Fields *fields, const char *name) {
  const json_t *value = fields_get(fields, name);
  if (!value) return STATUS_OK;
  if (!json_is_boolean(value)) return fail_type(fields, name, "a boolean", value);
  *out = json_is_true(value);
  return STATUS_OK;
}

Status fields_integer(int64_t *out, Fields *fields, const char *name, int64_t least, int64_t most) {
  const json_t *value = fields_get(fields, name);
  if (!value) return STATUS_OK;
  double real = json_number_value(value);
  bool is_whole = json_is_integer(value) || (json_is_real(value) && real == floor(real) && fabs(real) < 0x1p53);
  if (!is_whole) return fail_type(fields, name, "an integer", value);
  int64_t number = json_is_integer(value) ? json_integer_value(value) : (int64_t)real;
  if (number < least || number > most)
    return fields_fail(fields, name, "\"%s\" must be from %lld to %lld, and is %lld", name, (long long)least, (long long)most,
                       (long long)number);
  *out = number;
  return STATUS_OK;
}

Status fields_float(double *out, Fields *fields, const char *name, double least, double most) {
  const json_t *value = fields_get(fields, name);
  if (!value) return STATUS_OK;
  if (!json_is_number(value)) return fail_type(fields, name, "a number", value);
  double number = json_number_value(value);
  if (!(number >= least && number <= most))
    return fields_fail(fields, name, "\"%s\" must be from %g to %g, and is %g", name, least, most, number);
  *out = number;
  return STATUS_OK;
}

Status fields_string(const char **out, Fields *fields, const char *name) {
  const json_t *value = fields_get(fields, name);
  if (!value) return STATUS_OK;
  if (!json_is_string(value)) return fail_type(fields, name, "a string", value);
  *out = json_string_value(value);
  return STATUS_OK;
}

Status fields_array(const json_t **out, Fields *fields, const char *name) {
  const json_t *value = fields_get(fields, name);
  if (!value) return STATUS_OK;
  if (!json_is_array(value)) return fail_type(fields, name, "a list", value);
  *out = value;
  return STATUS_OK;
}

Status fields_object(const json_t **out, Fields *fields, const char *name) {
  const json_t *value = fields_get(fields, name);
  if (!value) return STATUS_OK;
  if (!json_is_object(value)) return fail_type(fields, name, "an object", value);
  *out = value;
  return STATUS_OK;
}

Status fields_strings(const char ***items, int *count, int *capacity, Fields *fields, const char *name, int most) {
  const json_t *value = fields_get(fields, name);
  if (!value) return STATUS_OK;
  if (!json_is_string(value) && !json_is_array(value)) return fail_type(fields, name, "a string or a list of strings", value);
  size_t n = json_is_string(value) ? 1 : json_array_size(value);
  if (n > (size_t)most) return fields_fail(fields, name, "\"%s\" has %zu strings; at most %d are taken", name, n, most);
  for (size_t i = 0; i < n; i++) {
    const json_t *item = json_is_string(value) ? value : json_array_get(value, i);
    if (!json_is_string(item)) return fail_type(fields, name, "a string or a list of strings", item);
    if (json_string_length(item) == 0) return fields_fail(fields, name, "\"%s\" must not have an empty string", name);
    ARRAY_PUSH(*items, *count, *capacity) = json_string_value(item);
  }
  return STATUS_OK;
}

// ---- Texts and ids

Status fields_tokens(TokenList *out, Fields *fields, const char *name, const json_t *list, int64_t vocabulary) {
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *item = json_array_get(list, i);
    if (!json_is_integer(item)) return fail_type(fields, name, "a list of token ids", item);
    json_int_t id = json_integer_value(item);
    if (id < 0 || id >= vocabulary)
      return fields_fail(fields, name, "\"%s\" has the token id %lld; the model has 0 to %lld", name, (long long)id,
                         (long long)vocabulary - 1);
    token_list_push(out, (int32_t)id);
  }
  return STATUS_OK;
}

static Status read_text(TokenList **lists, int *count, Fields *fields, const char *name, const json_t *value, const Tokenizer *tokenizer,
                        int64_t vocabulary, TextEncoder encode) {
  *lists = memory_grow(*lists, (size_t)*count + 1, sizeof **lists);
  TokenList *ids = &(*lists)[(*count)++];
  *ids = (TokenList){0};
  if (json_is_string(value)) TRY(encode(ids, tokenizer, json_string_value(value), json_string_length(value)));
  else if (json_is_array(value)) TRY(fields_tokens(ids, fields, name, value, vocabulary));
  else return fail_type(fields, name, "a string, a list of strings, a list of token ids or a list of such lists", value);
  if (ids->count == 0) return fields_fail(fields, name, "\"%s\" has a text without tokens", name);
  return STATUS_OK;
}

Status fields_texts(TokenList **lists, int *count, Fields *fields, const char *name, const Tokenizer *tokenizer, int64_t vocabulary,
                    TextEncoder encode, int most) {
  const json_t *value = fields_get(fields, name);
  if (!value) return fields_fail(fields, name, "\"%s\" is missing", name);
  const json_t *first = json_array_get(value, 0);
  if (!json_is_array(value) || json_is_integer(first)) return read_text(lists, count, fields, name, value, tokenizer, vocabulary, encode);
  size_t n = json_array_size(value);
  if (n == 0) return fields_fail(fields, name, "\"%s\" is an empty list", name);
  if (n > (size_t)most) return fields_fail(fields, name, "\"%s\" has %zu texts; at most %d are taken", name, n, most);
  for (size_t i = 0; i < n; i++) TRY(read_text(lists, count, fields, name, json_array_get(value, i), tokenizer, vocabulary, encode));
  return STATUS_OK;
}

void token_lists_release(TokenList *lists, int count) {
  for (int i = 0; i < count; i++) token_list_release(&lists[i]);
  free(lists);
}
