#ifndef RUNTIME_CONSTRAINT_GBNF_H
#define RUNTIME_CONSTRAINT_GBNF_H

#include "core/status.h"
#include "runtime/constraint/expression.h"

// The rules of a text in GBNF; rule 0 is `root`. STATUS_BAD_INPUT names line and column. `set` is to be released in any case.
Status gbnf_parse(RuleSet *set, const char *text);

#endif
