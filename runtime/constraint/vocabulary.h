// The bytes of all tokens as a tree of prefixes, whose nodes lie in the order of a walk: a prefix that a grammar does not allow is passed
// over with all that begins with it.
#ifndef RUNTIME_CONSTRAINT_VOCABULARY_H
#define RUNTIME_CONSTRAINT_VOCABULARY_H

#include "runtime/constraint.h"

typedef struct TrieNode {
  int32_t end;  // the node behind the last one that begins with this one
  int32_t first_token;  // in `order`: of the tokens that are this prefix; the next node's is behind the last of them
  uint16_t depth;  // bytes; 1 for the first
  uint8_t byte;
} TrieNode;

typedef struct Trie {
  TrieNode *nodes;  // [node_count + 1]
  int32_t node_count;
  int32_t *order;  // [order_count]: tokens by their bytes
  int32_t order_count;
  int depth;  // of the longest
} Trie;

// Tokens of up to SHORT_BYTES bytes, and longer ones: places of a grammar that only differ further on have the same mask of short tokens.
typedef enum TrieKind { TRIE_SHORT, TRIE_LONG, TRIE_COUNT } TrieKind;
enum { SHORT_BYTES = 16 };

struct ConstraintVocabulary {
  uint64_t serial;  // another number for every vocabulary of the process
  int64_t size, words;  // tokens; words of a mask
  char *bytes;  // of all tokens, by id
  int64_t *begins;  // [size + 1]
  uint64_t *ends;  // [words]: the tokens that end a text
  Trie tries[TRIE_COUNT];  // of tokens that may be written
  int32_t *quoted;  // [quoted_count]: tokens with two or more '"'
  int32_t quoted_count;
};

static inline bool mask_has(const uint64_t *mask, int32_t id) { return mask[id / 64] >> (id % 64) & 1; }
static inline void mask_add(uint64_t *mask, int32_t id) { mask[id / 64] |= (uint64_t)1 << (id % 64); }
static inline void mask_remove(uint64_t *mask, int32_t id) { mask[id / 64] &= ~((uint64_t)1 << (id % 64)); }

// The node of a prefix that begins behind `node` (-1: at the root); -1: no token has it.
int32_t trie_find(const Trie *trie, int32_t node, const char *bytes, int64_t length);

#endif
