// What a grammar says, as trees: both GBNF and JSON schemas are read into rules of expressions, and grammar_compile makes automata of them.
#ifndef RUNTIME_CONSTRAINT_EXPRESSION_H
#define RUNTIME_CONSTRAINT_EXPRESSION_H

#include "core/memory.h"

typedef struct CodeRange {
  uint32_t first, last;  // code points, both included
} CodeRange;

typedef enum ExpressionKind {
  EXPRESSION_TEXT,  // bytes as they stand; none: the empty text
  EXPRESSION_SET,  // one character of a set
  EXPRESSION_SEQUENCE,
  EXPRESSION_CHOICE,  // without parts: nothing matches
  EXPRESSION_REPEAT,
  EXPRESSION_SERIES,  // parts in their order with a separator between those that are there
  EXPRESSION_RULE,
  EXPRESSION_BOTH,  // texts of both parts; the parts are regular: without rules that refer to themselves
  EXPRESSION_EXCEPT,  // texts of the first part that are none of the second; both are regular
} ExpressionKind;

typedef struct Expression Expression;
struct Expression {
  ExpressionKind kind;
  int count;  // of text, ranges or parts
  const char *text;
  const CodeRange *ranges;  // ascending, none touching the next
  const Expression **parts;
  int64_t min, max;  // of a repeat; max -1: any number
  const bool *required;  // of a series [count]
  const Expression *separator, *extra;  // of a series; extra: any number of these may follow the parts; NULL: none
  int rule;
};

typedef struct Rule {
  const char *name;  // for messages
  const Expression *body;  // NULL until it is set
  bool is_shared;  // stays a rule of its own, whose masks are then computed once for all places that use it
} Rule;

typedef struct RuleSet {
  Arena arena;  // of everything that rules point to
  Rule *rules;  // [count]; the first is where a text begins
  int count, capacity;
} RuleSet;

enum { CODE_POINT_LAST = 0x10ffff };

int rule_add(RuleSet *set, const char *name);
void rule_set_release(RuleSet *set);

// Expressions live in the set's arena.
const Expression *expression_text(RuleSet *set, const char *text, size_t length);
const Expression *expression_string(RuleSet *set, const char *text);
// Ranges in any order; surrogates, which no text has, are left out. `is_negated`: all other code points.
const Expression *expression_set(RuleSet *set, const CodeRange *ranges, int count, bool is_negated);
const Expression *expression_rule(RuleSet *set, int rule);
const Expression *expression_repeat(RuleSet *set, const Expression *part, int64_t min, int64_t max);
const Expression *expression_optional(RuleSet *set, const Expression *part);
const Expression *expression_pair(RuleSet *set, ExpressionKind kind, const Expression *a, const Expression *b);
const Expression *expression_series(RuleSet *set, const Expression *const *parts, const bool *required, int count,
                                    const Expression *separator, const Expression *extra);

// A list that becomes a sequence or a choice.
typedef struct ExpressionList {
  const Expression **items;
  int count, capacity;
} ExpressionList;
void expression_list_add(ExpressionList *list, const Expression *expression);
const Expression *expression_list_end(RuleSet *set, ExpressionKind kind, ExpressionList *list);  // releases the list
// expression_sequence(set, a, b, c): one behind another.
#define expression_sequence(set, ...)                                              \
  expression_join((set), EXPRESSION_SEQUENCE, (const Expression *[]){__VA_ARGS__}, \
                  (int)(sizeof((const Expression *[]){__VA_ARGS__}) / sizeof(const Expression *)))
#define expression_choice(set, ...)                                              \
  expression_join((set), EXPRESSION_CHOICE, (const Expression *[]){__VA_ARGS__}, \
                  (int)(sizeof((const Expression *[]){__VA_ARGS__}) / sizeof(const Expression *)))
const Expression *expression_join(RuleSet *set, ExpressionKind kind, const Expression *const *parts, int count);

int utf8_encode(unsigned char out[4], uint32_t code_point);  // the number of bytes

#endif
