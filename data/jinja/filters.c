// The filters on texts and single values, after Jinja2's filters.py; `tojson` is transformers'. Those on sequences are in
// filters_list.c.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/jinja/parts.h"

static bool is_given(Value value) { return value.type != VALUE_MISSING && value.type != VALUE_NONE; }

static Status integer_argument(int64_t *out, Run *run, Value value, int64_t otherwise) {
  *out = otherwise;
  if (value.type == VALUE_MISSING) return STATUS_OK;
  if (value.type == VALUE_UNDEFINED) return undefined_fail(run, value);
  if (!value_is_integer(value)) return run_fail(run, "'%s' object cannot be interpreted as an integer", value_type_name(value));
  *out = value_integer(value);
  return STATUS_OK;
}

// Calls a method of the value's text: soft_str(value).method(...).
static Status text_method(Value *out, Run *run, Value value, const char *name, Value *items, int count) {
  TRY(value_soft_str(&value, run, value));
  return call_function(out, run, find_method(value, name), &value, &(Arguments){.items = items, .count = count});
}

#define TEXT_FILTER(filter, method)                                                      \
  static Status filter(Value *out, Run *run, Value *given, const Arguments *arguments) { \
    (void)arguments;                                                                     \
    return text_method(out, run, given[0], method, NULL, 0);                             \
  }
TEXT_FILTER(filter_upper, "upper")
TEXT_FILTER(filter_lower, "lower")
TEXT_FILTER(filter_capitalize, "capitalize")

static Status filter_center(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  Value width = given[1].type == VALUE_MISSING ? value_int(80) : given[1];
  return text_method(out, run, given[0], "center", &width, 1);
}

static Status filter_trim(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return text_method(out, run, given[0], "strip", &given[1], given[1].type != VALUE_MISSING);
}

// Words begin behind white space, "-" and opening brackets, unlike str.title().
static Status filter_title(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  Value text;
  Builder builder;
  TRY(value_soft_str(&text, run, given[0]));
  const String *string = text.as.string;
  builder_begin(&builder, run);
  bool begins = true;
  for (size_t at = 0, length; at < string->length; at += length) {
    int32_t point = string_point(string, at, &length);
    bool separates = point_is_space(point) || (point < 0x80 && point && strchr("-({[<", point));
    builder_cased(&builder, string, at, at + length, begins && !separates ? CASE_UPPER : CASE_LOWER);
    begins = separates;
  }
  *out = builder_value(&builder, false);
  return STATUS_OK;
}

static Status filter_replace(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  int64_t most;
  for (int i = 0; i < 3; i++) TRY(value_str(&given[i], run, given[i]));
  TRY(integer_argument(&most, run, given[3].type == VALUE_NONE ? value_missing : given[3], -1));
  *out = string_replace(run, given[0].as.string, given[1].as.string, given[2].as.string, most);
  return STATUS_OK;
}

static Status filter_string(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return value_soft_str(out, run, given[0]);
}

static Status filter_safe(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  TRY(value_soft_str(out, run, given[0]));
  *out = string_mark_safe(run, out->as.string, true);
  return STATUS_OK;
}

static Status filter_escape(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  TRY(value_soft_str(out, run, given[0]));
  *out = string_escape(run, out->as.string);
  return STATUS_OK;
}

static Status filter_forceescape(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  TRY(value_str(out, run, given[0]));
  *out = string_escape(run, out->as.string);
  return STATUS_OK;
}

static Status filter_format(Value *out, Run *run, Value *given, const Arguments *arguments) {
  Value text, values;
  if (arguments->count > 0 && arguments->keyword_count > 0)
    return run_fail(run, "can't handle positional and keyword arguments at the same time");
  TRY(value_soft_str(&text, run, given[0]));
  if (arguments->keyword_count > 0) {
    Dict *dict = dict_new(run);
    for (int i = 0; i < arguments->keyword_count; i++)
      TRY(dict_set(run, dict, value_of_string(arguments->keywords[i].name), arguments->keywords[i].value));
    values = value_dict(dict);
  } else {
    List *list = list_new(run, arguments->count);
    for (int i = 0; i < arguments->count; i++) list_push(run, list, arguments->items[i]);
    values = value_tuple(list);
  }
  return format_percent(out, run, text.as.string, values);
}

