// Pieces of JSON as expressions (RFC 8259). White space is bounded, so that no text can go on for ever with it: between two tokens nothing,
// one space, or a newline and up to 20 spaces or tabs; none before ':' and ',', and none around the whole.
#ifndef RUNTIME_CONSTRAINT_JSON_TEXT_H
#define RUNTIME_CONSTRAINT_JSON_TEXT_H

#include <jansson.h>

#include "runtime/constraint/expression.h"

enum { JSON_MAX_DIGITS = 16 };  // of a number's integer part; its fraction has one less

const Expression *json_space(RuleSet *set);
// A character of a string in every way that it can be written: as itself, by a short escape, by \uXXXX, by a pair of surrogates. Not
// U+0000.
const Expression *json_character(RuleSet *set);
// As itself or by a short escape only: fewer states where characters are counted.
const Expression *json_plain_character(RuleSet *set);
// A character of a set, which must be an EXPRESSION_SET, in the one way that it is usually written.
const Expression *json_set(RuleSet *set, const Expression *characters);
const Expression *json_quoted(RuleSet *set, const Expression *content);  // between '"'
const Expression *json_literal(RuleSet *set, const json_t *value);  // as json_dumps writes it, without white space
const Expression *json_integer_number(RuleSet *set);
const Expression *json_number(RuleSet *set);
const Expression *json_digits(RuleSet *set, int64_t min, int64_t max);
const Expression *json_ascii(RuleSet *set, const char *characters, bool is_negated);  // a set: pairs of first and last, as in "azAZ"

#endif
