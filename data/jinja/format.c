// str.format() as Jinja's sandbox does it, the % operator, and the format specifications of both
// (https://docs.python.org/3/library/string.html#format-specification-mini-language).
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "data/jinja/parts.h"

typedef struct Specification {
  String fill;
  char align, sign, type, grouping;  // 0: not given
  bool alternate, zero;
  int64_t width, precision;  // -1: not given
} Specification;

enum { DIGITS_MOST = 400, WIDTH_MOST = 1 << 20 };

// ---- Padding.

static void pad(Builder *builder, const String *text, const Specification *spec, char default_align) {
  String copy = *text;
  int64_t missing = spec->width - string_characters(&copy), left = 0;
  char align = spec->align ? spec->align : default_align;
  if (missing < 0) missing = 0;
  if (align == '>' || align == '=') left = missing;
  if (align == '^') left = missing / 2;
  builder_fill(builder, &spec->fill, left);
  builder_string(builder, text);
  builder_fill(builder, &spec->fill, missing - left);
}

// A number: its sign and prefix, its digits, with zeros or the fill between them for '='.
static void pad_number(Builder *builder, const char *prefix, const char *digits, const Specification *spec) {
  char grouped[DIGITS_MOST * 2];
  size_t whole = strspn(digits, "0123456789abcdefABCDEF"), length = 0;
  if (strspn(digits, "0123456789") < whole && spec->type != 'x' && spec->type != 'X') whole = strspn(digits, "0123456789");
  size_t group = strchr("xXob", spec->type ? spec->type : 'd') ? 4 : 3;
  for (size_t i = 0; digits[i] && length + 2 < sizeof grouped; i++) {
    if (spec->grouping && i > 0 && i < whole && (whole - i) % group == 0) grouped[length++] = spec->grouping;
    grouped[length++] = digits[i];
  }
  Builder number;
  builder_begin(&number, builder->run);
  char align = spec->align ? spec->align : spec->zero ? '=' : '>';
  int64_t missing = spec->width - (int64_t)length - (int64_t)strlen(prefix);
  builder_words(&number, prefix);
  if (align == '=' && missing > 0) builder_fill(&number, &spec->fill, missing);
  builder_bytes(&number, grouped, length);
  pad(builder, builder_value(&number, false).as.string, spec, '>');
}

static const char *sign_text(bool negative, char sign) { return negative ? "-" : sign == '+' ? "+" : sign == ' ' ? " " : ""; }

// ---- Numbers.

static void integer_digits(char *out, uint64_t magnitude, unsigned base, bool upper) {
  char reversed[72];
  int count = 0;
  do reversed[count++] = (upper ? "0123456789ABCDEF" : "0123456789abcdef")[magnitude % base];
  while (magnitude /= base);
  while (count > 0) *out++ = reversed[--count];
  *out = 0;
}

static Status format_integer(Builder *builder, int64_t integer, const Specification *spec) {
  char digits[72], prefix[8];
  char type = spec->type ? spec->type : 'd';
  unsigned base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  uint64_t magnitude = integer < 0 ? -(uint64_t)integer : (uint64_t)integer;
  if (spec->precision >= 0) return run_fail(builder->run, "precision is not allowed in an integer's format");
  if (type == 'c') {
    char text[5] = {0};
    if (integer < 0 || integer > 0x10FFFF || (integer >= 0xD800 && integer < 0xE000))
      return run_fail(builder->run, "%%c needs the number of a character");
    int length = encode_point(text, (int32_t)integer);
    pad(builder, &(String){.bytes = text, .length = (size_t)length, .characters = -1}, spec, '<');
    return STATUS_OK;
  }
  integer_digits(digits, magnitude, base, type == 'X');
  snprintf(prefix, sizeof prefix, "%s%s", sign_text(integer < 0, spec->sign), "");
  if (spec->alternate && base != 10) {
    size_t length = strlen(prefix);
    prefix[length] = '0';
    prefix[length + 1] = type;
    prefix[length + 2] = 0;
  }
  pad_number(builder, prefix, digits, spec);
  return STATUS_OK;
}

