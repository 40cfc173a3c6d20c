#include "runtime/pages.h"

#include <stdlib.h>
#include <string.h>

struct PageNode {
  int32_t page;
  int32_t ids[PAGE_TOKENS];
  int count;  // tokens that it has
  int prompt_count;  // of them, the first: computed as a prompt's, as all before them
  int users;  // lists that have it
  bool is_in_tree;
  uint64_t last_use;
  PageNode *parent, *first_child, *next_sibling;
};

struct PageStore {
  const Model *model;
  Pages *layers;
  void *block;
  int64_t key_bytes, value_bytes;  // of a page of one layer
  int64_t pages;
  int32_t *free_pages;  // [free_count]
  int64_t free_count;
  int64_t kept;  // nodes of the tree, without the roots, that have no users
  int64_t promised;
  PageNode *roots;  // [root_count]
  int64_t *ages;  // [root_count]: how often what hung on a root has been forgotten
  int root_count;
  uint64_t clock;
};

Status page_store_new(PageStore **out, const Model *model, PagesType type, int64_t pages, int roots) {
  const ModelConfig *config = &model->config;
  PageStore *store = *out = memory_new(1, sizeof *store);
  store->model = model;
  store->pages = pages;
  store->key_bytes = config->kv_heads * page_head_bytes(type, config->head_size);
  store->value_bytes = config->kv_heads * page_head_bytes(type, config->value_size);
  store->layers = memory_new((size_t)config->layers, sizeof *store->layers);
  store->free_pages = memory_new((size_t)pages, sizeof *store->free_pages);
  store->roots = memory_new((size_t)roots, sizeof *store->roots);
  store->ages = memory_new((size_t)roots, sizeof *store->ages);
  store->root_count = roots;
  for (int i = 0; i < roots; i++) store->roots[i] = (PageNode){.is_in_tree = true, .count = PAGE_TOKENS, .prompt_count = PAGE_TOKENS};
  for (int64_t i = pages - 1; i >= 0; i--) store->free_pages[store->free_count++] = (int32_t)i;
  size_t layer = (size_t)(store->key_bytes + store->value_bytes), bytes;
  Status status = STATUS_OK;
  if (!size_multiply(&bytes, layer * (size_t)config->layers, (size_t)pages) || bytes > INT64_MAX)
    status = status_fail(STATUS_USAGE, "so large a context is more than any memory holds; give a smaller --context");
  if (status == STATUS_OK)
    status = model->backend->allocate(&store->block, (int64_t)bytes,
                                      "keys and values; a smaller --context, --parallel or --cache-tokens needs less", model->backend);
  if (status != STATUS_OK) {
    page_store_free(store);
    return status;
  }
  char *at = store->block;
  for (int64_t i = 0; i < config->layers; i++, at += layer * (size_t)pages)
    store->layers[i] = (Pages){.keys = at, .values = at + store->key_bytes * pages, .type = type};
  return STATUS_OK;
}

static void free_below(PageNode *node) {
  for (PageNode *child = node->first_child, *next; child; child = next) {
    next = child->next_sibling;
    free_below(child);
    free(child);
  }
}

void page_store_free(PageStore *store) {
  if (!store) return;
  for (int i = 0; i < store->root_count; i++) free_below(&store->roots[i]);
  if (store->block) store->model->backend->release(store->block, store->model->backend);
  free(store->layers);
  free(store->free_pages);
  free(store->roots);
  free(store->ages);
  free(store);
}

const Pages *page_store_layers(const PageStore *store) { return store->layers; }
int32_t page_number(const PageList *list, int64_t index) { return list->nodes[index]->page; }
PageCounts page_store_counts(const PageStore *store) { return (PageCounts){store->pages, store->free_count, store->kept}; }

static void list_push(PageList *list, PageNode *node) {
  if (list->count == list->capacity) {
    list->capacity = list->capacity ? 2 * list->capacity : 8;
    list->nodes = memory_grow(list->nodes, (size_t)list->capacity, sizeof *list->nodes);
  }
  list->nodes[list->count++] = node;
}

