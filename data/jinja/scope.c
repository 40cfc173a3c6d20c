// Which variable a name means. Jinja decides it before it renders (its idtracking.py and compiler.py), and so does this file: loops,
// macros, call blocks, {% with %}, {% filter %} and block sets have scopes of their own, {% if %} has not; a name that a scope sets is
// a variable of that scope, which starts with the value of the outer variable of that name; every other name is the outer one's, and
// at last one of the caller's variables or a global. Macros, call blocks and recursive loops are functions: each of their calls has
// its own slots.
#include <stdio.h>
#include <string.h>

#include "data/jinja/parts.h"

typedef struct Symbol {
  const char *name;
  int slot;
  bool stored, is_parameter;
  ScopeLoad load;  // meaningless for a parameter
} Symbol;

typedef struct Symbols {
  struct Symbols *parent;
  int *slot_count;  // of the function that the scope is in
  Symbol *items;
  int count, capacity;
  struct SlotName *slots;  // shared by the copies that the branches of an {% if %} work on
} Symbols;

typedef struct SlotName {
  const char *name;
  int slot;
  struct SlotName *next;
} SlotName;

typedef struct Resolver {
  Jinja *jinja;
  bool soft;  // inside a branch, where an unknown filter is an error only when it is reached
  bool in_loop;
} Resolver;

static Status resolve_fail(const Resolver *resolver, int line, const char *format, const char *name) {
  char message[256];
  snprintf(message, sizeof message, format, name);
  return status_fail(STATUS_BAD_INPUT, "%s:%d: %s", resolver->jinja->name, line, message);
}

// ---- Walking the tree, children in the order in which Jinja's nodes list them.

typedef void (*Visit)(void *context, Node *node);

static void visit_list(const NodeList *list, Visit visit, void *context) {
  for (int i = 0; i < list->count; i++) visit(context, list->items[i]);
}

static void visit_one(Node *node, Visit visit, void *context) {
  if (node) visit(context, node);
}

static void visit_arguments(const CallArguments *arguments, Visit visit, void *context) {
  visit_list(&arguments->positional, visit, context);
  visit_list(&arguments->keyword_values, visit, context);
  visit_one(arguments->star, visit, context);
  visit_one(arguments->star_star, visit, context);
}

static void visit_statement_children(Node *node, Visit visit, void *context) {
  switch (node->type) {
    case NODE_IF:
      for (int i = 0; i < node->as.choice.count; i++) {
        visit_one(node->as.choice.branches[i].test, visit, context);
        visit_list(&node->as.choice.branches[i].body, visit, context);
      }
      break;
    case NODE_FOR:
      visit(context, node->as.loop.target);
      visit(context, node->as.loop.iterable);
      visit_list(&node->as.loop.body, visit, context);
      visit_list(&node->as.loop.otherwise, visit, context);
      visit_one(node->as.loop.filter, visit, context);
      break;
    case NODE_SET:
    case NODE_SET_BLOCK:
      visit(context, node->as.set.target);
      visit_one(node->as.set.value, visit, context);
      visit_list(&node->as.set.body, visit, context);
      break;
    case NODE_FILTER_BLOCK:
      visit_list(&node->as.set.body, visit, context);
      visit(context, node->as.set.value);
      break;
    case NODE_WITH:
      visit_list(&node->as.with.targets, visit, context);
      visit_list(&node->as.with.values, visit, context);
      visit_list(&node->as.with.body, visit, context);
      break;
    case NODE_MACRO:
    case NODE_CALL_BLOCK:
    case NODE_GENERATION:
      visit_one(node->as.macro.call, visit, context);
      visit_list(&node->as.macro.body->parameters, visit, context);
      visit_list(&node->as.macro.body->defaults, visit, context);
      visit_list(&node->as.macro.body->body, visit, context);
      break;
    default: break;
  }
}

