// Normalisation of a text before it is cut into words: prepended and replaced strings, the four forms of Unicode (UAX 15) by utf8proc,
// and what a look at each character decides (normalize_characters.c). ASCII is every form of itself.
#include <string.h>

#include <utf8proc.h>

#include "data/tokenizer/parts.h"

static bool is_ascii(const char *text, size_t length) {
  uint8_t any = 0;
  for (size_t i = 0; i < length; i++) any |= (uint8_t)text[i];
  return any < 0x80;
}

static Status append_form(Buffer *out, UnicodeForm form, const char *text, size_t length) {
  static const utf8proc_option_t options[] = {
      [UNICODE_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
      [UNICODE_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
      [UNICODE_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
      [UNICODE_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
  };
  utf8proc_uint8_t *normal = NULL;
  utf8proc_ssize_t size = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &normal, options[form]);
  if (size < 0) return status_fail(STATUS_FAILED, "Unicode normalisation of %zu bytes failed: %s", length, utf8proc_errmsg(size));
  buffer_append(out, normal, (size_t)size);
  free(normal);
  return STATUS_OK;
}

// A line feed neither composes nor is reordered, so lines normalise apart: what utf8proc allocates stays small, and lines of
// ASCII are copied.
static Status normalize_unicode(Buffer *out, UnicodeForm form, const char *text, size_t length) {
  while (length) {
    const char *feed = memchr(text, '\n', length);
    size_t line = feed ? (size_t)(feed - text) + 1 : length;
    if (is_ascii(text, line)) {
      buffer_append(out, text, line);
    } else {
      TRY(append_form(out, form, text, line));
    }
    text += line;
    length -= line;
  }
  return STATUS_OK;
}

void append_replaced(Buffer *out, const char *from, const char *to, const char *text, size_t length) {
  size_t from_length = strlen(from), to_length = strlen(to);
  const char *end = text + length, *search = text;
  while (search < end && (search = memchr(search, from[0], (size_t)(end - search)))) {
    if ((size_t)(end - search) < from_length) break;
    if (memcmp(search, from, from_length) != 0) {
      search++;
      continue;
    }
    buffer_append(out, text, (size_t)(search - text));
    buffer_append(out, to, to_length);
    text = search += from_length;
  }
  buffer_append(out, text, (size_t)(end - text));
}

static Status replace_pattern(Buffer *out, const NormalizeStep *step, Workspace *workspace, const Buffer *in) {
  RegexScan scan = {.code = step->code, .pattern = step->from, .text = in->data, .length = in->length};
  size_t done = 0;
  for (;;) {
    bool found;
    TRY(regex_next(&found, &scan, workspace));
    if (!found) break;
    buffer_append(out, in->data + done, scan.begin - done);
    buffer_append_string(out, step->to);
    done = scan.end;
  }
  buffer_append(out, in->data + done, in->length - done);
  return STATUS_OK;
}

Status tokenizer_normalize(Workspace *workspace, const NormalizeStep *steps, int count, const char *text, size_t length, bool at_start) {
  Buffer *in = &workspace->normal, *out = &workspace->normal_other;
  in->length = 0;
  buffer_append(in, text, length);
  buffer_reserve(out, 1);
  for (int i = 0; i < count; i++) {
    const NormalizeStep *step = &steps[i];
    out->length = 0;
    switch (step->kind) {
      case NORMALIZE_PREPEND:
        if (at_start && in->length) buffer_append_string(out, step->to);
        buffer_append(out, in->data, in->length);
        break;
      case NORMALIZE_REPLACE: append_replaced(out, step->from, step->to, in->data, in->length); break;
      case NORMALIZE_REPLACE_PATTERN: TRY(replace_pattern(out, step, workspace, in)); break;
      case NORMALIZE_UNICODE: TRY(normalize_unicode(out, step->form, in->data, in->length)); break;
      default: normalize_characters(out, step, in->data, in->length);
    }
    if (out->length / GROWTH_MAX > length + REPLACEMENT_MAX) {
      return status_fail(STATUS_BAD_INPUT, "normalisation makes %zu bytes of %zu: the tokenizer's normalizer is not sane", out->length,
                         length);
    }
    Buffer swap = *in;
    *in = *out;
    *out = swap;
  }
  return STATUS_OK;
}
