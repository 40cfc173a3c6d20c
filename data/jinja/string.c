// Strings whose bytes know where they came from, and the builder that puts strings together. Lengths and offsets are bytes; Python's
// characters are counted where a template asks for them.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "core/text.h"
#include "data/jinja/parts.h"

void builder_begin(Builder *builder, Run *run) { *builder = (Builder){.run = run}; }

// The final output grows by realloc in the caller's arrays, everything else in the rendering's memory. False when a bound is reached.
static bool builder_reserve(Builder *builder, size_t extra, bool with_origins) {
  Run *run = builder->run;
  size_t most = builder->sink ? RUN_OUTPUT_MOST : RUN_MEMORY_MOST / 2;
  if (run->exceeded) return false;
  if (extra > most || builder->length + extra > most) {
    run->exceeded = builder->sink ? "its output is larger than 64 MiB" : "it needs more than 256 MiB of memory";
    return false;
  }
  size_t needed = builder->length + extra, capacity = builder->capacity;
  while (capacity < needed) capacity = capacity ? capacity * 2 : 64;
  if (builder->sink && capacity > builder->capacity) {
    builder->sink->origins = builder->origins = memory_grow(builder->sink->origins, capacity, sizeof(uint32_t));
    buffer_reserve(&builder->sink->text, capacity);
    builder->bytes = builder->sink->text.data;
  } else if (!builder->sink) {
    if (capacity > builder->capacity) {
      char *bytes = run_allocate(run, capacity + 1);
      if (builder->length) memcpy(bytes, builder->bytes, builder->length);
      builder->bytes = bytes;
    }
    if ((with_origins && !builder->origins) || (builder->origins && capacity > builder->capacity)) {
      uint32_t *origins = run_allocate(run, capacity * sizeof *origins);
      if (builder->origins) memcpy(origins, builder->origins, builder->length * sizeof *origins);
      builder->origins = origins;
    }
  }
  builder->capacity = capacity;
  return true;
}

void builder_expect(Builder *builder, size_t length, bool with_origins) {
  if (length == 0 || length > RUN_MEMORY_MOST / 2) return;
  builder->bytes = run_allocate(builder->run, length + 1);
  if (with_origins) builder->origins = run_allocate(builder->run, length * sizeof *builder->origins);
  builder->capacity = length;
}

void builder_slice(Builder *builder, const String *string, size_t begin, size_t end) {
  size_t length = end - begin;
  if (length == 0 || !builder_reserve(builder, length, string->origins)) return;
  memcpy(builder->bytes + builder->length, string->bytes + begin, length);
  if (builder->origins) {
    uint32_t *to = builder->origins + builder->length;
    if (string->origins) memcpy(to, string->origins + begin, length * sizeof *to);
    else memset(to, 0, length * sizeof *to);
  }
  builder->length += length;
}

void builder_generated(Builder *builder, const String *string) {
  size_t begin = builder->length;
  if (string->length == 0 || !builder_reserve(builder, string->length, true)) return;
  builder_string(builder, string);
  for (size_t i = begin; i < builder->length; i++) builder->origins[i] |= 1u << ORIGIN_GENERATED_BIT;
}

void builder_string(Builder *builder, const String *string) { builder_slice(builder, string, 0, string->length); }

void builder_bytes(Builder *builder, const char *bytes, size_t length) {
  builder_slice(builder, &(String){.bytes = bytes, .length = length}, 0, length);
}

void builder_words(Builder *builder, const char *text) { builder_bytes(builder, text, strlen(text)); }

void builder_byte_of(Builder *builder, char byte, uint32_t origin) {
  builder_slice(builder, &(String){.bytes = &byte, .length = 1, .origins = origin ? &origin : NULL}, 0, 1);
}

void builder_fill(Builder *builder, const String *fill, int64_t count) {
  for (int64_t i = 0; i < count && !builder->run->exceeded; i++) builder_string(builder, fill);
}

void builder_format(Builder *builder, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length > 0) builder_bytes(builder, text, (size_t)length < sizeof text ? (size_t)length : sizeof text - 1);
}

Value builder_value(Builder *builder, bool safe) {
  String *string = run_allocate(builder->run, sizeof *string);
  *string = (String){.bytes = builder->bytes ? builder->bytes : "",
                     .origins = builder->origins,
                     .length = builder->length,
                     .characters = -1,
                     .safe = safe};
  return value_of_string(string);
}

