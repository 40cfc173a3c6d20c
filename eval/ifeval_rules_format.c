// IFEval's rules on the form of a response. Each splits and counts by the very expressions of the original.
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "eval/ifeval_rules.h"

// The parts of the response between matches of `expression`; *count of them.
static Status split_parts(MatchList *matches, const char *expression, Text response) {
  return matches_find(matches, expression, 0, response);
}

// "***" between paragraphs; blank ones only at the two ends.
Status rule_number_paragraphs(bool *follows, const json_t *arguments, Text response) {
  MatchList stars = {0};
  int64_t wanted;
  TRY(rule_integer(&wanted, arguments, "num_paragraphs"));
  Status status = split_parts(&stars, "[" PYTHON_SPACES "]?\\*\\*\\*[" PYTHON_SPACES "]?", response);
  int64_t count = stars.count + 1;
  bool has_blank = false;
  for (int64_t i = 0; i <= stars.count; i++) {
    if (!text_is_blank(match_part(&stars, response, i))) continue;
    if (i == 0 || i == stars.count) count--;
    else has_blank = true;
  }
  *follows = !has_blank && count == wanted;
  match_list_release(&stars);
  return status;
}

// The first word in lower case, without quotation marks before it, up to the first mark in it.
static void first_word(Buffer *out, Text paragraph) {
  size_t length = 0;
  while (length < paragraph.length && !text_space_length(paragraph.data + length, paragraph.length - length)) length++;
  Text word = text_part(paragraph, 0, length);
  word = text_stripped_of(word, "'", true, false);
  word = text_stripped_of(word, "\"", true, false);
  size_t end = 0;
  while (end < word.length && !strchr(".,?!'\"", word.data[end])) end++;
  text_lower(out, text_part(word, 0, end));
}

Status rule_nth_paragraph(bool *follows, const json_t *arguments, Text response) {
  int64_t wanted, nth;
  Text word;
  MatchList gaps = {0};
  Buffer expected = {0}, found = {0};
  TRY(rule_integer(&wanted, arguments, "num_paragraphs"));
  TRY(rule_integer(&nth, arguments, "nth_paragraph"));
  TRY(rule_string(&word, arguments, "first_word"));
  if (nth < 1) return status_fail(STATUS_BAD_INPUT, "the argument \"nth_paragraph\" must be at least 1");
  Status status = split_parts(&gaps, "\\n\\n", response);
  int64_t count = 0;
  for (int64_t i = 0; i <= gaps.count; i++) count += !text_is_blank(match_part(&gaps, response, i));
  Text paragraph = nth <= count ? text_stripped(match_part(&gaps, response, nth - 1)) : text_of("");
  text_lower(&expected, word);
  first_word(&found, paragraph);
  *follows = paragraph.length > 0 && count == wanted && strcmp(expected.data, found.data) == 0;
  buffer_release(&expected);
  buffer_release(&found);
  match_list_release(&gaps);
  return status;
}

Status rule_number_placeholders(bool *follows, const json_t *arguments, Text response) {
  int64_t count, least;
  TRY(rule_integer(&least, arguments, "num_placeholders"));
  TRY(matches_count(&count, "\\[.*?\\]", 0, response));
  *follows = count >= least;
  return STATUS_OK;
}

Status rule_postscript(bool *follows, const json_t *arguments, Text response) {
  Text marker;
  int64_t count = 0;
  Buffer lower = {0}, expression = {0};
  TRY(rule_string(&marker, arguments, "postscript_marker"));
  marker = text_stripped(marker);
  buffer_append_string(&expression, "[" PYTHON_SPACES "]*");
  if (text_equal(marker, text_of("P.P.S"))) buffer_append_string(&expression, "p\\.[" PYTHON_SPACES "]?p\\.[" PYTHON_SPACES "]?s");
  else if (text_equal(marker, text_of("P.S."))) buffer_append_string(&expression, "p\\.[" PYTHON_SPACES "]?s\\.");
  else text_lower(&expression, marker);
  buffer_append_string(&expression, ".*$");
  text_lower(&lower, response);
  Status status = matches_count(&count, expression.data, MATCH_MULTILINE, (Text){lower.data, lower.length});
  *follows = count > 0;
  buffer_release(&lower);
  buffer_release(&expression);
  return status;
}

