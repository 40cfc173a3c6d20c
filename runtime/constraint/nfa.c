// Thompson's construction. A set of characters becomes sequences of ranges of bytes, as UTF-8 has it.
#include "runtime/constraint/nfa.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_EDGES = 4000000 };

typedef struct NfaBuilder {
  Nfa *nfa;
  const RuleSet *set;
  const RuleFacts *facts;  // NULL: every rule stands in place of its references
} NfaBuilder;

static int32_t add_state(Nfa *nfa) {
  ARRAY_PUSH(nfa->heads, nfa->state_count, nfa->state_capacity) = -1;
  return nfa->state_count - 1;
}

static Status add_edge(Nfa *nfa, int32_t from, NfaEdge edge) {
  if (nfa->edge_count >= MAX_EDGES)
    return status_fail(STATUS_BAD_INPUT, "grammar: it is too large: repetitions and lengths that are counted take too many states");
  edge.next = nfa->heads[from];
  nfa->heads[from] = nfa->edge_count;
  ARRAY_PUSH(nfa->edges, nfa->edge_count, nfa->edge_capacity) = edge;
  return STATUS_OK;
}

static Status add_empty(Nfa *nfa, int32_t from, int32_t to) { return add_edge(nfa, from, (NfaEdge){.to = to, .kind = NFA_EMPTY}); }

static Status add_bytes(Nfa *nfa, int32_t from, int32_t to, int first, int last) {
  return add_edge(nfa, from, (NfaEdge){.to = to, .kind = NFA_BYTES, .first = (uint8_t)first, .last = (uint8_t)last});
}

// Characters whose UTF-8 has the same length and whose bytes may be chosen independently: one range for each byte.
static Status add_byte_ranges(Nfa *nfa, int32_t from, int32_t to, CodeRange range) {
  unsigned char first[4], last[4];
  int length = utf8_encode(first, range.first);
  utf8_encode(last, range.last);
  for (int i = 0; i < length; i++) {
    int32_t next = i == length - 1 ? to : add_state(nfa);
    TRY(add_bytes(nfa, from, next, first[i], last[i]));
    from = next;
  }
  return STATUS_OK;
}

static Status add_range(Nfa *nfa, int32_t from, int32_t to, CodeRange range) {
  static const uint32_t last_of_length[] = {0x7f, 0x7ff, 0xffff};
  for (int i = 0; i < 3; i++) {
    if (range.first > last_of_length[i] || range.last <= last_of_length[i]) continue;
    TRY(add_range(nfa, from, to, (CodeRange){range.first, last_of_length[i]}));
    return add_range(nfa, from, to, (CodeRange){last_of_length[i] + 1, range.last});
  }
  for (int bits = 6; range.last > 0x7f && bits <= 18; bits += 6) {
    uint32_t low = (1u << bits) - 1;
    if ((range.first & ~low) == (range.last & ~low)) break;  // the bytes before are equal
    uint32_t cut = range.first & low ? range.first | low : (range.last & low) != low ? (range.last & ~low) - 1 : 0;
    if (!cut) continue;
    TRY(add_range(nfa, from, to, (CodeRange){range.first, cut}));
    return add_range(nfa, from, to, (CodeRange){cut + 1, range.last});
  }
  return add_byte_ranges(nfa, from, to, range);
}

static Status add_expression(int32_t *to, NfaBuilder *builder, const Expression *expression, int32_t from);

static Status add_choice(int32_t *to, NfaBuilder *builder, const Expression *expression, int32_t from) {
  *to = add_state(builder->nfa);
  for (int i = 0; i < expression->count; i++) {
    int32_t begin = add_state(builder->nfa), end = 0;
    TRY(add_empty(builder->nfa, from, begin));
    TRY(add_expression(&end, builder, expression->parts[i], begin));
    TRY(add_empty(builder->nfa, end, *to));
  }
  return STATUS_OK;
}

