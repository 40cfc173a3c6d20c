// Texts under a grammar, for tests: a small vocabulary of bytes and of tokens that cut JSON in awkward places, and walks through masks.
#ifndef TESTS_SUPPORT_CONSTRAINT_H
#define TESTS_SUPPORT_CONSTRAINT_H

#include "core/rng.h"
#include "runtime/constraint.h"

// Every byte, and longer tokens over the borders of strings, keys, characters and escapes.
Tokenizer *constraint_test_tokenizer(void);

// The bytes of all tokens.
typedef struct Words {
  const Tokenizer *tokenizer;
  int64_t count;
  Buffer bytes;
  int64_t *begins;  // [count + 1]
} Words;
void words_new(Words *words, const Tokenizer *tokenizer);
void words_release(Words *words);

typedef struct MaskTimes {
  double total, longest;  // seconds of the processor
  int64_t count;
} MaskTimes;

typedef struct WalkOptions {
  int64_t steps;  // tokens at most
  const char *favoured;  // tokens of these bytes alone are drawn where there are any, three times of four; NULL: none
  MaskTimes *times;  // of constraint_mask, added to; may be NULL
} WalkOptions;

// Draws tokens that the masks allow, until one ends the text. Where the text may end it does so with probability 1/4; after some tokens
// those that close something, and those that patterns ask for, are preferred. False when it has not ended after that many steps. The text
// is put into `out`, tokens into `ids` (may be NULL).
bool constraint_walk(Buffer *out, TokenList *ids, Constraint *constraint, const Words *words, Rng *rng, WalkOptions options);
// Whether a text, cut into single bytes, is taken to its end.
bool constraint_takes(const Grammar *grammar, const Tokenizer *tokenizer, const char *text);
// Like constraint_takes, for a beginning of a text that may not be complete.
bool constraint_takes_beginning(const Grammar *grammar, const Tokenizer *tokenizer, const char *text);

#endif
