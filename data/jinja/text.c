// Values as text: str() and repr() of Python, json.dumps() as transformers' `tojson` calls it, and numbers read and written.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/text.h"
#include "data/jinja/parts.h"

static bool digit_of(char c, int64_t base, int64_t *digit) {
  *digit = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10 : 99;
  return *digit < base;
}

// The digits of a text, without white space around it, and single underscores between them left out.
static bool plain_number(char out[128], const String *string) {
  size_t begin = 0, end = string->length, length = 0, step;
  while (begin < end && (step = text_space_length(string->bytes + begin, end - begin))) begin += step;
  while (end > begin && text_space_length(string->bytes + end - 1, 1)) end--;
  for (size_t i = begin; i < end; i++) {
    bool between = i > begin && i + 1 < end && string->bytes[i - 1] != '_' && string->bytes[i + 1] != '_';
    if (string->bytes[i] == '_' && between) continue;
    if (length + 1 >= 128 || string->bytes[i] == '_' || string->bytes[i] == 0) return false;
    out[length++] = string->bytes[i];
  }
  out[length] = 0;
  return length > 0;
}

bool parse_integer(int64_t *out, const String *string, int64_t base) {
  char text[128], *p = text;
  if ((base != 0 && base < 2) || base > 36 || !plain_number(text, string)) return false;
  bool negative = *p == '-';
  if (*p == '-' || *p == '+') p++;
  char mark = p[0] == '0' ? (char)(p[1] | 0x20) : 0;
  int64_t marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0, digit;
  if (marked && (base == 0 || base == marked)) p += 2, base = marked;
  else if (base == 0 && p[0] == '0' && strspn(p, "0") != strlen(p)) return false;
  if (base == 0) base = 10;
  *out = 0;
  if (!*p) return false;
  for (; *p; p++) {
    if (!digit_of(*p, base, &digit) || __builtin_mul_overflow(*out, base, out) ||
        (negative ? __builtin_sub_overflow(*out, digit, out) : __builtin_add_overflow(*out, digit, out)))
      return false;
  }
  return true;
}

bool parse_float(double *out, const String *string) {
  char text[128], *end;
  if (!plain_number(text, string)) return false;
  const char *p = text + (*text == '-' || *text == '+');
  bool word = strcasecmp(p, "inf") == 0 || strcasecmp(p, "infinity") == 0 || strcasecmp(p, "nan") == 0;
  if (!word && strspn(p, "0123456789.eE+-") != strlen(p)) return false;
  *out = strtod(text, &end);
  return *end == 0;
}

// ---- repr()

static void repr_point(Builder *builder, const String *string, size_t at, size_t length, int32_t point, char quote) {
  char escape[16] = "";
  if (point == quote || point == '\\') snprintf(escape, sizeof escape, "\\%c", (char)point);
  else if (point == '\n' || point == '\r' || point == '\t')
    snprintf(escape, sizeof escape, "\\%c", point == '\n' ? 'n' : point == '\r' ? 'r' : 't');
  else if (!point_is_printable(point))
    snprintf(escape, sizeof escape, point < 0x100 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)point);
  if (!*escape) builder_slice(builder, string, at, at + length);
  for (const char *p = escape; *p; p++) builder_byte_of(builder, *p, string_origin(string, at));
}

static void repr_string(Builder *builder, const String *string) {
  bool single = memchr(string->bytes, '\'', string->length), both = single && memchr(string->bytes, '"', string->length);
  char quote = single && !both ? '"' : '\'';
  if (string->safe) builder_words(builder, "Markup(");
  builder_bytes(builder, &quote, 1);
  for (size_t at = 0, length; at < string->length && !builder->run->exceeded; at += length) {
    int32_t point = string_point(string, at, &length);
    repr_point(builder, string, at, length, point, quote);
  }
  builder_bytes(builder, &quote, 1);
  if (string->safe) builder_words(builder, ")");
}

static void repr_list(Builder *builder, const List *list, const char *open, const char *close) {
  builder_words(builder, open);
  for (int64_t i = 0; i < list->count && !builder->run->exceeded; i++) {
    if (i > 0) builder_words(builder, ", ");
    builder_repr(builder, list->items[i]);
  }
  builder_words(builder, close);
}

static void repr_dict(Builder *builder, const Dict *dict) {
  builder_words(builder, "{");
  for (int64_t i = 0; i < dict->count && !builder->run->exceeded; i++) {
    if (i > 0) builder_words(builder, ", ");
    builder_repr(builder, dict->entries[i].key);
    builder_words(builder, ": ");
    builder_repr(builder, dict->entries[i].value);
  }
  builder_words(builder, "}");
}

