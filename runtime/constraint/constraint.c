// One text's place in its grammar, token after token.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/constraint/keys.h"
#include "runtime/constraint/mask.h"

enum { KEPT_MASKS = 8 };  // of the last places, which a text comes back to: within a string, it stays in one

typedef struct KeptMask {
  uint64_t *mask;
  FrameList frames;
  bool is_complete;
} KeptMask;

struct Constraint {
  Grammar *grammar;  // changed behind its lock alone
  const ConstraintVocabulary *vocabulary;
  Stacks stacks;
  FrameList frames, spare;
  bool is_complete, has_ended;  // the text may end; an end token has come
  KeptMask kept[KEPT_MASKS];
  int oldest;
  uint64_t *mask;  // [vocabulary->words]
  Keys keys, scratch;
};

Status constraint_new(Constraint **out, const Grammar *grammar, const ConstraintVocabulary *vocabulary) {
  Constraint *constraint = memory_new(1, sizeof *constraint);
  constraint->grammar = (Grammar *)grammar;
  constraint->vocabulary = vocabulary;
  constraint->mask = memory_new((size_t)vocabulary->words, sizeof *constraint->mask);
  stacks_new(&constraint->stacks, grammar);
  frame_list_add(&constraint->frames, (Frame){grammar->starts[0], 0});
  if (!stacks_close(&constraint->frames, &constraint->is_complete, &constraint->stacks)) {
    constraint_free(constraint);
    return status_fail(STATUS_BAD_INPUT, "grammar: a text can begin in more than %d ways at once", STACKS_MAX_FRAMES);
  }
  *out = constraint;
  return STATUS_OK;
}

void constraint_free(Constraint *constraint) {
  if (!constraint) return;
  for (int i = 0; i < KEPT_MASKS; i++) free(constraint->kept[i].mask), free(constraint->kept[i].frames.items);
  stacks_release(&constraint->stacks);
  free(constraint->frames.items);
  free(constraint->spare.items);
  free(constraint->mask);
  keys_release(&constraint->keys);
  keys_release(&constraint->scratch);
  free(constraint);
}

static void copy_frames(FrameList *out, const FrameList *in) {
  out->count = 0;
  for (int64_t i = 0; i < in->count; i++) frame_list_add(out, in->items[i]);
}

static bool is_at(const KeptMask *kept, const FrameList *frames) {
  return kept->mask && kept->frames.count == frames->count &&
         (frames->count == 0 || memcmp(kept->frames.items, frames->items, (size_t)frames->count * sizeof *frames->items) == 0);
}

static KeptMask *find_mask(Constraint *constraint) {
  for (int i = 0; i < KEPT_MASKS; i++)
    if (is_at(&constraint->kept[i], &constraint->frames)) return &constraint->kept[i];
  return NULL;
}

static KeptMask *compute_mask(Constraint *constraint) {
  KeptMask *kept = &constraint->kept[constraint->oldest];
  const ConstraintVocabulary *vocabulary = constraint->vocabulary;
  constraint->oldest = (constraint->oldest + 1) % KEPT_MASKS;
  if (!kept->mask) kept->mask = memory_new((size_t)vocabulary->words, sizeof *kept->mask);
  memset(kept->mask, 0, (size_t)vocabulary->words * sizeof *kept->mask);
  copy_frames(&kept->frames, &constraint->frames);
  pthread_mutex_lock(&constraint->grammar->lock);
  mask_add_frames(kept->mask, mask_cache_get(constraint->grammar, vocabulary), vocabulary, &constraint->stacks, &constraint->frames);
  pthread_mutex_unlock(&constraint->grammar->lock);
  return kept;
}

const uint64_t *constraint_mask(Constraint *constraint) {
  const ConstraintVocabulary *vocabulary = constraint->vocabulary;
  uint64_t *mask = constraint->mask, any = 0;
  memset(mask, 0, (size_t)vocabulary->words * sizeof *mask);
  if (!constraint->has_ended && constraint->frames.count) {
    const KeptMask *kept = find_mask(constraint);
    if (!kept) kept = compute_mask(constraint);
    memcpy(mask, kept->mask, (size_t)vocabulary->words * sizeof *mask);
    if (constraint->grammar->has_unique_keys) keys_mask(mask, &constraint->keys, &constraint->scratch, vocabulary);
  }
  for (int64_t w = 0; w < vocabulary->words; w++) any |= mask[w];
  // A text that can neither go on (the vocabulary lacks the tokens) nor is complete can only be ended.
  if (constraint->is_complete || !any)
    for (int64_t w = 0; w < vocabulary->words; w++) mask[w] |= vocabulary->ends[w];
  return mask;
}

// Moves `spare` on from `frames` by the bytes of a token.
static Status read_bytes(bool *is_complete, Constraint *constraint, const char *bytes, int64_t length) {
  const Grammar *grammar = constraint->grammar;
  copy_frames(&constraint->spare, &constraint->frames);
  for (int64_t i = 0; i < length; i++) {
    int class = grammar->classes.of[(uint8_t)bytes[i]];
    FrameList *list = &constraint->spare;
    int64_t kept = 0;
    for (int64_t k = 0; k < list->count; k++) {
      int32_t to = grammar->next[(int64_t)list->items[k].state * grammar->classes.count + class];
      if (to >= 0) list->items[kept++] = (Frame){to, list->items[k].parent};
    }
    list->count = kept;
    if (!stacks_close(list, is_complete, &constraint->stacks))
      return status_fail(STATUS_FAILED, "grammar: the text can be read in more than %d ways at once: the grammar is too ambiguous",
                         STACKS_MAX_FRAMES);
    if (!list->count && (!*is_complete || i + 1 < length))
      return status_fail(STATUS_FAILED, "constraint: the grammar does not allow this token");
  }
  return STATUS_OK;
}

Status constraint_accept(Constraint *constraint, int32_t id) {
  const ConstraintVocabulary *vocabulary = constraint->vocabulary;
  if (id < 0 || id >= vocabulary->size) return status_fail(STATUS_FAILED, "constraint: there is no token %" PRId32, id);
  if (mask_has(vocabulary->ends, id)) {
    if (!constraint->is_complete && !mask_has(constraint_mask(constraint), id))
      return status_fail(STATUS_FAILED, "constraint: the text cannot end here");
    constraint->has_ended = true;
    return STATUS_OK;
  }
  int64_t begin = vocabulary->begins[id], length = vocabulary->begins[id + 1] - begin;
  if (!length || constraint->has_ended) return status_fail(STATUS_FAILED, "constraint: token %" PRId32 " is no part of the text", id);
  bool is_complete = false;
  TRY(read_bytes(&is_complete, constraint, vocabulary->bytes + begin, length));
  if (constraint->grammar->has_unique_keys) {
    keys_copy(&constraint->scratch, &constraint->keys);
    if (!keys_read(&constraint->scratch, vocabulary->bytes + begin, length))
      return status_fail(STATUS_FAILED, "constraint: token %" PRId32 " would write a key for the second time", id);
    Keys keys = constraint->keys;
    constraint->keys = constraint->scratch;
    constraint->scratch = keys;
  }
  FrameList list = constraint->frames;
  constraint->frames = constraint->spare;
  constraint->spare = list;
  constraint->is_complete = is_complete;
  return STATUS_OK;
}

bool constraint_is_complete(const Constraint *constraint) { return constraint->is_complete; }
