// IFEval (Zhou et al. 2023): instructions whose following can be checked, by the rules of the authors' program as lm-evaluation-harness
// has it. Rules that take sentences apart, need words as NLTK finds them, or detect a language, are not scored: their models are no part
// of this program (ifeval_is_scored).
#ifndef EVAL_IFEVAL_H
#define EVAL_IFEVAL_H

#include <jansson.h>

#include <stdbool.h>

#include "core/status.h"

typedef enum Following { FOLLOWING_NO, FOLLOWING_YES, FOLLOWING_NOT_SCORED } Following;

bool ifeval_is_known(const char *instruction);
bool ifeval_is_scored(const char *instruction);

// `strict`: of the response as it is. `loose`: of it or of one of seven variants, without its first line, its last, or both, and each also
// without "*". A blank response follows nothing. STATUS_BAD_INPUT: the instruction is not known, or its arguments are not as it needs them.
Status ifeval_check(Following *strict, Following *loose, const char *instruction, const json_t *arguments, const char *response,
                    size_t length);

#endif
