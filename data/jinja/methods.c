// The methods of strings, dicts, lists, tuples, numbers and cyclers that templates call, and the global functions.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "data/jinja/parts.h"

// ---- Arguments.

static bool is_given(Value value) { return value.type != VALUE_MISSING && value.type != VALUE_NONE; }

static Status need_string(Run *run, Value value) {
  if (value.type == VALUE_STRING) return STATUS_OK;
  if (value.type == VALUE_UNDEFINED) return undefined_fail(run, value);
  return run_fail(run, "a string is needed, not %s", value_type_name(value));
}

static Status need_integer(int64_t *out, Run *run, Value value, int64_t otherwise) {
  *out = otherwise;
  if (value.type == VALUE_MISSING) return STATUS_OK;
  if (value.type == VALUE_UNDEFINED) return undefined_fail(run, value);
  if (!value_is_integer(value)) return run_fail(run, "'%s' object cannot be interpreted as an integer", value_type_name(value));
  *out = value_integer(value);
  return STATUS_OK;
}

// ---- Cases and classes.

static Status string_cased(Value *out, Run *run, Value value, LetterCase letter_case) {
  Builder builder;
  builder_begin(&builder, run);
  builder_cased(&builder, value.as.string, 0, value.as.string->length, letter_case);
  *out = builder_value(&builder, value.as.string->safe);
  return STATUS_OK;
}

static Status method_upper(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return string_cased(out, run, given[0], CASE_UPPER);
}

static Status method_lower(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return string_cased(out, run, given[0], CASE_LOWER);
}

static Status method_casefold(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return string_cased(out, run, given[0], CASE_FOLD);
}

static Status method_capitalize(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  const String *string = given[0].as.string;
  size_t first = 0;
  Builder builder;
  builder_begin(&builder, run);
  if (string->length > 0) string_point(string, 0, &first);
  builder_cased(&builder, string, 0, first, CASE_TITLE);
  builder_cased(&builder, string, first, string->length, CASE_LOWER);
  *out = builder_value(&builder, string->safe);
  return STATUS_OK;
}

// title and swapcase: each character's case is chosen by what it and the one before are.
static void change_cases(Builder *builder, const String *string, bool title) {
  bool after_cased = false;
  for (size_t at = 0, length; at < string->length; at += length) {
    int32_t point = string_point(string, at, &length);
    bool lower = point_is_lower(point), upper = point_is_upper(point), cased = lower || upper || point_is_title(point);
    if (title) builder_cased(builder, string, at, at + length, after_cased ? CASE_LOWER : CASE_TITLE);
    else if (lower || upper) builder_cased(builder, string, at, at + length, upper ? CASE_LOWER : CASE_UPPER);
    else builder_slice(builder, string, at, at + length);
    after_cased = cased;
  }
}

static Status method_title(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  Builder builder;
  builder_begin(&builder, run);
  change_cases(&builder, given[0].as.string, true);
  *out = builder_value(&builder, given[0].as.string->safe);
  return STATUS_OK;
}

static Status method_swapcase(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  Builder builder;
  builder_begin(&builder, run);
  change_cases(&builder, given[0].as.string, false);
  *out = builder_value(&builder, given[0].as.string->safe);
  return STATUS_OK;
}

static bool all_points(const String *string, bool (*is)(int32_t), bool if_empty) {
  for (size_t at = 0, length; at < string->length; at += length)
    if (!is(string_point(string, at, &length))) return false;
  return string->length > 0 || if_empty;
}

static bool point_is_alphanumeric(int32_t point) { return point_is_alphabetic(point) || point_is_numeric(point); }
static bool point_is_ascii(int32_t point) { return point < 0x80; }

#define CLASS_METHOD(name, is, if_empty)                                               \
  static Status name(Value *out, Run *run, Value *given, const Arguments *arguments) { \
    (void)arguments;                                                                   \
    run_charge(run, given[0].as.string->length / 16);                                  \
    *out = value_bool(all_points(given[0].as.string, is, if_empty));                   \
    return STATUS_OK;                                                                  \
  }
CLASS_METHOD(method_isalpha, point_is_alphabetic, false)
CLASS_METHOD(method_isalnum, point_is_alphanumeric, false)
CLASS_METHOD(method_isdecimal, point_is_decimal, false)
CLASS_METHOD(method_isdigit, point_is_digit, false)
CLASS_METHOD(method_isnumeric, point_is_numeric, false)
CLASS_METHOD(method_isspace, point_is_space, false)
CLASS_METHOD(method_isprintable, point_is_printable, true)
CLASS_METHOD(method_isascii, point_is_ascii, true)