Status rule_bullet_lists(bool *follows, const json_t *arguments, Text response) {
  int64_t stars, dashes, wanted;
  TRY(rule_integer(&wanted, arguments, "num_bullets"));
  TRY(matches_count(&stars, "^[" PYTHON_SPACES "]*\\*[^\\*].*$", MATCH_MULTILINE, response));
  TRY(matches_count(&dashes, "^[" PYTHON_SPACES "]*-.*$", MATCH_MULTILINE, response));
  *follows = stars + dashes == wanted;
  return STATUS_OK;
}

// Those of `expression` that hold more than stars and white space.
static Status count_highlights(int64_t *count, const char *expression, bool is_double, Text response) {
  MatchList list = {0};
  Status status = matches_find(&list, expression, 0, response);
  for (int64_t i = 0; i < list.count; i++) {
    Text text = list.items[i].groups[0];
    text = is_double ? text_part(text, 2, text.length - 2) : text_stripped_of(text, "*", true, true);
    *count += !text_is_blank(text);
  }
  match_list_release(&list);
  return status;
}

Status rule_highlighted_sections(bool *follows, const json_t *arguments, Text response) {
  int64_t count = 0, least;
  TRY(rule_integer(&least, arguments, "num_highlights"));
  TRY(count_highlights(&count, "\\*[^\\n\\*]*\\*", false, response));
  TRY(count_highlights(&count, "\\*\\*[^\\n\\*]*\\*\\*", true, response));
  *follows = count >= least;
  return STATUS_OK;
}

Status rule_multiple_sections(bool *follows, const json_t *arguments, Text response) {
  Text word;
  int64_t count = 0, least;
  TRY(rule_string(&word, arguments, "section_spliter"));
  TRY(rule_integer(&least, arguments, "num_sections"));
  word = text_stripped(word);
  char *expression = memory_format("[" PYTHON_SPACES "]?%.*s[" PYTHON_SPACES "]?\\d+[" PYTHON_SPACES "]?", (int)word.length, word.data);
  Status status = matches_count(&count, expression, 0, response);
  free(expression);
  *follows = count >= least;
  return status;
}

static Text without_prefix(Text text, const char *prefix) {
  Text start = text_of(prefix);
  return text_begins(text, start) ? text_part(text, start.length, text.length) : text;
}

Status rule_json_format(bool *follows, const json_t *arguments, Text response) {
  (void)arguments;
  static const char *const fences[] = {"```json", "```Json", "```JSON", "```"};
  Text text = text_stripped(response);
  for (size_t i = 0; i < sizeof fences / sizeof *fences; i++) text = without_prefix(text, fences[i]);
  if (text_ends(text, text_of("```"))) text.length -= strlen("```");
  text = text_stripped(text);
  json_error_t error;
  json_t *value = json_loadb(text.data, text.length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
  *follows = value != NULL;
  json_decref(value);
  return STATUS_OK;
}

Status rule_title(bool *follows, const json_t *arguments, Text response) {
  (void)arguments;
  MatchList titles = {0};
  Status status = matches_find(&titles, "<<[^\\n]+>>", 0, response);
  *follows = false;
  for (int64_t i = 0; i < titles.count && !*follows; i++) {
    Text inside = text_stripped_of(titles.items[i].groups[0], "<", true, false);
    *follows = !text_is_blank(text_stripped_of(inside, ">", false, true));
  }
  match_list_release(&titles);
  return status;
}

// Two answers that differ, "******" between them; blank parts only at the two ends.
Status rule_two_responses(bool *follows, const json_t *arguments, Text response) {
  (void)arguments;
  MatchList stars = {0};
  Text answers[2] = {{0}};
  int64_t count = 0;
  bool has_blank = false;
  Status status = split_parts(&stars, "\\*{6}", response);
  for (int64_t i = 0; i <= stars.count; i++) {
    Text part = text_stripped(match_part(&stars, response, i));
    if (part.length && count < 2) answers[count] = part;
    count += part.length > 0;
    has_blank = has_blank || (!part.length && i != 0 && i != stars.count);
  }
  *follows = !has_blank && count == 2 && !text_equal(answers[0], answers[1]);
  match_list_release(&stars);
  return status;
}
