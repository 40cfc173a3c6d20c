// What is known of rules before their automata are built: which are recursive, which match the empty text, and which are small enough to
// stand in place of their calls. A regular rule that is inlined costs no stack, and its words are followed by one automaton.
#include <stdlib.h>

#include "runtime/constraint/nfa.h"

enum { INLINE_LIMIT = 400, SIZE_LIMIT = 4000000, UTF8_SIZE = 6, MAX_DEPTH = 3000 };

typedef enum Mark { MARK_NONE, MARK_OPEN, MARK_DONE } Mark;

typedef struct FactFinder {
  const RuleSet *set;
  RuleFacts *facts;
  Mark *marks;
  int *path;  // rules that are open, in order
  int path_length, depth;
} FactFinder;

static Status visit_rule(FactFinder *finder, int rule);
static Status visit_expression(int64_t *size, FactFinder *finder, const Expression *expression);

static int64_t bounded(int64_t size) { return size < SIZE_LIMIT ? size : SIZE_LIMIT; }

static bool is_leaf(const Expression *expression) { return expression->kind == EXPRESSION_TEXT || expression->kind == EXPRESSION_SET; }

static Status visit_parts(int64_t *size, FactFinder *finder, const Expression *expression) {
  int64_t part_size;
  for (int i = 0; i < expression->count; i++) {
    TRY(visit_expression(&part_size, finder, expression->parts[i]));
    *size = bounded(*size + part_size);
  }
  if (expression->kind == EXPRESSION_REPEAT) *size = bounded(*size * (expression->max >= 0 ? expression->max : expression->min + 1));
  if (expression->separator) {
    TRY(visit_expression(&part_size, finder, expression->separator));
    *size = bounded(*size + part_size * (expression->count + 2));
  }
  if (!expression->extra) return STATUS_OK;
  TRY(visit_expression(&part_size, finder, expression->extra));
  *size = bounded(*size + part_size);
  return STATUS_OK;
}

// Follows all references, and finds the size.
static Status visit_expression(int64_t *size, FactFinder *finder, const Expression *expression) {
  *size = 2;
  if (expression->kind == EXPRESSION_TEXT) *size = expression->count;
  if (expression->kind == EXPRESSION_SET) *size = (int64_t)expression->count * UTF8_SIZE;
  if (is_leaf(expression)) return STATUS_OK;
  if (++finder->depth > MAX_DEPTH) return status_fail(STATUS_BAD_INPUT, "grammar: its rules refer to each other in too long a chain");
  if (expression->kind == EXPRESSION_RULE) {
    TRY(visit_rule(finder, expression->rule));
    if (finder->facts[expression->rule].is_inlined) *size = finder->facts[expression->rule].size;
  } else {
    TRY(visit_parts(size, finder, expression));
  }
  finder->depth--;
  return STATUS_OK;
}

static Status visit_rule(FactFinder *finder, int rule) {
  RuleFacts *facts = &finder->facts[rule];
  if (finder->marks[rule] == MARK_OPEN) {  // all rules from there on in the path are in one circle
    for (int i = finder->path_length - 1; i >= 0; i--) {
      finder->facts[finder->path[i]].is_recursive = true;
      if (finder->path[i] == rule) break;
    }
    return STATUS_OK;
  }
  if (finder->marks[rule] == MARK_DONE) return STATUS_OK;
  finder->marks[rule] = MARK_OPEN;
  finder->path[finder->path_length++] = rule;
  facts->is_used = true;
  TRY(visit_expression(&facts->size, finder, finder->set->rules[rule].body));
  finder->path_length--;
  finder->marks[rule] = MARK_DONE;
  return STATUS_OK;
}