static Status method_isidentifier(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments, (void)run;
  const String *string = given[0].as.string;
  size_t length;
  int32_t first = string->length > 0 ? string_point(string, 0, &length) : 0;
  *out = value_bool((first == '_' || point_is_alphabetic(first)) && all_points(string, point_is_word, false));
  return STATUS_OK;
}

// All cased characters are of one case, and there is one.
static bool has_case(const String *string, bool lower) {
  bool found = false;
  for (size_t at = 0, length; at < string->length; at += length) {
    int32_t point = string_point(string, at, &length);
    if (point_is_title(point) || (lower ? point_is_upper(point) : point_is_lower(point))) return false;
    found = found || (lower ? point_is_lower(point) : point_is_upper(point));
  }
  return found;
}

static Status method_islower(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments, (void)run;
  *out = value_bool(has_case(given[0].as.string, true));
  return STATUS_OK;
}

static Status method_isupper(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments, (void)run;
  *out = value_bool(has_case(given[0].as.string, false));
  return STATUS_OK;
}

static Status method_istitle(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments, (void)run;
  const String *string = given[0].as.string;
  bool after_cased = false, found = false, good = true;
  for (size_t at = 0, length; at < string->length && good; at += length) {
    int32_t point = string_point(string, at, &length);
    bool begins = point_is_upper(point) || point_is_title(point), lower = point_is_lower(point);
    if ((begins && after_cased) || (lower && !after_cased)) good = false;
    after_cased = begins || lower;
    found = found || after_cased;
  }
  *out = value_bool(good && found);
  return STATUS_OK;
}

// ---- Stripping and splitting.

static Status strip(Value *out, Run *run, const Value *given, bool left, bool right) {
  if (is_given(given[1])) TRY(need_string(run, given[1]));
  *out = string_strip(run, given[0].as.string, is_given(given[1]) ? given[1].as.string : NULL, left, right);
  return STATUS_OK;
}

static Status method_strip(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return strip(out, run, given, true, true);
}

static Status method_lstrip(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return strip(out, run, given, true, false);
}

static Status method_rstrip(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return strip(out, run, given, false, true);
}

static size_t next_space(const String *string, size_t at, size_t *length) {
  for (; at < string->length; at += *length)
    if (point_is_space(string_point(string, at, length))) return at;
  *length = 0;
  return at;
}

static size_t skip_spaces(const String *string, size_t at) {
  for (size_t length; at < string->length && point_is_space(string_point(string, at, &length)); at += length) continue;
  return at;
}

static List *split_spaces(Run *run, const String *string, int64_t most) {
  List *list = list_new(run, 4);
  for (size_t at = skip_spaces(string, 0), length; at < string->length; at = skip_spaces(string, at)) {
    bool rest = most >= 0 && list->count == most;
    size_t end = rest ? string->length : next_space(string, at, &length);
    list_push(run, list, string_slice(run, string, at, end));
    at = end;
  }
  return list;
}

static List *reversed_list(Run *run, const List *list) {
  List *reversed = list_new(run, list->count);
  for (int64_t i = list->count; i > 0; i--) list_push(run, reversed, list->items[i - 1]);
  return reversed;
}

// What is left of the last `most` words stays whole, with the white space before it.
static List *split_spaces_right(Run *run, const String *string, int64_t most) {
  List *words = split_spaces(run, string, -1);
  if (most < 0 || words->count <= most) return words;
  List *list = list_new(run, most + 1);
  const String *last = words->items[words->count - 1 - most].as.string;
  list_push(run, list, string_slice(run, string, 0, (size_t)(last->bytes + last->length - string->bytes)));
  for (int64_t i = words->count - most; i < words->count; i++) list_push(run, list, words->items[i]);
  return list;
}

static List *split_at(Run *run, const String *string, const String *separator, int64_t most, bool right) {
  List *list = list_new(run, 4);
  size_t begin = 0, end = string->length, at;
  while (most < 0 || list->count < most) {
    if (right ? !string_find_last(&at, string, separator, 0, end) : !string_find(&at, string, separator, begin, string->length)) break;
    list_push(run, list, right ? string_slice(run, string, at + separator->length, end) : string_slice(run, string, begin, at));
    if (right) end = at;
    else begin = at + separator->length;
  }
  list_push(run, list, string_slice(run, string, begin, end));
  return right ? reversed_list(run, list) : list;
}