// The form without a type: as repr(), or with a precision as 'g' that keeps one digit behind the point.
static void general_digits(char *out, size_t room, double real, int64_t precision) {
  if (precision < 0) {
    text_from_float(out, real);
    return;
  }
  if (precision == 0) precision = 1;
  snprintf(out, room, "%.*e", (int)precision - 1, real);
  int exponent = atoi(strchr(out, 'e') + 1);
  bool scientific = exponent < -4 || exponent >= precision - 1;
  if (scientific) snprintf(out, room, "%.*e", (int)precision - 1, real);
  else snprintf(out, room, "%.*f", (int)precision - 1 - exponent, real);
  char *mark = strchr(out, 'e'), tail[16] = "";
  if (mark) snprintf(tail, sizeof tail, "%s", mark), *mark = 0;
  if (strchr(out, '.')) {
    size_t end = strlen(out);
    while (out[end - 1] == '0') out[--end] = 0;
    if (out[end - 1] == '.') out[scientific ? end - 1 : end + 1] = 0, scientific ? (void)0 : (void)(out[end] = '0');
  } else if (!scientific) {
    strcat(out, ".0");
  }
  strcat(out, tail);
}

static Status format_real(Builder *builder, double real, const Specification *spec) {
  char digits[DIGITS_MOST], pattern[16];
  char type = spec->type;
  double magnitude = type == '%' ? fabs(real) * 100 : fabs(real);
  int64_t precision = spec->precision < 0 && type ? 6 : spec->precision;
  if (precision > 60) return run_fail(builder->run, "a precision of more than 60 digits is not supported");
  if (!isfinite(real)) snprintf(digits, sizeof digits, "%s", isnan(real) ? "nan" : "inf");
  else if (!type) general_digits(digits, sizeof digits, magnitude, precision);
  else {
    char letter = type == '%' || type == 'F' ? 'f' : type == 'n' ? 'g' : type;
    snprintf(pattern, sizeof pattern, "%%%s.*%c", spec->alternate ? "#" : "", letter);
    snprintf(digits, sizeof digits, pattern, (int)precision, magnitude);
  }
  if (!isfinite(real) && type && isupper((unsigned char)type))
    for (char *p = digits; *p; p++) *p = (char)toupper((unsigned char)*p);
  if (type == '%') strcat(digits, "%");
  pad_number(builder, sign_text(signbit(real) && !isnan(real), spec->sign), digits, spec);
  return STATUS_OK;
}

// ---- str.format()

static bool read_number(int64_t *out, const String *text, size_t *at) {
  size_t begin = *at;
  *out = 0;
  for (; *at < text->length && text->bytes[*at] >= '0' && text->bytes[*at] <= '9'; ++*at)
    if (*out < WIDTH_MOST) *out = *out * 10 + (text->bytes[*at] - '0');
  return *at > begin;
}

static bool is_align(const String *text, size_t at) { return at < text->length && strchr("<>=^", text->bytes[at]) && text->bytes[at]; }

static bool take_byte(const String *text, size_t *at, const char *set, char *out) {
  if (*at >= text->length || !text->bytes[*at] || !strchr(set, text->bytes[*at])) return false;
  *out = text->bytes[(*at)++];
  return true;
}

static Status parse_specification(Specification *spec, Run *run, const String *text) {
  size_t at = 0, fill = 0;
  char byte;
  *spec = (Specification){.fill = {.bytes = " ", .length = 1, .characters = 1}, .width = -1, .precision = -1};
  if (text->length > 0) string_point(text, 0, &fill);
  if (fill && is_align(text, fill)) {
    spec->fill = (String){.bytes = text->bytes, .length = fill, .characters = 1};
    spec->align = text->bytes[fill];
    at = fill + 1;
  } else if (is_align(text, 0)) {
    spec->align = text->bytes[at++];
  }
  take_byte(text, &at, "+- ", &spec->sign);
  spec->alternate = take_byte(text, &at, "#", &byte);
  if (take_byte(text, &at, "0", &byte)) {
    spec->zero = true;
    if (spec->fill.bytes[0] == ' ' && !(spec->align && at > 1 && fill && is_align(text, fill))) spec->fill.bytes = "0";
  }
  read_number(&spec->width, text, &at) || (spec->width = -1);
  take_byte(text, &at, ",_", &spec->grouping);
  if (take_byte(text, &at, ".", &byte) && !read_number(&spec->precision, text, &at))
    return run_fail(run, "format specifier misses its precision");
  take_byte(text, &at, "bcdeEfFgGnosxX%", &spec->type);
  if (at < text->length || spec->width >= WIDTH_MOST)
    return run_fail(run, "invalid format specifier '%.*s'", (int)text->length, text->bytes);
  return STATUS_OK;
}

static Status format_string(Builder *builder, String *string, const Specification *spec) {
  Run *run = builder->run;
  if ((spec->type && spec->type != 's') || spec->sign || spec->alternate || spec->grouping || spec->align == '=')
    return run_fail(run, "a string's format specifier is not for strings");
  int64_t characters = string_characters(string);
  if (spec->precision >= 0 && spec->precision < characters)
    string = string_slice(run, string, 0, string_offset(string, spec->precision)).as.string;
  pad(builder, string, spec, '<');
  return STATUS_OK;
}