static Status add_repeat(int32_t *to, NfaBuilder *builder, const Expression *expression, int32_t from) {
  Nfa *nfa = builder->nfa;
  const Expression *part = expression->parts[0];
  for (int64_t i = 0; i < expression->min; i++) TRY(add_expression(&from, builder, part, from));
  *to = add_state(nfa);
  if (expression->max < 0) {
    int32_t begin = add_state(nfa), end = 0;
    TRY(add_empty(nfa, from, begin));
    TRY(add_expression(&end, builder, part, begin));
    TRY(add_empty(nfa, end, begin));
    return add_empty(nfa, begin, *to);
  }
  for (int64_t i = expression->min; i < expression->max; i++) {
    TRY(add_empty(nfa, from, *to));
    int32_t begin = add_state(nfa);  // so that a loop in the part does not lead back over what is left out
    TRY(add_empty(nfa, from, begin));
    TRY(add_expression(&from, builder, part, begin));
  }
  return add_empty(nfa, from, *to);
}

// Two tracks: nothing has been written yet, or something has, so that a separator comes next. Both meet before each part.
static Status add_series(int32_t *to, NfaBuilder *builder, const Expression *series, int32_t from) {
  Nfa *nfa = builder->nfa;
  int32_t nothing = from, something = -1, end;
  *to = add_state(nfa);
  for (int i = 0; i < series->count + (series->extra != NULL); i++) {
    bool is_extra = i == series->count;
    int32_t before = add_state(nfa), after = add_state(nfa);
    if (nothing >= 0) TRY(add_empty(nfa, nothing, before));
    if (something >= 0) {
      TRY(add_expression(&end, builder, series->separator, something));
      TRY(add_empty(nfa, end, before));
    }
    TRY(add_expression(&end, builder, is_extra ? series->extra : series->parts[i], before));
    TRY(add_empty(nfa, end, after));
    if (is_extra) {
      TRY(add_expression(&end, builder, series->separator, after));
      TRY(add_empty(nfa, end, before));
    }
    bool may_lack = is_extra || !series->required[i];
    if (may_lack && something >= 0) TRY(add_empty(nfa, something, after));
    if (!may_lack) nothing = -1;
    something = after;
    if (nothing >= 0) {  // a state of its own: the part may lead back to where it began
      int32_t next = add_state(nfa);
      TRY(add_empty(nfa, nothing, next));
      nothing = next;
    }
  }
  if (nothing >= 0) TRY(add_empty(nfa, nothing, *to));
  return something >= 0 ? add_empty(nfa, something, *to) : STATUS_OK;
}

static Status add_rule(int32_t *to, NfaBuilder *builder, int rule, int32_t from) {
  if (!builder->facts || builder->facts[rule].is_inlined) return add_expression(to, builder, builder->set->rules[rule].body, from);
  *to = add_state(builder->nfa);
  if (builder->facts[rule].is_nullable) TRY(add_empty(builder->nfa, from, *to));
  return add_edge(builder->nfa, from, (NfaEdge){.to = *to, .kind = NFA_CALL, .rule = rule});
}

static Status add_dfa(int32_t *to, Nfa *nfa, const Dfa *dfa, const ByteClasses *classes, int32_t from) {
  int32_t base = nfa->state_count;
  for (int32_t i = 0; i < dfa->state_count; i++) add_state(nfa);
  *to = add_state(nfa);
  if (dfa->state_count) TRY(add_empty(nfa, from, base));
  for (int32_t i = 0; i < dfa->state_count; i++) {
    const int32_t *next = dfa->next + (int64_t)i * classes->count;
    if (dfa->is_final[i]) TRY(add_empty(nfa, base + i, *to));
    for (int c = 0, end; c < classes->count; c = end) {
      for (end = c + 1; end < classes->count && next[end] == next[c]; end++) continue;
      if (next[c] >= 0) TRY(add_bytes(nfa, base + i, base + next[c], classes->first[c], classes->last[end - 1]));
    }
  }
  return STATUS_OK;
}

// The automata of two regular expressions, over the same classes of bytes.
static Status build_pair(Dfa dfas[2], ByteClasses *classes, const RuleSet *set, const Expression *a, const Expression *b) {
  Nfa nfas[2] = {0};
  Status status = STATUS_OK;
  TRY_DONE(nfa_build(&nfas[0], set, NULL, a));
  TRY_DONE(nfa_build(&nfas[1], set, NULL, b));
  byte_classes_find(classes, nfas, 2);
  TRY_DONE(dfa_build(&dfas[0], &nfas[0], classes));
  TRY_DONE(dfa_build(&dfas[1], &nfas[1], classes));
done:
  nfa_release(&nfas[0]);
  nfa_release(&nfas[1]);
  return status;
}

