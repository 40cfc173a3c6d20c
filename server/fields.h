// Typed reading of the fields of a JSON object that a client has sent. A field that is absent or null leaves the value as it was; one of
// another type, or out of range, is STATUS_USAGE with a message that says what it must be, and `param` is then its name.
#ifndef SERVER_FIELDS_H
#define SERVER_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"
#include "data/tokenizer/tokenizer.h"

enum { JSON_DEPTH_MOST = 128 };  // brackets within brackets

typedef struct Fields {
  const json_t *object;
  const char *param;  // of the failure; NULL: there was none
} Fields;

// A client's text as a tree, which the caller releases. STATUS_USAGE for what is no JSON, has a key twice or is nested too deeply.
Status json_body_read(json_t **out, const char *text, size_t length);

const json_t *fields_get(const Fields *fields, const char *name);  // NULL: absent or null
Status fields_fail(Fields *fields, const char *name, const char *format, ...) PRINTF_LIKE(3, 4);

Status fields_bool(bool *out, Fields *fields, const char *name);
Status fields_integer(int64_t *out, Fields *fields, const char *name, int64_t least, int64_t most);
Status fields_float(double *out, Fields *fields, const char *name, double least, double most);
Status fields_string(const char **out, Fields *fields, const char *name);  // as long as the object is there
Status fields_array(const json_t **out, Fields *fields, const char *name);
Status fields_object(const json_t **out, Fields *fields, const char *name);
// A string or a list of at most `most` strings, none of them empty: appended to *items (released by the caller).
Status fields_strings(const char ***items, int *count, int *capacity, Fields *fields, const char *name, int most);

// Token ids, which a model of `vocabulary` tokens has: appended to `out`.
Status fields_tokens(TokenList *out, Fields *fields, const char *name, const json_t *list, int64_t vocabulary);

// What is read by completions, embeddings and the like: a string, a list of strings, of ids, or of lists of ids. Each text becomes a list
// of ids by `encode`. *lists [*count], appended to, released by token_lists_release.
typedef Status (*TextEncoder)(TokenList *out, const Tokenizer *tokenizer, const char *text, size_t length);
Status fields_texts(TokenList **lists, int *count, Fields *fields, const char *name, const Tokenizer *tokenizer, int64_t vocabulary,
                    TextEncoder encode, int most);
void token_lists_release(TokenList *lists, int count);

#endif
