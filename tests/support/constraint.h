// Texts under a grammar, for tests: a small vocabulary of bytes and of tokens that cut JSON in awkward places, and walks through masks.
#ifndef TESTS_SUPPORT_CONSTRAINT_H
#define TESTS_SUPPORT_CONSTRAINT_H

#include "core/rng.h"
#include "runtime/constraint.h"

// Every byte, and longer tokens over the borders of strings, keys, characters and escapes.
Tokenizer *constraint_test_tokenizer(void);

typedef struct WalkOptions {
  int64_t steps;  // tokens at most
  const char *favoured;  // tokens of these bytes alone are drawn where there are any, three times of four; NULL: none
} WalkOptions;

// Draws tokens that the masks allow, until one ends the text. Where the text may end it does so with probability 1/4; bytes that close something
// are preferred, more the longer the text is. False when it has not ended after that many steps. The text is put into `out`, tokens into `ids` (may
// be NULL).
bool constraint_walk(Buffer *out, TokenList *ids, Constraint *constraint, const Tokenizer *tokenizer, int64_t vocabulary, Rng *rng,
                     WalkOptions options);
// Whether a text, cut into single bytes, is taken to its end.
bool constraint_takes(const Grammar *grammar, const Tokenizer *tokenizer, const char *text);
// Like constraint_takes, for a beginning of a text that may not be complete.
bool constraint_takes_beginning(const Grammar *grammar, const Tokenizer *tokenizer, const char *text);

#endif
