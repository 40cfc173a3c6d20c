// The pages of an engine: their memory, and the tree that says what is in them. A node of the tree is a page with its tokens; its way from the
// root is the text before them. Texts that begin alike share nodes, while both are worked on and when one has ended (Zheng et al. 2023,
// "SGLang", arXiv 2312.07104). Pages that nobody works on are kept until there is need of them, those longest unused given away first.
// Each adapter has a root of its own: the same tokens have other keys and values under another. Not for several threads.
#ifndef RUNTIME_PAGES_H
#define RUNTIME_PAGES_H

#include "models/model.h"

typedef struct PageNode PageNode;
typedef struct PageStore PageStore;

// A text's pages, in order; the last may be filled in part.
typedef struct PageList {
  PageNode **nodes;  // [count]
  int64_t count, capacity;
  int64_t tokens;  // whose keys and values are there
  int64_t reserved;  // pages that it has been promised and has not taken
  PageNode *place;  // the node of the tree that has all whole pages so far
  int root;
  int64_t age;  // of the root, when the list began
} PageList;

// `pages` of them; STATUS_NO_SPACE names the memory that they need.
Status page_store_new(PageStore **out, const Model *model, PagesType type, int64_t pages, int roots);
void page_store_free(PageStore *store);
const Pages *page_store_layers(const PageStore *store);  // [layers]

// Begins a list with what the tree has of ids[0 .. most - 1] under a root, whole pages shared, a last one in part copied. only_prompts: of
// that only what was computed as a prompt's after nothing but prompts. Room for `length` tokens in all is promised; false (and nothing
// happens) when there is not so much now.
bool page_list_begin(PageList *list, PageStore *store, int root, const int32_t *ids, int64_t most, int64_t length, bool only_prompts);
// How many tokens of ids the tree has in whole pages.
int64_t page_store_match(const PageStore *store, int root, const int32_t *ids, int64_t count);
// The slots of tokens list->tokens .. + count - 1, for which pages are taken.
void page_list_extend(int32_t *slots, PageList *list, PageStore *store, int64_t count);
// The keys and values of `count` more tokens are there; ids is the text from its beginning. Whole pages go into the tree.
void page_list_fill(PageList *list, PageStore *store, const int32_t *ids, int64_t count, bool is_prompt);
// The text has ended; what it has stays in the tree as long as there is room.
void page_list_end(PageList *list, PageStore *store);
// Nothing of what has been kept is to be used any more: an adapter computes otherwise now.
void page_store_forget(PageStore *store, int root);
int32_t page_number(const PageList *list, int64_t index);

typedef struct PageCounts {
  int64_t pages, free, kept;
} PageCounts;
PageCounts page_store_counts(const PageStore *store);

#endif
