// The trees that grammars are read into.
#include "runtime/constraint/expression.h"

#include <stdlib.h>
#include <string.h>

int rule_add(RuleSet *set, const char *name) {
  ARRAY_PUSH(set->rules, set->count, set->capacity) = (Rule){.name = arena_copy_string(&set->arena, name)};
  return set->count - 1;
}

void rule_set_release(RuleSet *set) {
  arena_release(&set->arena);
  free(set->rules);
  *set = (RuleSet){0};
}

static Expression *expression_new(RuleSet *set, ExpressionKind kind) {
  Expression *expression = arena_new(&set->arena, 1, sizeof *expression);
  expression->kind = kind;
  return expression;
}

const Expression *expression_text(RuleSet *set, const char *text, size_t length) {
  Expression *expression = expression_new(set, EXPRESSION_TEXT);
  expression->text = arena_copy_bytes(&set->arena, text, length);
  expression->count = (int)length;
  return expression;
}

const Expression *expression_string(RuleSet *set, const char *text) { return expression_text(set, text, strlen(text)); }

static int compare_ranges(const void *a, const void *b) {
  const CodeRange *x = a, *y = b;
  return x->first < y->first ? -1 : x->first > y->first;
}

// Sorts, and joins what touches; returns the number left.
static int normalize_ranges(CodeRange *ranges, int count) {
  qsort(ranges, (size_t)count, sizeof *ranges, compare_ranges);
  int kept = 0;
  for (int i = 0; i < count; i++) {
    if (kept && ranges[i].first <= ranges[kept - 1].last + 1) {
      if (ranges[i].last > ranges[kept - 1].last) ranges[kept - 1].last = ranges[i].last;
    } else {
      ranges[kept++] = ranges[i];
    }
  }
  return kept;
}

// The gaps between ranges that are in order; `out` has room for count + 1.
static int invert_ranges(CodeRange *out, const CodeRange *ranges, int count) {
  uint32_t next = 0;
  int gaps = 0;
  for (int i = 0; i < count; i++) {
    if (ranges[i].first > next) out[gaps++] = (CodeRange){next, ranges[i].first - 1};
    next = ranges[i].last + 1;
  }
  if (next <= CODE_POINT_LAST) out[gaps++] = (CodeRange){next, CODE_POINT_LAST};
  return gaps;
}

const Expression *expression_set(RuleSet *set, const CodeRange *ranges, int count, bool is_negated) {
  enum { SURROGATE_FIRST = 0xd800, SURROGATE_LAST = 0xdfff };
  CodeRange *own = arena_new(&set->arena, (size_t)count + 3, sizeof *own), *other = arena_new(&set->arena, (size_t)count + 3, sizeof *own);
  if (count) memcpy(own, ranges, (size_t)count * sizeof *own);
  int kept = normalize_ranges(own, count);
  if (!is_negated) {  // surrogates are added to what the set has not, which is then what it must not have
    kept = invert_ranges(other, own, kept);
    memcpy(own, other, (size_t)kept * sizeof *own);
  }
  own[kept++] = (CodeRange){SURROGATE_FIRST, SURROGATE_LAST};
  kept = normalize_ranges(own, kept);
  Expression *expression = expression_new(set, EXPRESSION_SET);
  expression->count = invert_ranges(other, own, kept);
  expression->ranges = other;
  return expression;
}

const Expression *expression_rule(RuleSet *set, int rule) {
  Expression *expression = expression_new(set, EXPRESSION_RULE);
  expression->rule = rule;
  return expression;
}

const Expression *expression_join(RuleSet *set, ExpressionKind kind, const Expression *const *parts, int count) {
  if (count == 1) return parts[0];
  Expression *expression = expression_new(set, kind);
  expression->parts = arena_new(&set->arena, (size_t)count + 1, sizeof *parts);
  expression->count = count;
  for (int i = 0; i < count; i++) expression->parts[i] = parts[i];
  return expression;
}

const Expression *expression_repeat(RuleSet *set, const Expression *part, int64_t min, int64_t max) {
  Expression *expression = expression_new(set, EXPRESSION_REPEAT);
  expression->parts = arena_new(&set->arena, 1, sizeof part);
  expression->parts[0] = part;
  expression->count = 1;
  expression->min = min;
  expression->max = max;
  return expression;
}

const Expression *expression_optional(RuleSet *set, const Expression *part) { return expression_repeat(set, part, 0, 1); }

const Expression *expression_pair(RuleSet *set, ExpressionKind kind, const Expression *a, const Expression *b) {
  return expression_join(set, kind, (const Expression *[]){a, b}, 2);
}

const Expression *expression_series(RuleSet *set, const Expression *const *parts, const bool *required, int count,
                                    const Expression *separator, const Expression *extra) {
  Expression *expression = expression_new(set, EXPRESSION_SERIES);
  bool *own = arena_new(&set->arena, (size_t)count + 1, sizeof *own);
  expression->parts = arena_new(&set->arena, (size_t)count + 1, sizeof *parts);
  for (int i = 0; i < count; i++) expression->parts[i] = parts[i], own[i] = required[i];
  expression->required = own;
  expression->count = count;
  expression->separator = separator;
  expression->extra = extra;
  return expression;
}

void expression_list_add(ExpressionList *list, const Expression *expression) {
  ARRAY_PUSH(list->items, list->count, list->capacity) = expression;
}

const Expression *expression_list_end(RuleSet *set, ExpressionKind kind, ExpressionList *list) {
  const Expression *expression = expression_join(set, kind, list->items, list->count);
  free(list->items);
  *list = (ExpressionList){0};
  return expression;
}

int utf8_encode(unsigned char out[4], uint32_t code_point) {
  if (code_point < 0x80) return out[0] = (unsigned char)code_point, 1;
  int length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
  for (int i = length - 1; i > 0; i--, code_point >>= 6) out[i] = (unsigned char)(0x80 | (code_point & 0x3f));
  static const unsigned char leads[] = {0, 0, 0xc0, 0xe0, 0xf0};
  out[0] = (unsigned char)(leads[length] | code_point);
  return length;
}
