// API keys: who may ask. A key is compared by its SHA-256 and without regard to where two differ, so that the time an answer takes says
// nothing about a key.
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

typedef struct KeyList {
  uint8_t (*hashes)[32];  // [count]
  int count, capacity;
} KeyList;

// One key a line; white space around it and empty lines are passed over. STATUS_BAD_INPUT for a file without a key.
Status key_list_read(KeyList *keys, const char *path);
void key_list_release(KeyList *keys);

// The value of the header Authorization, "Bearer KEY" (NULL: there was none). True where the list is empty.
bool key_list_allows(const KeyList *keys, const char *authorization);

#endif
