// Byte-pair encoding of one word (Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016): among all
// neighbouring symbols the pair whose merge has the lowest rank is joined, the leftmost first, until no pair has a merge.
//
// Short words are scanned for the lowest rank after each merge. Long ones (a text without pre-tokenisation is one word) keep their
// pairs in a heap of rank << 32 | position over a linked list of symbols: n log n. An entry is stale when the symbol at its
// position has another rank by now: what counts is the present rank of a position, so an entry may as well serve a later pair of
// the same rank.
#include <string.h>

#include "core/text.h"
#include "data/tokenizer/parts.h"

enum { SHORT_WORD = 32, CACHE_SLOTS = 1 << 15, CACHE_WORD = 62, CACHE_IDS = 14 };

void model_reserve_merges(Model *model, size_t count) {
  model->pairs = memory_new(count + 1, sizeof *model->pairs);
  model->merged = memory_new(count + 1, sizeof *model->merged);
}

void model_release(Model *model) {
  pair_table_release(&model->merges);
  pair_table_release(&model->space_joins);
  map_release(&model->loose_ids);
  free(model->pairs);
  free(model->merged);
  free(model->ranks);
  free(model->loose);
}

// ---- The cache: words of natural text repeat, so most are looked up. Two cache lines a word, a newer word replaces an older. ----

typedef struct CacheEntry {
  uint64_t hash;
  uint8_t length, count;
  char word[CACHE_WORD];
  int32_t ids[CACHE_IDS];
} CacheEntry;

struct WordCache {
  CacheEntry entries[CACHE_SLOTS];
};

static uint64_t word_hash(const char *word, size_t length) {
  uint64_t hash = length * 0x9E3779B97F4A7C15u;
  while (length) {
    uint64_t part = 0;
    size_t step = length < 8 ? length : 8;
    memcpy(&part, word, step);
    hash = (hash ^ part) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
    word += step;
    length -= step;
  }
  return hash | 1;  // so that a free entry, all zero, matches nothing
}

// ---- Merging ----

// Sets the rank of a symbol's merge with its right neighbour; true where they have one.
static bool rank_pair(const Model *model, Symbol *left, int32_t right_id) {
  left->merge = pair_table_get(&model->merges, (uint64_t)(uint32_t)left->id << 32 | (uint32_t)right_id);
  left->rank = model->ranks && left->merge >= 0 ? model->ranks[left->merge] : left->merge;
  return left->merge >= 0;
}

static void rank_at(const Model *model, Symbol *symbols, size_t i, size_t count) {
  symbols[i].rank = -1;
  if (i + 1 < count) rank_pair(model, &symbols[i], symbols[i + 1].id);
}

static size_t merge_short(const Model *model, Symbol *symbols, size_t count) {
  for (size_t i = 0; i < count; i++) rank_at(model, symbols, i, count);
  for (;;) {
    size_t best = count;
    uint32_t best_rank = UINT32_MAX;  // as unsigned, -1 is the highest
    for (size_t i = 0; i < count; i++) {
      if ((uint32_t)symbols[i].rank < best_rank) best_rank = (uint32_t)symbols[best = i].rank;
    }
    if (best == count) return count;
    symbols[best].id = model->merged[symbols[best].merge];
    memmove(symbols + best + 1, symbols + best + 2, (count - best - 2) * sizeof *symbols);
    count--;
    rank_at(model, symbols, best, count);
    if (best > 0) rank_at(model, symbols, best - 1, count);
  }
}

static void heap_sink(uint64_t *heap, size_t count, size_t i) {
  uint64_t value = heap[i];
  for (size_t child; (child = 2 * i + 1) < count; i = child) {
    if (child + 1 < count && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= value) break;
    heap[i] = heap[child];
  }
  heap[i] = value;
}

