// States that cannot be told apart by SHORT_BYTES bytes. Where characters or items are counted there is a state for each number, and nearly
// all of them allow the same tokens: they share one mask. This is Moore's refinement of partitions (1956), ended after so many rounds; the
// class of a state is a hash of 64 bits of its successors' classes, and two different classes have the same one with a probability of 1e-9
// in the largest grammar.
#include <stdlib.h>

#include "core/map.h"
#include "runtime/constraint/automaton.h"
#include "runtime/constraint/vocabulary.h"

// Digits of pi: no class is one of them.
static const uint64_t seed = 0x243f6a8885a308d3u, nowhere = 0x13198a2e03707344u;

static uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 29;
}

static uint64_t state_class(const Grammar *grammar, const uint64_t *classes, int32_t state) {
  uint64_t hash = mix(seed, grammar->is_final[state]);
  for (int32_t c = 0; c < grammar->classes.count; c++) {
    int32_t to = grammar->next[(int64_t)state * grammar->classes.count + c];
    hash = mix(hash, to < 0 ? nowhere : classes[to]);
  }
  for (int32_t k = grammar->call_begins[state]; k < grammar->call_begins[state + 1]; k++) {
    hash = mix(hash, (uint64_t)grammar->calls[k].rule + 1);
    hash = mix(hash, classes[grammar->calls[k].to]);
  }
  return hash;
}

void grammar_find_twins(Grammar *grammar) {
  size_t count = (size_t)grammar->state_count;
  uint64_t *classes = memory_new(count, sizeof *classes), *next = memory_new(count, sizeof *next);
  Map firsts = {0};
  grammar->twins = memory_new(count, sizeof *grammar->twins);
  for (int32_t i = 0; i < grammar->state_count; i++) classes[i] = grammar->is_final[i] ? 2 : 1;
  for (int round = 0; round < SHORT_BYTES; round++) {
    for (int32_t i = 0; i < grammar->state_count; i++) next[i] = state_class(grammar, classes, i);
    uint64_t *old = classes;
    classes = next;
    next = old;
  }
  for (int32_t i = 0; i < grammar->state_count; i++) {
    int64_t first = i;
    if (!map_get(&firsts, &classes[i], sizeof classes[i], &first)) map_set(&firsts, &classes[i], sizeof classes[i], i);
    grammar->twins[i] = (int32_t)first;
  }
  map_release(&firsts);
  free(classes);
  free(next);
}
