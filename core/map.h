// A hash map from byte strings to 64-bit values; keys are copied. Open addressing, linear probing.
#ifndef CORE_MAP_H
#define CORE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Map {
  struct MapEntry *entries;
  size_t count, capacity;  // capacity is 0 or a power of two
  char *keys;  // all keys, one after another
  size_t keys_length, keys_capacity;
} Map;

void map_set(Map *map, const void *key, size_t length, int64_t value);  // sets or replaces
bool map_get(const Map *map, const void *key, size_t length, int64_t *value);  // value may be NULL
void map_set_string(Map *map, const char *key, int64_t value);
bool map_get_string(const Map *map, const char *key, int64_t *value);
void map_release(Map *map);
uint64_t hash_bytes(const void *bytes, size_t length);  // not for security: FNV-1a with a final mix

#endif
