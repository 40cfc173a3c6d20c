// Reading tokenizer.json and the files beside it, for data/tokenizer/ alone.
#ifndef DATA_TOKENIZER_JSON_H
#define DATA_TOKENIZER_JSON_H

#include <jansson.h>

#include "data/tokenizer/tokenizer.h"

// STATUS_BAD_INPUT with name:line:column when it is not valid JSON. Release with json_decref.
Status json_parse(json_t **out, const char *name, const char *text, size_t length);
// A whole number from 0 to limit - 1; false for anything else.
bool json_get_id(const json_t *value, int64_t limit, int32_t *id);
bool json_is_absent(const json_t *value);  // missing or null
bool json_is_flag(const json_t *object, const char *key);  // true stands there
const char *json_get_text(const json_t *object, const char *key);  // "" when there is no such string
// The text of a special token, which stands there as a string or as an object with its content; NULL when there is neither.
const char *json_get_token_text(const json_t *object, const char *key);

// The parts of a tokenizer.json (json_stages.c, json_ends.c), after its model. Each takes null for a part that is not there.
Status json_read_normalizer(Tokenizer *tokenizer, const json_t *component);
Status json_read_pre_tokenizer(Tokenizer *tokenizer, const json_t *component);
Status json_read_post_processor(Tokenizer *tokenizer, const json_t *component);
Status json_read_decoder(Tokenizer *tokenizer, const json_t *component);
Status json_fail(const Tokenizer *tokenizer, const char *place, const char *what);
Status json_refuse_type(const Tokenizer *tokenizer, const char *place, const json_t *component);

// Fills a new tokenizer from the top level of a tokenizer.json; tokenizer_finish comes after it.
Status tokenizer_read_json(Tokenizer *tokenizer, const json_t *root);

// A file of a folder; *out is NULL when there is no such file.
Status folder_read_json(json_t **out, const char *folder, const char *file);
// Fills a new tokenizer from a folder's tokenizer.model and the tokens added to it; STATUS_BAD_INPUT when there is none.
Status folder_read_pieces(Tokenizer *tokenizer, const char *folder);

#endif