static Status split(Value *out, Run *run, Value *given, bool right) {
  const String *string = given[0].as.string;
  int64_t most;
  TRY(need_integer(&most, run, given[2], -1));
  run_charge(run, string->length / 16);
  if (!is_given(given[1])) {
    *out = value_list(right ? split_spaces_right(run, string, most) : split_spaces(run, string, most));
    return STATUS_OK;
  }
  TRY(need_string(run, given[1]));
  if (given[1].as.string->length == 0) return run_fail(run, "empty separator");
  *out = value_list(split_at(run, string, given[1].as.string, most, right));
  return STATUS_OK;
}

static Status method_split(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return split(out, run, given, false);
}

static Status method_rsplit(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return split(out, run, given, true);
}

static Status method_splitlines(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  int64_t keep_ends;
  TRY(need_integer(&keep_ends, run, given[1], 0));
  *out = value_list(string_lines(run, given[0].as.string, keep_ends != 0));
  return STATUS_OK;
}

static Status partition(Value *out, Run *run, Value *given, bool right) {
  const String *string = given[0].as.string;
  TRY(need_string(run, given[1]));
  const String *separator = given[1].as.string;
  if (separator->length == 0) return run_fail(run, "empty separator");
  size_t at, end;
  bool found = right ? string_find_last(&at, string, separator, 0, string->length) : string_find(&at, string, separator, 0, string->length);
  if (!found) at = right ? 0 : string->length;
  end = found ? at + separator->length : at;
  List *list = list_new(run, 3);
  list_push(run, list, string_slice(run, string, 0, at));
  list_push(run, list, string_slice(run, string, at, end));
  list_push(run, list, string_slice(run, string, end, string->length));
  *out = value_tuple(list);
  return STATUS_OK;
}

static Status method_partition(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return partition(out, run, given, false);
}

static Status method_rpartition(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return partition(out, run, given, true);
}

// ---- Searching.

// The bytes of string[start:end].
static Status search_bounds(size_t *begin, size_t *end, bool *empty, Run *run, String *string, Value start, Value stop) {
  int64_t count = string_characters(string), from, to;
  TRY(need_integer(&from, run, start.type == VALUE_NONE ? value_missing : start, 0));
  TRY(need_integer(&to, run, stop.type == VALUE_NONE ? value_missing : stop, count));
  if (to > count) to = count;
  if (from < 0) from = from + count < 0 ? 0 : from + count;
  if (to < 0) to = to + count < 0 ? 0 : to + count;
  *empty = from > to;
  *begin = string_offset(string, from < count ? from : count);
  *end = string_offset(string, to);
  run_charge(run, string->length / 64);
  return STATUS_OK;
}

static Status search(Value *out, Run *run, Value *given, bool last, bool must) {
  size_t begin, end, at;
  bool empty;
  TRY(need_string(run, given[1]));
  TRY(search_bounds(&begin, &end, &empty, run, given[0].as.string, given[2], given[3]));
  bool found = !empty && (last ? string_find_last(&at, given[0].as.string, given[1].as.string, begin, end)
                               : string_find(&at, given[0].as.string, given[1].as.string, begin, end));
  if (!found && must) return run_fail(run, "substring not found");
  *out = value_int(found ? string_index(given[0].as.string, at) : -1);
  return STATUS_OK;
}

static Status method_find(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return search(out, run, given, false, false);
}

static Status method_rfind(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return search(out, run, given, true, false);
}

static Status method_index(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return search(out, run, given, false, true);
}

static Status method_rindex(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return search(out, run, given, true, true);
}

static Status method_count(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  size_t begin, end, at;
  bool empty;
  int64_t count = 0;
  TRY(need_string(run, given[1]));
  TRY(search_bounds(&begin, &end, &empty, run, given[0].as.string, given[2], given[3]));
  const String *needle = given[1].as.string;
  if (needle->length == 0) {
    *out = value_int(empty ? 0 : string_index(given[0].as.string, end) - string_index(given[0].as.string, begin) + 1);
    return STATUS_OK;
  }
  for (; !empty && string_find(&at, given[0].as.string, needle, begin, end); begin = at + needle->length) count++;
  *out = value_int(count);
  return STATUS_OK;
}