static void repr_range(Builder *builder, const Range *range) {
  builder_format(builder, "range(%lld, %lld", (long long)range->start, (long long)range->stop);
  if (range->step != 1) builder_format(builder, ", %lld", (long long)range->step);
  builder_words(builder, ")");
}

static void repr_container(Builder *builder, Value value) {
  static const char *const views[] = {"dict_keys([", "dict_values([", "dict_items(["};
  if (!run_enter(builder->run)) return;
  switch (value.type) {
    case VALUE_LIST: repr_list(builder, value.as.list, "[", "]"); break;
    case VALUE_TUPLE: repr_list(builder, value.as.list, "(", value.as.list->count == 1 ? ",)" : ")"); break;
    case VALUE_DICT: repr_dict(builder, value.as.dict); break;
    case VALUE_VIEW: repr_list(builder, view_items(builder->run, value.as.view), views[value.as.view->kind], "])"); break;
    default:
      builder_words(builder, "<Namespace ");
      repr_dict(builder, value.as.dict);
      builder_words(builder, ">");
  }
  run_leave(builder->run);
}

void builder_repr(Builder *builder, Value value) {
  char number[40];
  run_charge(builder->run, 1);
  switch (value.type) {
    case VALUE_NONE: builder_words(builder, "None"); break;
    case VALUE_BOOL: builder_words(builder, value.as.truth ? "True" : "False"); break;
    case VALUE_INT: builder_format(builder, "%lld", (long long)value.as.integer); break;
    case VALUE_FLOAT:
      text_from_float(number, value.as.real);
      builder_words(builder, number);
      break;
    case VALUE_STRING: repr_string(builder, value.as.string); break;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
    case VALUE_VIEW:
    case VALUE_NAMESPACE: repr_container(builder, value); break;
    case VALUE_RANGE: repr_range(builder, value.as.range); break;
    case VALUE_UNDEFINED: builder_words(builder, "Undefined"); break;
    case VALUE_MACRO:
      if (value.as.macro->body->name) builder_format(builder, "<Macro '%s'>", value.as.macro->body->name);
      else builder_words(builder, "<Macro anonymous>");
      break;
    case VALUE_LOOP: builder_loop(builder, value.as.loop); break;
    default: builder_format(builder, "<%s object>", value_type_name(value));
  }
}

void builder_str(Builder *builder, Value value) {
  if (value.type == VALUE_STRING) builder_string(builder, value.as.string);
  else if (value.type != VALUE_UNDEFINED) builder_repr(builder, value);
}

Status value_soft_str(Value *out, Run *run, Value value) {
  *out = value;
  if (value.type == VALUE_STRING) return STATUS_OK;
  Builder builder;
  builder_begin(&builder, run);
  builder_str(&builder, value);
  *out = builder_value(&builder, false);
  return run_check(run);
}

Status value_str(Value *out, Run *run, Value value) {
  TRY(value_soft_str(out, run, value));
  if (out->as.string->safe) *out = string_mark_safe(run, out->as.string, false);
  return STATUS_OK;
}

// ---- json.dumps()

typedef struct JsonWriter {
  Builder builder;
  const JsonStyle *style;
  int depth;
} JsonWriter;

static void json_point(Builder *builder, const String *string, size_t at, size_t length, int32_t point, bool ascii) {
  static const char plain[] = "\"\\\n\r\t\f\b", letters[] = "\"\\nrtfb";
  char escape[16] = "";
  const char *named = point && point < 0x80 ? strchr(plain, point) : NULL;
  if (named) snprintf(escape, sizeof escape, "\\%c", letters[named - plain]);
  else if (point < 0x20 || (ascii && point >= 0x7F && point < 0x10000)) snprintf(escape, sizeof escape, "\\u%04x", (unsigned)point);
  else if (ascii && point >= 0x10000)
    snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xD800u + (unsigned)((point - 0x10000) >> 10), 0xDC00u + (unsigned)(point & 0x3FF));
  if (!*escape) builder_slice(builder, string, at, at + length);
  for (const char *p = escape; *p; p++) builder_byte_of(builder, *p, string_origin(string, at));
}

static void json_string_text(Builder *builder, const String *string, bool ascii) {
  builder_words(builder, "\"");
  for (size_t at = 0, length; at < string->length && !builder->run->exceeded; at += length) {
    int32_t point = string_point(string, at, &length);
    json_point(builder, string, at, length, point, ascii);
  }
  builder_words(builder, "\"");
}