static Status format_value(Builder *builder, Value value, const String *text) {
  Run *run = builder->run;
  Specification spec;
  if (text->length == 0) {
    builder_str(builder, value);
    return STATUS_OK;
  }
  TRY(parse_specification(&spec, run, text));
  if (value.type == VALUE_STRING) return format_string(builder, value.as.string, &spec);
  bool real_type = spec.type && strchr("eEfFgG%", spec.type);
  if (spec.type == 's' || (value.type == VALUE_FLOAT && spec.type && !real_type && spec.type != 'n'))
    return run_fail(run, "Unknown format code '%c' for object of type '%s'", spec.type, value_type_name(value));
  if (value.type == VALUE_FLOAT || (value_is_integer(value) && real_type)) return format_real(builder, value_real(value), &spec);
  if (value_is_integer(value)) return format_integer(builder, value_integer(value), &spec);
  return run_fail(run, "unsupported format string passed to %s.__format__", value_type_name(value));
}

// The arguments of str.format and what it has used of them.
typedef struct Fields {
  Run *run;
  const Arguments *arguments;
  Value mapping;  // of format_map
  int64_t next;  // of "{}"; -1: numbers were given
  bool safe;
} Fields;

static Status first_field(Value *out, Fields *fields, const String *name) {
  Run *run = fields->run;
  int64_t index = 0;
  size_t end = 0;
  bool numbered = read_number(&index, name, &end) && end == name->length;
  if (name->length == 0 || numbered) {
    if ((name->length == 0 && fields->next < 0) || (numbered && fields->next > 0))
      return run_fail(run, "cannot switch between manual and automatic field numbering");
    if (name->length == 0) index = fields->next++;
    else fields->next = -1;
    if (index >= fields->arguments->count)
      return run_fail(run, "Replacement index %lld out of range for positional args tuple", (long long)index);
    *out = fields->arguments->items[index];
    return STATUS_OK;
  }
  for (int i = 0; i < fields->arguments->keyword_count; i++) {
    if (!string_equal(fields->arguments->keywords[i].name, name)) continue;
    *out = fields->arguments->keywords[i].value;
    return STATUS_OK;
  }
  const DictEntry *entry = fields->mapping.type == VALUE_DICT ? dict_find(run, fields->mapping.as.dict, value_of_string(name)) : NULL;
  if (!entry) return run_fail(run, "format() misses the field '%.*s'", (int)name->length, name->bytes);
  *out = entry->value;
  return STATUS_OK;
}

static size_t span_until(const String *text, size_t at, const char *stops) {
  while (at < text->length && (!text->bytes[at] || !strchr(stops, text->bytes[at]))) at++;
  return at;
}

// "name.attribute[key]"
static Status find_field(Value *out, Fields *fields, const String *text) {
  Run *run = fields->run;
  size_t at = span_until(text, 0, ".[");
  TRY(first_field(out, fields, string_slice(run, text, 0, at).as.string));
  while (at < text->length) {
    bool brackets = text->bytes[at] == '[';
    if (!brackets && text->bytes[at] != '.') return run_fail(run, "Only '.' or '[' may follow ']' in format field specifier");
    size_t begin = at + 1, end = span_until(text, begin, brackets ? "]" : ".[");
    if (end == begin || (brackets && end == text->length)) return run_fail(run, "a format field has an empty or open part");
    const String *part = string_slice(run, text, begin, end).as.string;
    int64_t index;
    size_t digits = 0;
    Value object = *out;
    bool numbered = read_number(&index, part, &digits) && digits == part->length;
    if (!brackets) TRY(get_attribute(out, run, object, part));
    else TRY(get_item(out, run, object, numbered ? value_int(index) : value_of_string(part)));
    at = end + brackets;
  }
  return STATUS_OK;
}

static Status format_fields(Builder *builder, Fields *fields, const String *format, int depth);

static Status convert_field(Value *value, Fields *fields, char conversion) {
  Run *run = fields->run;
  Builder text;
  if (conversion == 's') return value_str(value, run, *value);
  if (conversion != 'r' && conversion != 'a') return run_fail(run, "Unknown conversion specifier %c", conversion);
  builder_begin(&text, run);
  builder_repr(&text, *value);
  *value = builder_value(&text, false);
  return STATUS_OK;
}

