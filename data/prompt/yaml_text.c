// JSON values as YAML 1.1 (yaml.org/spec/1.1) in block style, in the choices that PyYAML makes: which texts are plain, in single or in
// double quotes, and where their lines are folded.
#include "data/prompt/yaml_text.h"

#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"

enum { WIDTH = 80, STEP = 2, KEY_LIMIT = 123 };

typedef struct Writer {
  Buffer *out;
  size_t column;  // in characters; what is written is ASCII
  size_t indent;  // where a folded line goes on
  bool split;  // lines may be folded
} Writer;

static void write_bytes(Writer *writer, const char *bytes, size_t length) {
  buffer_append(writer->out, bytes, length);
  writer->column += length;
}

static void write_text(Writer *writer, const char *text) { write_bytes(writer, text, strlen(text)); }

static void write_break(Writer *writer) {
  buffer_append(writer->out, "\n", 1);
  writer->column = 0;
}

static void write_indent(Writer *writer, size_t indent) {
  if (writer->column > 0) write_break(writer);
  while (writer->column < indent) write_bytes(writer, " ", 1);
}

// ---- How a text is written

// A plain text that a reader would take for something else: a boolean, a number, null, a date.
static bool means_other(const char *text) {
  static const char *const words[] = {"yes", "Yes", "YES", "no",  "No",  "NO", "true", "True", "TRUE", "false", "False", "FALSE", "on",
                                      "On",  "ON",  "off", "Off", "OFF", "~",  "null", "Null", "NULL", "",      "<<",    "="};
  static const char number[] =
      "^([-+]?[0-9][0-9_]*\\.[0-9_]*([eE][-+][0-9]+)?|\\.[0-9][0-9_]*([eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+\\.[0-9_]*|"
      "[-+]?\\.(inf|Inf|INF)|\\.(nan|NaN|NAN)|[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|"
      "[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+|[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?([Tt]|[ \t]+)[0-9][0-9]?:[0-9]{2}:"
      "[0-9]{2}(\\.[0-9]*)?([ \t]*(Z|[-+][0-9][0-9]?(:[0-9]{2})?))?)$";
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strcmp(text, words[i]) == 0) return true;
  if (!strchr("-+0123456789.", *text)) return false;
  regex_t pattern;
  if (regcomp(&pattern, number, REG_EXTENDED | REG_NOSUB) != 0) return true;
  bool found = regexec(&pattern, text, 0, NULL, 0) == 0;
  regfree(&pattern);
  return found;
}

// White space as it is told apart within ASCII text; the end of the text counts as such.
static bool is_gap(const char *text, size_t length, size_t at) { return at >= length || text[at] == ' ' || text[at] == '\n'; }

static bool has_indicator(const char *text, size_t length) {
  static const char leading[] = "#,[]{}&*!|>'\"%@`";
  if (strncmp(text, "---", 3) == 0 || strncmp(text, "...", 3) == 0 || strchr(leading, *text)) return true;
  if (strchr("?:-", *text) && is_gap(text, length, 1)) return true;
  for (size_t i = 1; i < length; i++)
    if ((text[i] == ':' && is_gap(text, length, i + 1)) || (text[i] == '#' && is_gap(text, length, i - 1))) return true;
  return false;
}

typedef enum TextStyle { TEXT_PLAIN, TEXT_SINGLE, TEXT_DOUBLE } TextStyle;

static TextStyle find_style(const char *text, size_t length) {
  bool lines = false, mixed = false;
  for (size_t i = 0; i < length; i++) {
    if (text[i] != '\n' && (text[i] < ' ' || text[i] > '~')) return TEXT_DOUBLE;
    lines = lines || text[i] == '\n';
    mixed = mixed || (i && is_gap(text, length, i) && is_gap(text, length, i - 1) && text[i] != text[i - 1]);
  }
  if (mixed) return TEXT_DOUBLE;  // spaces beside the ends of lines would be lost
  if (!length || lines || text[0] == ' ' || text[length - 1] == ' ' || has_indicator(text, length) || means_other(text)) return TEXT_SINGLE;
  return TEXT_PLAIN;
}

