// Sequences of integers, each kept once: a table of their hashes, open addressing, linear probing.
#include "runtime/constraint/pool.h"

#include <stdlib.h>
#include <string.h>

#include "core/map.h"
#include "core/memory.h"

const int32_t *pool_get(int64_t *count, const Pool *pool, int32_t number) {
  *count = pool->begins[number + 1] - pool->begins[number];
  return pool->words + pool->begins[number];
}

static uint64_t hash_words(const int32_t *words, int64_t count) { return hash_bytes(words, (size_t)count * sizeof *words); }

static void grow_slots(Pool *pool) {
  pool->slot_count = pool->slot_count ? pool->slot_count * 2 : 64;
  free(pool->slots);
  pool->slots = memory_new((size_t)pool->slot_count, sizeof *pool->slots);
  for (int32_t number = 0; number < pool->count; number++) {
    int64_t count;
    const int32_t *words = pool_get(&count, pool, number);
    uint64_t at = hash_words(words, count) & (uint64_t)(pool->slot_count - 1);
    while (pool->slots[at]) at = (at + 1) & (uint64_t)(pool->slot_count - 1);
    pool->slots[at] = number + 1;
  }
}

static int32_t append_sequence(Pool *pool, const int32_t *words, int64_t count) {
  while (pool->word_count + count >= pool->word_capacity) {  // never without memory, also for an empty sequence
    pool->word_capacity = pool->word_capacity ? pool->word_capacity * 2 : 256;
    pool->words = memory_grow(pool->words, (size_t)pool->word_capacity, sizeof *pool->words);
  }
  if (pool->count + 2 > pool->capacity) {
    pool->capacity = pool->capacity ? pool->capacity * 2 : 64;
    pool->begins = memory_grow(pool->begins, (size_t)pool->capacity, sizeof *pool->begins);
  }
  if (count) memcpy(pool->words + pool->word_count, words, (size_t)count * sizeof *words);
  pool->begins[pool->count] = pool->word_count;
  pool->word_count += count;
  pool->begins[pool->count + 1] = pool->word_count;
  return (int32_t)pool->count++;
}

int32_t pool_intern(Pool *pool, const int32_t *words, int64_t count) {
  if (pool->count * 2 >= pool->slot_count) grow_slots(pool);
  uint64_t at = hash_words(words, count) & (uint64_t)(pool->slot_count - 1);
  for (; pool->slots[at]; at = (at + 1) & (uint64_t)(pool->slot_count - 1)) {
    int64_t length;
    const int32_t *other = pool_get(&length, pool, pool->slots[at] - 1);
    if (length == count && (count == 0 || memcmp(other, words, (size_t)count * sizeof *words) == 0)) return pool->slots[at] - 1;
  }
  int32_t number = append_sequence(pool, words, count);
  pool->slots[at] = number + 1;
  return number;
}

void pool_release(Pool *pool) {
  free(pool->words);
  free(pool->begins);
  free(pool->slots);
  *pool = (Pool){0};
}
