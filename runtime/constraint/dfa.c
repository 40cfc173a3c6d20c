// Deterministic automata: the subset construction (Rabin and Scott, 1959), in which a call of a rule is a symbol like a byte, and products.
#include <stdlib.h>
#include <string.h>

#include "runtime/constraint/nfa.h"
#include "runtime/constraint/pool.h"

enum { MAX_SUBSET_STATES = 1 << 22 };  // in all subsets together, so that a refusal does not take long

typedef struct StateList {
  int32_t *items;
  int64_t count, capacity;
} StateList;

typedef struct SubsetBuilder {
  const Nfa *nfa;
  const ByteClasses *classes;
  Dfa *dfa;
  Pool subsets;
  int32_t *seen;  // [nfa states]: the last closure that has the state
  int32_t closure;
  StateList closed, stack;
  StateList *targets;  // [classes]
  int64_t dfa_capacity;
} SubsetBuilder;

static int compare_states(const void *a, const void *b) {
  int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return x < y ? -1 : x > y;
}

static void push_state(StateList *list, int32_t state) { ARRAY_PUSH(list->items, list->count, list->capacity) = state; }

static void visit_state(SubsetBuilder *builder, int32_t state) {
  if (builder->seen[state] == builder->closure) return;
  builder->seen[state] = builder->closure;
  push_state(&builder->stack, state);
}

// The subset that some states lead to by empty edges: its number, new or not.
static int32_t subset_of(SubsetBuilder *builder, const int32_t *states, int64_t count) {
  builder->closure++;
  builder->closed.count = builder->stack.count = 0;
  for (int64_t i = 0; i < count; i++) visit_state(builder, states[i]);
  while (builder->stack.count) {
    int32_t state = builder->stack.items[--builder->stack.count];
    bool is_kept = state == builder->nfa->final;  // states with empty edges alone say nothing more
    for (int32_t e = builder->nfa->heads[state]; e >= 0; e = builder->nfa->edges[e].next) {
      if (builder->nfa->edges[e].kind == NFA_EMPTY) visit_state(builder, builder->nfa->edges[e].to);
      else is_kept = true;
    }
    if (is_kept) push_state(&builder->closed, state);
  }
  if (builder->closed.count) qsort(builder->closed.items, (size_t)builder->closed.count, sizeof(int32_t), compare_states);
  return pool_intern(&builder->subsets, builder->closed.items, builder->closed.count);
}

static int compare_calls(const void *a, const void *b) {
  const DfaCall *x = a, *y = b;
  if (x->rule != y->rule) return x->rule < y->rule ? -1 : 1;
  return compare_states(&x->to, &y->to);
}

// Calls of one rule from several states of the subset become one.
static void add_calls(SubsetBuilder *builder, DfaCall *calls, int64_t count) {
  Dfa *dfa = builder->dfa;
  if (count) qsort(calls, (size_t)count, sizeof *calls, compare_calls);
  for (int64_t i = 0, end; i < count; i = end) {
    StateList *list = &builder->targets[0];
    list->count = 0;
    for (end = i; end < count && calls[end].rule == calls[i].rule; end++) push_state(list, calls[end].to);
    int32_t to = subset_of(builder, list->items, list->count);
    ARRAY_PUSH(dfa->calls, dfa->call_count, dfa->call_capacity) = (DfaCall){calls[i].rule, to};
  }
}

static void make_room(SubsetBuilder *builder, int32_t state) {
  Dfa *dfa = builder->dfa;
  if (state + 2 <= builder->dfa_capacity) return;
  builder->dfa_capacity = builder->dfa_capacity ? builder->dfa_capacity * 2 : 16;
  size_t capacity = (size_t)builder->dfa_capacity;
  dfa->next = memory_grow(dfa->next, capacity * (size_t)builder->classes->count, sizeof *dfa->next);
  dfa->is_final = memory_grow(dfa->is_final, capacity, sizeof *dfa->is_final);
  dfa->call_begins = memory_grow(dfa->call_begins, capacity + 1, sizeof *dfa->call_begins);
}

static void expand_subset(SubsetBuilder *builder, int32_t state) {
  const Nfa *nfa = builder->nfa;
  int classes = builder->classes->count;
  int64_t count;
  int32_t *row = builder->dfa->next + (int64_t)state * classes;
  DfaCall *calls = NULL;
  int64_t call_count = 0, call_capacity = 0;
  builder->dfa->is_final[state] = false;
  for (int c = 0; c < classes; c++) builder->targets[c].count = 0;
  const int32_t *states = pool_get(&count, &builder->subsets, state);
  for (int64_t i = 0; i < count; i++) {
    if (states[i] == nfa->final) builder->dfa->is_final[state] = true;
    for (int32_t e = nfa->heads[states[i]]; e >= 0; e = nfa->edges[e].next) {
      const NfaEdge *edge = &nfa->edges[e];
      if (edge->kind == NFA_CALL) ARRAY_PUSH(calls, call_count, call_capacity) = (DfaCall){edge->rule, edge->to};
      if (edge->kind != NFA_BYTES) continue;
      for (int c = builder->classes->of[edge->first]; c <= builder->classes->of[edge->last]; c++)
        push_state(&builder->targets[c], edge->to);
    }
  }
  for (int c = 0; c < classes; c++)
    row[c] = builder->targets[c].count ? subset_of(builder, builder->targets[c].items, builder->targets[c].count) : -1;
  builder->dfa->call_begins[state] = builder->dfa->call_count;
  add_calls(builder, calls, call_count);
  builder->dfa->call_begins[state + 1] = builder->dfa->call_count;
  free(calls);
}