// How many equal characters stand at `at`.
static size_t run_length(const char *text, size_t length, size_t at) {
  size_t end = at + 1;
  while (end < length && text[end] == text[at]) end++;
  return end - at;
}

// Plain and single-quoted texts: a single space may become the end of a line; each line end becomes two, as one would read as a space.
static void write_flowing(Writer *writer, const char *text, size_t length) {
  for (size_t at = 0; at < length;) {
    size_t run = run_length(text, length, at);
    if (text[at] == ' ') {
      bool inside = at > 0 && at + run < length;
      if (run == 1 && writer->column > WIDTH && writer->split && inside) write_indent(writer, writer->indent);
      else write_bytes(writer, text + at, run);
    } else if (text[at] == '\n') {
      for (size_t i = 0; i <= run; i++) write_break(writer);
      write_indent(writer, writer->indent);
    } else {
      run = 1;
      write_text(writer, text[at] == '\'' ? "''" : (char[2]){text[at], 0});
    }
    at += run;
  }
}

static void write_plain(Writer *writer, const char *text, size_t length) {
  for (size_t at = 0; at < length;) {
    size_t run = text[at] == ' ' ? run_length(text, length, at) : 1;
    if (text[at] == ' ' && run == 1 && writer->column > WIDTH && writer->split) write_indent(writer, writer->indent);
    else write_bytes(writer, text + at, run);
    at += run;
  }
}

static void write_escape(Writer *writer, int32_t point) {
  static const char points[] = "\a\b\t\n\v\f\r\x1B\"\\", names[] = "abtnvfre\"\\";
  const char *known = point > 0 && point < 0x80 ? strchr(points, point) : NULL;
  char text[16];
  if (known) snprintf(text, sizeof text, "\\%c", names[known - points]);
  else if (point == 0) strcpy(text, "\\0");
  else if (point == 0x85) strcpy(text, "\\N");
  else if (point == 0xA0) strcpy(text, "\\_");
  else if (point == 0x2028) strcpy(text, "\\L");
  else if (point == 0x2029) strcpy(text, "\\P");
  else snprintf(text, sizeof text, point <= 0xFF ? "\\x%02X" : point <= 0xFFFF ? "\\u%04X" : "\\U%08X", (unsigned)point);
  write_text(writer, text);
}

static bool is_written_as_is(int32_t point) { return point >= ' ' && point <= '~' && point != '"' && point != '\\'; }

// Code points of valid UTF-8, with one 0 behind them.
static int32_t *read_points(size_t *count, const char *text, size_t length) {
  int32_t *points = memory_new(length + 1, sizeof *points);
  *count = 0;
  for (size_t at = 0; at < length;) {
    const unsigned char *p = (const unsigned char *)text + at;
    int size = utf8_length(p, length - at);
    int32_t point = size <= 1 ? p[0] : p[0] & (0x7F >> size);
    for (int i = 1; i < size; i++) point = point << 6 | (p[i] & 0x3F);
    points[(*count)++] = point;
    at += size > 0 ? (size_t)size : 1;
  }
  return points;
}

// Lines end in a backslash; it comes before a space, or behind an escape, once the width is passed. `start`: the first character that
// is not yet written.
static void write_double(Writer *writer, const char *text, size_t length) {
  size_t count, start = 0;
  int32_t *points = read_points(&count, text, length);
  for (size_t end = 0; end <= count; end++) {
    bool as_is = end < count && is_written_as_is(points[end]);
    for (; !as_is && start < end; start++) write_text(writer, (char[2]){(char)points[start], 0});
    if (!as_is && end < count) {
      write_escape(writer, points[end]);
      start = end + 1;
    }
    bool inside = end > 0 && end + 1 < count, may_end = end < count && (points[end] == ' ' || start >= end);
    size_t waiting = start < end ? end - start : 0;
    // An escape that was just written counts for one column less, as in the reference: end - start is -1 there.
    size_t reached = writer->column + waiting - (start > end ? 1 : 0);
    if (!inside || !may_end || reached <= WIDTH || !writer->split) continue;
    for (; start < end; start++) write_text(writer, (char[2]){(char)points[start], 0});
    write_text(writer, "\\");
    write_indent(writer, writer->indent);
    if (points[start] == ' ') write_text(writer, "\\");
  }
  free(points);
}