static Status has_affix(bool *out, Run *run, const Value *given, Value affix, bool prefix) {
  size_t begin, end;
  bool empty;
  TRY(need_string(run, affix));
  TRY(search_bounds(&begin, &end, &empty, run, given[0].as.string, given[2], given[3]));
  size_t length = affix.as.string->length;
  *out =
      !empty && end >= begin && end - begin >= length && string_has_at(given[0].as.string, prefix ? begin : end - length, affix.as.string);
  return STATUS_OK;
}

static Status affix(Value *out, Run *run, Value *given, bool prefix) {
  bool found = false;
  if (given[1].type != VALUE_TUPLE) TRY(has_affix(&found, run, given, given[1], prefix));
  else
    for (int64_t i = 0; i < given[1].as.list->count && !found; i++) TRY(has_affix(&found, run, given, given[1].as.list->items[i], prefix));
  *out = value_bool(found);
  return STATUS_OK;
}

static Status method_startswith(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return affix(out, run, given, true);
}

static Status method_endswith(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return affix(out, run, given, false);
}

static Status method_removeprefix(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  TRY(need_string(run, given[1]));
  size_t cut = string_has_at(given[0].as.string, 0, given[1].as.string) ? given[1].as.string->length : 0;
  *out = string_slice(run, given[0].as.string, cut, given[0].as.string->length);
  return STATUS_OK;
}

static Status method_removesuffix(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  TRY(need_string(run, given[1]));
  size_t length = given[0].as.string->length, cut = given[1].as.string->length;
  bool found = cut <= length && string_has_at(given[0].as.string, length - cut, given[1].as.string);
  *out = string_slice(run, given[0].as.string, 0, found ? length - cut : length);
  return STATUS_OK;
}

// ---- Building.

static Status method_replace(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  int64_t most;
  TRY(need_string(run, given[1]));
  TRY(need_string(run, given[2]));
  TRY(need_integer(&most, run, given[3], -1));
  const String *new = given[0].as.string->safe ? string_escape(run, given[2].as.string).as.string : given[2].as.string;
  *out = string_replace(run, given[0].as.string, given[1].as.string, new, most);
  return STATUS_OK;
}

static Status method_join(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *items;
  Builder builder;
  const String *separator = given[0].as.string;
  TRY(value_items(&items, run, given[1]));
  builder_begin(&builder, run);
  for (int64_t i = 0; i < items->count; i++) {
    Value item = items->items[i];
    if (i > 0) builder_string(&builder, separator);
    if (separator->safe) {
      TRY(value_soft_str(&item, run, item));
      item = string_escape(run, item.as.string);
    }
    if (item.type != VALUE_STRING)
      return run_fail(run, "sequence item %lld: expected str instance, %s found", (long long)i, value_type_name(item));
    builder_string(&builder, item.as.string);
  }
  *out = builder_value(&builder, separator->safe);
  return STATUS_OK;
}

static Status justify(Value *out, Run *run, Value *given, char align) {
  static const String space = {.bytes = " ", .length = 1, .characters = 1};
  String *string = given[0].as.string;
  const String *fill = &space;
  int64_t width;
  TRY(need_integer(&width, run, given[1], 0));
  if (given[2].type != VALUE_MISSING) {
    TRY(need_string(run, given[2]));
    fill = given[2].as.string;
    if (string_characters(given[2].as.string) != 1) return run_fail(run, "The fill character must be exactly one character long");
  }
  int64_t missing = width - string_characters(string), left = 0;
  if (missing < 0) missing = 0;
  TRY(run_reserve(run, missing, fill->length));
  if (align == '>') left = missing;
  if (align == '^') left = missing / 2 + (missing & width & 1);
  Builder builder;
  builder_begin(&builder, run);
  builder_fill(&builder, fill, left);
  builder_string(&builder, string);
  builder_fill(&builder, fill, missing - left);
  *out = builder_value(&builder, string->safe);
  return STATUS_OK;
}

static Status method_center(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return justify(out, run, given, '^');
}

static Status method_ljust(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return justify(out, run, given, '<');
}

static Status method_rjust(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return justify(out, run, given, '>');
}

static Status method_zfill(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  static const String zero = {.bytes = "0", .length = 1, .characters = 1};
  const String *string = given[0].as.string;
  int64_t width, missing;
  TRY(need_integer(&width, run, given[1], 0));
  missing = width - string_characters(given[0].as.string);
  TRY(run_reserve(run, missing > 0 ? missing : 0, 1));
  size_t sign = string->length > 0 && (string->bytes[0] == '+' || string->bytes[0] == '-');
  Builder builder;
  builder_begin(&builder, run);
  builder_slice(&builder, string, 0, sign);
  builder_fill(&builder, &zero, missing);
  builder_slice(&builder, string, sign, string->length);
  *out = builder_value(&builder, string->safe);
  return STATUS_OK;
}