static void visit_children(Node *node, Visit visit, void *context) {
  switch (node->type) {
    case NODE_TUPLE:
    case NODE_LIST:
    case NODE_DICT:
    case NODE_CONCATENATE:
    case NODE_PRINT: visit_list(&node->as.items, visit, context); break;
    case NODE_COMPARE: visit_list(&node->as.compare.operands, visit, context); break;
    case NODE_UNARY:
    case NODE_BINARY:
    case NODE_AND:
    case NODE_OR:
      visit(context, node->as.binary.left);
      visit_one(node->as.binary.right, visit, context);
      break;
    case NODE_CONDITION:
      visit(context, node->as.condition.test);
      visit(context, node->as.condition.then);
      visit_one(node->as.condition.otherwise, visit, context);
      break;
    case NODE_ATTRIBUTE:
    case NODE_ITEM:
    case NODE_SLICE:
      visit(context, node->as.access.object);
      visit_one(node->as.access.index, visit, context);
      visit_one(node->as.access.stop, visit, context);
      visit_one(node->as.access.step, visit, context);
      break;
    case NODE_CALL:
    case NODE_FILTER:
    case NODE_TEST:
      visit_one(node->as.call.object, visit, context);
      visit_arguments(&node->as.call.arguments, visit, context);
      break;
    default: visit_statement_children(node, visit, context);
  }
}

// Which of some names a body reads before it sets them; a name that is set is looked for no longer.
typedef struct Undeclared {
  const char *const *names;  // [3] at most
  bool gone[3], found[3];
} Undeclared;

static void visit_undeclared(void *context, Node *node) {
  Undeclared *search = context;
  if (node->type == NODE_NAME) {
    for (int i = 0; i < 3 && search->names[i]; i++) {
      if (strcmp(search->names[i], node->as.name.name) != 0) continue;
      if (node->as.name.use != NAME_LOAD) search->gone[i] = true;
      else if (!search->gone[i]) search->found[i] = true;
    }
  }
  visit_children(node, visit_undeclared, context);
}

static Undeclared find_undeclared(const NodeList *body, const char *const *names) {
  Undeclared search = {.names = names};
  visit_list(body, visit_undeclared, &search);
  return search;
}

static void visit_loop_assignment(void *context, Node *node) {
  bool assigns = node->type == NODE_NAME && (node->as.name.use == NAME_STORE || node->as.name.use == NAME_LOOP_TARGET);
  if (assigns && strcmp(node->as.name.name, "loop") == 0) *(bool *)context = true;
  visit_children(node, visit_loop_assignment, context);
}

// ---- Symbols of a scope.

static Symbols *symbols_new(Resolver *resolver, Symbols *parent, int *slot_count) {
  Symbols *symbols = arena_new(&resolver->jinja->arena, 1, sizeof *symbols);
  symbols->parent = parent;
  symbols->slot_count = slot_count;
  symbols->slots = arena_new(&resolver->jinja->arena, 1, sizeof *symbols->slots);  // a head without a name
  return symbols;
}

static Symbol *find_own(const Symbols *symbols, const char *name) {
  for (int i = 0; i < symbols->count; i++)
    if (strcmp(symbols->items[i].name, name) == 0) return &symbols->items[i];
  return NULL;
}

// The nearest variable of that name; false when no scope has one.
static bool find_place(const Symbols *symbols, const char *name, Place *place) {
  *place = (Place){.slot = -1};
  for (; symbols; symbols = symbols->parent) {
    const Symbol *symbol = find_own(symbols, name);
    if (symbol) {
      place->slot = symbol->slot;
      return true;
    }
    place->hops += symbols->parent && symbols->parent->slot_count != symbols->slot_count;
  }
  return false;
}

static int slot_of(Resolver *resolver, Symbols *symbols, const char *name) {
  SlotName *last = symbols->slots;
  while (last->next) {
    last = last->next;
    if (strcmp(last->name, name) == 0) return last->slot;
  }
  last->next = arena_new(&resolver->jinja->arena, 1, sizeof *last);
  *last->next = (SlotName){.name = name, .slot = (*symbols->slot_count)++};
  return last->next->slot;
}

static Symbol *define(Resolver *resolver, Symbols *symbols, const char *name) {
  Symbol *symbol = find_own(symbols, name);
  if (!symbol) {
    if (symbols->count == symbols->capacity) {
      symbols->capacity = symbols->capacity ? symbols->capacity * 2 : 8;
      Symbol *grown = arena_new(&resolver->jinja->arena, (size_t)symbols->capacity, sizeof *grown);
      if (symbols->count) memcpy(grown, symbols->items, (size_t)symbols->count * sizeof *grown);
      symbols->items = grown;
    }
    symbol = &symbols->items[symbols->count++];
    *symbol = (Symbol){.name = name, .slot = slot_of(resolver, symbols, name)};
  }
  symbol->load = (ScopeLoad){.slot = symbol->slot, .action = LOAD_RESOLVE, .name = name};
  symbol->is_parameter = false;
  return symbol;
}

