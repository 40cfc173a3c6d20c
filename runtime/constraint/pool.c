#include "runtime/constraint/pool.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

const int32_t *pool_get(int64_t *count, const Pool *pool, int32_t number) {
  *count = pool->begins[number + 1] - pool->begins[number];
  return pool->words + pool->begins[number];
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
  static const int32_t none;
  const int32_t *key = count ? words : &none;
  size_t bytes = (size_t)count * sizeof *words;
  int64_t number;
  if (map_get(&pool->numbers, key, bytes, &number)) return (int32_t)number;
  number = append_sequence(pool, words, count);
  map_set(&pool->numbers, key, bytes, number);
  return (int32_t)number;
}

void pool_release(Pool *pool) {
  free(pool->words);
  free(pool->begins);
  map_release(&pool->numbers);
  *pool = (Pool){0};
}
