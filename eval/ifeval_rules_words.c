// IFEval's rules on words and phrases. Keywords are regular expressions there, too.
#include <stdlib.h>
#include <string.h>

#include "eval/ifeval_rules.h"

// ---- Arguments ----

static Status fail_argument(const char *key, const char *expected) {
  return status_fail(STATUS_BAD_INPUT, "the argument \"%s\" must be %s", key, expected);
}

Status rule_integer(int64_t *out, const json_t *arguments, const char *key) {
  const json_t *value = json_object_get(arguments, key);
  if (!json_is_number(value) || json_number_value(value) < 0 || json_number_value(value) > 1e9) return fail_argument(key, "a count");
  *out = (int64_t)json_number_value(value);
  return STATUS_OK;
}

Status rule_string(Text *out, const json_t *arguments, const char *key) {
  const json_t *value = json_object_get(arguments, key);
  if (!json_is_string(value) || json_string_length(value) == 0) return fail_argument(key, "a string that is not empty");
  *out = (Text){json_string_value(value), json_string_length(value)};
  return STATUS_OK;
}

Status rule_strings(const json_t **out, const json_t *arguments, const char *key) {
  *out = json_object_get(arguments, key);
  bool are_strings = json_is_array(*out) && json_array_size(*out) > 0;
  for (size_t i = 0; are_strings && i < json_array_size(*out); i++) are_strings = json_is_string(json_array_get(*out, i));
  return are_strings ? STATUS_OK : fail_argument(key, "a list of strings");
}

Status rule_compare(bool *follows, int64_t count, const json_t *arguments, const char *limit, const char *relation) {
  int64_t most = 0;
  Text words;
  TRY(rule_integer(&most, arguments, limit));
  TRY(rule_string(&words, arguments, relation));
  bool is_less = text_equal(words, text_of("less than"));
  if (!is_less && !text_equal(words, text_of("at least"))) return fail_argument(relation, "\"less than\" or \"at least\"");
  *follows = is_less ? count < most : count >= most;
  return STATUS_OK;
}

// ---- Words ----

Status rule_existence(bool *follows, const json_t *arguments, Text response) {
  const json_t *keywords;
  TRY(rule_strings(&keywords, arguments, "keywords"));
  *follows = true;
  for (size_t i = 0; i < json_array_size(keywords) && *follows; i++) {
    int64_t count;
    TRY(matches_count(&count, json_string_value(json_array_get(keywords, i)), MATCH_IGNORE_CASE, response));
    *follows = count > 0;
  }
  return STATUS_OK;
}

Status rule_frequency(bool *follows, const json_t *arguments, Text response) {
  Text keyword;
  int64_t count = 0;
  TRY(rule_string(&keyword, arguments, "keyword"));
  keyword = text_stripped(keyword);
  char *expression = memory_format("%.*s", (int)keyword.length, keyword.data);
  Status status = matches_count(&count, expression, MATCH_IGNORE_CASE, response);
  free(expression);
  TRY(status);
  return rule_compare(follows, count, arguments, "frequency", "relation");
}

Status rule_forbidden_words(bool *follows, const json_t *arguments, Text response) {
#define BORDER "(?:(?<=[" PYTHON_WORD "])(?![" PYTHON_WORD "])|(?<![" PYTHON_WORD "])(?=[" PYTHON_WORD "]))"
  const json_t *words;
  TRY(rule_strings(&words, arguments, "forbidden_words"));
  *follows = true;
  for (size_t i = 0; i < json_array_size(words) && *follows; i++) {
    int64_t count = 0;
    char *expression = memory_format(BORDER "%s" BORDER, json_string_value(json_array_get(words, i)));
    Status status = matches_count(&count, expression, MATCH_IGNORE_CASE, response);
    free(expression);
    TRY(status);
    *follows = count == 0;
  }
  return STATUS_OK;
}

Status rule_letter_frequency(bool *follows, const json_t *arguments, Text response) {
  Text letter;
  Buffer lower = {0}, sought = {0};
  TRY(rule_string(&letter, arguments, "letter"));
  text_lower(&lower, response);
  text_lower(&sought, letter);
  int64_t count = 0;
  for (size_t i = 0; i + sought.length <= lower.length; i++) count += memcmp(lower.data + i, sought.data, sought.length) == 0;
  buffer_release(&lower);
  buffer_release(&sought);
  return rule_compare(follows, count, arguments, "let_frequency", "let_relation");
}

Status rule_number_words(bool *follows, const json_t *arguments, Text response) {
  int64_t count;
  TRY(matches_count(&count, "[" PYTHON_WORD "]+", 0, response));
  return rule_compare(follows, count, arguments, "num_words", "relation");
}

Status rule_no_comma(bool *follows, const json_t *arguments, Text response) {
  (void)arguments;
  *follows = !memchr(response.data, ',', response.length);
  return STATUS_OK;
}

// ---- Phrases ----

Status rule_end_checker(bool *follows, const json_t *arguments, Text response) {
  Text phrase;
  Buffer end = {0}, lower = {0};
  TRY(rule_string(&phrase, arguments, "end_phrase"));
  text_lower(&end, text_stripped(phrase));
  text_lower(&lower, text_stripped_of(text_stripped(response), "\"", true, true));
  *follows = text_ends((Text){lower.data, lower.length}, (Text){end.data, end.length});
  buffer_release(&end);
  buffer_release(&lower);
  return STATUS_OK;
}

Status rule_quotation(bool *follows, const json_t *arguments, Text response) {
  (void)arguments;
  Text text = text_stripped(response);
  *follows = text.length > 1 && text.data[0] == '"' && text.data[text.length - 1] == '"';
  return STATUS_OK;
}

Status rule_repeat_prompt(bool *follows, const json_t *arguments, Text response) {
  Text prompt;
  Buffer start = {0}, lower = {0};
  TRY(rule_string(&prompt, arguments, "prompt_to_repeat"));
  text_lower(&start, text_stripped(prompt));
  text_lower(&lower, text_stripped(response));
  *follows = text_begins((Text){lower.data, lower.length}, (Text){start.data, start.length});
  buffer_release(&start);
  buffer_release(&lower);
  return STATUS_OK;
}

Status rule_constrained_response(bool *follows, const json_t *arguments, Text response) {
  (void)arguments;
  *follows = text_has(response, "My answer is yes.") || text_has(response, "My answer is no.") || text_has(response, "My answer is maybe.");
  return STATUS_OK;
}
