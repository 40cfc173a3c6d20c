// Calls in Python's words: NAME(KEY=VALUE, ..), whose values are literals. What else Python can say is no call.
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "runtime/tool_call_text.h"

enum { MAX_DEPTH = 50 };

typedef struct Python {
  const char *at, *end;
  Buffer json;
  int depth;
} Python;

static void skip_space(Python *python) {
  while (python->at < python->end && tool_call_is_space(*python->at)) python->at++;
}

// Takes a character, behind white space, if it is there.
static bool take(Python *python, char c) {
  skip_space(python);
  if (python->at == python->end || *python->at != c) return false;
  python->at++;
  return true;
}

static bool is_name_character(char c) { return isalnum((unsigned char)c) || c == '_'; }

// A name, with dots; its length, 0 without one.
static size_t take_name(const char **name, Python *python) {
  skip_space(python);
  *name = python->at;
  if (python->at < python->end && isdigit((unsigned char)*python->at)) return 0;
  while (python->at < python->end && (is_name_character(*python->at) || *python->at == '.')) python->at++;
  return (size_t)(python->at - *name);
}

static bool append_json_string(Buffer *out, const char *text, size_t length) {
  json_t *string = json_stringn(text, length);
  char *words = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
  if (words) buffer_append_string(out, words);
  free(words);
  json_decref(string);
  return words != NULL;
}

static bool read_string(Python *python) {
  char quote = *python->at++;
  Buffer text = {0};
  buffer_append(&text, "", 0);
  while (python->at < python->end && *python->at != quote && *python->at != '\n') {
    static const char letters[] = "n\nt\tr\r\\\\'\'\"\"";
    char c = *python->at++;
    if (c == '\\' && python->at < python->end) {
      const char *letter = letters;
      while (*letter && *letter != *python->at) letter += 2;
      if (*letter) c = letter[1], python->at++;
    }
    buffer_append(&text, &c, 1);
  }
  bool is_closed = python->at < python->end && *python->at == quote;
  python->at += is_closed;
  is_closed = is_closed && append_json_string(&python->json, text.data, text.length);
  buffer_release(&text);
  return is_closed;
}

static bool read_value(Python *python);

static bool read_items(Python *python, char close, bool has_keys) {
  buffer_append_string(&python->json, has_keys ? "{" : "[");
  for (int i = 0; !take(python, close); i++) {
    if (i && !take(python, ',')) return false;
    if (i && take(python, close)) break;
    if (i) buffer_append_string(&python->json, ", ");
    skip_space(python);
    if (has_keys && (python->at == python->end || (*python->at != '"' && *python->at != '\''))) return false;
    if (!read_value(python)) return false;
    if (!has_keys) continue;
    if (!take(python, ':')) return false;
    buffer_append_string(&python->json, ": ");
    if (!read_value(python)) return false;
  }
  buffer_append_string(&python->json, has_keys ? "}" : "]");
  return true;
}

// True, False, None, or a number as JSON has it.
static bool read_word(Python *python) {
  static const char *const words[][2] = {{"True", "true"}, {"False", "false"}, {"None", "null"},
                                         {"true", "true"}, {"false", "false"}, {"null", "null"}};
  const char *begin = python->at;
  while (python->at < python->end && (is_name_character(*python->at) || strchr("+-.", *python->at))) python->at++;
  size_t length = (size_t)(python->at - begin);
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    if (strlen(words[i][0]) != length || memcmp(words[i][0], begin, length) != 0) continue;
    buffer_append_string(&python->json, words[i][1]);
    return true;
  }
  json_t *number = json_loadb(begin, length, JSON_DECODE_ANY, NULL);
  bool is_number = json_is_number(number);
  if (is_number) buffer_append(&python->json, begin, length);
  json_decref(number);
  return is_number;
}

static bool read_value(Python *python) {
  skip_space(python);
  if (python->at == python->end || ++python->depth > MAX_DEPTH) return false;
  bool is_value;
  switch (*python->at) {
    case '"':
    case '\'': is_value = read_string(python); break;
    case '[': python->at++, is_value = read_items(python, ']', false); break;
    case '{': python->at++, is_value = read_items(python, '}', true); break;
    default: is_value = read_word(python);
  }
  python->depth--;
  return is_value;
}

static bool read_arguments(Python *python) {
  const char *name;
  buffer_append_string(&python->json, "{");
  for (int i = 0; !take(python, ')'); i++) {
    if (i && !take(python, ',')) return false;
    if (i && take(python, ')')) break;
    size_t length = take_name(&name, python);
    if (!length || memchr(name, '.', length) || !take(python, '=')) return false;
    if (i) buffer_append_string(&python->json, ", ");
    if (!append_json_string(&python->json, name, length)) return false;
    buffer_append_string(&python->json, ": ");
    if (!read_value(python)) return false;
  }
  buffer_append_string(&python->json, "}");
  return true;
}

static bool read_call(ToolCalls *out, Python *python) {
  const char *name;
  size_t length = take_name(&name, python);
  static const char print[] = "print", call[] = ".call";
  bool is_printed = length == strlen(print) && memcmp(name, print, length) == 0 && take(python, '(');
  if (is_printed) length = take_name(&name, python);
  if (!length || !take(python, '(') || !read_arguments(python) || (is_printed && !take(python, ')'))) return false;
  if (length > strlen(call) && memcmp(name + length - strlen(call), call, strlen(call)) == 0) length -= strlen(call);
  return tool_call_read_named(out, name, length, python->json.data, python->json.length);
}

bool tool_call_read_python(ToolCalls *out, const char *text, size_t length) {
  Python python = {.at = text, .end = text + length};
  int before = out->count;
  bool is_call = true;
  do {
    python.json.length = 0;
    is_call = read_call(out, &python);
    skip_space(&python);
  } while (is_call && python.at < python.end);
  buffer_release(&python.json);
  if (!is_call) tool_calls_cut(out, before);
  return is_call;
}
