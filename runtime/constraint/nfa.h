// Expressions as nondeterministic automata over bytes (Thompson's construction, 1968), and these as deterministic ones. A reference to a
// rule is an edge of its own kind, a call; a call of a rule that the empty text matches has an empty edge beside it, so that a call always
// reads a byte.
#ifndef RUNTIME_CONSTRAINT_NFA_H
#define RUNTIME_CONSTRAINT_NFA_H

#include "core/status.h"
#include "runtime/constraint/expression.h"

typedef enum NfaEdgeKind { NFA_BYTES, NFA_EMPTY, NFA_CALL } NfaEdgeKind;

typedef struct NfaEdge {
  int32_t to, next;  // next: of the same state; -1: none
  int32_t rule;
  uint8_t kind, first, last;  // bytes first .. last
} NfaEdge;

typedef struct Nfa {
  NfaEdge *edges;
  int32_t edge_count, edge_capacity;
  int32_t *heads;  // [state_count]
  int32_t state_count, state_capacity;
  int32_t start, final;
} Nfa;

// What is known of a rule before its automaton is built.
typedef struct RuleFacts {
  bool is_recursive;  // it, or a rule that it uses, comes back to itself
  bool is_nullable;  // the empty text matches
  bool is_used;  // from the first rule
  bool is_inlined;  // its automaton stands in place of calls
  int64_t size;  // edges, roughly, with what is inlined
} RuleFacts;

Status rule_facts_find(RuleFacts **out, const RuleSet *set);  // [set->count]; free() it. STATUS_BAD_INPUT: too large

Status nfa_build(Nfa *out, const RuleSet *set, const RuleFacts *facts, const Expression *body);
void nfa_release(Nfa *nfa);

// Intervals of bytes that no edge tells apart.
typedef struct ByteClasses {
  uint8_t of[256];
  uint8_t first[256], last[256];  // [count]
  int count;
} ByteClasses;
void byte_classes_find(ByteClasses *out, const Nfa *nfas, int count);

typedef struct DfaCall {
  int32_t rule, to;
} DfaCall;

typedef struct Dfa {
  int32_t state_count;  // state 0 is the start
  int32_t *next;  // [state_count, classes]; -1: none
  bool *is_final;  // [state_count]
  int32_t *call_begins;  // [state_count + 1]
  DfaCall *calls;
  int32_t call_count, call_capacity;
} Dfa;

enum { DFA_MAX_STATES = 250000 };
Status dfa_build(Dfa *out, const Nfa *nfa, const ByteClasses *classes);
void dfa_release(Dfa *dfa);
// The texts of a that are also in b, or (`is_except`) are not; without calls. Every state left leads to a text; *out may be empty (no
// states).
Status dfa_combine(Dfa *out, const Dfa *a, const Dfa *b, int classes, bool is_except);
// Whether two regular expressions have a text in common.
Status expressions_meet(bool *meet, const RuleSet *set, const Expression *a, const Expression *b);

#endif
