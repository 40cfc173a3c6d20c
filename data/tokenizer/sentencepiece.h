// Reading a SentencePiece model (tokenizer.model), for data/tokenizer/ and its tests.
#ifndef DATA_TOKENIZER_SENTENCEPIECE_H
#define DATA_TOKENIZER_SENTENCEPIECE_H

#include "data/tokenizer/tokenizer.h"

// Fills a new tokenizer from the bytes of the file; tokenizer_finish comes after it. Ids behind the model's pieces, up to `rows`, are
// left as holes for tokens that were added to it. STATUS_BAD_INPUT names what is not supported, and the remedy.
Status sentencepiece_read(Tokenizer *tokenizer, const uint8_t *data, size_t length, int64_t rows);
// The model alone, as the sentencepiece library encodes with it: no BOS is added.
Status tokenizer_from_sentencepiece(Tokenizer **out, const char *name, const uint8_t *data, size_t length);

#endif