static void write_string(Writer *writer, const char *text, size_t length) {
  TextStyle style = find_style(text, length);
  if (style == TEXT_PLAIN) {
    write_plain(writer, text, length);
    return;
  }
  const char *quote = style == TEXT_SINGLE ? "'" : "\"";
  write_text(writer, quote);
  if (style == TEXT_SINGLE) write_flowing(writer, text, length);
  else write_double(writer, text, length);
  write_text(writer, quote);
}

static void write_real(Writer *writer, double real) {
  char text[40];
  text_from_float(text, real);
  char *exponent = strchr(text, 'e');
  if (!exponent || strchr(text, '.')) {
    write_text(writer, text);
    return;
  }
  write_bytes(writer, text, (size_t)(exponent - text));  // 1e+20 is no number of YAML without its point
  write_text(writer, ".0");
  write_text(writer, exponent);
}

// ---- Values

static int compare_names(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static Status write_value(Writer *writer, const json_t *value, size_t indent, bool in_mapping);

static Status write_key(Writer *writer, const char *key) {
  size_t count;
  free(read_points(&count, key, strlen(key)));
  if (!*key || strchr(key, '\n') || count >= KEY_LIMIT)
    return status_fail(STATUS_BAD_INPUT, "a key is empty, has %d characters or more, or more than one line", KEY_LIMIT);
  writer->split = false;
  write_string(writer, key, strlen(key));
  write_text(writer, ":");
  return STATUS_OK;
}

// The writer stands where the first key begins.
static Status write_mapping(Writer *writer, const json_t *object, size_t indent) {
  size_t count = 0;
  const char **names = memory_new(json_object_size(object) + 1, sizeof *names), *name;
  json_t *item;
  Status status = STATUS_OK;
  json_object_foreach((json_t *)(uintptr_t)object, name, item) names[count++] = name;
  qsort(names, count, sizeof *names, compare_names);
  for (size_t i = 0; i < count && status == STATUS_OK; i++) {
    if (i) write_indent(writer, indent);
    status = write_key(writer, names[i]);
    if (status == STATUS_OK) status = write_value(writer, json_object_get(object, names[i]), indent, true);
  }
  free(names);
  return status;
}

static Status write_list(Writer *writer, const json_t *list, size_t indent) {
  for (size_t i = 0; i < json_array_size(list); i++) {
    if (i) write_indent(writer, indent);
    write_text(writer, "-");
    TRY(write_value(writer, json_array_get(list, i), indent, false));
  }
  return STATUS_OK;
}

// A collection within a mapping begins a line of its own, and a list there is not indented; within a list it goes on behind "- ".
static Status write_value(Writer *writer, const json_t *value, size_t indent, bool in_mapping) {
  bool whole = (json_is_object(value) && json_object_size(value)) || (json_is_array(value) && json_array_size(value));
  if (whole) {
    size_t inner = in_mapping && json_is_array(value) ? indent : indent + STEP;
    if (!in_mapping) write_text(writer, " ");
    else write_indent(writer, inner);
    return json_is_object(value) ? write_mapping(writer, value, inner) : write_list(writer, value, inner);
  }
  write_text(writer, " ");
  writer->split = true;
  writer->indent = indent + STEP;
  char number[32];
  snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
  if (json_is_string(value)) write_string(writer, json_string_value(value), json_string_length(value));
  else if (json_is_real(value)) write_real(writer, json_real_value(value));
  else
    write_text(writer, json_is_object(value)    ? "{}"
                       : json_is_array(value)   ? "[]"
                       : json_is_integer(value) ? number
                       : json_is_true(value)    ? "true"
                       : json_is_false(value)   ? "false"
                                                : "null");
  return STATUS_OK;
}

Status yaml_text(Buffer *out, const json_t *object) {
  Writer writer = {.out = out};
  if (!json_object_size(object)) write_text(&writer, "{}");
  TRY(write_mapping(&writer, object, 0));
  write_break(&writer);
  return STATUS_OK;
}