// The inside of one pair of braces: "field!conversion:specification".
static Status format_field(Builder *builder, Fields *fields, const String *text, int depth) {
  Run *run = fields->run;
  size_t end = 0;
  for (bool brackets = false; end < text->length && (brackets || (text->bytes[end] != '!' && text->bytes[end] != ':')); end++) {
    if (text->bytes[end] == '[') brackets = true;
    if (text->bytes[end] == ']') brackets = false;
  }
  char conversion = 0;
  Value value;
  TRY(find_field(&value, fields, string_slice(run, text, 0, end).as.string));
  if (end < text->length && text->bytes[end] == '!') {
    if (end + 1 >= text->length) return run_fail(run, "end of string while looking for conversion specifier");
    conversion = text->bytes[end + 1];
    end += 2;
    if (end < text->length && text->bytes[end] != ':') return run_fail(run, "expected ':' after conversion specifier");
  }
  if (conversion) TRY(convert_field(&value, fields, conversion));
  Builder specification, formatted;
  builder_begin(&specification, run);
  if (end < text->length) TRY(format_fields(&specification, fields, string_slice(run, text, end + 1, text->length).as.string, depth + 1));
  builder_begin(&formatted, run);
  TRY(format_value(&formatted, value, builder_value(&specification, false).as.string));
  String *result = builder_value(&formatted, value.type == VALUE_STRING && value.as.string->safe).as.string;
  builder_string(builder, fields->safe ? string_escape(run, result).as.string : result);
  return STATUS_OK;
}

static Status format_fields(Builder *builder, Fields *fields, const String *format, int depth) {
  if (depth > 2) return run_fail(fields->run, "Max string recursion exceeded");
  for (size_t at = 0; at < format->length;) {
    size_t brace = span_until(format, at, "{}");
    builder_slice(builder, format, at, brace);
    if (brace == format->length) break;
    bool doubled = brace + 1 < format->length && format->bytes[brace + 1] == format->bytes[brace];
    if (doubled && depth == 0) {
      builder_slice(builder, format, brace, brace + 1);
      at = brace + 2;
      continue;
    }
    if (format->bytes[brace] == '}') return run_fail(fields->run, "Single '}' encountered in format string");
    size_t end = brace + 1;
    for (int open = 1; end < format->length; end++) {
      if (format->bytes[end] == '{') open++;
      if (format->bytes[end] == '}' && --open == 0) break;
    }
    if (end == format->length) return run_fail(fields->run, "expected '}' before end of string");
    TRY(format_field(builder, fields, string_slice(fields->run, format, brace + 1, end).as.string, depth));
    at = end + 1;
  }
  return run_check(fields->run);
}

Status format_braces(Value *out, Run *run, const String *format, const Arguments *arguments, Value mapping) {
  Fields fields = {.run = run, .arguments = arguments, .mapping = mapping, .safe = format->safe};
  Builder builder;
  builder_begin(&builder, run);
  TRY(format_fields(&builder, &fields, format, 0));
  *out = builder_value(&builder, format->safe);
  return STATUS_OK;
}

// ---- The % operator.

typedef struct PercentValues {
  Run *run;
  Value values;
  const List *tuple;  // NULL: one value, or a mapping
  int64_t next;
  bool safe;
} PercentValues;

static Status next_value(Value *out, PercentValues *values) {
  int64_t count = values->tuple ? values->tuple->count : 1;
  if (values->next >= count) return run_fail(values->run, "not enough arguments for format string");
  *out = values->tuple ? values->tuple->items[values->next] : values->values;
  values->next++;
  return STATUS_OK;
}

static Status star_or_number(int64_t *out, PercentValues *values, const String *format, size_t *at) {
  if (*at >= format->length || format->bytes[*at] != '*') {
    if (!read_number(out, format, at)) *out = -1;
    return STATUS_OK;
  }
  Value value;
  ++*at;
  TRY(next_value(&value, values));
  if (!value_is_integer(value)) return run_fail(values->run, "* wants int");
  *out = value_integer(value);
  return STATUS_OK;
}

static Status percent_number(Builder *builder, Value value, Specification *spec) {
  Run *run = builder->run;
  if (value.type == VALUE_UNDEFINED) return undefined_fail(run, value);
  if (!value_is_number(value)) return run_fail(run, "%%%c format: a real number is required, not %s", spec->type, value_type_name(value));
  if (strchr("eEfFgG", spec->type)) return format_real(builder, value_real(value), spec);
  bool decimal = strchr("diu", spec->type);
  if (value.type == VALUE_FLOAT && (!decimal || !(fabs(value.as.real) < 0x1p63)))
    return run_fail(run, "%%%c format: an integer is required, not float", spec->type);
  if (decimal) spec->type = 'd';
  spec->precision = -1;
  return format_integer(builder, value.type == VALUE_FLOAT ? (int64_t)value.as.real : value_integer(value), spec);
}

