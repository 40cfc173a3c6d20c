// The keys of a JSON text as it is written, so that none comes twice in an object. A grammar cannot say that of keys that it leaves open.
// Keys are compared by their bytes: schemas' open keys have no escapes, and declared ones are written in one way.
#ifndef RUNTIME_CONSTRAINT_KEYS_H
#define RUNTIME_CONSTRAINT_KEYS_H

#include "runtime/constraint/vocabulary.h"

typedef struct KeyScope {
  int32_t first_key;  // of the object
  bool is_object;
} KeyScope;

typedef struct Keys {
  KeyScope *scopes;  // [scope_count]: arrays and objects that are open
  int32_t scope_count, scope_capacity;
  int64_t *stops;  // [key_count]: where each key of the open objects ends in `bytes`; it begins where the one before ends
  int32_t key_count, key_capacity;
  Buffer bytes;
  bool in_string, in_key, is_escaped, expects_key;
} Keys;

void keys_release(Keys *keys);
void keys_copy(Keys *out, const Keys *keys);  // `out`, which may be in use, gives up what it has
// Reads on. False: a key that its object has already; `keys` is then of no further use.
bool keys_read(Keys *keys, const char *bytes, int64_t length);
// Takes tokens out of the mask that would complete a key for the second time. `scratch`: room for a copy of `keys`.
void keys_mask(uint64_t *mask, const Keys *keys, Keys *scratch, const ConstraintVocabulary *vocabulary);

#endif
