// A token is allowed where its bytes can be read. The tree of all tokens is walked with the sets of places that each prefix leads to; a
// walk from a state goes as if nothing were known of its callers (parent 0), so that it holds for every text and is done once: what comes
// of it is a mask, and the prefixes at which the rule may have ended. Only from these the walk goes on for the callers that a text really
// has, and it ends soon: few tokens go on behind the '"' that ends a string. (The split into what depends on the context and what does not
// is that of XGrammar, Dong et al. 2024.) Sets of places and the ways between them are kept, so that a walk is mostly a table's look-up for
// each prefix.
#include "runtime/constraint/mask.h"

#include <stdlib.h>
#include <string.h>

enum {
  NOT_KNOWN = -2,
  NOWHERE = -1,
  MAX_SETS = 1 << 17,  // sets of places that are kept, and
  MAX_MASK_BYTES = 64 << 20,  // masks: beyond that the cache begins anew
};

// Prefixes, as nodes of the tree.
typedef struct NodeList {
  int32_t *items;
  int64_t count, capacity;
} NodeList;

typedef struct StateMask {
  uint64_t *mask;  // NULL: not computed yet
  NodeList exits;  // longer tokens begin with them, and the state's rule may have ended there
} StateMask;

struct MaskCache {
  MaskCache *next;  // of another vocabulary
  uint64_t serial;
  Stacks stacks;
  Pool sets;  // whether the caller is reached, then pairs of state and parent
  int32_t *ways;  // [sets.count, classes]: a set, NOWHERE or NOT_KNOWN
  int64_t way_capacity;  // in sets
  StateMask *states[TRIE_COUNT];  // [state_count]
  int64_t mask_bytes;
  FrameList frames;  // scratch
  int32_t *path;  // scratch [depth + 1]: the set at each depth of a walk
};

MaskCache *mask_cache_get(Grammar *grammar, const ConstraintVocabulary *vocabulary) {
  MaskCache *cache = grammar->caches;
  while (cache && cache->serial != vocabulary->serial) cache = cache->next;
  if (cache) return cache;
  cache = memory_new(1, sizeof *cache);
  cache->serial = vocabulary->serial;
  stacks_new(&cache->stacks, grammar);
  int depth = 0;
  for (int t = 0; t < TRIE_COUNT; t++) {
    cache->states[t] = memory_new((size_t)grammar->state_count, sizeof *cache->states[t]);
    if (vocabulary->tries[t].depth > depth) depth = vocabulary->tries[t].depth;
  }
  cache->path = memory_new((size_t)depth + 1, sizeof *cache->path);
  cache->next = grammar->caches;
  grammar->caches = cache;
  return cache;
}

static void cache_clear(MaskCache *cache) {
  const Grammar *grammar = cache->stacks.grammar;
  for (int64_t i = 0; i < TRIE_COUNT * (int64_t)grammar->state_count; i++) {
    StateMask *state = &cache->states[i % TRIE_COUNT][i / TRIE_COUNT];
    free(state->mask);
    free(state->exits.items);
    *state = (StateMask){0};
  }
  stacks_release(&cache->stacks);
  stacks_new(&cache->stacks, grammar);
  pool_release(&cache->sets);
  free(cache->ways);
  cache->ways = NULL;
  cache->way_capacity = cache->mask_bytes = 0;
}

void mask_caches_free(MaskCache *cache) {
  for (MaskCache *next; cache; cache = next) {
    next = cache->next;
    cache_clear(cache);
    stacks_release(&cache->stacks);
    for (int t = 0; t < TRIE_COUNT; t++) free(cache->states[t]);
    free(cache->frames.items);
    free(cache->path);
    free(cache);
  }
}

// The number of a set; its ways are not known yet when it is new.
static int32_t intern_set(MaskCache *cache, const FrameList *frames, bool ends) {
  int64_t classes = cache->stacks.grammar->classes.count, known = cache->sets.count;
  int32_t *words = memory_new((size_t)frames->count * 2 + 1, sizeof *words);
  words[0] = ends;
  if (frames->count) memcpy(words + 1, frames->items, (size_t)frames->count * sizeof *frames->items);
  int32_t set = pool_intern(&cache->sets, words, 1 + 2 * frames->count);
  free(words);
  if (set < known) return set;
  if (set >= cache->way_capacity) {
    cache->way_capacity = cache->way_capacity ? cache->way_capacity * 2 : 64;
    cache->ways = memory_grow(cache->ways, (size_t)(cache->way_capacity * classes), sizeof *cache->ways);
  }
  for (int64_t c = 0; c < classes; c++) cache->ways[set * classes + c] = NOT_KNOWN;
  return set;
}

static bool set_ends(const MaskCache *cache, int32_t set) { return cache->sets.words[cache->sets.begins[set]] != 0; }

static int32_t find_way(MaskCache *cache, int32_t set, int class) {
  const Grammar *grammar = cache->stacks.grammar;
  int64_t count;
  bool ends;
  const int32_t *words = pool_get(&count, &cache->sets, set);
  cache->frames.count = 0;
  for (int64_t i = 1; i < count; i += 2) {
    int32_t to = grammar->next[(int64_t)words[i] * grammar->classes.count + class];
    if (to >= 0) frame_list_add(&cache->frames, (Frame){to, words[i + 1]});
  }
  // Too many places at once: none is taken, and the tokens behind are not allowed. Accepting one would fail for the same reason.
  bool fits = stacks_close(&cache->frames, &ends, &cache->stacks);
  int32_t way = fits && (cache->frames.count || ends) ? intern_set(cache, &cache->frames, ends) : NOWHERE;
  cache->ways[(int64_t)set * grammar->classes.count + class] = way;
  return way;
}

