#ifndef RUNTIME_CONSTRAINT_PATTERN_H
#define RUNTIME_CONSTRAINT_PATTERN_H

#include "core/status.h"
#include "runtime/constraint/expression.h"

// A regular expression (ECMA-262, as JSON schemas have it) as the content of a JSON string that it matches. It is found anywhere in the
// string unless ^ and $ say otherwise, at the beginning and the end of the whole or of its alternatives. STATUS_BAD_INPUT names what is not
// supported and the character of the pattern, from 1.
Status pattern_parse(const Expression **out, RuleSet *set, const char *pattern);

#endif