static void unlink_node(PageNode *node) {
  PageNode **at = &node->parent->first_child;
  while (*at != node) at = &(*at)->next_sibling;
  *at = node->next_sibling;
}

// The page of the tree that is longest unused and that no other hangs on.
static PageNode *oldest_leaf(PageNode *node, PageNode *best) {
  for (PageNode *child = node->first_child; child; child = child->next_sibling) {
    if (child->first_child) best = oldest_leaf(child, best);
    else if (child->users == 0 && (!best || child->last_use < best->last_use)) best = child;
  }
  return best;
}

static void give_back(PageStore *store, PageNode *node) {
  store->free_pages[store->free_count++] = node->page;
  free(node);
}

// There is one: it was promised.
static PageNode *take_page(PageStore *store) {
  if (store->free_count == 0) {
    PageNode *oldest = NULL;
    for (int i = 0; i < store->root_count; i++) oldest = oldest_leaf(&store->roots[i], oldest);
    unlink_node(oldest);
    store->kept--;
    give_back(store, oldest);
  }
  PageNode *node = memory_new(1, sizeof *node);
  node->page = store->free_pages[--store->free_count];
  node->users = 1;
  return node;
}

static int common_tokens(const PageNode *node, const int32_t *ids, int64_t most, bool only_prompts) {
  int count = only_prompts ? node->prompt_count : node->count, n = 0;
  while (n < count && n < most && node->ids[n] == ids[n]) n++;
  return n;
}

// The child that has most of ids; *n: how much.
static PageNode *best_child(const PageNode *node, const int32_t *ids, int64_t most, bool only_prompts, int *n) {
  PageNode *best = NULL;
  *n = 0;
  for (PageNode *child = node->first_child; child; child = child->next_sibling) {
    int common = common_tokens(child, ids, most, only_prompts);
    if (common > *n) *n = common, best = child;
  }
  return best;
}

static void use(PageStore *store, PageNode *node) {
  if (node->users++ == 0) store->kept--;
  node->last_use = ++store->clock;
}

static void leave(PageStore *store, PageNode *node) {
  if (--node->users == 0 && node->is_in_tree) store->kept++;
}

static void copy_page(PageStore *store, int32_t to, int32_t from) {
  Backend *backend = store->model->backend;
  for (int64_t i = 0; i < store->model->config.layers; i++) {
    const Pages *layer = &store->layers[i];
    char *keys = layer->keys, *values = layer->values;
    int64_t k = store->key_bytes, v = store->value_bytes;
    backend->kernels->copy((float *)(void *)(keys + to * k), (const float *)(void *)(keys + from * k), k / 4, backend);
    backend->kernels->copy((float *)(void *)(values + to * v), (const float *)(void *)(values + from * v), v / 4, backend);
  }
}

int64_t page_store_match(const PageStore *store, int root, const int32_t *ids, int64_t count) {
  const PageNode *node = &store->roots[root];
  int64_t done = 0;
  int n;
  while ((node = best_child(node, ids + done, count - done, false, &n)) && n == PAGE_TOKENS) done += n;
  return done;
}