static void json_number(Builder *builder, Value value) {
  if (value.type == VALUE_FLOAT && !isfinite(value.as.real))
    builder_words(builder, isnan(value.as.real) ? "NaN" : value.as.real > 0 ? "Infinity" : "-Infinity");
  else builder_repr(builder, value);
}

static void json_line(JsonWriter *writer) {
  if (!writer->style->indent) return;
  builder_words(&writer->builder, "\n");
  builder_fill(&writer->builder, writer->style->indent, writer->depth);
}

static Status json_value(JsonWriter *writer, Value value);

static Status json_list(JsonWriter *writer, const List *list) {
  builder_words(&writer->builder, "[");
  writer->depth++;
  for (int64_t i = 0; i < list->count; i++) {
    if (i > 0) builder_string(&writer->builder, writer->style->item_separator);
    json_line(writer);
    TRY(json_value(writer, list->items[i]));
  }
  writer->depth--;
  if (list->count > 0) json_line(writer);
  builder_words(&writer->builder, "]");
  return STATUS_OK;
}

static Status json_key(JsonWriter *writer, Value key) {
  Builder *builder = &writer->builder;
  if (key.type == VALUE_STRING) {
    json_string_text(builder, key.as.string, writer->style->ascii);
    return STATUS_OK;
  }
  builder_words(builder, "\"");
  if (key.type == VALUE_NONE) builder_words(builder, "null");
  else if (key.type == VALUE_BOOL) builder_words(builder, key.as.truth ? "true" : "false");
  else if (value_is_number(key)) json_number(builder, key);
  else return run_fail(builder->run, "keys must be str, int, float, bool or None, not %s", value_type_name(key));
  builder_words(builder, "\"");
  return STATUS_OK;
}

// The entries in the order of their keys: an insertion sort by halves, which stops at keys that cannot be compared.
static Status sort_entries(DictEntry *sorted, Run *run, const Dict *dict) {
  for (int64_t i = 0; i < dict->count; i++) {
    int64_t low = 0, high = i;
    while (low < high) {
      int order;
      int64_t middle = (low + high) / 2;
      TRY(value_compare(&order, run, dict->entries[i].key, sorted[middle].key, "<"));
      if (order == -1) high = middle;
      else low = middle + 1;
    }
    memmove(sorted + low + 1, sorted + low, (size_t)(i - low) * sizeof *sorted);
    sorted[low] = dict->entries[i];
  }
  return STATUS_OK;
}

static Status json_dict(JsonWriter *writer, const Dict *dict) {
  Run *run = writer->builder.run;
  const DictEntry *entries = dict->entries;
  if (writer->style->sort_keys) {
    DictEntry *sorted = run_allocate(run, (size_t)dict->count * sizeof *sorted);
    TRY(sort_entries(sorted, run, dict));
    entries = sorted;
  }
  builder_words(&writer->builder, "{");
  writer->depth++;
  for (int64_t i = 0; i < dict->count; i++) {
    if (i > 0) builder_string(&writer->builder, writer->style->item_separator);
    json_line(writer);
    TRY(json_key(writer, entries[i].key));
    builder_string(&writer->builder, writer->style->key_separator);
    TRY(json_value(writer, entries[i].value));
  }
  writer->depth--;
  if (dict->count > 0) json_line(writer);
  builder_words(&writer->builder, "}");
  return STATUS_OK;
}

static Status json_value(JsonWriter *writer, Value value) {
  Builder *builder = &writer->builder;
  Run *run = builder->run;
  Status status = STATUS_OK;
  run_charge(run, 1);
  TRY(run_check(run));
  switch (value.type) {
    case VALUE_NONE: builder_words(builder, "null"); break;
    case VALUE_BOOL: builder_words(builder, value.as.truth ? "true" : "false"); break;
    case VALUE_INT:
    case VALUE_FLOAT: json_number(builder, value); break;
    case VALUE_STRING: json_string_text(builder, value.as.string, writer->style->ascii); break;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
      if (!run_enter(run)) return run_check(run);
      status = value.type == VALUE_DICT ? json_dict(writer, value.as.dict) : json_list(writer, value.as.list);
      run_leave(run);
      break;
    default: return run_fail(run, "Object of type %s is not JSON serializable", value_type_name(value));
  }
  return status;
}

Status value_json(Value *out, Run *run, Value value, const JsonStyle *style) {
  JsonWriter writer = {.style = style};
  builder_begin(&writer.builder, run);
  TRY(json_value(&writer, value));
  *out = builder_value(&writer.builder, false);
  return run_check(run);
}