static Status filter_indent(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  static const String space = {.bytes = " ", .length = 1, .characters = 1};
  int64_t width = 1;
  const String *indent = &space;
  if (given[0].type == VALUE_UNDEFINED) return undefined_fail(run, given[0]);
  if (given[0].type != VALUE_STRING) return run_fail(run, "indent needs a string, not %s", value_type_name(given[0]));
  if (given[1].type == VALUE_STRING) indent = given[1].as.string;
  else TRY(integer_argument(&width, run, given[1], 4));
  bool first = value_is_true(given[2]), blank = value_is_true(given[3]);
  // As in the original: a line feed is added first, so that an empty last line is a line.
  Builder text, builder;
  builder_begin(&text, run);
  builder_string(&text, given[0].as.string);
  builder_words(&text, "\n");
  const List *lines = string_lines(run, builder_value(&text, false).as.string, false);
  builder_begin(&builder, run);
  for (int64_t i = 0; i < lines->count && !run->exceeded; i++) {
    const String *line = lines->items[i].as.string;
    if (i > 0) builder_words(&builder, "\n");
    if (i > 0 ? blank || line->length > 0 : first) builder_fill(&builder, indent, width);
    builder_string(&builder, line);
  }
  *out = builder_value(&builder, given[0].as.string->safe);
  return STATUS_OK;
}

static Status filter_truncate(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  int64_t length, leeway;
  Value end = given[3].type == VALUE_MISSING ? value_words(run, "...") : given[3];
  int64_t characters;
  if (end.type != VALUE_STRING) return run_fail(run, "truncate: the end must be a string");
  TRY(integer_argument(&length, run, given[1], 255));
  TRY(integer_argument(&leeway, run, given[4].type == VALUE_NONE ? value_missing : given[4], 5));
  int64_t kept = length - string_characters(end.as.string);
  if (kept < 0) return run_fail(run, "truncate: the length is smaller than its end");
  if (leeway < 0) return run_fail(run, "truncate: the leeway is negative");
  *out = given[0];
  TRY(value_length(&characters, run, given[0]));
  if (leeway > INT32_MAX || length > INT32_MAX || characters <= length + leeway) return STATUS_OK;
  if (given[0].type != VALUE_STRING) return run_fail(run, "truncate needs a string, not %s", value_type_name(given[0]));
  String *string = given[0].as.string;
  size_t cut = string_offset(string, kept), word;
  if (!value_is_true(given[2]) && string_find_last(&word, string, &(String){.bytes = " ", .length = 1}, 0, cut)) cut = word;
  return operate(out, run, OPERATOR_ADD, string_slice(run, string, 0, cut), end);
}

static Status filter_wordcount(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  Value text;
  int64_t count = 0;
  bool in_word = false;
  TRY(value_soft_str(&text, run, given[0]));
  for (size_t at = 0, length; at < text.as.string->length; at += length) {
    bool word = point_is_word(string_point(text.as.string, at, &length));
    count += word && !in_word;
    in_word = word;
  }
  *out = value_int(count);
  return STATUS_OK;
}

static void quote_url(Builder *builder, const String *string, bool query) {
  for (size_t i = 0; i < string->length; i++) {
    unsigned char c = (unsigned char)string->bytes[i];
    bool plain = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_' || c == '.' || c == '-' || c == '~' ||
                 (c == '/' && !query);
    char text[4];
    snprintf(text, sizeof text, c == ' ' && query ? "+" : plain ? "%c" : "%%%02X", c);
    for (const char *p = text; *p; p++) builder_byte_of(builder, *p, string_origin(string, i));
  }
}

static Status filter_urlencode(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  Builder builder;
  List *pairs, *pair;
  Value value = given[0];
  builder_begin(&builder, run);
  if (value.type == VALUE_STRING || !value_is_iterable(value)) {
    TRY(value_str(&value, run, value));
    quote_url(&builder, value.as.string, false);
    *out = builder_value(&builder, false);
    return STATUS_OK;
  }
  if (value.type == VALUE_DICT) pairs = view_items(run, &(View){value.as.dict, VIEW_ITEMS});
  else TRY(value_items(&pairs, run, value));
  for (int64_t i = 0; i < pairs->count; i++) {
    TRY(value_items(&pair, run, pairs->items[i]));
    if (pair->count != 2) return run_fail(run, "urlencode needs pairs of a key and a value");
    for (int part = 0; part < 2; part++) {
      TRY(value_str(&value, run, pair->items[part]));
      builder_words(&builder, part ? "=" : i > 0 ? "&" : "");
      quote_url(&builder, value.as.string, true);
    }
  }
  *out = builder_value(&builder, false);
  return STATUS_OK;
}