bool page_list_begin(PageList *list, PageStore *store, int root, const int32_t *ids, int64_t most, int64_t length, bool only_prompts) {
  *list = (PageList){.root = root, .age = store->ages[root], .place = &store->roots[root]};
  int n = 0;
  PageNode *node;
  while ((node = best_child(list->place, ids + list->tokens, most - list->tokens, only_prompts, &n)) && n == PAGE_TOKENS) {
    use(store, node);
    list_push(list, node);
    list->place = node;
    list->tokens += PAGE_TOKENS;
  }
  if (node) use(store, node);  // must not be given away before it is copied
  int64_t needed = (length + PAGE_TOKENS - 1) / PAGE_TOKENS - list->count;
  if (needed < 0) needed = 0;
  bool fits = store->promised + needed <= store->free_count + store->kept;
  // The copied page is held only until it has been copied, and is there for others again.
  if (!fits && node) leave(store, node), fits = store->promised + needed <= store->free_count + store->kept, node = NULL;
  if (!fits) {
    for (int64_t i = 0; i < list->count; i++) leave(store, list->nodes[i]);
    free(list->nodes);
    *list = (PageList){0};
    return false;
  }
  list->reserved = needed;
  store->promised += needed;
  if (!node) return true;
  PageNode *own = take_page(store);
  list->reserved--;
  store->promised--;
  copy_page(store, own->page, node->page);
  memcpy(own->ids, node->ids, (size_t)n * sizeof *own->ids);
  own->count = n;
  own->prompt_count = n < node->prompt_count ? n : node->prompt_count;
  list_push(list, own);
  list->tokens += n;
  leave(store, node);
  return true;
}

void page_list_extend(int32_t *slots, PageList *list, PageStore *store, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    int64_t token = list->tokens + i;
    if (token / PAGE_TOKENS == list->count) {
      list_push(list, take_page(store));
      list->reserved--;
      store->promised--;
    }
    slots[i] = list->nodes[token / PAGE_TOKENS]->page * PAGE_TOKENS + (int32_t)(token % PAGE_TOKENS);
  }
}

// Hangs page `index` of a list into the tree. Where the tree has one with the same bits, computed as a prompt's, the list takes that instead.
static void put_into_tree(PageList *list, PageStore *store, int64_t index) {
  PageNode *node = list->nodes[index];
  if (list->age != store->ages[list->root]) return;
  int n;
  PageNode *like = best_child(list->place, node->ids, node->count, node->prompt_count == node->count, &n);
  if (like && n == node->count && n < PAGE_TOKENS) return;
  if (like && n == PAGE_TOKENS && node->prompt_count == PAGE_TOKENS) {
    use(store, like);
    give_back(store, node);
    list->nodes[index] = list->place = like;
    return;
  }
  node->parent = list->place;
  node->next_sibling = list->place->first_child;
  list->place->first_child = node;
  node->is_in_tree = true;
  node->last_use = ++store->clock;
  if (node->count == PAGE_TOKENS) list->place = node;
}

void page_list_fill(PageList *list, PageStore *store, const int32_t *ids, int64_t count, bool is_prompt) {
  for (int64_t i = 0; i < count; i++, list->tokens++) {
    int64_t index = list->tokens / PAGE_TOKENS;
    PageNode *node = list->nodes[index];
    bool follows_prompts = node->prompt_count == node->count && (index == 0 || list->nodes[index - 1]->prompt_count == PAGE_TOKENS);
    if (is_prompt && follows_prompts) node->prompt_count++;
    node->ids[node->count++] = ids[list->tokens];
    if (node->count == PAGE_TOKENS) put_into_tree(list, store, index);
  }
}

void page_list_end(PageList *list, PageStore *store) {
  if (list->tokens % PAGE_TOKENS) put_into_tree(list, store, list->tokens / PAGE_TOKENS);
  for (int64_t i = 0; i < list->count; i++) {
    PageNode *node = list->nodes[i];
    leave(store, node);
    if (!node->is_in_tree && node->users == 0) give_back(store, node);
  }
  store->promised -= list->reserved;
  free(list->nodes);
  *list = (PageList){0};
}

// Pages in use stay until their texts end, but nobody finds them any more.
static void forget_below(PageStore *store, PageNode *node) {
  for (PageNode *child = node->first_child, *next; child; child = next) {
    next = child->next_sibling;
    forget_below(store, child);
    child->is_in_tree = false;
    child->first_child = NULL;
    if (child->users > 0) continue;
    store->kept--;
    give_back(store, child);
  }
  node->first_child = NULL;
}

void page_store_forget(PageStore *store, int root) {
  store->ages[root]++;
  forget_below(store, &store->roots[root]);
}