uint32_t string_origin(const String *string, size_t index) { return string->origins ? string->origins[index] : 0; }

Value string_slice(Run *run, const String *string, size_t begin, size_t end) {
  String *slice = run_allocate(run, sizeof *slice);
  *slice = (String){.bytes = string->bytes + begin,
                    .origins = string->origins ? string->origins + begin : NULL,
                    .length = end - begin,
                    .characters = string->characters >= 0 && (size_t)string->characters == string->length ? (int64_t)(end - begin) : -1,
                    .safe = string->safe};
  return value_of_string(slice);
}

Value string_mark_safe(Run *run, const String *string, bool safe) {
  Value value = string_slice(run, string, 0, string->length);
  value.as.string->safe = safe;
  return value;
}

int64_t string_characters(String *string) {
  if (string->characters >= 0) return string->characters;
  return string->characters = utf8_count(string->bytes, string->length);
}

size_t string_offset(String *string, int64_t character) {
  if ((size_t)string_characters(string) == string->length) return (size_t)character;
  size_t offset = 0;
  for (; offset < string->length; offset++)
    if (((unsigned char)string->bytes[offset] & 0xC0) != 0x80 && character-- == 0) break;
  return offset;
}

int64_t string_index(String *string, size_t offset) {
  if ((size_t)string_characters(string) == string->length) return (int64_t)offset;
  return utf8_count(string->bytes, offset);
}

int32_t string_point(const String *string, size_t offset, size_t *length) {
  utf8proc_int32_t point = (unsigned char)string->bytes[offset];
  *length = 1;
  if (point < 0x80) return point;
  utf8proc_ssize_t size =
      utf8proc_iterate((const utf8proc_uint8_t *)string->bytes + offset, (utf8proc_ssize_t)(string->length - offset), &point);
  if (size <= 0) return 0xFFFD;
  *length = (size_t)size;
  return point;
}

bool string_equal(const String *a, const String *b) {
  return a->length == b->length && (a->length == 0 || memcmp(a->bytes, b->bytes, a->length) == 0);
}

// The order of UTF-8 bytes is that of code points.
int string_compare(const String *a, const String *b) {
  size_t least = a->length < b->length ? a->length : b->length;
  int order = least ? memcmp(a->bytes, b->bytes, least) : 0;
  if (order == 0) order = a->length < b->length ? -1 : a->length > b->length;
  return order < 0 ? -1 : order > 0;
}

bool string_has_at(const String *string, size_t at, const String *part) {
  return at <= string->length && string->length - at >= part->length &&
         (part->length == 0 || memcmp(string->bytes + at, part->bytes, part->length) == 0);
}

// Knuth, Morris and Pratt's search, backwards for the last place: linear whatever the strings are.
static bool find_long(size_t *at, const String *string, const String *needle, size_t begin, size_t end, bool last) {
  size_t length = needle->length, matched = 0, *borders = memory_new(length + 1, sizeof *borders);
  const char *first = last ? needle->bytes + length - 1 : needle->bytes, *text = last ? string->bytes + end - 1 : string->bytes + begin;
  ptrdiff_t step = last ? -1 : 1;
  bool found = false;
  for (size_t i = 1; i < length; i++) {
    size_t border = borders[i];
    while (border > 0 && first[step * (ptrdiff_t)i] != first[step * (ptrdiff_t)border]) border = borders[border];
    borders[i + 1] = border + (first[step * (ptrdiff_t)i] == first[step * (ptrdiff_t)border]);
  }
  for (size_t i = 0; i < end - begin && !found; i++) {
    char byte = text[step * (ptrdiff_t)i];
    while (matched > 0 && byte != first[step * (ptrdiff_t)matched]) matched = borders[matched];
    matched += byte == first[step * (ptrdiff_t)matched];
    found = matched == length;
    if (found) *at = last ? end - 1 - i : begin + i + 1 - length;
  }
  free(borders);
  return found;
}

enum { NEEDLE_SHORT = 32 };  // compared in place

