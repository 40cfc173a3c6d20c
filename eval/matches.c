#define PCRE2_CODE_UNIT_WIDTH 8
#include "eval/matches.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/text.h"

Text text_of(const char *string) { return (Text){string, strlen(string)}; }
Text text_part(Text text, size_t begin, size_t end) { return (Text){text.data + begin, end - begin}; }

Text text_stripped(Text text) {
  text_strip(&text.data, &text.length);
  return text;
}

Text text_stripped_of(Text text, const char *characters, bool left, bool right) {
  for (; left && text.length && *text.data && strchr(characters, *text.data); text.data++) text.length--;
  while (right && text.length && text.data[text.length - 1] && strchr(characters, text.data[text.length - 1])) text.length--;
  return text;
}

bool text_is_blank(Text text) { return text_stripped(text).length == 0; }

bool text_begins(Text text, Text start) { return start.length <= text.length && memcmp(text.data, start.data, start.length) == 0; }

bool text_ends(Text text, Text end) {
  return end.length <= text.length && memcmp(text.data + text.length - end.length, end.data, end.length) == 0;
}

bool text_equal(Text a, Text b) { return a.length == b.length && text_begins(a, b); }

bool text_has(Text text, const char *part) {
  for (Text rest = text, sought = text_of(part); rest.length >= sought.length; rest = text_part(rest, 1, rest.length)) {
    if (text_begins(rest, sought)) return true;
    if (!rest.length) break;
  }
  return false;
}

void text_lower(Buffer *out, Text text) {
  buffer_append(out, "", 0);
  for (size_t i = 0; i < text.length;) {
    utf8proc_int32_t point;
    utf8proc_ssize_t step = utf8proc_iterate((const utf8proc_uint8_t *)text.data + i, (utf8proc_ssize_t)(text.length - i), &point);
    utf8proc_uint8_t bytes[4];
    if (step <= 0) {  // no UTF-8: as it is
      buffer_append(out, text.data + i++, 1);
      continue;
    }
    if (point == 0x130) buffer_append_string(out, "i\xCC\x87");  // I with a dot becomes two characters
    else buffer_append(out, bytes, (size_t)utf8proc_encode_char(utf8proc_tolower(point), bytes));
    i += (size_t)step;
  }
}

// ---- Expressions ----

enum { MATCH_STEPS = 10000000 };

static Status compile(pcre2_code **code, const char *expression, int flags) {
  int error;
  PCRE2_SIZE offset;
  uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
  if (flags & MATCH_MULTILINE) options |= PCRE2_MULTILINE;
  if (flags & MATCH_IGNORE_CASE) options |= PCRE2_CASELESS;
  pcre2_compile_context *context = pcre2_compile_context_create(NULL);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  *code = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, options, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (*code) return STATUS_OK;
  char message[256] = "";
  pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
  return status_fail(STATUS_BAD_INPUT, "the regular expression `%s`: %s", expression, message);
}

static void keep_match(MatchList *out, pcre2_match_data *data, int count, Text text) {
  const PCRE2_SIZE *ranges = pcre2_get_ovector_pointer(data);
  Match match = {.begin = ranges[0], .end = ranges[1]};
  for (int i = 0; i < MATCH_GROUPS && i < count; i++)
    if (ranges[2 * i] != PCRE2_UNSET) match.groups[i] = text_part(text, ranges[2 * i], ranges[2 * i + 1]);
  ARRAY_PUSH(out->items, out->count, out->capacity) = match;
}

// All matches; *error: PCRE2's, once there are no more.
static void match_all(MatchList *out, int *error, const pcre2_code *code, pcre2_match_context *context, Text text) {
  pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
  for (size_t from = 0; from <= text.length;) {
    int count = pcre2_match(code, (PCRE2_SPTR)text.data, text.length, from, 0, data, context);
    *error = count;
    if (count < 0) break;
    keep_match(out, data, count, text);
    const Match *match = &out->items[out->count - 1];
    from = match->end;
    if (match->begin < match->end) continue;
    if (from == text.length) break;
    from += (size_t)utf8_length((const unsigned char *)text.data + from, text.length - from);
  }
  pcre2_match_data_free(data);
}

Status matches_find(MatchList *out, const char *expression, int flags, Text text) {
  pcre2_code *code;
  TRY(compile(&code, expression, flags));
  pcre2_match_context *context = pcre2_match_context_create(NULL);
  pcre2_set_match_limit(context, MATCH_STEPS);
  int error = 0;
  match_all(out, &error, code, context, text);
  pcre2_match_context_free(context);
  pcre2_code_free(code);
  if (error >= 0 || error == PCRE2_ERROR_NOMATCH) return STATUS_OK;
  char message[256] = "";
  pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
  return status_fail(STATUS_FAILED, "the regular expression `%s` on a text of %zu bytes: %s", expression, text.length, message);
}

Status matches_count(int64_t *out, const char *expression, int flags, Text text) {
  MatchList list = {0};
  Status status = matches_find(&list, expression, flags, text);
  *out = list.count;
  match_list_release(&list);
  return status;
}

void match_list_release(MatchList *list) {
  free(list->items);
  *list = (MatchList){0};
}

Text match_part(const MatchList *matches, Text text, int64_t index) {
  size_t begin = index > 0 ? matches->items[index - 1].end : 0;
  return text_part(text, begin, index < matches->count ? matches->items[index].begin : text.length);
}
