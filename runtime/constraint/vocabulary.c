// The tokens of a tokenizer by their bytes.
#include "runtime/constraint/vocabulary.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOKEN_BYTES = 4096 };

static int compare_tokens(const ConstraintVocabulary *vocabulary, int32_t a, int32_t b) {
  const int64_t *begins = vocabulary->begins;
  int64_t length_a = begins[a + 1] - begins[a], length_b = begins[b + 1] - begins[b];
  int64_t common = length_a < length_b ? length_a : length_b;
  int order = memcmp(vocabulary->bytes + begins[a], vocabulary->bytes + begins[b], (size_t)common);
  if (order) return order;
  if (length_a != length_b) return length_a < length_b ? -1 : 1;
  return a < b ? -1 : a > b;
}

// Merge sort: qsort has no argument for the vocabulary.
static void sort_tokens(const ConstraintVocabulary *vocabulary, int32_t *order, int32_t *spare, int32_t count) {
  if (count < 2) return;
  int32_t half = count / 2, a = 0, b = half;
  sort_tokens(vocabulary, order, spare, half);
  sort_tokens(vocabulary, order + half, spare, count - half);
  for (int32_t i = 0; i < count; i++) {
    bool takes_a = b == count || (a < half && compare_tokens(vocabulary, order[a], order[b]) < 0);
    spare[i] = takes_a ? order[a++] : order[b++];
  }
  memcpy(order, spare, (size_t)count * sizeof *order);
}

// Whether a token may be part of a text: no control token, and not the one that stands for what the vocabulary does not know.
static bool is_writable(const Tokenizer *tokenizer, int32_t id) {
  return tokenizer_text(tokenizer, id) && !tokenizer_is_special(tokenizer, id) && !tokenizer_is_end(tokenizer, id) &&
         tokenizer_unknown(tokenizer) != id;
}

static void read_tokens(ConstraintVocabulary *vocabulary, const Tokenizer *tokenizer) {
  Buffer bytes = {0};
  int64_t known = tokenizer_size(tokenizer);
  buffer_reserve(&bytes, 1);
  for (int64_t id = 0; id < vocabulary->size; id++) {
    vocabulary->begins[id] = (int64_t)bytes.length;
    if (id >= known) continue;
    if (tokenizer_is_end(tokenizer, (int32_t)id)) mask_add(vocabulary->ends, (int32_t)id);
    if (!is_writable(tokenizer, (int32_t)id)) continue;
    tokenizer_decode_piece(&bytes, tokenizer, (int32_t)id, false);
    if ((int64_t)bytes.length - vocabulary->begins[id] > MAX_TOKEN_BYTES) bytes.length = (size_t)vocabulary->begins[id];
    int64_t length = (int64_t)bytes.length - vocabulary->begins[id];
    Trie *trie = &vocabulary->tries[length > SHORT_BYTES ? TRIE_LONG : TRIE_SHORT];
    if (length) trie->order[trie->order_count++] = (int32_t)id;
  }
  vocabulary->begins[vocabulary->size] = (int64_t)bytes.length;
  vocabulary->bytes = bytes.data;
}

static void add_nodes(Trie *trie, const ConstraintVocabulary *vocabulary) {
  int32_t capacity = 0, *path = memory_new(MAX_TOKEN_BYTES + 1, sizeof *path);  // the open node of each depth
  int depth = 0;
  for (int32_t i = 0; i < trie->order_count; i++) {
    int32_t id = trie->order[i];
    const char *bytes = vocabulary->bytes + vocabulary->begins[id];
    int length = (int)(vocabulary->begins[id + 1] - vocabulary->begins[id]), common = 0;
    while (common < depth && common < length && trie->nodes[path[common + 1]].byte == (uint8_t)bytes[common]) common++;
    for (; depth > common; depth--) trie->nodes[path[depth]].end = trie->node_count;
    for (; depth < length; depth++) {
      path[depth + 1] = trie->node_count;
      ARRAY_PUSH(trie->nodes, trie->node_count, capacity) =
          (TrieNode){.first_token = i, .depth = (uint16_t)(depth + 1), .byte = (uint8_t)bytes[depth]};
    }
    if (length > trie->depth) trie->depth = length;
  }
  for (; depth > 0; depth--) trie->nodes[path[depth]].end = trie->node_count;
  int32_t count = trie->node_count;
  ARRAY_PUSH(trie->nodes, trie->node_count, capacity) = (TrieNode){.end = count, .first_token = trie->order_count};
  trie->node_count = count;
  free(path);
}

