// Where a text may be in its grammar after each byte. A place is a state and the set of frames that its rule returns to. After a byte,
// first all returns are followed, which lead to older sets only; then the calls, in the order of ranks, so that all callers of a rule are
// known when their set is made.
#include <limits.h>
#include <stdlib.h>

#include "runtime/constraint/automaton.h"

void stacks_new(Stacks *stacks, const Grammar *grammar) {
  *stacks = (Stacks){.grammar = grammar};
  pool_intern(&stacks->parents, NULL, 0);
}

void stacks_release(Stacks *stacks) {
  pool_release(&stacks->parents);
  free(stacks->pending);
  free(stacks->pending_rules);
  free(stacks->gathered);
  *stacks = (Stacks){0};
}

static int compare_frames(const void *a, const void *b) {
  const Frame *x = a, *y = b;
  if (x->state != y->state) return x->state < y->state ? -1 : 1;
  return x->parent < y->parent ? -1 : x->parent > y->parent;
}

static int64_t sort_frames(Frame *frames, int64_t count) {
  if (count > 1) qsort(frames, (size_t)count, sizeof *frames, compare_frames);
  int64_t kept = 0;
  for (int64_t i = 0; i < count; i++)
    if (!kept || compare_frames(&frames[i], &frames[kept - 1]) != 0) frames[kept++] = frames[i];
  return kept;
}

void stacks_add_parents(FrameList *list, const Stacks *stacks, int32_t parent) {
  int64_t words;
  const int32_t *frames = pool_get(&words, &stacks->parents, parent);
  for (int64_t i = 0; i < words; i += 2) frame_list_add(list, (Frame){frames[i], frames[i + 1]});
}

static bool is_in(const FrameList *list, Frame frame) {
  for (int64_t i = 0; i < list->count; i++)
    if (list->items[i].state == frame.state && list->items[i].parent == frame.parent) return true;
  return false;
}

// Adds what the list's states return to, each once.
static bool follow_returns(FrameList *list, bool *ends, const Stacks *stacks) {
  list->count = sort_frames(list->items, list->count);
  for (int64_t i = 0; i < list->count; i++) {
    Frame frame = list->items[i];
    int64_t words;
    if (!stacks->grammar->is_final[frame.state]) continue;
    if (frame.parent == 0) *ends = true;
    const int32_t *frames = pool_get(&words, &stacks->parents, frame.parent);
    for (int64_t k = 0; k < words; k += 2) {
      Frame next = {frames[k], frames[k + 1]};
      if (!is_in(list, next)) frame_list_add(list, next);
    }
    if (list->count > STACKS_MAX_FRAMES) return false;
  }
  return true;
}

static void add_calls(Stacks *stacks, Frame frame) {
  const Grammar *grammar = stacks->grammar;
  for (int32_t k = grammar->call_begins[frame.state]; k < grammar->call_begins[frame.state + 1]; k++) {
    if (stacks->pending_count == stacks->pending_capacity) {
      stacks->pending_capacity = stacks->pending_capacity ? stacks->pending_capacity * 2 : 16;
      stacks->pending = memory_grow(stacks->pending, (size_t)stacks->pending_capacity, sizeof *stacks->pending);
      stacks->pending_rules = memory_grow(stacks->pending_rules, (size_t)stacks->pending_capacity, sizeof *stacks->pending_rules);
    }
    stacks->pending_rules[stacks->pending_count] = grammar->calls[k].rule;
    stacks->pending[stacks->pending_count++] = (Frame){grammar->calls[k].to, frame.parent};
  }
}

// A state that can do nothing but return.
static bool only_returns(const Grammar *grammar, int32_t state) {
  return !grammar->has_bytes[state] && grammar->call_begins[state] == grammar->call_begins[state + 1];
}

// The set of the callers of one rule; -1: they are too many.
static int32_t gather_callers(Stacks *stacks, int rule) {
  int64_t count = 0, words;
  for (int64_t i = 0; i < stacks->pending_count; i++) {
    if (stacks->pending_rules[i] != rule) continue;
    if (count > STACKS_MAX_FRAMES) count = sort_frames(stacks->gathered, count);
    Frame caller = stacks->pending[i];
    if (caller.parent && only_returns(stacks->grammar, caller.state)) {
      const int32_t *frames = pool_get(&words, &stacks->parents, caller.parent);
      for (int64_t k = 0; k < words; k += 2)
        ARRAY_PUSH(stacks->gathered, count, stacks->gathered_capacity) = (Frame){frames[k], frames[k + 1]};
    } else {
      ARRAY_PUSH(stacks->gathered, count, stacks->gathered_capacity) = caller;
    }
  }
  count = sort_frames(stacks->gathered, count);
  if (count > STACKS_MAX_FRAMES) return -1;
  return pool_intern(&stacks->parents, (const int32_t *)stacks->gathered, 2 * count);
}

static int next_rule(const Stacks *stacks, int32_t after) {
  int best = -1;
  int32_t best_rank = INT32_MAX;
  for (int64_t i = 0; i < stacks->pending_count; i++) {
    int32_t rank = stacks->grammar->ranks[stacks->pending_rules[i]];
    if (rank > after && rank < best_rank) best = stacks->pending_rules[i], best_rank = rank;
  }
  return best;
}

bool stacks_close(FrameList *list, bool *ends, Stacks *stacks) {
  const Grammar *grammar = stacks->grammar;
  *ends = false;
  if (!follow_returns(list, ends, stacks)) return false;
  stacks->pending_count = 0;
  for (int64_t i = 0; i < list->count; i++) add_calls(stacks, list->items[i]);
  for (int rule, rank = INT32_MIN; (rule = next_rule(stacks, rank)) >= 0; rank = grammar->ranks[rule]) {
    Frame start = {grammar->starts[rule], gather_callers(stacks, rule)};
    if (start.parent < 0) return false;
    frame_list_add(list, start);
    add_calls(stacks, start);
    if (list->count > STACKS_MAX_FRAMES || stacks->pending_count > STACKS_MAX_FRAMES) return false;
  }
  int64_t kept = 0;
  for (int64_t i = 0; i < list->count; i++)
    if (grammar->has_bytes[list->items[i].state]) list->items[kept++] = list->items[i];
  list->count = sort_frames(list->items, kept);
  return true;
}