static bool uses_recursive(const FactFinder *finder, const Expression *expression) {
  if (expression->kind == EXPRESSION_RULE) return finder->facts[expression->rule].is_recursive;
  if (is_leaf(expression)) return false;
  for (int i = 0; i < expression->count; i++)
    if (uses_recursive(finder, expression->parts[i])) return true;
  return (expression->extra && uses_recursive(finder, expression->extra)) ||
         (expression->separator && uses_recursive(finder, expression->separator));
}

static bool is_nullable(const FactFinder *finder, const Expression *expression) {
  switch (expression->kind) {
    case EXPRESSION_TEXT: return expression->count == 0;
    case EXPRESSION_SET: return false;
    case EXPRESSION_RULE: return finder->facts[expression->rule].is_nullable;
    case EXPRESSION_REPEAT: return expression->min == 0 || is_nullable(finder, expression->parts[0]);
    case EXPRESSION_EXCEPT: return is_nullable(finder, expression->parts[0]) && !is_nullable(finder, expression->parts[1]);
    case EXPRESSION_CHOICE:
      for (int i = 0; i < expression->count; i++)
        if (is_nullable(finder, expression->parts[i])) return true;
      return false;
    case EXPRESSION_SERIES:
      for (int i = 0; i < expression->count; i++)
        if (expression->required[i] && !is_nullable(finder, expression->parts[i])) return false;
      return true;
    case EXPRESSION_SEQUENCE:
    case EXPRESSION_BOTH:
      for (int i = 0; i < expression->count; i++)
        if (!is_nullable(finder, expression->parts[i])) return false;
      return true;
  }
  return false;
}

// Repeats a pass over all rules until nothing changes; each pass only turns facts on.
static void spread_facts(FactFinder *finder) {
  for (bool changed = true; changed;) {
    changed = false;
    for (int i = finder->set->count - 1; i >= 0; i--) {
      RuleFacts *facts = &finder->facts[i];
      const Expression *body = finder->set->rules[i].body;
      if (!facts->is_used) continue;
      if (!facts->is_recursive && uses_recursive(finder, body)) facts->is_recursive = changed = true;
      if (!facts->is_nullable && is_nullable(finder, body)) facts->is_nullable = changed = true;
    }
  }
}

// Sizes with inlined rules need to know which are inlined, so the smallest are found first: a second visit in the order of references.
static Status choose_inlined(FactFinder *finder) {
  for (int i = 0; i < finder->set->count; i++) finder->marks[i] = MARK_NONE, finder->facts[i].size = 0;
  finder->path_length = 0;
  return visit_rule(finder, 0);
}

static Status find_facts(FactFinder *finder) {
  TRY(visit_rule(finder, 0));
  spread_facts(finder);
  for (int i = 0; i < finder->set->count; i++) {
    RuleFacts *facts = &finder->facts[i];
    facts->is_inlined = !facts->is_recursive && !finder->set->rules[i].is_shared && i && facts->size <= INLINE_LIMIT;
  }
  TRY(choose_inlined(finder));
  for (int i = 0; i < finder->set->count; i++)
    if (finder->facts[i].size > INLINE_LIMIT) finder->facts[i].is_inlined = false;
  TRY(choose_inlined(finder));
  for (int i = 0; i < finder->set->count; i++)
    if (finder->facts[i].size >= SIZE_LIMIT)
      return status_fail(STATUS_BAD_INPUT, "grammar: rule \"%s\" is too large: repetitions and lengths that are counted take states",
                         finder->set->rules[i].name);
  return STATUS_OK;
}

Status rule_facts_find(RuleFacts **out, const RuleSet *set) {
  FactFinder finder = {.set = set,
                       .facts = memory_new((size_t)set->count, sizeof *finder.facts),
                       .marks = memory_new((size_t)set->count, sizeof *finder.marks),
                       .path = memory_new((size_t)set->count, sizeof *finder.path)};
  Status status = find_facts(&finder);
  free(finder.marks);
  free(finder.path);
  if (status == STATUS_OK) *out = finder.facts;
  else free(finder.facts);
  return status;
}
