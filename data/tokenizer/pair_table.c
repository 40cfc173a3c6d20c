#include "data/tokenizer/pair_table.h"

#include <stdlib.h>

#include "core/memory.h"

struct PairEntry {
  uint64_t key;  // plus one; 0 marks a free entry
  int32_t value;
};

static size_t pair_slot(uint64_t key, size_t capacity) {
  key *= 0x9E3779B97F4A7C15u;
  return (size_t)(key ^ key >> 32) & (capacity - 1);
}

static struct PairEntry *pair_find(const PairTable *table, uint64_t key) {
  size_t i = pair_slot(key, table->capacity);
  while (table->entries[i].key && table->entries[i].key != key + 1) i = (i + 1) & (table->capacity - 1);
  return &table->entries[i];
}

void pair_table_set(PairTable *table, uint64_t key, int32_t value) {
  if ((table->count + 1) * 2 > table->capacity) {
    PairTable larger = {.count = table->count, .capacity = table->capacity ? table->capacity * 2 : 64};
    larger.entries = memory_new(larger.capacity, sizeof *larger.entries);
    for (size_t i = 0; i < table->capacity; i++) {
      if (table->entries[i].key) *pair_find(&larger, table->entries[i].key - 1) = table->entries[i];
    }
    free(table->entries);
    *table = larger;
  }
  struct PairEntry *entry = pair_find(table, key);
  if (!entry->key) table->count++;
  *entry = (struct PairEntry){.key = key + 1, .value = value};
}

int32_t pair_table_get(const PairTable *table, uint64_t key) {
  if (!table->capacity) return -1;
  const struct PairEntry *entry = pair_find(table, key);
  return entry->key ? entry->value : -1;
}

void pair_table_release(PairTable *table) {
  free(table->entries);
  *table = (PairTable){0};
}
