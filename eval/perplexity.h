// Perplexity of a text, exp(mean negative log-likelihood of its tokens), by llama.cpp's method: the tokens are cut into
// chunks of `context`, what is left over is not used; the first token of each chunk is replaced by BOS where the model
// adds one; the second half of each chunk is counted: tokens context/2 + 1 .. context - 1, which have at least half
// a context before them. Comparable between programs only at the same context.
#ifndef EVAL_PERPLEXITY_H
#define EVAL_PERPLEXITY_H

#include "data/tokenizer/tokenizer.h"
#include "models/model.h"

typedef struct Perplexity {
  double nll;  // the sum over the counted tokens, in nats
  int64_t tokens;  // counted
  int64_t chunks;
} Perplexity;

double perplexity_value(const Perplexity *perplexity);  // exp(nll / tokens)

// The tokens of a whole text with BOS in front where the model adds one, and control tokens in it read as plain text.
Status perplexity_encode(TokenList *out, const Tokenizer *tokenizer, const char *text, size_t length);
// Whether the ids make a chunk and the model knows them all: STATUS_USAGE, STATUS_BAD_INPUT.
Status perplexity_check(const Model *model, const int32_t *ids, int64_t count, int64_t context);
// `bos`: what replaces each chunk's first token; -1: nothing. context >= 4. Shows progress.
// STATUS_USAGE when there is no whole chunk, STATUS_BAD_INPUT for an id that the model does not have.
Status perplexity_measure(Perplexity *out, const Model *model, const int32_t *ids, int64_t count, int64_t context, int32_t bos);

#endif
