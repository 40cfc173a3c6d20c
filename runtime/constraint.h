// What a text may be: a grammar (GBNF, as llama.cpp has it, or a JSON schema) that is followed token by token. At each step a mask over the
// vocabulary says which tokens keep the text a beginning of something that the grammar has.
// A Grammar and a ConstraintVocabulary do not change and may be used by many constraints, in any thread; a Constraint is one text's place.
#ifndef RUNTIME_CONSTRAINT_H
#define RUNTIME_CONSTRAINT_H

#include <jansson.h>

#include "data/tokenizer/tokenizer.h"

typedef struct Grammar Grammar;
typedef struct ConstraintVocabulary ConstraintVocabulary;
typedef struct Constraint Constraint;

// STATUS_BAD_INPUT names line and column, or the schema's place by a JSON pointer, and what is wrong there.
Status grammar_parse(Grammar **out, const char *gbnf);
// Of a schema, texts are a part of what is valid for it: keys in their declared order, others behind them, no key twice in an object;
// numbers of up to 16 digits; between tokens nothing, one space, or a newline and up to 20 spaces or tabs. What would not be enforced is
// refused.
Status grammar_from_schema(Grammar **out, const json_t *schema);  // NULL: any JSON object
void grammar_free(Grammar *grammar);  // after its constraints

// The bytes of all tokens, in an order that makes masks fast. Control tokens are never allowed, end tokens where the text may end.
// `vocabulary`: rows of the logits. STATUS_BAD_INPUT when no token ends a text.
Status constraint_vocabulary_new(ConstraintVocabulary **out, const Tokenizer *tokenizer, int64_t vocabulary);
void constraint_vocabulary_free(ConstraintVocabulary *vocabulary);

Status constraint_new(Constraint **out, const Grammar *grammar, const ConstraintVocabulary *vocabulary);
void constraint_free(Constraint *constraint);
// Bit id % 64 of word id / 64: the token may come next. [(vocabulary + 63) / 64], until the next call. Never all zeros.
const uint64_t *constraint_mask(Constraint *constraint);
// Moves on by a token that the mask allowed; STATUS_FAILED for another one, and where the grammar is too ambiguous to go on.
Status constraint_accept(Constraint *constraint, int32_t id);
bool constraint_is_complete(const Constraint *constraint);  // the text may end here

#endif