static void add_tokens(uint64_t *mask, const Trie *trie, int32_t node) {
  for (int32_t i = trie->nodes[node].first_token; i < trie->nodes[node + 1].first_token; i++) mask_add(mask, trie->order[i]);
}

// Walks the nodes begin .. end-1, which lie below one of depth `depth`, from a set. Adds the tokens that can be read to `mask`, and to
// `exits` the nodes where the caller of parent 0 is reached and tokens go on.
static void walk(uint64_t *mask, NodeList *exits, MaskCache *cache, const Trie *trie, int32_t begin, int32_t end, int depth, int32_t set) {
  const uint8_t *class_of = cache->stacks.grammar->classes.of;
  const TrieNode *nodes = trie->nodes;
  int64_t classes = cache->stacks.grammar->classes.count;
  cache->path[depth] = set;
  for (int32_t i = begin; i < end;) {
    const TrieNode *node = &nodes[i];
    int32_t from = cache->path[node->depth - 1];
    int class = class_of[node->byte];
    int32_t to = cache->ways[from * classes + class];
    if (to == NOT_KNOWN) to = find_way(cache, from, class);
    if (to == NOWHERE) {
      i = node->end;
      continue;
    }
    cache->path[node->depth] = to;
    add_tokens(mask, trie, i);
    if (node->end > i + 1 && set_ends(cache, to)) ARRAY_PUSH(exits->items, exits->count, exits->capacity) = i;
    i++;
  }
}

// The set of a state alone: what it returns to and calls are places of their own.
static int32_t set_of_state(MaskCache *cache, int32_t state) {
  FrameList frames = {.items = &(Frame){state, 0}, .count = 1};
  return intern_set(cache, &frames, false);
}

static const StateMask *mask_of_state(MaskCache *cache, const ConstraintVocabulary *vocabulary, TrieKind kind, int32_t state) {
  const Trie *trie = &vocabulary->tries[kind];
  if (kind == TRIE_SHORT) state = cache->stacks.grammar->twins[state];
  StateMask *own = &cache->states[kind][state];
  if (own->mask) return own;
  own->mask = memory_new((size_t)vocabulary->words, sizeof *own->mask);
  cache->mask_bytes += vocabulary->words * (int64_t)sizeof *own->mask;
  walk(own->mask, &own->exits, cache, trie, 0, trie->node_count, 0, set_of_state(cache, state));
  return own;
}

// What goes on from prefixes where a rule has ended. Ambiguous grammars come to the same place in many ways: each is gone on from once.
typedef struct Beyond {
  uint64_t *mask;
  MaskCache *cache;
  const Trie *trie;
  Stacks *stacks;
  Pool seen;  // prefix, state, parent
} Beyond;

static void walk_beyond(Beyond *beyond, int32_t parent, const NodeList *exits);

static void walk_frame(Beyond *beyond, Frame frame, const NodeList *exits) {
  NodeList further = {0};
  int32_t set = set_of_state(beyond->cache, frame.state);
  for (int64_t k = 0; k < exits->count; k++) {
    int64_t known = beyond->seen.count;
    if (pool_intern(&beyond->seen, (const int32_t[]){exits->items[k], frame.state, frame.parent}, 3) < known) continue;
    const TrieNode *node = &beyond->trie->nodes[exits->items[k]];
    walk(beyond->mask, &further, beyond->cache, beyond->trie, exits->items[k] + 1, node->end, node->depth, set);
  }
  if (further.count && frame.parent) walk_beyond(beyond, frame.parent, &further);
  free(further.items);
}

// Goes on in what called the rule.
static void walk_beyond(Beyond *beyond, int32_t parent, const NodeList *exits) {
  FrameList frames = {0};
  bool ends;
  stacks_add_parents(&frames, beyond->stacks, parent);
  if (!stacks_close(&frames, &ends, beyond->stacks)) frames.count = 0;
  for (int64_t i = 0; i < frames.count; i++) walk_frame(beyond, frames.items[i], exits);
  free(frames.items);
}

static void add_frames(Beyond *beyond, const ConstraintVocabulary *vocabulary, TrieKind kind, const FrameList *frames) {
  for (int64_t i = 0; i < frames->count; i++) {
    const StateMask *own = mask_of_state(beyond->cache, vocabulary, kind, frames->items[i].state);
    for (int64_t w = 0; w < vocabulary->words; w++) beyond->mask[w] |= own->mask[w];
    if (own->exits.count && frames->items[i].parent) walk_beyond(beyond, frames->items[i].parent, &own->exits);
  }
}

void mask_add_frames(uint64_t *mask, MaskCache *cache, const ConstraintVocabulary *vocabulary, Stacks *stacks, const FrameList *frames) {
  if (cache->sets.count > MAX_SETS || cache->mask_bytes > MAX_MASK_BYTES) cache_clear(cache);
  for (int t = 0; t < TRIE_COUNT; t++) {
    Beyond beyond = {.mask = mask, .cache = cache, .trie = &vocabulary->tries[t], .stacks = stacks};
    add_frames(&beyond, vocabulary, (TrieKind)t, frames);
    pool_release(&beyond.seen);
  }
}