static Status filter_xmlattr(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  if (given[0].type == VALUE_UNDEFINED) return undefined_fail(run, given[0]);
  if (given[0].type != VALUE_DICT) return run_fail(run, "xmlattr needs a dict, not %s", value_type_name(given[0]));
  const Dict *dict = given[0].as.dict;
  bool space = given[1].type == VALUE_MISSING || value_is_true(given[1]), first = true;
  Builder builder;
  builder_begin(&builder, run);
  for (int64_t i = 0; i < dict->count; i++) {
    Value key = dict->entries[i].key, value = dict->entries[i].value;
    if (value.type == VALUE_NONE || value.type == VALUE_UNDEFINED) continue;
    if (key.type != VALUE_STRING) return run_fail(run, "xmlattr needs strings as keys");
    for (size_t c = 0; c < key.as.string->length; c++)
      if (strchr(" \t\n\r\f\v/>=", key.as.string->bytes[c])) return run_fail(run, "Invalid character in attribute name");
    TRY(value_soft_str(&value, run, value));
    if (!first || space) builder_words(&builder, " ");
    first = false;
    builder_string(&builder, string_escape(run, key.as.string).as.string);
    builder_words(&builder, "=\"");
    builder_string(&builder, string_escape(run, value.as.string).as.string);
    builder_words(&builder, "\"");
  }
  *out = builder_value(&builder, false);
  return STATUS_OK;
}

// ---- tojson

static Status json_indent(const String **out, Run *run, Value indent) {
  *out = NULL;
  if (!is_given(indent)) return STATUS_OK;
  if (indent.type == VALUE_STRING) {
    *out = indent.as.string;
    return STATUS_OK;
  }
  int64_t width;
  TRY(integer_argument(&width, run, indent, 0));
  TRY(run_reserve(run, width > 0 ? width : 0, 1));
  Builder builder;
  builder_begin(&builder, run);
  builder_fill(&builder, &(String){.bytes = " ", .length = 1}, width);
  *out = builder_value(&builder, false).as.string;
  return STATUS_OK;
}

static Status filter_tojson(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  static const String comma_space = {.bytes = ", ", .length = 2}, comma = {.bytes = ",", .length = 1}, colon = {.bytes = ": ", .length = 2};
  JsonStyle style = {.ascii = value_is_true(given[1]), .sort_keys = value_is_true(given[4]), .key_separator = &colon};
  TRY(json_indent(&style.indent, run, given[2]));
  style.item_separator = style.indent ? &comma : &comma_space;
  if (is_given(given[3])) {
    List *pair;
    TRY(value_items(&pair, run, given[3]));
    if (pair->count != 2 || pair->items[0].type != VALUE_STRING || pair->items[1].type != VALUE_STRING)
      return run_fail(run, "tojson: separators are a pair of strings");
    style.item_separator = pair->items[0].as.string;
    style.key_separator = pair->items[1].as.string;
  }
  return value_json(out, run, given[0], &style);
}

// ---- Numbers.

static Status filter_abs(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  if (!value_is_number(given[0])) return run_fail(run, "bad operand type for abs(): '%s'", value_type_name(given[0]));
  bool negative = value_real(given[0]) < 0 || (given[0].type == VALUE_FLOAT && signbit(given[0].as.real));
  return operate(out, run, negative ? OPERATOR_NEGATE : OPERATOR_POSITIVE, given[0], value_missing);
}

static Status real_to_integer(Value *out, Run *run, double real, Value otherwise) {
  if (isnan(real)) *out = otherwise;
  else if (fabs(real) < 0x1p63) *out = value_int((int64_t)real);
  else return run_fail(run, "cannot convert a float that is so large to an integer");
  return STATUS_OK;
}

static Status filter_int(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  int64_t base, integer;
  double real;
  Value value = given[0], otherwise = given[1].type == VALUE_MISSING ? value_int(0) : given[1];
  TRY(integer_argument(&base, run, given[2], 10));
  if (value.type == VALUE_UNDEFINED) return undefined_fail(run, value);
  if (value.type == VALUE_FLOAT) return real_to_integer(out, run, value.as.real, otherwise);
  *out = otherwise;
  if (value_is_integer(value)) *out = value_int(value_integer(value));
  if (value.type != VALUE_STRING) return STATUS_OK;
  if (parse_integer(&integer, value.as.string, base)) *out = value_int(integer);
  else if (parse_float(&real, value.as.string) && isfinite(real)) return real_to_integer(out, run, real, otherwise);
  return STATUS_OK;
}

static Status filter_float(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  double real;
  Value value = given[0];
  if (value.type == VALUE_UNDEFINED) return undefined_fail(run, value);
  if (value_is_number(value)) *out = value_float(value_real(value));
  else if (value.type == VALUE_STRING && parse_float(&real, value.as.string)) *out = value_float(real);
  else *out = given[1].type == VALUE_MISSING ? value_float(0) : given[1];
  return STATUS_OK;
}