static Status combine(Dfa *out, ByteClasses *classes, const RuleSet *set, const Expression *a, const Expression *b, bool is_except) {
  Dfa dfas[2] = {0};
  Status status = build_pair(dfas, classes, set, a, b);
  if (status == STATUS_OK) status = dfa_combine(out, &dfas[0], &dfas[1], classes->count, is_except);
  dfa_release(&dfas[0]);
  dfa_release(&dfas[1]);
  return status;
}

static Status add_combination(int32_t *to, NfaBuilder *builder, const Expression *expression, int32_t from) {
  Dfa dfa = {0};
  ByteClasses classes;
  Status status = combine(&dfa, &classes, builder->set, expression->parts[0], expression->parts[1], expression->kind == EXPRESSION_EXCEPT);
  if (status == STATUS_OK) status = add_dfa(to, builder->nfa, &dfa, &classes, from);
  dfa_release(&dfa);
  return status;
}

Status expressions_meet(bool *meet, const RuleSet *set, const Expression *a, const Expression *b) {
  Dfa dfa = {0};
  ByteClasses classes;
  Status status = combine(&dfa, &classes, set, a, b, false);
  *meet = dfa.state_count > 0;
  dfa_release(&dfa);
  return status;
}

static Status add_expression(int32_t *to, NfaBuilder *builder, const Expression *expression, int32_t from) {
  Nfa *nfa = builder->nfa;
  switch (expression->kind) {
    case EXPRESSION_TEXT:
      for (int i = 0; i < expression->count; i++) {
        unsigned char byte = (unsigned char)expression->text[i];
        int32_t next = add_state(nfa);
        TRY(add_bytes(nfa, from, next, byte, byte));
        from = next;
      }
      *to = from;
      return STATUS_OK;
    case EXPRESSION_SET:
      *to = add_state(nfa);
      for (int i = 0; i < expression->count; i++) TRY(add_range(nfa, from, *to, expression->ranges[i]));
      return STATUS_OK;
    case EXPRESSION_SEQUENCE:
      for (int i = 0; i < expression->count; i++) TRY(add_expression(&from, builder, expression->parts[i], from));
      *to = from;
      return STATUS_OK;
    case EXPRESSION_CHOICE: return add_choice(to, builder, expression, from);
    case EXPRESSION_REPEAT: return add_repeat(to, builder, expression, from);
    case EXPRESSION_SERIES: return add_series(to, builder, expression, from);
    case EXPRESSION_RULE: return add_rule(to, builder, expression->rule, from);
    case EXPRESSION_BOTH:
    case EXPRESSION_EXCEPT: return add_combination(to, builder, expression, from);
  }
  return STATUS_OK;
}

Status nfa_build(Nfa *out, const RuleSet *set, const RuleFacts *facts, const Expression *body) {
  NfaBuilder builder = {.nfa = out, .set = set, .facts = facts};
  *out = (Nfa){0};
  out->start = add_state(out);
  return add_expression(&out->final, &builder, body, out->start);
}

void nfa_release(Nfa *nfa) {
  free(nfa->edges);
  free(nfa->heads);
  *nfa = (Nfa){0};
}

void byte_classes_find(ByteClasses *out, const Nfa *nfas, int count) {
  bool begins[257] = {[0] = true};
  for (int n = 0; n < count; n++) {
    for (int32_t i = 0; i < nfas[n].edge_count; i++) {
      const NfaEdge *edge = &nfas[n].edges[i];
      if (edge->kind == NFA_BYTES) begins[edge->first] = begins[edge->last + 1] = true;
    }
  }
  out->count = 0;
  for (int byte = 0; byte < 256; byte++) {
    if (begins[byte]) out->first[out->count++] = (uint8_t)byte;
    out->last[out->count - 1] = (uint8_t)byte;
    out->of[byte] = (uint8_t)(out->count - 1);
  }
}