static bool find_outer(const Symbols *symbols, const char *name, Place *place) {
  if (!symbols->parent) return false;
  bool found = find_place(symbols->parent, name, place);
  place->hops += symbols->parent->slot_count != symbols->slot_count;
  return found;
}

static void load_symbol(Resolver *resolver, Symbols *symbols, const char *name) {
  Place place;
  if (!find_place(symbols, name, &place)) define(resolver, symbols, name);
}

static void declare_parameter(Resolver *resolver, Symbols *symbols, const char *name) {
  Symbol *symbol = define(resolver, symbols, name);
  symbol->is_parameter = symbol->stored = true;
}

static void store_symbol(Resolver *resolver, Symbols *symbols, const char *name) {
  Symbol *symbol = find_own(symbols, name);
  if (!symbol) {
    Place outer;
    bool found = find_outer(symbols, name, &outer);
    symbol = define(resolver, symbols, name);
    symbol->load.action = found ? LOAD_ALIAS : LOAD_UNDEFINED;
    symbol->load.alias = outer;
  }
  symbol->stored = true;
}

// ---- Analysis: the names of one scope, without those inside it.

typedef struct Analysis {
  Resolver *resolver;
  Symbols *symbols;
} Analysis;

static void analyze(void *context, Node *node);

static void analyze_name(Analysis *analysis, const Node *node) {
  const char *name = node->as.name.name;
  if (node->type == NODE_NAMESPACE_NAME || node->as.name.use == NAME_LOAD) load_symbol(analysis->resolver, analysis->symbols, name);
  else if (node->as.name.use == NAME_STORE) store_symbol(analysis->resolver, analysis->symbols, name);
  else declare_parameter(analysis->resolver, analysis->symbols, name);
}

static Symbols *symbols_copy(Resolver *resolver, const Symbols *symbols) {
  Symbols *copy = arena_new(&resolver->jinja->arena, 1, sizeof *copy);
  *copy = *symbols;
  copy->capacity = symbols->count;
  copy->items = arena_new(&resolver->jinja->arena, (size_t)symbols->count + 1, sizeof *copy->items);
  if (symbols->count) memcpy(copy->items, symbols->items, (size_t)symbols->count * sizeof *copy->items);
  return copy;
}

// What a branch has defined becomes the scope's; what only a branch stores starts with the outer value, or the caller's.
static void merge_branches(Resolver *resolver, Symbols *symbols, Symbols *const *branches, int count) {
  Symbols *before = symbols_copy(resolver, symbols);
  for (int b = 0; b < count; b++) {
    for (int i = 0; i < branches[b]->count; i++) {
      const Symbol *from = &branches[b]->items[i];
      Symbol *to = define(resolver, symbols, from->name);
      bool stored = to->stored;
      *to = *from;
      to->stored = stored || from->stored;
    }
  }
  for (int i = 0; i < symbols->count; i++) {
    Symbol *symbol = &symbols->items[i];
    const Symbol *old = find_own(before, symbol->name);
    if (!symbol->stored || (old && old->stored)) continue;
    Place outer;
    bool found = find_outer(symbols, symbol->name, &outer);
    symbol->is_parameter = false;
    symbol->load = (ScopeLoad){.slot = symbol->slot, .action = found ? LOAD_ALIAS : LOAD_RESOLVE, .name = symbol->name, .alias = outer};
  }
}

static Symbols *analyze_copy(Analysis *analysis, const NodeList *body) {
  Analysis inner = {analysis->resolver, symbols_copy(analysis->resolver, analysis->symbols)};
  visit_list(body, analyze, &inner);
  return inner.symbols;
}

