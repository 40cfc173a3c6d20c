// A grammar as tables: one deterministic automaton for each rule, over classes of bytes, whose states may also call rules. A text is
// followed by such states, each with a stack of states to return to.
#ifndef RUNTIME_CONSTRAINT_AUTOMATON_H
#define RUNTIME_CONSTRAINT_AUTOMATON_H

#include <pthread.h>

#include "runtime/constraint.h"
#include "runtime/constraint/nfa.h"
#include "runtime/constraint/pool.h"

struct MaskCache;

struct Grammar {
  ByteClasses classes;
  int32_t state_count;  // of all rules; from each of them the rule's end can be reached
  int32_t *next;  // [state_count, classes.count]; -1: none
  bool *is_final;  // [state_count]: the rule may end here
  bool *has_bytes;  // [state_count]: some byte leads on
  int32_t *call_begins;  // [state_count + 1]
  DfaCall *calls;
  int32_t *twins;  // [state_count]: the first state that differs from it only for texts of more than SHORT_BYTES bytes
  int32_t *starts;  // [rule_count]: states; -1: the rule is not used, or nothing matches it
  int32_t *ranks;  // [rule_count]: a rule that another one may call before it has read a byte has a higher rank
  int rule_count;
  bool has_unique_keys;  // texts are JSON, and keys that the grammar leaves open must not appear twice in an object
  pthread_mutex_t lock;  // of what follows
  struct MaskCache *caches;  // one for each vocabulary
};

void grammar_find_twins(Grammar *grammar);
// Takes what it needs of the rules. STATUS_BAD_INPUT: too large, nothing matches, or a rule calls itself before it has read anything.
Status grammar_compile(Grammar **out, const RuleSet *set);

// A state, and where its rule was called: a set of frames, by number; 0: where the text ends.
typedef struct Frame {
  int32_t state, parent;
} Frame;

// Sets of frames, each kept once. All places that call a rule after the same bytes are one set (as in the graph-structured stack of Tomita,
// 1987), so that their number does not grow exponentially; a call with nothing behind it takes its caller's set, so that loops do not grow
// it at all.
typedef struct Stacks {
  const Grammar *grammar;
  Pool parents;  // pairs of state and parent
  Frame *pending;  // scratch: callers that were not put into sets yet, with the rules that they call
  int32_t *pending_rules;
  int64_t pending_count, pending_capacity;
  Frame *gathered;
  int64_t gathered_capacity;
} Stacks;

typedef struct FrameList {
  Frame *items;
  int64_t count, capacity;
} FrameList;

enum { STACKS_MAX_FRAMES = 1024 };

void stacks_new(Stacks *stacks, const Grammar *grammar);
void stacks_release(Stacks *stacks);
// `list` is where states have arrived by a byte; it becomes where a byte can be read, in order and each once: states that they return to
// and rules that are called are added. *ends: the text of which 0 is the caller may end. False when there are more than STACKS_MAX_FRAMES.
bool stacks_close(FrameList *list, bool *ends, Stacks *stacks);
void stacks_add_parents(FrameList *list, const Stacks *stacks, int32_t parent);  // its frames
static inline void frame_list_add(FrameList *list, Frame frame) { ARRAY_PUSH(list->items, list->count, list->capacity) = frame; }

#endif