bool string_find(size_t *at, const String *string, const String *needle, size_t begin, size_t end) {
  if (end < begin || end - begin < needle->length) return false;
  *at = begin;
  if (needle->length == 0) return true;
  if (needle->length > NEEDLE_SHORT) return find_long(at, string, needle, begin, end, false);
  for (size_t last = end - needle->length; *at <= last; ++*at) {
    const char *found = memchr(string->bytes + *at, needle->bytes[0], last - *at + 1);
    if (!found) return false;
    *at = (size_t)(found - string->bytes);
    if (memcmp(found, needle->bytes, needle->length) == 0) return true;
  }
  return false;
}

bool string_find_last(size_t *at, const String *string, const String *needle, size_t begin, size_t end) {
  if (end < begin || end - begin < needle->length) return false;
  if (needle->length > NEEDLE_SHORT) return find_long(at, string, needle, begin, end, true);
  for (*at = end - needle->length;; --*at) {
    if (needle->length == 0 || memcmp(string->bytes + *at, needle->bytes, needle->length) == 0) return true;
    if (*at == begin) return false;
  }
}

static bool is_stripped(const String *string, size_t offset, size_t length, const String *characters) {
  if (!characters) return text_space_length(string->bytes + offset, length) == length;
  size_t at;
  return string_find(&at, characters, &(String){.bytes = string->bytes + offset, .length = length}, 0, characters->length);
}

static size_t previous_character(const String *string, size_t offset) {
  do offset--;
  while (offset > 0 && ((unsigned char)string->bytes[offset] & 0xC0) == 0x80);
  return offset;
}

Value string_strip(Run *run, const String *string, const String *characters, bool left, bool right) {
  size_t begin = 0, end = string->length, length;
  while (left && begin < end) {
    string_point(string, begin, &length);
    if (!is_stripped(string, begin, length, characters)) break;
    begin += length;
  }
  while (right && end > begin) {
    size_t before = previous_character(string, end);
    if (!is_stripped(string, before, end - before, characters)) break;
    end = before;
  }
  return string_slice(run, string, begin, end);
}

Value string_escape(Run *run, const String *string) {
  if (string->safe) return value_of_string(string);
  Builder builder;
  builder_begin(&builder, run);
  for (size_t i = 0; i < string->length; i++) {
    char c = string->bytes[i];
    const char *escape = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&#34;" : c == '\'' ? "&#39;" : NULL;
    if (!escape) builder_byte_of(&builder, c, string_origin(string, i));
    for (; escape && *escape; escape++) builder_byte_of(&builder, *escape, string_origin(string, i));
  }
  return builder_value(&builder, true);
}

// Between all characters when `old` is empty, as in Python. most < 0: all.
Value string_replace(Run *run, const String *string, const String *old, const String *new, int64_t most) {
  Builder builder;
  builder_begin(&builder, run);
  size_t at = 0, found = 0;
  if (old->length == 0) {
    for (int64_t done = 0; !run->exceeded; done++) {
      if (most < 0 || done < most) builder_string(&builder, new);
      else break;
      if (at >= string->length) break;
      size_t length;
      string_point(string, at, &length);
      builder_slice(&builder, string, at, at + length);
      at += length;
    }
  } else {
    for (int64_t done = 0; (most < 0 || done < most) && string_find(&found, string, old, at, string->length); done++) {
      builder_slice(&builder, string, at, found);
      builder_string(&builder, new);
      at = found + old->length;
    }
  }
  builder_slice(&builder, string, at, string->length);
  run_charge(run, string->length / 64);
  return builder_value(&builder, string->safe);
}

List *string_lines(Run *run, const String *string, bool keep_ends) {
  List *lines = list_new(run, 4);
  for (size_t begin = 0, length; begin < string->length;) {
    size_t end = begin;
    while (end < string->length && !point_is_line_end(string_point(string, end, &length))) end += length;
    size_t next = end;
    if (next < string->length) {
      string_point(string, next, &length);
      next += length;
      if (string->bytes[end] == '\r' && next < string->length && string->bytes[next] == '\n') next++;
    }
    list_push(run, lines, string_slice(run, string, begin, keep_ends ? next : end));
    begin = next;
  }
  return lines;
}

List *string_list(Run *run, String *string) {
  List *list = list_new(run, string_characters(string));
  for (size_t at = 0, length; at < string->length; at += length) {
    string_point(string, at, &length);
    Value character = string_slice(run, string, at, at + length);
    character.as.string->safe = false;
    list_push(run, list, character);
  }
  return list;
}