static Status percent_value(Builder *builder, PercentValues *values, Value value, Specification *spec) {
  Run *run = builder->run;
  Builder text;
  if (strchr("diuxXoeEfFgG", spec->type)) return percent_number(builder, value, spec);
  if (spec->type == 'c' && value_is_integer(value)) return format_integer(builder, value_integer(value), spec);
  if (spec->type == 'c' && (value.type != VALUE_STRING || string_characters(value.as.string) != 1))
    return run_fail(run, "%%c requires int or char");
  if (!strchr("srac", spec->type)) return run_fail(run, "unsupported format character '%c'", spec->type);
  builder_begin(&text, run);
  if (spec->type == 's' || spec->type == 'c') builder_str(&text, value);
  else builder_repr(&text, value);
  String *string = builder_value(&text, value.type == VALUE_STRING && value.as.string->safe).as.string;
  if (values->safe) string = string_escape(run, string).as.string;
  spec->type = 's';
  spec->sign = 0, spec->alternate = spec->zero = false;
  if (spec->fill.bytes[0] == '0') spec->fill.bytes = " ";
  if (spec->align == '=') spec->align = '>';
  return format_string(builder, string, spec);
}

// One "%..." whose percent sign stands before *at.
static Status percent_field(Builder *builder, PercentValues *values, const String *format, size_t *at) {
  Run *run = builder->run;
  Specification spec = {.fill = {.bytes = " ", .length = 1, .characters = 1}, .width = -1, .precision = -1, .align = '>'};
  Value value = value_missing;
  char byte;
  if (*at < format->length && format->bytes[*at] == '(') {
    size_t end = span_until(format, *at, ")");
    if (end == format->length) return run_fail(run, "incomplete format key");
    if (values->tuple || values->values.type != VALUE_DICT) return run_fail(run, "format requires a mapping");
    const DictEntry *entry = dict_find(run, values->values.as.dict, string_slice(run, format, *at + 1, end));
    if (!entry) return run_fail(run, "the format's values have no key '%.*s'", (int)(end - *at - 1), format->bytes + *at + 1);
    value = entry->value;
    *at = end + 1;
  }
  while (take_byte(format, at, "-+ #0", &byte)) {
    if (byte == '-') spec.align = '<';
    if (byte == '+' || (byte == ' ' && !spec.sign)) spec.sign = byte;
    if (byte == '#') spec.alternate = true;
    if (byte == '0') spec.zero = true;
  }
  TRY(star_or_number(&spec.width, values, format, at));
  if (spec.width < -1) spec.align = '<', spec.width = -spec.width;
  if (take_byte(format, at, ".", &byte)) {
    TRY(star_or_number(&spec.precision, values, format, at));
    if (spec.precision < 0) spec.precision = 0;
  }
  take_byte(format, at, "hlL", &byte);
  if (*at >= format->length) return run_fail(run, "incomplete format");
  spec.type = format->bytes[(*at)++];
  if (spec.type == '%') {
    builder_words(builder, "%");
    return STATUS_OK;
  }
  if (spec.width >= WIDTH_MOST || !spec.type) return run_fail(run, "a format's width is too large");
  if (spec.zero && spec.align == '>') spec.align = '=', spec.fill.bytes = "0";
  if (value.type == VALUE_MISSING) TRY(next_value(&value, values));
  return percent_value(builder, values, value, &spec);
}

Status format_percent(Value *out, Run *run, const String *format, Value given) {
  PercentValues values = {.run = run, .values = given, .tuple = given.type == VALUE_TUPLE ? given.as.list : NULL, .safe = format->safe};
  Builder builder;
  builder_begin(&builder, run);
  for (size_t at = 0; at < format->length;) {
    size_t sign = span_until(format, at, "%");
    builder_slice(&builder, format, at, sign);
    at = sign + 1;
    if (sign == format->length) break;
    TRY(percent_field(&builder, &values, format, &at));
    TRY(run_check(run));
  }
  bool is_mapping = given.type == VALUE_DICT || given.type == VALUE_LIST || given.type == VALUE_UNDEFINED || given.type == VALUE_RANGE;
  if (!is_mapping && values.next < (values.tuple ? values.tuple->count : 1))
    return run_fail(run, "not all arguments converted during string formatting");
  *out = builder_value(&builder, format->safe);
  return STATUS_OK;
}
