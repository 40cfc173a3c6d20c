// From rules to tables: an automaton for each rule that is not inlined, without the states from which the rule's end is never reached, and
// an order of the rules by who calls whom before a byte has been read.
#include <stdlib.h>
#include <string.h>

#include "runtime/constraint/automaton.h"
#include "runtime/constraint/gbnf.h"
#include "runtime/constraint/mask.h"

enum { MAX_TABLE = 1 << 24 };  // entries of `next`: 64 MiB

typedef struct Compiler {
  const RuleSet *set;
  RuleFacts *facts;
  Nfa *nfas;  // [set->count]
  Grammar *grammar;
  int32_t call_count, call_capacity, capacity;
} Compiler;

static bool has_automaton(const Compiler *compiler, int rule) { return compiler->facts[rule].is_used && !compiler->facts[rule].is_inlined; }

// Behind the states of the rules before.
static Status append_dfa(Compiler *compiler, const Dfa *dfa, int rule) {
  Grammar *grammar = compiler->grammar;
  int32_t base = grammar->state_count, classes = grammar->classes.count;
  if (((int64_t)base + dfa->state_count) * classes > MAX_TABLE || base + dfa->state_count > DFA_MAX_STATES)
    return status_fail(STATUS_BAD_INPUT, "grammar: its automata have more than %d states or %d transitions: it is too large",
                       DFA_MAX_STATES, MAX_TABLE);
  while (base + dfa->state_count + 1 > compiler->capacity) {
    compiler->capacity = compiler->capacity ? compiler->capacity * 2 : 256;
    size_t capacity = (size_t)compiler->capacity;
    grammar->next = memory_grow(grammar->next, capacity * (size_t)classes, sizeof *grammar->next);
    grammar->is_final = memory_grow(grammar->is_final, capacity, sizeof *grammar->is_final);
    grammar->call_begins = memory_grow(grammar->call_begins, capacity, sizeof *grammar->call_begins);
  }
  for (int32_t i = 0; i < dfa->state_count; i++) {
    for (int32_t c = 0; c < classes; c++) {
      int32_t to = dfa->next[(int64_t)i * classes + c];
      grammar->next[(int64_t)(base + i) * classes + c] = to < 0 ? -1 : base + to;
    }
    grammar->is_final[base + i] = dfa->is_final[i];
    grammar->call_begins[base + i] = compiler->call_count;
    for (int32_t k = dfa->call_begins[i]; k < dfa->call_begins[i + 1]; k++)
      ARRAY_PUSH(grammar->calls, compiler->call_count, compiler->call_capacity) = (DfaCall){dfa->calls[k].rule, base + dfa->calls[k].to};
  }
  grammar->state_count += dfa->state_count;
  grammar->call_begins[grammar->state_count] = compiler->call_count;
  grammar->starts[rule] = base;
  return STATUS_OK;
}

static Status build_automata(Compiler *compiler) {
  int rules = compiler->set->count;
  for (int i = 0; i < rules; i++) {
    if (has_automaton(compiler, i)) TRY(nfa_build(&compiler->nfas[i], compiler->set, compiler->facts, compiler->set->rules[i].body));
  }
  byte_classes_find(&compiler->grammar->classes, compiler->nfas, rules);
  for (int i = 0; i < rules; i++) {
    compiler->grammar->starts[i] = -1;
    if (!has_automaton(compiler, i)) continue;
    Dfa dfa = {0};
    Status status = dfa_build(&dfa, &compiler->nfas[i], &compiler->grammar->classes);
    if (status == STATUS_OK) status = append_dfa(compiler, &dfa, i);
    dfa_release(&dfa);
    TRY(status);
  }
  return STATUS_OK;
}

static bool leads_on(const Grammar *grammar, const bool *alive, int32_t state) {
  if (grammar->is_final[state]) return true;
  for (int32_t c = 0; c < grammar->classes.count; c++) {
    int32_t to = grammar->next[(int64_t)state * grammar->classes.count + c];
    if (to >= 0 && alive[to]) return true;
  }
  for (int32_t k = grammar->call_begins[state]; k < grammar->call_begins[state + 1]; k++) {
    const DfaCall *call = &grammar->calls[k];
    if (alive[grammar->starts[call->rule]] && alive[call->to]) return true;
  }
  return false;
}

