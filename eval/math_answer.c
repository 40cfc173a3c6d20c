#include "eval/math_answer.h"

#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "eval/generation.h"

// ---- Normalisation, in the order of the original ----

static Text whole(const Buffer *buffer) { return (Text){buffer->data ? buffer->data : "", buffer->length}; }

static void set_text(Buffer *text, const Buffer *changed) {
  text->length = 0;
  buffer_append(text, changed->data ? changed->data : "", changed->length);
}

static void replace_all(Buffer *text, const char *old, const char *new) {
  Buffer out = {0};
  Text sought = text_of(old);
  for (size_t i = 0; i < text->length;) {
    bool found = text_begins(text_part(whole(text), i, text->length), sought);
    if (found) buffer_append_string(&out, new);
    else buffer_append(&out, text->data + i, 1);
    i += found ? sought.length : 1;
  }
  set_text(text, &out);
  buffer_release(&out);
}

// How often `part` stands in the text, and where first.
static int64_t count_part(size_t *first, Text text, const char *part) {
  int64_t count = 0;
  Text sought = text_of(part);
  for (size_t i = 0; i + sought.length <= text.length;) {
    bool found = text_begins(text_part(text, i, text.length), sought);
    if (found && count++ == 0) *first = i;
    i += found ? sought.length : 1;
  }
  return count;
}

// A unit behind the number is written as \text{ ...}. False where there are two of them: the original gives up there.
static bool remove_units(Buffer *text) {
  size_t at = 0;
  int64_t count = count_part(&at, whole(text), "\\text{ ");
  if (count == 1) text->length = at, text->data[at] = 0;
  return count <= 1;
}

// "k = 3" is 3, where what stands before "=" is short.
static void remove_name(Buffer *text) {
  size_t at = 0;
  if (count_part(&at, whole(text), "=") != 1 || at > 2) return;
  memmove(text->data, text->data + at + 1, text->length - at);
  text->length -= at + 1;
}

static size_t character_length(Text text) {
  int length = utf8_length((const unsigned char *)text.data, text.length);
  return length > 0 ? (size_t)length : 1;
}

// \sqrt3 is \sqrt{3}. False where nothing stands behind: the original gives up there.
static bool fix_roots(Buffer *text) {
  static const char name[] = "\\sqrt";
  Buffer out = {0};
  bool is_whole = true;
  for (size_t i = 0; i < text->length && is_whole;) {
    Text rest = text_part(whole(text), i, text->length);
    if (!text_begins(rest, text_of(name))) {
      buffer_append(&out, text->data + i++, 1);
      continue;
    }
    buffer_append_string(&out, name);
    i += strlen(name);
    rest = text_part(whole(text), i, text->length);
    is_whole = rest.length > 0 && !text_begins(rest, text_of(name));
    if (!is_whole || *rest.data == '{') continue;
    buffer_format(&out, "{%.*s}", (int)character_length(rest), rest.data);
    i += character_length(rest);
  }
  if (is_whole) set_text(text, &out);
  buffer_release(&out);
  return is_whole;
}

typedef enum FractionResult { FRACTION_WRITTEN, FRACTION_SHORT, FRACTION_EMPTY } FractionResult;

// What stands behind one \frac, up to the next: \frac12 is \frac{1}{2}, \frac1{72} is \frac{1}{72}.
static FractionResult write_fraction(Buffer *out, Text part) {
  buffer_append_string(out, "\\frac");
  if (part.length == 0) return FRACTION_EMPTY;
  if (*part.data == '{') {
    buffer_append(out, part.data, part.length);
    return FRACTION_WRITTEN;
  }
  size_t above = character_length(part);
  if (above >= part.length) return FRACTION_SHORT;
  Text rest = text_part(part, above, part.length);
  buffer_format(out, "{%.*s}", (int)above, part.data);
  size_t below = *rest.data == '{' ? 0 : character_length(rest);
  if (below) buffer_format(out, "{%.*s}", (int)below, rest.data);
  buffer_append(out, rest.data + below, rest.length - below);
  return FRACTION_WRITTEN;
}

static size_t next_fraction(Text text, size_t from) {
  size_t at = 0;
  return count_part(&at, text_part(text, from, text.length), "\\frac") ? from + at : text.length;
}

// False where nothing stands behind a \frac: the original gives up there. Where one character does, all fractions stay.
static bool fix_fractions(Buffer *text) {
  Buffer out = {0};
  Text all = whole(text);
  FractionResult result = FRACTION_WRITTEN;
  size_t at = next_fraction(all, 0);
  buffer_append(&out, all.data, at);
  while (at < all.length && result == FRACTION_WRITTEN) {
    size_t begin = at + strlen("\\frac");
    at = next_fraction(all, begin);
    result = write_fraction(&out, text_part(all, begin, at));
  }
  if (result == FRACTION_WRITTEN) set_text(text, &out);
  buffer_release(&out);
  return result != FRACTION_EMPTY;
}

// What Python's int() reads, in ASCII.
static bool is_integer(Text text) {
  size_t sign = text.length && (*text.data == '-' || *text.data == '+');
  bool was_digit = false;
  for (size_t i = sign; i < text.length; i++) {
    bool is_digit = text.data[i] >= '0' && text.data[i] <= '9';
    if (!is_digit && !(text.data[i] == '_' && was_digit)) return false;
    was_digit = is_digit;
  }
  return was_digit;
}

// As str() writes it again.
static bool is_plain(Text integer) {
  size_t sign = *integer.data == '-';
  bool is_zero = integer.data[sign] == '0' && integer.length > 1;
  return !is_zero && *integer.data != '+' && !memchr(integer.data, '_', integer.length);
}

