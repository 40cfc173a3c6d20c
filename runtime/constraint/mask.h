// Masks of tokens, by what a state allows whatever called its rule.
#ifndef RUNTIME_CONSTRAINT_MASK_H
#define RUNTIME_CONSTRAINT_MASK_H

#include "runtime/constraint/automaton.h"
#include "runtime/constraint/vocabulary.h"

typedef struct MaskCache MaskCache;

// The cache of a grammar for a vocabulary, made where it is not there yet.
MaskCache *mask_cache_get(Grammar *grammar, const ConstraintVocabulary *vocabulary);
void mask_caches_free(MaskCache *cache);
// Adds to `mask` the tokens that may come where one of the frames is. Frames of `stacks` may be added.
void mask_add_frames(uint64_t *mask, MaskCache *cache, const ConstraintVocabulary *vocabulary, Stacks *stacks, const FrameList *frames);

#endif
