// Reading tokenizer.json and the files beside it, for data/tokenizer_*.c alone.
#ifndef DATA_TOKENIZER_JSON_H
#define DATA_TOKENIZER_JSON_H

#include <jansson.h>

#include "data/tokenizer/tokenizer.h"

// STATUS_BAD_INPUT with name:line:column when it is not valid JSON. Release with json_decref.
Status json_parse(json_t **out, const char *name, const char *text, size_t length);
// A whole number from 0 to limit - 1; false for anything else.
bool json_get_id(const json_t *value, int64_t limit, int32_t *id);
// Fills a new tokenizer from the top level of a tokenizer.json; tokenizer_finish comes after it.
Status tokenizer_read_json(Tokenizer *tokenizer, const json_t *root);

#endif
