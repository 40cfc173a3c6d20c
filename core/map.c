#include "core/map.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

struct MapEntry {
  uint64_t hash;  // 0 marks a free entry
  size_t key, length;
  int64_t value;
};

uint64_t hash_bytes(const void *bytes, size_t length) {
  const unsigned char *p = bytes;
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < length; i++) hash = (hash ^ p[i]) * 1099511628211u;
  hash ^= hash >> 32;
  hash *= 0x9E3779B97F4A7C15u;
  return hash ^ hash >> 29;
}

static struct MapEntry *map_find(const Map *map, const void *key, size_t length, uint64_t hash) {
  size_t i = hash & (map->capacity - 1);
  for (;; i = (i + 1) & (map->capacity - 1)) {
    struct MapEntry *entry = &map->entries[i];
    if (entry->hash == 0) return entry;
    if (entry->hash == hash && entry->length == length && memcmp(map->keys + entry->key, key, length) == 0) return entry;
  }
}

static void map_enlarge(Map *map) {
  struct MapEntry *old = map->entries;
  size_t old_capacity = map->capacity;
  map->capacity = old_capacity ? old_capacity * 2 : 64;
  map->entries = memory_new(map->capacity, sizeof *map->entries);
  for (size_t i = 0; i < old_capacity; i++) {
    if (old[i].hash == 0) continue;
    size_t j = old[i].hash & (map->capacity - 1);
    while (map->entries[j].hash) j = (j + 1) & (map->capacity - 1);
    map->entries[j] = old[i];
  }
  free(old);
}

void map_set(Map *map, const void *key, size_t length, int64_t value) {
  if ((map->count + 1) * 4 > map->capacity * 3) map_enlarge(map);
  uint64_t hash = hash_bytes(key, length) | 1;
  struct MapEntry *entry = map_find(map, key, length, hash);
  if (entry->hash == 0) {
    if (map->keys_length + length + 1 > map->keys_capacity) {
      map->keys_capacity = (map->keys_length + length + 1) * 2;
      map->keys = memory_grow(map->keys, map->keys_capacity, 1);
    }
    if (length) memcpy(map->keys + map->keys_length, key, length);
    *entry = (struct MapEntry){.hash = hash, .key = map->keys_length, .length = length};
    map->keys_length += length;
    map->count++;
  }
  entry->value = value;
}

bool map_get(const Map *map, const void *key, size_t length, int64_t *value) {
  if (map->capacity == 0) return false;
  const struct MapEntry *entry = map_find(map, key, length, hash_bytes(key, length) | 1);
  if (entry->hash == 0) return false;
  if (value) *value = entry->value;
  return true;
}

void map_set_string(Map *map, const char *key, int64_t value) { map_set(map, key, strlen(key), value); }
bool map_get_string(const Map *map, const char *key, int64_t *value) { return map_get(map, key, strlen(key), value); }

void map_release(Map *map) {
  free(map->entries);
  free(map->keys);
  *map = (Map){0};
}