static Status method_expandtabs(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  static const String space = {.bytes = " ", .length = 1, .characters = 1};
  const String *string = given[0].as.string;
  int64_t size, column = 0;
  TRY(need_integer(&size, run, given[1], 8));
  Builder builder;
  builder_begin(&builder, run);
  for (size_t at = 0, length; at < string->length && !run->exceeded; at += length) {
    int32_t point = string_point(string, at, &length);
    if (point == '\t') {
      int64_t count = size > 0 ? size - column % size : 0;
      builder_fill(&builder, &space, count);
      column += count;
    } else {
      builder_slice(&builder, string, at, at + length);
      column = point == '\n' || point == '\r' ? 0 : column + 1;
    }
  }
  *out = builder_value(&builder, string->safe);
  return STATUS_OK;
}

static Status method_format(Value *out, Run *run, Value *given, const Arguments *arguments) {
  return format_braces(out, run, given[0].as.string, arguments, value_missing);
}

static Status method_format_map(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  if (given[1].type != VALUE_DICT) return run_fail(run, "format_map() needs a dict");
  return format_braces(out, run, given[0].as.string, &(Arguments){0}, given[1]);
}

static const Function string_methods[] = {
    {"upper", "/self", method_upper},
    {"lower", "/self", method_lower},
    {"casefold", "/self", method_casefold},
    {"capitalize", "/self", method_capitalize},
    {"title", "/self", method_title},
    {"swapcase", "/self", method_swapcase},
    {"isalpha", "/self", method_isalpha},
    {"isalnum", "/self", method_isalnum},
    {"isdecimal", "/self", method_isdecimal},
    {"isdigit", "/self", method_isdigit},
    {"isnumeric", "/self", method_isnumeric},
    {"isspace", "/self", method_isspace},
    {"isprintable", "/self", method_isprintable},
    {"isascii", "/self", method_isascii},
    {"isidentifier", "/self", method_isidentifier},
    {"islower", "/self", method_islower},
    {"isupper", "/self", method_isupper},
    {"istitle", "/self", method_istitle},
    {"strip", "/self chars?", method_strip},
    {"lstrip", "/self chars?", method_lstrip},
    {"rstrip", "/self chars?", method_rstrip},
    {"split", "self sep? maxsplit?", method_split},
    {"rsplit", "self sep? maxsplit?", method_rsplit},
    {"splitlines", "self keepends?", method_splitlines},
    {"partition", "/self sep", method_partition},
    {"rpartition", "/self sep", method_rpartition},
    {"find", "/self sub start? end?", method_find},
    {"rfind", "/self sub start? end?", method_rfind},
    {"index", "/self sub start? end?", method_index},
    {"rindex", "/self sub start? end?", method_rindex},
    {"count", "/self sub start? end?", method_count},
    {"startswith", "/self prefix start? end?", method_startswith},
    {"endswith", "/self suffix start? end?", method_endswith},
    {"removeprefix", "/self prefix", method_removeprefix},
    {"removesuffix", "/self suffix", method_removesuffix},
    {"replace", "/self old new count?", method_replace},
    {"join", "/self iterable", method_join},
    {"center", "/self width fillchar?", method_center},
    {"ljust", "/self width fillchar?", method_ljust},
    {"rjust", "/self width fillchar?", method_rjust},
    {"zfill", "/self width", method_zfill},
    {"expandtabs", "self tabsize?", method_expandtabs},
    {"format", NULL, method_format},
    {"format_map", "/self mapping", method_format_map},
    {NULL},
};

// ---- Dicts, lists, tuples, numbers, cyclers.

static Status method_get(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  uint64_t hash;
  TRY(value_hash(&hash, run, given[1]));
  const DictEntry *entry = dict_find(run, given[0].as.dict, given[1]);
  *out = entry ? entry->value : given[2].type == VALUE_MISSING ? value_none : given[2];
  return STATUS_OK;
}

static Status dict_view(Value *out, Run *run, Value dict, ViewKind kind) {
  View *view = run_allocate(run, sizeof *view);
  *view = (View){dict.as.dict, kind};
  *out = (Value){.type = VALUE_VIEW, .as.view = view};
  return STATUS_OK;
}