static void heap_push(Workspace *workspace, uint64_t value) {
  ARRAY_PUSH(workspace->heap, workspace->heap_count, workspace->heap_capacity) = value;
  uint64_t *heap = workspace->heap;
  size_t i = workspace->heap_count - 1;
  for (; i > 0 && heap[(i - 1) / 2] > value; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
  heap[i] = value;
}

static uint64_t heap_pop(Workspace *workspace) {
  uint64_t top = workspace->heap[0];
  workspace->heap[0] = workspace->heap[--workspace->heap_count];
  if (workspace->heap_count) heap_sink(workspace->heap, workspace->heap_count, 0);
  return top;
}

static bool rank_linked(const Model *model, Symbol *symbols, int32_t position) {
  Symbol *symbol = &symbols[position];
  symbol->rank = -1;
  return symbol->next >= 0 && rank_pair(model, symbol, symbols[symbol->next].id);
}

static size_t merge_long(const Model *model, Workspace *workspace, size_t count) {
  Symbol *symbols = workspace->symbols;
  workspace->heap_count = 0;
  for (size_t i = 0; i < count; i++) {
    symbols[i].previous = (int32_t)i - 1;
    symbols[i].next = i + 1 < count ? (int32_t)i + 1 : -1;
    if (!rank_linked(model, symbols, (int32_t)i)) continue;
    ARRAY_PUSH(workspace->heap, workspace->heap_count, workspace->heap_capacity) = (uint64_t)symbols[i].rank << 32 | i;
  }
  for (size_t i = workspace->heap_count / 2; i-- > 0;) heap_sink(workspace->heap, workspace->heap_count, i);
  while (workspace->heap_count) {
    uint64_t entry = heap_pop(workspace);
    int32_t position = (int32_t)(entry & UINT32_MAX);
    Symbol *left = &symbols[position];
    if (left->rank != (int32_t)(entry >> 32)) continue;
    Symbol *right = &symbols[left->next];
    left->id = model->merged[left->merge];
    left->next = right->next;
    right->rank = -1;
    if (left->next >= 0) symbols[left->next].previous = position;
    if (rank_linked(model, symbols, position)) heap_push(workspace, (uint64_t)left->rank << 32 | (uint32_t)position);
    if (left->previous < 0) continue;
    if (rank_linked(model, symbols, left->previous)) {
      heap_push(workspace, (uint64_t)symbols[left->previous].rank << 32 | (uint32_t)left->previous);
    }
  }
  size_t kept = 0;
  for (int32_t i = 0; i >= 0; i = symbols[i].next) symbols[kept++].id = symbols[i].id;  // kept <= i: the rest is still to be read
  return kept;
}

// ---- The first symbols ----

// Unknown characters may be fused: the run waits in *pending until a known one comes.
typedef struct SymbolList {
  Symbol *symbols;
  size_t count;
  bool pending;
} SymbolList;

static void flush_unknown(SymbolList *list, const Model *model) {
  if (list->pending) list->symbols[list->count++].id = model->unknown;
  list->pending = false;
}

static void push_known(SymbolList *list, const Model *model, int32_t id) {
  flush_unknown(list, model);
  list->symbols[list->count++].id = id;
}

static void push_unknown(SymbolList *list, const Model *model) {
  if (model->unknown < 0) return;
  if (!model->fuse_unknown) flush_unknown(list, model);
  list->pending = true;
}

int32_t model_character_id(const Tokenizer *tokenizer, const char *text, size_t length) {
  const Model *model = &tokenizer->model;
  int64_t id = -1;
  if (length == 1 && !((uint8_t)text[0] & 128)) {
    id = model->ascii_ids[(uint8_t)text[0]];
  } else {
    map_get(&tokenizer->ids, text, length, &id);
  }
  if (id < 0 && model->loose_count && map_get(&model->loose_ids, text, length, &id)) id += tokenizer->size;
  return (int32_t)id;
}

// What stands for a character that is no token: its bytes where all of them are tokens, else the unknown token.
static void push_fallback(SymbolList *list, const Model *model, const char *text, size_t length) {
  bool all = model->byte_fallback;
  for (size_t i = 0; i < length; i++) all = all && model->byte_ids[(uint8_t)text[i]] >= 0;
  if (!all) {
    push_unknown(list, model);
    return;
  }
  for (size_t i = 0; i < length; i++) push_known(list, model, model->byte_ids[(uint8_t)text[i]]);
}

// One character of a word, with the affixes of its place.
static void push_character(SymbolList *list, const Tokenizer *tokenizer, const char *text, size_t length, bool first, bool last) {
  const Model *model = &tokenizer->model;
  Buffer whole = {0};
  if (model->prefix || model->suffix) {
    if (model->prefix && !first) buffer_append_string(&whole, model->prefix);
    buffer_append(&whole, text, length);
    if (model->suffix && last) buffer_append_string(&whole, model->suffix);
    text = whole.data;
    length = whole.length;
  }
  int32_t id = model_character_id(tokenizer, text, length);
  if (id >= 0) {
    push_known(list, model, id);
  } else {
    push_fallback(list, model, text, length);
  }
  buffer_release(&whole);
}

static size_t first_symbols(const Tokenizer *tokenizer, Symbol *symbols, const char *word, size_t length) {
  const Model *model = &tokenizer->model;
  SymbolList list = {.symbols = symbols};
  if (model->kind == MODEL_BPE_BYTES) {
    for (size_t i = 0; i < length; i++) {
      int32_t id = model->byte_ids[(uint8_t)word[i]];
      if (id >= 0) {
        push_known(&list, model, id);
      } else {
        push_unknown(&list, model);
      }
    }
  } else {
    for (size_t i = 0, step; i < length; i += step) {
      step = (size_t)utf8_length((const unsigned char *)word + i, length - i);
      push_character(&list, tokenizer, word + i, step, i == 0, i + step == length);
    }
  }
  flush_unknown(&list, model);
  return list.count;
}

// The token that the whole word is, for ignore_merges; -1 when there is none.
static int32_t whole_word(const Tokenizer *tokenizer, const char *word, size_t length) {
  const Model *model = &tokenizer->model;
  int64_t id = -1;
  if (length > model->longest) return -1;
  if (model->kind != MODEL_BPE_BYTES) return map_get(&tokenizer->ids, word, length, &id) ? (int32_t)id : -1;
  Buffer text = {0};
  for (size_t i = 0; i < length; i++) {
    char character[4];
    buffer_append(&text, character, (size_t)byte_to_alphabet(character, (uint8_t)word[i]));
  }
  map_get(&tokenizer->ids, text.data, text.length, &id);
  buffer_release(&text);
  return (int32_t)id;
}

// Symbols to ids: a loose character that found no partner is bytes or unknown after all, and joins unknown ones beside it.
static void push_ids(TokenList *out, const Tokenizer *tokenizer, const Symbol *symbols, size_t count) {
  const Model *model = &tokenizer->model;
  Symbol parts[4];
  bool pending = false;  // an unknown token stands at the end
  for (size_t i = 0; i < count; i++) {
    SymbolList list = {.symbols = parts};
    if (symbols[i].id < tokenizer->size) {
      push_known(&list, model, symbols[i].id);
    } else {
      const LooseCharacter *character = &model->loose[symbols[i].id - tokenizer->size];
      push_fallback(&list, model, character->text, character->length);
      flush_unknown(&list, model);
    }
    for (size_t k = 0; k < list.count; k++) {
      bool unknown = model->fuse_unknown && parts[k].id == model->unknown;
      if (!(pending && unknown)) token_list_push(out, parts[k].id);
      pending = unknown;
    }
  }
}

static Status encode_uncached(TokenList *out, const Tokenizer *tokenizer, Workspace *workspace, const char *word, size_t length) {
  const Model *model = &tokenizer->model;
  if (model->ignore_merges) {
    int32_t id = whole_word(tokenizer, word, length);
    if (id >= 0) {
      token_list_push(out, id);
      return STATUS_OK;
    }
  }
  if (length > INT32_MAX - 1) return status_fail(STATUS_BAD_INPUT, "a word of %zu bytes is longer than 2 GiB: split the text", length);
  size_t room = length + 1;  // an affix may fall back to bytes
  if (model->prefix) room *= strlen(model->prefix) + 1;
  if (model->suffix) room += strlen(model->suffix);
  if (workspace->symbol_capacity < room) {
    workspace->symbol_capacity = room * 2 + SHORT_WORD;
    workspace->symbols = memory_grow(workspace->symbols, workspace->symbol_capacity, sizeof *workspace->symbols);
  }
  size_t count = first_symbols(tokenizer, workspace->symbols, word, length);
  if (count <= SHORT_WORD) {
    count = merge_short(model, workspace->symbols, count);
  } else {
    count = merge_long(model, workspace, count);
  }
  if (model->loose_count) {
    push_ids(out, tokenizer, workspace->symbols, count);
    return STATUS_OK;
  }
  for (size_t i = 0; i < count; i++) token_list_push(out, workspace->symbols[i].id);
  return STATUS_OK;
}

Status model_encode_word(TokenList *out, const Tokenizer *tokenizer, Workspace *workspace, const char *word, size_t length) {
  if (length > CACHE_WORD) return encode_uncached(out, tokenizer, workspace, word, length);
  uint64_t hash = word_hash(word, length);
  CacheEntry *entry = &workspace->cache->entries[hash >> 8 & (CACHE_SLOTS - 1)];
  if (entry->hash == hash && entry->length == length && memcmp(entry->word, word, length) == 0) {
    for (int i = 0; i < entry->count; i++) token_list_push(out, entry->ids[i]);
    return STATUS_OK;
  }
  int64_t before = out->count;
  TRY(encode_uncached(out, tokenizer, workspace, word, length));
  int64_t count = out->count - before;
  if (count > CACHE_IDS) return STATUS_OK;
  *entry = (CacheEntry){.hash = hash, .length = (uint8_t)length, .count = (uint8_t)count};
  memcpy(entry->word, word, length);
  if (count) memcpy(entry->ids, out->ids + before, (size_t)count * sizeof *entry->ids);
  return STATUS_OK;
}

void model_encode_byte(TokenList *out, const Tokenizer *tokenizer, uint8_t byte) {
  int32_t id = tokenizer->model.byte_ids[byte];
  if (id < 0) id = tokenizer->model.unknown;
  if (id >= 0) token_list_push(out, id);
}

// ---- Workspaces ----

enum { KEEP_BYTES = 16 << 20 };  // one huge text must not hold its memory for the rest of the run

Workspace *workspace_take(const Tokenizer *tokenizer) {
  Tokenizer *owner = (Tokenizer *)tokenizer;  // the pool is the one part of it that changes, under its lock
  pthread_mutex_lock(&owner->pool_lock);
  Workspace *workspace = owner->pool;
  if (workspace) owner->pool = workspace->next;
  pthread_mutex_unlock(&owner->pool_lock);
  if (workspace) return workspace;
  workspace = memory_new(1, sizeof *workspace);
  workspace->cache = memory_new(1, sizeof *workspace->cache);
  return workspace;
}

static void workspace_trim(Workspace *workspace) {
  if (workspace->symbol_capacity * sizeof *workspace->symbols > KEEP_BYTES) {
    free(workspace->symbols);
    workspace->symbols = NULL;
    workspace->symbol_capacity = 0;
  }
  if (workspace->heap_capacity * sizeof *workspace->heap > KEEP_BYTES) {
    free(workspace->heap);
    workspace->heap = NULL;
    workspace->heap_count = workspace->heap_capacity = 0;
  }
  if (workspace->normal.capacity > KEEP_BYTES) buffer_release(&workspace->normal);
  if (workspace->normal_other.capacity > KEEP_BYTES) buffer_release(&workspace->normal_other);
  for (int i = 0; i < STAGES_MAX; i++) {
    if (workspace->rewritten[i].capacity > KEEP_BYTES) buffer_release(&workspace->rewritten[i]);
  }
}

void workspace_put(const Tokenizer *tokenizer, Workspace *workspace) {
  Tokenizer *owner = (Tokenizer *)tokenizer;
  workspace_trim(workspace);
  pthread_mutex_lock(&owner->pool_lock);
  workspace->next = owner->pool;
  owner->pool = workspace;
  pthread_mutex_unlock(&owner->pool_lock);
}

void workspace_free(Workspace *workspace) {
  free(workspace->symbols);
  free(workspace->heap);
  free(workspace->cache);
  buffer_release(&workspace->normal);
  buffer_release(&workspace->normal_other);
  for (int i = 0; i < STAGES_MAX; i++) buffer_release(&workspace->rewritten[i]);
  pcre2_match_data_free(workspace->match);
  pcre2_match_context_free(workspace->context);
  if (workspace->stack) pcre2_jit_stack_free(workspace->stack);
  free(workspace);
}
