// Gemma 4's notation of JSON: keys without quotes, texts between <|"|>, which the tokenizer has as one token, so that nothing in them is
// escaped.
#include <stdlib.h>
#include <string.h>

#include "runtime/tool_call_text.h"

enum { MAX_DEPTH = 50 };

static const char quote[] = "<|\"|>";

typedef struct Notation {
  const char *at, *end;
  int depth;
} Notation;

static bool take(Notation *notation, const char *word) {
  while (notation->at < notation->end && tool_call_is_space(*notation->at)) notation->at++;
  size_t length = strlen(word);
  if ((size_t)(notation->end - notation->at) < length || memcmp(notation->at, word, length) != 0) return false;
  notation->at += length;
  return true;
}

// What stands before one of the characters, without white space at its ends; NULL at the end of the text.
static const char *take_until(size_t *length, Notation *notation, const char *characters) {
  const char *begin = notation->at;
  while (notation->at < notation->end && !strchr(characters, *notation->at)) notation->at++;
  if (notation->at == notation->end) return NULL;
  *length = (size_t)(notation->at - begin);
  tool_call_strip(&begin, length);
  return begin;
}

static json_t *read_text(Notation *notation) {
  const char *begin = notation->at;
  for (; (size_t)(notation->end - notation->at) >= strlen(quote); notation->at++) {
    if (memcmp(notation->at, quote, strlen(quote)) != 0) continue;
    json_t *text = json_stringn(begin, (size_t)(notation->at - begin));
    notation->at += strlen(quote);
    return text;
  }
  return NULL;
}

static json_t *read_value(Notation *notation);

static bool add_member(json_t *object, Notation *notation) {
  size_t length;
  json_t *quoted = take(notation, quote) ? read_text(notation) : NULL;
  const char *key = quoted ? json_string_value(quoted) : take_until(&length, notation, ":,{}[]");
  if (quoted) length = json_string_length(quoted);
  bool is_member = key && length && take(notation, ":");
  json_t *value = is_member ? read_value(notation) : NULL;
  is_member = value && json_object_setn_new(object, key, length, value) == 0;
  json_decref(quoted);
  return is_member;
}

// Members or items up to the closing bracket.
static json_t *read_container(Notation *notation, bool is_object) {
  json_t *container = is_object ? json_object() : json_array();
  const char *close = is_object ? "}" : "]";
  bool is_whole = true;
  for (int i = 0; is_whole && !take(notation, close); i++) {
    is_whole = !i || take(notation, ",");
    if (!is_whole) break;
    if (is_object) is_whole = add_member(container, notation);
    else is_whole = json_array_append_new(container, read_value(notation)) == 0;
  }
  if (is_whole) return container;
  json_decref(container);
  return NULL;
}

// A number, true, false or null.
static json_t *read_word(Notation *notation) {
  size_t length;
  const char *word = take_until(&length, notation, ",}]");
  json_t *value = word ? json_loadb(word, length, JSON_DECODE_ANY, NULL) : NULL;
  if (word && !value && length == 4 && memcmp(word, "None", length) == 0) value = json_null();  // as templates print null
  if (!value || json_is_number(value) || json_is_boolean(value) || json_is_null(value)) return value;
  json_decref(value);
  return NULL;
}

static json_t *read_value(Notation *notation) {
  if (++notation->depth > MAX_DEPTH) return NULL;
  json_t *value = take(notation, quote) ? read_text(notation)
                  : take(notation, "{") ? read_container(notation, true)
                  : take(notation, "[") ? read_container(notation, false)
                                        : read_word(notation);
  notation->depth--;
  return value;
}

bool tool_call_read_gemma4(ToolCalls *out, const char *text, size_t length) {
  Notation notation = {.at = text, .end = text + length};
  size_t name_length = 0;
  const char *name = take(&notation, "call:") ? take_until(&name_length, &notation, "{") : NULL;
  json_t *arguments = name && take(&notation, "{") ? read_container(&notation, true) : NULL;
  bool is_whole = arguments && (take(&notation, ""), notation.at == notation.end);
  char *words = is_whole ? json_dumps(arguments, JSON_COMPACT) : NULL;
  bool is_call = words && tool_call_read_named(out, name, name_length, words, strlen(words));
  free(words);
  json_decref(arguments);
  return is_call;
}