static void drop_dead(Grammar *grammar, const bool *alive) {
  int32_t kept = 0;
  grammar->has_bytes = memory_new((size_t)grammar->state_count, sizeof *grammar->has_bytes);
  for (int32_t state = 0; state < grammar->state_count; state++) {
    for (int32_t c = 0; c < grammar->classes.count; c++) {
      int32_t *to = &grammar->next[(int64_t)state * grammar->classes.count + c];
      if (*to >= 0 && !alive[*to]) *to = -1;
      if (*to >= 0) grammar->has_bytes[state] = true;
    }
    int32_t begin = grammar->call_begins[state];
    grammar->call_begins[state] = kept;
    for (int32_t k = begin; k < grammar->call_begins[state + 1]; k++) {
      DfaCall call = grammar->calls[k];
      if (alive[grammar->starts[call.rule]] && alive[call.to]) grammar->calls[kept++] = call;
    }
  }
  grammar->call_begins[grammar->state_count] = kept;
  for (int rule = 0; rule < grammar->rule_count; rule++)
    if (grammar->starts[rule] >= 0 && !alive[grammar->starts[rule]]) grammar->starts[rule] = -1;
}

// Without the states that no text goes through to the end, every beginning that is allowed can be finished.
static Status trim_states(Grammar *grammar) {
  bool *alive = memory_new((size_t)grammar->state_count, sizeof *alive);
  for (bool changed = true; changed;) {
    changed = false;
    for (int32_t state = grammar->state_count - 1; state >= 0; state--)
      if (!alive[state] && leads_on(grammar, alive, state)) alive[state] = changed = true;
  }
  bool is_empty = !alive[grammar->starts[0]];
  if (!is_empty) drop_dead(grammar, alive);
  free(alive);
  return is_empty ? status_fail(STATUS_BAD_INPUT, "grammar: no text matches it") : STATUS_OK;
}

typedef struct RankFinder {
  const Grammar *grammar;
  const RuleSet *set;
  uint8_t *marks;  // 1: being visited, 2: done
  int next_rank, depth;
} RankFinder;

// Ranks from the last to the first: a rule gets its own after all that it calls at its start.
static Status rank_rule(RankFinder *finder, int rule) {
  const Grammar *grammar = finder->grammar;
  int32_t start = grammar->starts[rule];
  if (finder->marks[rule] == 2 || start < 0) return STATUS_OK;
  if (finder->marks[rule] == 1)
    return status_fail(
        STATUS_BAD_INPUT,
        "grammar: rule \"%s\" begins with itself (left recursion), which cannot be followed: write it as a repetition, as in "
        "list ::= item (\",\" item)*",
        finder->set->rules[rule].name);
  finder->marks[rule] = 1;
  for (int32_t k = grammar->call_begins[start]; k < grammar->call_begins[start + 1]; k++) TRY(rank_rule(finder, grammar->calls[k].rule));
  finder->marks[rule] = 2;
  grammar->ranks[rule] = finder->next_rank--;
  return STATUS_OK;
}

static Status rank_rules(Grammar *grammar, const RuleSet *set) {
  RankFinder finder = {.grammar = grammar, .set = set, .next_rank = grammar->rule_count};
  finder.marks = memory_new((size_t)grammar->rule_count, sizeof *finder.marks);
  Status status = STATUS_OK;
  for (int rule = 0; rule < grammar->rule_count && status == STATUS_OK; rule++) status = rank_rule(&finder, rule);
  free(finder.marks);
  return status;
}

static Status compile(Compiler *compiler) {
  TRY(rule_facts_find(&compiler->facts, compiler->set));
  TRY(build_automata(compiler));
  TRY(trim_states(compiler->grammar));
  TRY(rank_rules(compiler->grammar, compiler->set));
  grammar_find_twins(compiler->grammar);
  return STATUS_OK;
}

Status grammar_compile(Grammar **out, const RuleSet *set) {
  size_t rules = (size_t)set->count;
  Grammar *grammar = memory_new(1, sizeof *grammar);
  Compiler compiler = {.set = set, .nfas = memory_new(rules, sizeof *compiler.nfas), .grammar = grammar};
  grammar->rule_count = set->count;
  grammar->starts = memory_new(rules, sizeof *grammar->starts);
  grammar->ranks = memory_new(rules, sizeof *grammar->ranks);
  pthread_mutex_init(&grammar->lock, NULL);
  Status status = compile(&compiler);
  for (size_t i = 0; i < rules; i++) nfa_release(&compiler.nfas[i]);
  free(compiler.nfas);
  free(compiler.facts);
  if (status == STATUS_OK) *out = grammar;
  else grammar_free(grammar);
  return status;
}

Status grammar_parse(Grammar **out, const char *gbnf) {
  RuleSet set = {0};
  Status status = gbnf_parse(&set, gbnf);
  if (status == STATUS_OK) status = grammar_compile(out, &set);
  rule_set_release(&set);
  return status;
}

void grammar_free(Grammar *grammar) {
  if (!grammar) return;
  mask_caches_free(grammar->caches);
  pthread_mutex_destroy(&grammar->lock);
  free(grammar->next);
  free(grammar->is_final);
  free(grammar->has_bytes);
  free(grammar->call_begins);
  free(grammar->calls);
  free(grammar->twins);
  free(grammar->starts);
  free(grammar->ranks);
  free(grammar);
}