static Status method_items(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return dict_view(out, run, given[0], VIEW_ITEMS);
}

static Status method_keys(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return dict_view(out, run, given[0], VIEW_KEYS);
}

static Status method_values(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return dict_view(out, run, given[0], VIEW_VALUES);
}

static Status method_copy(Value *out, Run *run, Value *given, const Arguments *arguments) {  // nothing can change the original
  (void)arguments, (void)run;
  *out = given[0];
  return STATUS_OK;
}

static Status method_list_index(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  const List *list = given[0].as.list;
  int64_t from, to;
  TRY(need_integer(&from, run, given[2], 0));
  TRY(need_integer(&to, run, given[3], list->count));
  if (from < 0) from = from + list->count < 0 ? 0 : from + list->count;
  if (to < 0) to += list->count;
  for (int64_t i = from; i < to && i < list->count; i++) {
    if (!value_same(list->items[i], given[1]) && !value_equal(run, list->items[i], given[1])) continue;
    *out = value_int(i);
    return STATUS_OK;
  }
  return run_fail(run, "the value is not in the %s", value_type_name(given[0]));
}

static Status method_list_count(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  int64_t count = 0;
  for (int64_t i = 0; i < given[0].as.list->count; i++)
    count += value_same(given[0].as.list->items[i], given[1]) || value_equal(run, given[0].as.list->items[i], given[1]);
  *out = value_int(count);
  return STATUS_OK;
}

static Status method_is_integer(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments, (void)run;
  *out = value_bool(isfinite(given[0].as.real) && floor(given[0].as.real) == given[0].as.real);
  return STATUS_OK;
}

static Status method_bit_length(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments, (void)run;
  int64_t integer = value_integer(given[0]), bits = 0;
  for (uint64_t left = integer < 0 ? -(uint64_t)integer : (uint64_t)integer; left; left >>= 1) bits++;
  *out = value_int(bits);
  return STATUS_OK;
}

static Status method_cycler_next(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments, (void)run;
  Cycler *cycler = given[0].as.cycler;
  *out = cycler->items->items[cycler->position];
  cycler->position = (cycler->position + 1) % cycler->items->count;
  return STATUS_OK;
}

static Status method_cycler_reset(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments, (void)run;
  given[0].as.cycler->position = 0;
  *out = value_none;
  return STATUS_OK;
}

static const Function
    dict_methods[] = {{"get", "/self key default?", method_get}, {"items", "/self", method_items}, {"keys", "/self", method_keys},
                      {"values", "/self", method_values},        {"copy", "/self", method_copy},   {NULL}},
    list_methods[] = {{"index", "/self value start? stop?", method_list_index},
                      {"count", "/self value", method_list_count},
                      {"copy", "/self", method_copy},
                      {NULL}},
    tuple_methods[] = {{"index", "/self value start? stop?", method_list_index}, {"count", "/self value", method_list_count}, {NULL}},
    float_methods[] = {{"is_integer", "/self", method_is_integer}, {NULL}},
    integer_methods[] = {{"bit_length", "/self", method_bit_length}, {NULL}},
    cycler_methods[] = {{"next", "/self", method_cycler_next}, {"reset", "/self", method_cycler_reset}, {NULL}};

static const Function *find_in(const Function *functions, const char *name) {
  for (; functions->name; functions++)
    if (strcmp(functions->name, name) == 0) return functions;
  return NULL;
}

const Function *find_method(Value object, const char *name) {
  static const Function fromkeys = {"fromkeys", "/self keys value?", method_dict_fromkeys};
  switch (object.type) {
    case VALUE_STRING: return find_in(string_methods, name);
    case VALUE_DICT: return find_in(dict_methods, name);
    case VALUE_LIST: return find_in(list_methods, name);
    case VALUE_TUPLE: return find_in(tuple_methods, name);
    case VALUE_FLOAT: return find_in(float_methods, name);
    case VALUE_BOOL:
    case VALUE_INT: return find_in(integer_methods, name);
    case VALUE_CYCLER: return find_in(cycler_methods, name);
    case VALUE_LOOP: return strcmp(name, "cycle") == 0 ? &loop_cycle : strcmp(name, "changed") == 0 ? &loop_changed : NULL;
    case VALUE_FUNCTION: return object.as.function == &function_dict && strcmp(name, "fromkeys") == 0 ? &fromkeys : NULL;
    default: return NULL;
  }
}