static void trie_build(Trie *trie, const ConstraintVocabulary *vocabulary) {
  int32_t *spare = memory_new((size_t)trie->order_count + 1, sizeof *spare);
  sort_tokens(vocabulary, trie->order, spare, trie->order_count);
  free(spare);
  add_nodes(trie, vocabulary);
}

static void find_quoted(ConstraintVocabulary *vocabulary) {
  int32_t capacity = 0;
  for (int64_t id = 0; id < vocabulary->size; id++) {
    int quotes = 0;
    for (int64_t k = vocabulary->begins[id]; k < vocabulary->begins[id + 1]; k++) quotes += vocabulary->bytes[k] == '"';
    if (quotes > 1) ARRAY_PUSH(vocabulary->quoted, vocabulary->quoted_count, capacity) = (int32_t)id;
  }
}

Status constraint_vocabulary_new(ConstraintVocabulary **out, const Tokenizer *tokenizer, int64_t size) {
  static atomic_uint_fast64_t serials;
  if (size < 1 || size > INT32_MAX) return status_fail(STATUS_USAGE, "constraint: a vocabulary of %" PRId64 " tokens", size);
  ConstraintVocabulary *vocabulary = memory_new(1, sizeof *vocabulary);
  vocabulary->serial = atomic_fetch_add(&serials, 1);
  vocabulary->size = size;
  vocabulary->words = (size + 63) / 64;
  vocabulary->begins = memory_new((size_t)size + 1, sizeof *vocabulary->begins);
  vocabulary->ends = memory_new((size_t)vocabulary->words, sizeof *vocabulary->ends);
  for (int t = 0; t < TRIE_COUNT; t++) vocabulary->tries[t].order = memory_new((size_t)size, sizeof *vocabulary->tries[t].order);
  read_tokens(vocabulary, tokenizer);
  bool has_end = false;
  for (int64_t i = 0; i < vocabulary->words; i++) has_end |= vocabulary->ends[i] != 0;
  if (!has_end) {
    constraint_vocabulary_free(vocabulary);
    return status_fail(STATUS_BAD_INPUT, "constraint: the vocabulary has no token that ends a text, so a grammar could not end one");
  }
  for (int t = 0; t < TRIE_COUNT; t++) trie_build(&vocabulary->tries[t], vocabulary);
  find_quoted(vocabulary);
  *out = vocabulary;
  return STATUS_OK;
}

void constraint_vocabulary_free(ConstraintVocabulary *vocabulary) {
  if (!vocabulary) return;
  free(vocabulary->bytes);
  free(vocabulary->begins);
  free(vocabulary->ends);
  for (int t = 0; t < TRIE_COUNT; t++) free(vocabulary->tries[t].nodes), free(vocabulary->tries[t].order);
  free(vocabulary->quoted);
  free(vocabulary);
}

int32_t trie_find(const Trie *trie, int32_t node, const char *bytes, int64_t length) {
  for (int64_t i = 0; i < length; i++) {
    int32_t child = node < 0 ? 0 : node + 1, end = node < 0 ? trie->node_count : trie->nodes[node].end;
    while (child < end && trie->nodes[child].byte != (uint8_t)bytes[i]) child = trie->nodes[child].end;
    if (child >= end) return -1;
    node = child;
  }
  return node;
}