// The branches from `first` on: Jinja takes the elif branches together, each as an {% if %} of its own inside one copy.
static void analyze_if(Analysis *analysis, Node *node) {
  Symbols *merged[3];
  IfBranch *branches = node->as.choice.branches;
  int count = node->as.choice.count;
  bool has_else = count > 1 && !branches[count - 1].test;
  visit_one(branches[0].test, analyze, analysis);
  merged[0] = analyze_copy(analysis, &branches[0].body);
  Analysis inner = {analysis->resolver, symbols_copy(analysis->resolver, analysis->symbols)};
  for (int i = 1; i < count - has_else; i++) {
    visit_one(branches[i].test, analyze, &inner);
    Symbols *one = analyze_copy(&inner, &branches[i].body);
    merge_branches(analysis->resolver, inner.symbols, &one, 1);
  }
  merged[1] = inner.symbols;
  merged[2] = has_else ? analyze_copy(analysis, &branches[count - 1].body) : merged[1];
  merge_branches(analysis->resolver, analysis->symbols, merged, 3);
}

static void analyze(void *context, Node *node) {
  Analysis *analysis = context;
  switch (node->type) {
    case NODE_NAME:
    case NODE_NAMESPACE_NAME: analyze_name(analysis, node); break;
    case NODE_IF: analyze_if(analysis, node); break;
    case NODE_FOR: analyze(analysis, node->as.loop.iterable); break;
    case NODE_SET:
      analyze(analysis, node->as.set.value);
      analyze(analysis, node->as.set.target);
      break;
    case NODE_SET_BLOCK: analyze(analysis, node->as.set.target); break;
    case NODE_MACRO: store_symbol(analysis->resolver, analysis->symbols, node->as.macro.body->name); break;
    case NODE_CALL_BLOCK: analyze(analysis, node->as.macro.call); break;
    case NODE_GENERATION: break;
    case NODE_FILTER_BLOCK: analyze(analysis, node->as.set.value); break;
    case NODE_WITH: visit_list(&node->as.with.values, analyze, analysis); break;
    default: visit_children(node, analyze, analysis);
  }
}

static void finish_scope(Resolver *resolver, Scope *scope, const Symbols *symbols) {
  scope->loads = arena_new(&resolver->jinja->arena, (size_t)symbols->count + 1, sizeof *scope->loads);
  for (int i = 0; i < symbols->count; i++)
    if (!symbols->items[i].is_parameter) scope->loads[scope->count++] = symbols->items[i].load;
}

// ---- Resolution: every name gets its place, every filter and test its function, every inner scope its symbols.

static Status resolve(Resolver *resolver, Symbols *symbols, Node *node);

static Status resolve_list(Resolver *resolver, Symbols *symbols, const NodeList *list) {
  for (int i = 0; i < list->count; i++) TRY(resolve(resolver, symbols, list->items[i]));
  return STATUS_OK;
}

static Status resolve_optional(Resolver *resolver, Symbols *symbols, Node *node) {
  return node ? resolve(resolver, symbols, node) : STATUS_OK;
}

static void resolve_name(Resolver *resolver, Symbols *symbols, Node *node) {
  find_place(symbols, node->as.name.name, &node->as.name.place);
  if (node->type == NODE_NAMESPACE_NAME || node->as.name.use == NAME_LOAD) map_set_string(&resolver->jinja->names, node->as.name.name, 1);
}

static Status resolve_called(Resolver *resolver, Symbols *symbols, Node *node) {
  const char *name = node->as.call.name;
  CallArguments *arguments = &node->as.call.arguments;
  if (node->type == NODE_FILTER) {
    const char *why = known_but_refused_filter(name);
    if (why) return resolve_fail(resolver, node->line, "the filter %s", why);
    node->as.call.function = find_filter(name);
    if (!node->as.call.function && !resolver->soft) return resolve_fail(resolver, node->line, "there is no filter named '%s'", name);
  } else if (node->type == NODE_TEST) {
    node->as.call.function = find_test(name);
    if (!node->as.call.function && !resolver->soft) return resolve_fail(resolver, node->line, "there is no test named '%s'", name);
  }
  TRY(resolve_optional(resolver, symbols, node->as.call.object));
  TRY(resolve_list(resolver, symbols, &arguments->positional));
  TRY(resolve_list(resolver, symbols, &arguments->keyword_values));
  TRY(resolve_optional(resolver, symbols, arguments->star));
  return resolve_optional(resolver, symbols, arguments->star_star);
}

