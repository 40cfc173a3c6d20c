// The rules of IFEval as a table: inside of eval/ifeval*.c.
#ifndef EVAL_IFEVAL_RULES_H
#define EVAL_IFEVAL_RULES_H

#include <jansson.h>

#include "eval/matches.h"

// Whether the response, which is not blank, follows the rule. STATUS_BAD_INPUT names what is wrong with the arguments.
typedef Status (*RuleFunction)(bool *follows, const json_t *arguments, Text response);

// ifeval_rules_words.c: keywords, letters, words, phrases
Status rule_existence(bool *follows, const json_t *arguments, Text response);
Status rule_frequency(bool *follows, const json_t *arguments, Text response);
Status rule_forbidden_words(bool *follows, const json_t *arguments, Text response);
Status rule_letter_frequency(bool *follows, const json_t *arguments, Text response);
Status rule_number_words(bool *follows, const json_t *arguments, Text response);
Status rule_no_comma(bool *follows, const json_t *arguments, Text response);
Status rule_end_checker(bool *follows, const json_t *arguments, Text response);
Status rule_quotation(bool *follows, const json_t *arguments, Text response);
Status rule_repeat_prompt(bool *follows, const json_t *arguments, Text response);
Status rule_constrained_response(bool *follows, const json_t *arguments, Text response);

// ifeval_rules_format.c: paragraphs, sections, lists, marks
Status rule_number_paragraphs(bool *follows, const json_t *arguments, Text response);
Status rule_nth_paragraph(bool *follows, const json_t *arguments, Text response);
Status rule_number_placeholders(bool *follows, const json_t *arguments, Text response);
Status rule_postscript(bool *follows, const json_t *arguments, Text response);
Status rule_bullet_lists(bool *follows, const json_t *arguments, Text response);
Status rule_highlighted_sections(bool *follows, const json_t *arguments, Text response);
Status rule_multiple_sections(bool *follows, const json_t *arguments, Text response);
Status rule_json_format(bool *follows, const json_t *arguments, Text response);
Status rule_title(bool *follows, const json_t *arguments, Text response);
Status rule_two_responses(bool *follows, const json_t *arguments, Text response);

// Arguments by their names in the data set.
Status rule_integer(int64_t *out, const json_t *arguments, const char *key);
Status rule_string(Text *out, const json_t *arguments, const char *key);  // borrowed
Status rule_strings(const json_t **out, const json_t *arguments, const char *key);  // a list of strings that is not empty
// "less than" or "at least" `limit`.
Status rule_compare(bool *follows, int64_t count, const json_t *arguments, const char *limit, const char *relation);

#endif