static Status build_subsets(SubsetBuilder *builder) {
  subset_of(builder, &builder->nfa->start, 1);
  for (int32_t state = 0; state < builder->subsets.count; state++) {
    if (state >= DFA_MAX_STATES || builder->subsets.word_count > MAX_SUBSET_STATES)
      return status_fail(STATUS_BAD_INPUT,
                         "grammar: it is too large: its automaton has more than %d states (counted repetitions and "
                         "lengths take one for each number)",
                         DFA_MAX_STATES);
    make_room(builder, state);
    expand_subset(builder, state);
    builder->dfa->state_count = state + 1;
  }
  return STATUS_OK;
}

Status dfa_build(Dfa *out, const Nfa *nfa, const ByteClasses *classes) {
  *out = (Dfa){0};
  SubsetBuilder builder = {.nfa = nfa,
                           .classes = classes,
                           .dfa = out,
                           .seen = memory_new((size_t)nfa->state_count, sizeof *builder.seen),
                           .targets = memory_new((size_t)classes->count, sizeof *builder.targets)};
  Status status = build_subsets(&builder);
  for (int c = 0; c < classes->count; c++) free(builder.targets[c].items);
  free(builder.targets);
  free(builder.seen);
  free(builder.closed.items);
  free(builder.stack.items);
  pool_release(&builder.subsets);
  return status;
}

void dfa_release(Dfa *dfa) {
  free(dfa->next);
  free(dfa->is_final);
  free(dfa->call_begins);
  free(dfa->calls);
  *dfa = (Dfa){0};
}

// Pairs of states as they are met from the starts; b's is -1 where b has no text any more.
typedef struct Product {
  const Dfa *a, *b;
  int classes;
  bool is_except;
  Pool pairs;
  int32_t *next;
  bool *is_final;
  int64_t capacity;
} Product;

static Status build_product(Product *product) {
  pool_intern(&product->pairs, (const int32_t[]){0, 0}, 2);
  for (int32_t state = 0; state < product->pairs.count; state++) {
    if (state >= DFA_MAX_STATES)
      return status_fail(STATUS_BAD_INPUT, "grammar: what several conditions on one text have in common is too large");
    if (state + 1 > product->capacity) {
      product->capacity = product->capacity ? product->capacity * 2 : 64;
      product->next = memory_grow(product->next, (size_t)(product->capacity * product->classes), sizeof *product->next);
      product->is_final = memory_grow(product->is_final, (size_t)product->capacity, sizeof *product->is_final);
    }
    int64_t count;
    const int32_t *pair = pool_get(&count, &product->pairs, state);
    int32_t in_a = pair[0], in_b = pair[1];
    bool is_final_b = in_b >= 0 && product->b->is_final[in_b];
    product->is_final[state] = product->a->is_final[in_a] && is_final_b != product->is_except;
    for (int c = 0; c < product->classes; c++) {
      int32_t to_a = product->a->next[(int64_t)in_a * product->classes + c];
      int32_t to_b = in_b < 0 ? -1 : product->b->next[(int64_t)in_b * product->classes + c];
      bool is_dead = to_a < 0 || (to_b < 0 && !product->is_except);
      product->next[(int64_t)state * product->classes + c] = is_dead ? -1 : pool_intern(&product->pairs, (const int32_t[]){to_a, to_b}, 2);
    }
  }
  return STATUS_OK;
}

// Which states a final one can be reached from.
static bool *find_alive(const Product *product) {
  int32_t count = (int32_t)product->pairs.count;
  bool *alive = memory_new((size_t)count, sizeof *alive);
  for (bool changed = true; changed;) {
    changed = false;
    for (int32_t state = count - 1; state >= 0; state--) {
      bool is_alive = product->is_final[state];
      for (int c = 0; c < product->classes && !is_alive; c++) {
        int32_t to = product->next[(int64_t)state * product->classes + c];
        is_alive = to >= 0 && alive[to];
      }
      if (is_alive && !alive[state]) alive[state] = changed = true;
    }
  }
  return alive;
}

static void keep_alive(Dfa *out, const Product *product, const bool *alive) {
  int32_t count = (int32_t)product->pairs.count, *numbers = memory_new((size_t)count, sizeof *numbers);
  if (alive[0])
    for (int32_t state = 0; state < count; state++) numbers[state] = alive[state] ? out->state_count++ : -1;
  out->next = memory_new((size_t)out->state_count * (size_t)product->classes + 1, sizeof *out->next);
  out->is_final = memory_new((size_t)out->state_count + 1, sizeof *out->is_final);
  for (int32_t state = 0; out->state_count && state < count; state++) {
    if (!alive[state]) continue;
    out->is_final[numbers[state]] = product->is_final[state];
    for (int c = 0; c < product->classes; c++) {
      int32_t to = product->next[(int64_t)state * product->classes + c];
      out->next[(int64_t)numbers[state] * product->classes + c] = to >= 0 ? numbers[to] : -1;
    }
  }
  free(numbers);
}

Status dfa_combine(Dfa *out, const Dfa *a, const Dfa *b, int classes, bool is_except) {
  *out = (Dfa){0};
  Product product = {.a = a, .b = b, .classes = classes, .is_except = is_except};
  Status status = build_product(&product);
  if (status == STATUS_OK) {
    bool *alive = find_alive(&product);
    keep_alive(out, &product, alive);
    free(alive);
  }
  pool_release(&product.pairs);
  free(product.next);
  free(product.is_final);
  return status;
}