static Status resolve_soft(Resolver *resolver, Symbols *symbols, Node *node) {
  Resolver inner = *resolver;
  inner.soft = true;
  if (node->type == NODE_CONDITION) {
    TRY(resolve(&inner, symbols, node->as.condition.test));
    TRY(resolve(&inner, symbols, node->as.condition.then));
    return resolve_optional(&inner, symbols, node->as.condition.otherwise);
  }
  for (int i = 0; i < node->as.choice.count; i++) {
    TRY(resolve_optional(&inner, symbols, node->as.choice.branches[i].test));
    TRY(resolve_list(&inner, symbols, &node->as.choice.branches[i].body));
  }
  return STATUS_OK;
}

static Status resolve_for(Resolver *resolver, Symbols *symbols, Node *node) {
  bool assigned = false;
  visit_loop_assignment(&assigned, node);
  if (assigned) return resolve_fail(resolver, node->line, "the variable `%s` of a for loop cannot be assigned to", "loop");
  Resolver inner = {.jinja = resolver->jinja, .in_loop = true}, outside = {.jinja = resolver->jinja, .in_loop = resolver->in_loop};
  Symbols *body = symbols_new(resolver, symbols, node->as.loop.recursive ? &node->as.loop.slot_count : symbols->slot_count);
  node->as.loop.has_loop = node->as.loop.recursive || find_undeclared(&node->as.loop.body, (const char *const[]){"loop", NULL}).found[0];
  if (node->as.loop.has_loop) declare_parameter(resolver, body, "loop");
  Analysis analysis = {resolver, body};
  analyze(&analysis, node->as.loop.target);
  visit_list(&node->as.loop.body, analyze, &analysis);
  finish_scope(resolver, &node->as.loop.scope, body);
  find_place(body, "loop", &node->as.loop.loop);
  TRY(resolve(&inner, body, node->as.loop.target));
  TRY(resolve_list(&inner, body, &node->as.loop.body));

  // The filter and the else branch have scopes beside the body's, in the same function; the filter assigns the same targets.
  Symbols *otherwise = symbols_new(resolver, symbols, body->slot_count);
  analysis.symbols = otherwise;
  visit_list(&node->as.loop.otherwise, analyze, &analysis);
  finish_scope(resolver, &node->as.loop.otherwise_scope, otherwise);
  TRY(resolve_list(&outside, otherwise, &node->as.loop.otherwise));
  if (node->as.loop.filter) {
    Symbols *filter = symbols_new(resolver, symbols, body->slot_count);
    for (int i = 0; i < body->count; i++)
      if (body->items[i].is_parameter && strcmp(body->items[i].name, "loop") != 0)
        *define(resolver, filter, body->items[i].name) = body->items[i];
    analysis.symbols = filter;
    analyze(&analysis, node->as.loop.filter);
    finish_scope(resolver, &node->as.loop.filter_scope, filter);
    TRY(resolve(&outside, filter, node->as.loop.filter));
  }
  return resolve(resolver, symbols, node->as.loop.iterable);
}

static Status resolve_macro_body(Resolver *resolver, Symbols *symbols, MacroBody *macro, int line) {
  static const char *const special[] = {"caller", "kwargs", "varargs"};
  Symbols *inner = symbols_new(resolver, symbols, &macro->slot_count);
  Analysis analysis = {resolver, inner};
  visit_list(&macro->parameters, analyze, &analysis);
  visit_list(&macro->defaults, analyze, &analysis);
  visit_list(&macro->body, analyze, &analysis);
  Undeclared undeclared = find_undeclared(&macro->body, special);
  bool given[3] = {false};
  for (int i = 0; i < macro->parameters.count; i++) {
    for (int s = 0; s < 3; s++) {
      if (strcmp(macro->parameters.items[i]->as.name.name, special[s]) != 0) continue;
      given[s] = true;
      if (s == 0 && undeclared.found[0] && i < macro->parameters.count - macro->defaults.count)
        return resolve_fail(resolver, line, "the parameter `%s` of a macro needs a default", "caller");
    }
  }
  Place *places[3] = {&macro->caller, &macro->keyword_rest, &macro->positional_rest};
  for (int s = 0; s < 3; s++) {
    *places[s] = (Place){.slot = -1};
    if (!undeclared.found[s] || given[s]) continue;
    declare_parameter(resolver, inner, special[s]);
    find_place(inner, special[s], places[s]);
  }
  macro->has_caller_parameter = given[0];
  finish_scope(resolver, &macro->scope, inner);
  Resolver hard = {.jinja = resolver->jinja};
  TRY(resolve_list(&hard, inner, &macro->parameters));
  TRY(resolve_list(&hard, inner, &macro->defaults));
  return resolve_list(&hard, inner, &macro->body);
}

