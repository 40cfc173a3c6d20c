// A hash table from 64-bit keys to 32-bit values, open addressing; the values are not negative.
// Built once, read by many threads.
#ifndef DATA_TOKENIZER_PAIR_TABLE_H
#define DATA_TOKENIZER_PAIR_TABLE_H

#include <stddef.h>
#include <stdint.h>

typedef struct PairTable {
  struct PairEntry *entries;
  size_t count, capacity;
} PairTable;

void pair_table_set(PairTable *table, uint64_t key, int32_t value);
int32_t pair_table_get(const PairTable *table, uint64_t key);  // -1 when absent
void pair_table_release(PairTable *table);

#endif