// 1/2 is \frac{1}{2}. False where one of the two is no integer: the original gives up there.
static bool fix_slash(Buffer *text) {
  size_t at = 0;
  Text all = whole(text);
  if (count_part(&at, all, "/") != 1) return true;
  Text above = text_part(all, 0, at), below = text_part(all, at + 1, all.length);
  if (!is_integer(above) || !is_integer(below)) return false;
  if (!is_plain(above) || !is_plain(below)) return true;
  Buffer out = {0};
  buffer_format(&out, "\\frac{%.*s}{%.*s}", (int)above.length, above.data, (int)below.length, below.data);
  set_text(text, &out);
  buffer_release(&out);
  return true;
}

// False where the original raises an exception, and the answers are compared as they are.
static bool normalise(Buffer *text, Text answer) {
  static const char *const removed[][2] = {{"\n", ""},     {"\\!", ""},     {"\\\\", "\\"},    {"tfrac", "frac"}, {"dfrac", "frac"},
                                           {"\\left", ""}, {"\\right", ""}, {"^{\\circ}", ""}, {"^\\circ", ""},   {"\\$", ""}};
  static const char *const points[][2] = {{"\\%", ""}, {" .", " 0."}, {"{.", "{0."}};
  buffer_append(text, answer.data, answer.length);
  for (size_t i = 0; i < sizeof removed / sizeof *removed; i++) replace_all(text, removed[i][0], removed[i][1]);
  if (!remove_units(text)) return false;
  for (size_t i = 0; i < sizeof points / sizeof *points; i++) replace_all(text, points[i][0], points[i][1]);
  if (text->length == 0) return true;
  if (*text->data == '.') {
    Buffer out = {0};
    buffer_format(&out, "0%s", text->data);
    set_text(text, &out);
    buffer_release(&out);
  }
  remove_name(text);
  if (!fix_roots(text)) return false;
  replace_all(text, " ", "");
  if (!fix_fractions(text)) return false;
  if (text_equal(whole(text), text_of("0.5"))) {
    text->length = 0;
    buffer_append_string(text, "\\frac{1}{2}");
  }
  return fix_slash(text);
}

void math_normalise(Buffer *out, Text answer) {
  Buffer text = {0};
  Text result = normalise(&text, answer) ? whole(&text) : answer;
  buffer_append(out, result.data, result.length);
  buffer_release(&text);
}

bool math_answers_equal(Text a, Text b) {
  Buffer first = {0}, second = {0};
  bool are_whole = normalise(&first, a) && normalise(&second, b);
  bool equal = are_whole ? text_equal(whole(&first), whole(&second)) : text_equal(a, b);
  buffer_release(&first);
  buffer_release(&second);
  return equal;
}

// ---- \boxed ----

static bool find_last(size_t *at, Text text, const char *part) {
  Text sought = text_of(part);
  for (size_t i = text.length + 1; i-- > 0;) {
    if (!text_begins(text_part(text, i, text.length), sought)) continue;
    *at = i;
    return true;
  }
  return false;
}

bool math_boxed(Text *out, Text text) {
  size_t at, end = 0;
  if (find_last(&at, text, "\\boxed ")) {  // "\boxed 3$": up to the end of the formula
    at += strlen("\\boxed ");
    while (at + end < text.length && text.data[at + end] != '$') end++;
    *out = text_part(text, at, at + end);
    return true;
  }
  if (!find_last(&at, text, "\\boxed{") && !find_last(&at, text, "\\fbox{")) return false;
  while (text.data[at] != '{') at++;
  int64_t open = 0;
  for (size_t i = at; i < text.length; i++) {
    open += text.data[i] == '{' ? 1 : text.data[i] == '}' ? -1 : 0;
    if (open > 0) continue;
    *out = text_part(text, at + 1, i);
    return true;
  }
  return false;
}

// ---- The task: MATH-500 (Lightman et al. 2023) ----

Status math_fill(TaskSet *set, TaskItem *item, const json_t *row) {
  const char *problem;
  TRY(member_text(&problem, set, row, "problem"));
  item->question = arena_format(&set->arena, "Problem: %s\nAnswer:", problem);
  if (json_object_get(row, "answer")) return member_text(&item->answer, set, row, "answer");
  Text boxed;
  TRY(member_text(&item->answer, set, row, "solution"));
  if (!math_boxed(&boxed, text_of(item->answer)))
    return status_fail(STATUS_BAD_INPUT, "there is no \"answer\", and no \\boxed{...} in \"solution\"");
  item->answer = arena_copy_bytes(&set->arena, boxed.data, boxed.length);
  return STATUS_OK;
}

// Between the first and the last $; all where there are fewer than two.
static Text formula_of(Text text) {
  size_t first = 0, last;
  int64_t count = count_part(&first, text, "$");
  return count > 1 && find_last(&last, text, "$") ? text_part(text, first + 1, last) : text;
}

static void note_answer(json_t *details, const char *name, Text answer) {
  Buffer text = {0};
  math_normalise(&text, answer);
  json_object_set_new(details, name, json_stringn(text.data ? text.data : "", text.length));
  buffer_release(&text);
}

Status math_judge(Score *scores, json_t *details, const TaskItem *item, const char *text, size_t length, const JudgeOptions *options) {
  (void)options;
  Text gold = text_of(item->answer), formula = formula_of((Text){text, length}), boxed = formula;
  math_boxed(&boxed, (Text){text, length});
  scores[0] = (Score){math_answers_equal(formula, gold), 1};
  scores[1] = (Score){math_answers_equal(boxed, gold), 1};
  note_answer(details, "answer", formula);
  note_answer(details, "boxed", boxed);
  return STATUS_OK;
}