static Status resolve_macro(Resolver *resolver, Symbols *symbols, Node *node) {
  if (node->type == NODE_MACRO) find_place(symbols, node->as.macro.body->name, &node->as.macro.place);
  TRY(resolve_macro_body(resolver, symbols, node->as.macro.body, node->line));
  return resolve_optional(resolver, symbols, node->as.macro.call);
}

// {% set %}...{% endset %} and {% filter %}: the filter sees the body's variables.
static Status resolve_captured(Resolver *resolver, Symbols *symbols, Node *node) {
  Resolver hard = {.jinja = resolver->jinja, .in_loop = resolver->in_loop};
  Symbols *inner = symbols_new(resolver, symbols, symbols->slot_count);
  Analysis analysis = {resolver, inner};
  visit_list(&node->as.set.body, analyze, &analysis);
  visit_one(node->as.set.value, analyze, &analysis);
  finish_scope(resolver, &node->as.set.scope, inner);
  TRY(resolve_list(&hard, inner, &node->as.set.body));
  TRY(resolve_optional(&hard, inner, node->as.set.value));
  return resolve_optional(resolver, symbols, node->as.set.target);
}

static Status resolve_with(Resolver *resolver, Symbols *symbols, Node *node) {
  Resolver hard = {.jinja = resolver->jinja, .in_loop = resolver->in_loop};
  Symbols *inner = symbols_new(resolver, symbols, symbols->slot_count);
  Analysis analysis = {resolver, inner};
  visit_list(&node->as.with.targets, analyze, &analysis);
  visit_list(&node->as.with.body, analyze, &analysis);
  finish_scope(resolver, &node->as.with.scope, inner);
  TRY(resolve_list(resolver, symbols, &node->as.with.values));
  TRY(resolve_list(&hard, inner, &node->as.with.targets));
  return resolve_list(&hard, inner, &node->as.with.body);
}

// A node without a scope of its own: its children.
typedef struct ChildResolution {
  Resolver *resolver;
  Symbols *symbols;
  Status status;
} ChildResolution;

static void resolve_child(void *context, Node *node) {
  ChildResolution *resolution = context;
  if (resolution->status == STATUS_OK) resolution->status = resolve(resolution->resolver, resolution->symbols, node);
}

static Status resolve(Resolver *resolver, Symbols *symbols, Node *node) {
  switch (node->type) {
    case NODE_NAME:
    case NODE_NAMESPACE_NAME: resolve_name(resolver, symbols, node); return STATUS_OK;
    case NODE_CALL:
    case NODE_FILTER:
    case NODE_TEST: return resolve_called(resolver, symbols, node);
    case NODE_CONDITION:
    case NODE_IF: return resolve_soft(resolver, symbols, node);
    case NODE_FOR: return resolve_for(resolver, symbols, node);
    case NODE_SET_BLOCK:
    case NODE_FILTER_BLOCK: return resolve_captured(resolver, symbols, node);
    case NODE_WITH: return resolve_with(resolver, symbols, node);
    case NODE_MACRO:
    case NODE_CALL_BLOCK:
    case NODE_GENERATION: return resolve_macro(resolver, symbols, node);
    case NODE_BREAK:
    case NODE_CONTINUE:
      if (resolver->in_loop) return STATUS_OK;
      return resolve_fail(resolver, node->line, "`%s` stands outside of a loop", node->type == NODE_BREAK ? "break" : "continue");
    default: break;
  }
  ChildResolution resolution = {resolver, symbols, STATUS_OK};
  visit_children(node, resolve_child, &resolution);
  return resolution.status;
}

Status jinja_resolve(Jinja *jinja) {
  Resolver resolver = {.jinja = jinja};
  Symbols *symbols = symbols_new(&resolver, NULL, &jinja->slot_count);
  Analysis analysis = {&resolver, symbols};
  visit_list(&jinja->body, analyze, &analysis);
  finish_scope(&resolver, &jinja->scope, symbols);
  return resolve_list(&resolver, symbols, &jinja->body);
}