// round(): to the nearest, halves to even, by the decimal digits of the exact value.
static Status round_common(Value *out, Run *run, Value value, int64_t precision) {
  if (value.type == VALUE_FLOAT) {
    char text[512];
    double real = value.as.real;
    if (!isfinite(real) || precision > 300) *out = value;
    else if (precision < -300) *out = value_float(real * 0);
    else if (precision >= 0) {
      snprintf(text, sizeof text, "%.*f", (int)(precision > 100 ? 100 : precision), real);
      *out = value_float(strtod(text, NULL));
    } else {
      double scale = pow(10, (double)-precision), scaled = real / scale, whole = rint(scaled);
      *out = value_float(whole * scale);
    }
    return STATUS_OK;
  }
  int64_t integer = value_integer(value), scale = 1;
  *out = value_int(integer);
  for (int64_t i = precision; i < 0; i++) {
    if (!__builtin_mul_overflow(scale, (int64_t)10, &scale)) continue;
    *out = value_int(0);
    return STATUS_OK;
  }
  if (scale == 1) return STATUS_OK;
  int64_t rest = integer % scale, down = integer - rest;
  if (rest < 0) rest += scale, down -= scale;
  bool up = rest > scale - rest || (rest == scale - rest && (down / scale) % 2 != 0);
  return operate(out, run, OPERATOR_ADD, value_int(down), value_int(up ? scale : 0));
}

static Status filter_round(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  int64_t precision;
  bool up = value_is_string(given[2], "ceil"), down = value_is_string(given[2], "floor");
  if (given[2].type != VALUE_MISSING && !up && !down && !value_is_string(given[2], "common"))
    return run_fail(run, "method must be common, ceil or floor");
  if (!value_is_number(given[0])) return run_fail(run, "type %s doesn't define __round__ method", value_type_name(given[0]));
  TRY(integer_argument(&precision, run, given[1], 0));
  if (!up && !down) return round_common(out, run, given[0], precision);
  double scale = pow(10, (double)precision), scaled = value_real(given[0]) * scale;
  if (!isfinite(scaled)) return run_fail(run, "cannot convert float infinity or NaN to integer");
  *out = value_float(((up ? ceil(scaled) : floor(scaled)) + 0.0) / scale);  // through an integer: no -0.0
  return STATUS_OK;
}

static Status filter_filesizeformat(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  static const char letters[] = "kMGTPEZY";
  Value number = value_float(0);
  Builder builder;
  TRY(filter_float(&number, run, (Value[]){given[0], value_none}, arguments));
  bool binary = value_is_true(given[1]);
  if (number.type != VALUE_FLOAT) return run_fail(run, "filesizeformat needs a number");
  double bytes = number.as.real, base = binary ? 1024 : 1000, unit = base * base;
  builder_begin(&builder, run);
  if (bytes == 1) builder_words(&builder, "1 Byte");
  else if (bytes < base) builder_format(&builder, "%.0f Bytes", trunc(bytes));
  else {
    int step = 0;
    for (; bytes >= unit && step < 7; step++) unit *= base;
    char letter = step == 0 && binary ? 'K' : letters[step];
    builder_format(&builder, "%.1f %c%s", base * bytes / unit, letter, binary ? "iB" : "B");
  }
  *out = builder_value(&builder, false);
  return STATUS_OK;
}

const Function text_filters[] = {
    {"upper", "s", filter_upper},
    {"lower", "s", filter_lower},
    {"capitalize", "s", filter_capitalize},
    {"title", "s", filter_title},
    {"center", "value width?", filter_center},
    {"trim", "value chars?", filter_trim},
    {"replace", "s old new count?", filter_replace},
    {"string", "s", filter_string},
    {"safe", "value", filter_safe},
    {"escape", "s", filter_escape},
    {"e", "s", filter_escape},
    {"forceescape", "value", filter_forceescape},
    {"format", NULL, filter_format},
    {"indent", "s width? first? blank?", filter_indent},
    {"truncate", "s length? killwords? end? leeway?", filter_truncate},
    {"wordcount", "s", filter_wordcount},
    {"urlencode", "value", filter_urlencode},
    {"xmlattr", "d autospace?", filter_xmlattr},
    {"tojson", "x ensure_ascii? indent? separators? sort_keys?", filter_tojson},
    {"abs", "/x", filter_abs},
    {"int", "value default? base?", filter_int},
    {"float", "value default?", filter_float},
    {"round", "value precision? method?", filter_round},
    {"filesizeformat", "value binary?", filter_filesizeformat},
    {NULL},
};

static const Function *find_in(const Function *functions, const char *name) {
  for (; functions->name; functions++)
    if (strcmp(functions->name, name) == 0) return functions;
  return NULL;
}

const Function *find_filter(const char *name) {
  const Function *found = find_in(text_filters, name);
  return found ? found : find_in(list_filters, name);
}

const char *known_but_refused_filter(const char *name) {
  static const char *const refused[][2] = {
      {"random", "random has no place in a chat template: the same messages must give the same text"},
      {"urlize", "urlize makes HTML, which is not for chat templates"},
      {"striptags", "striptags undoes HTML, which is not for chat templates"},
      {"pprint", "pprint is for debugging, and not known here"},
      {"wordwrap", "wordwrap is not known here"},
  };
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
    if (strcmp(refused[i][0], name) == 0) return refused[i][1];
  return NULL;
}
