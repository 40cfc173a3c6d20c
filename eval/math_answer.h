// Answers of mathematics problems as MATH's authors compare them (Hendrycks et al. 2021, math_equivalence.py, which lm-evaluation-harness's
// hendrycks_math uses): strings, after a normalisation of LaTeX. No algebra: "1/2" is \frac{1}{2}, but "x+1" is not "1+x".
#ifndef EVAL_MATH_ANSWER_H
#define EVAL_MATH_ANSWER_H

#include "eval/matches.h"

bool math_answers_equal(Text a, Text b);
void math_normalise(Buffer *out, Text answer);  // appends the string that is compared
// What the last \boxed{...} (or \fbox{...}) holds; false where there is none, or its braces do not end.
bool math_boxed(Text *out, Text text);

#endif
