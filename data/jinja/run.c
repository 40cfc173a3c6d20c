// Statements, and the state of a rendering: its memory, its bounds, its variables and its output.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/jinja/parts.h"

static Status execute(Run *run, const NodeList *body);

// ---- Bounds and memory.

Status run_fail(const Run *run, const char *format, ...) {
  char message[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return status_fail(STATUS_BAD_INPUT, "%s:%d: %s", run->jinja->name, run->line, message);
}

Status run_check(const Run *run) {
  return run->exceeded ? run_fail(run, "the template's rendering is stopped: %s", run->exceeded) : STATUS_OK;
}

void run_charge(Run *run, size_t steps) {
  run->steps += (int64_t)steps;
  if (run->steps > run->steps_most && !run->exceeded) run->exceeded = "it takes too many steps";
}

bool run_enter(Run *run) {
  if (run->depth >= RUN_DEPTH_MOST && !run->exceeded) run->exceeded = "it is nested too deep";
  if (run->exceeded) return false;
  run->depth++;
  return true;
}

void run_leave(Run *run) { run->depth--; }

enum { CHUNK = 1 << 16 };

void *run_allocate(Run *run, size_t bytes) {
  bytes = (bytes + 15) / 16 * 16;
  run->memory += bytes;
  run_charge(run, bytes / 1024);
  if (run->memory > RUN_MEMORY_MOST && !run->exceeded) run->exceeded = "it needs more than 256 MiB of memory";
  if (bytes > CHUNK / 4) return arena_new(&run->arena, bytes, 1);
  if (bytes > run->chunk_left) {
    run->chunk = arena_new(&run->arena, CHUNK, 1);
    run->chunk_left = CHUNK;
  }
  void *block = run->chunk;
  run->chunk += bytes;
  run->chunk_left -= bytes;
  return block;
}

Status run_reserve(Run *run, int64_t count, size_t size) {
  size_t bytes;
  bool fits = count >= 0 && size_multiply(&bytes, (size_t)count, size) &&
              bytes <= RUN_MEMORY_MOST - (run->memory < RUN_MEMORY_MOST ? run->memory : RUN_MEMORY_MOST);
  if (!fits && !run->exceeded) run->exceeded = "it needs more than 256 MiB of memory";
  return run_check(run);
}

// ---- Variables.

Value *place_value(const Run *run, Place place) {
  Activation *activation = run->activation;
  for (int i = 0; i < place.hops; i++) activation = activation->outer;
  return &activation->slots[place.slot];
}

static Activation *activation_new(Run *run, Activation *outer, int slot_count) {
  Activation *activation = run_allocate(run, sizeof *activation);
  activation->outer = outer;
  activation->slots = run_allocate(run, (size_t)slot_count * sizeof(Value));
  return activation;
}

static Value resolve_variable(Run *run, const char *name) {
  const Value *given = dict_get_text(run, run->variables.as.dict, name);
  if (given) return *given;
  const Function *function = find_global(name);
  return function ? (Value){.type = VALUE_FUNCTION, .as.function = function} : value_missing;
}

static void enter_scope(Run *run, const Scope *scope) {
  for (int i = 0; i < scope->count; i++) {
    const ScopeLoad *load = &scope->loads[i];
    Value *slot = &run->activation->slots[load->slot];
    if (load->action == LOAD_RESOLVE) *slot = resolve_variable(run, load->name);
    else *slot = load->action == LOAD_ALIAS ? *place_value(run, load->alias) : value_missing;
  }
}

static Status assign_tuple(Run *run, const NodeList *targets, Value value) {
  List *items;
  if (!value_is_iterable(value)) return run_fail(run, "cannot unpack non-iterable %s object", value_type_name(value));
  TRY(value_items(&items, run, value));
  if (items->count != targets->count) {
    return run_fail(run, "%s values to unpack (expected %d, got %lld)", items->count > targets->count ? "too many" : "not enough",
                    targets->count, (long long)items->count);
  }
  for (int i = 0; i < targets->count; i++) TRY(assign_target(run, targets->items[i], items->items[i]));
  return STATUS_OK;
}

Status assign_target(Run *run, const Node *target, Value value) {
  if (target->type == NODE_TUPLE) return assign_tuple(run, &target->as.items, value);
  Value *slot = place_value(run, target->as.name.place);
  if (target->type == NODE_NAME) {
    *slot = value;
    return STATUS_OK;
  }
  if (slot->type != VALUE_NAMESPACE) return run_fail(run, "cannot assign attribute on non-namespace object");
  const String *name = target->as.name.attribute;
  if (name->bytes[0] == '_')
    return run_fail(run, "a namespace cannot have the attribute '%s', which begins with an underscore", name->bytes);
  return dict_set(run, slot->as.dict, value_of_string(name), value);
}

// Before the value is computed: `ns` of every `ns.x` must be a namespace.
static Status check_namespaces(Run *run, const Node *target) {
  if (target->type == NODE_TUPLE)
    for (int i = 0; i < target->as.items.count; i++) TRY(check_namespaces(run, target->as.items.items[i]));
  if (target->type != NODE_NAMESPACE_NAME || place_value(run, target->as.name.place)->type == VALUE_NAMESPACE) return STATUS_OK;
  return run_fail(run, "cannot assign attribute on non-namespace object");
}

// ---- Captured output.

typedef struct Capture {
  Builder builder;
  Builder *outer;
} Capture;

static void capture_begin(Capture *capture, Run *run) {
  builder_begin(&capture->builder, run);
  capture->outer = run->output;
  run->output = &capture->builder;
}

static Value capture_end(Capture *capture) {
  Run *run = capture->builder.run;
  run->output = capture->outer;
  return builder_value(&capture->builder, false);
}

static Status capture_body(Value *out, Run *run, const NodeList *body) {
  Capture capture;
  capture_begin(&capture, run);
  Status status = execute(run, body);
  *out = capture_end(&capture);
  return status;
}

// ---- Loops.

typedef struct Loop {
  const Node *node;
  Activation *activation, *outer;  // of the body; of the function around a recursive loop
  List *items;
  Iterator *iterator;  // where the items come from instead, one at a time
  int64_t at, index0, length, depth0;  // length -1: not known yet
  bool filters;  // the items that are left go through the loop's `if`
  Value current, before, after;  // after: VALUE_MISSING unless the next item was looked at
  Value changed;  // what changed() was called with last
} Loop;

static int count_names(const Node *target) {
  int count = target->type == NODE_NAME;
  if (target->type == NODE_TUPLE)
    for (int i = 0; i < target->as.items.count; i++) count += count_names(target->as.items.items[i]);
  return count;
}

// Copies the targets' values to `saved`, or back.
static Value *save_targets(Run *run, const Node *target, Value *saved, bool back) {
  if (target->type == NODE_TUPLE) {
    for (int i = 0; i < target->as.items.count; i++) saved = save_targets(run, target->as.items.items[i], saved, back);
    return saved;
  }
  Value *slot = place_value(run, target->as.name.place);
  if (back) *slot = *saved;
  else *saved = *slot;
  return saved + 1;
}

// The loop's `if` on one item. The body may be looking ahead: its variables keep their values.
static Status passes_filter(bool *passes, Run *run, const Loop *loop, Value item) {
  const Node *node = loop->node;
  Activation *outside = run->activation;
  Value few[4], test, *saved = few;
  int count = count_names(node->as.loop.target);
  if (count > 4) saved = run_allocate(run, (size_t)count * sizeof *saved);
  run->activation = loop->activation;
  save_targets(run, node->as.loop.target, saved, false);
  enter_scope(run, &node->as.loop.filter_scope);
  TRY(assign_target(run, node->as.loop.target, item));
  TRY(evaluate(&test, run, node->as.loop.filter));
  save_targets(run, node->as.loop.target, saved, true);
  run->activation = outside;
  *passes = value_is_true(test);
  return STATUS_OK;
}

// The next item, or VALUE_MISSING at the end.
static Status loop_advance(Value *item, Run *run, Loop *loop) {
  for (bool passes = !loop->filters;; passes = false) {
    if (loop->iterator) TRY(iterator_next(item, run, loop->iterator));
    else *item = loop->at < loop->items->count ? loop->items->items[loop->at++] : value_missing;
    if (item->type == VALUE_MISSING || passes) return STATUS_OK;
    TRY(passes_filter(&passes, run, loop, *item));
    if (passes) return STATUS_OK;
  }
}

static Status loop_peek(Value *out, Run *run, Loop *loop) {
  if (loop->after.type == VALUE_MISSING) TRY(loop_advance(&loop->after, run, loop));
  *out = loop->after;
  return STATUS_OK;
}

Status loop_length(int64_t *length, Run *run, Loop *loop) {
  if (loop->length < 0) {
    List *rest = list_new(run, 4);
    for (Value item;;) {
      TRY(loop_advance(&item, run, loop));
      if (item.type == VALUE_MISSING) break;
      list_push(run, rest, item);
    }
    loop->items = rest;
    loop->iterator = NULL;
    loop->at = 0;
    loop->filters = false;
    loop->length = rest->count + loop->index0 + 1 + (loop->after.type != VALUE_MISSING);
  }
  *length = loop->length;
  return STATUS_OK;
}

static Status loop_edge(Value *out, Run *run, Loop *loop, const char *name) {
  if (strcmp(name, "previtem") == 0) {
    *out = loop->index0 == 0 ? value_undefined_hint(run, "there is no previous item") : loop->before;
    return STATUS_OK;
  }
  TRY(loop_peek(out, run, loop));
  if (strcmp(name, "last") == 0) *out = value_bool(out->type == VALUE_MISSING);
  else if (out->type == VALUE_MISSING) *out = value_undefined_hint(run, "there is no next item");
  return STATUS_OK;
}

void builder_loop(Builder *builder, Loop *loop) {
  int64_t length = 0;
  if (loop_length(&length, builder->run, loop) == STATUS_OK)
    builder_format(builder, "<LoopContext %lld/%lld>", (long long)loop->index0 + 1, (long long)length);
}

Value loop_attribute(Run *run, Loop *loop, const char *name, Status *status) {
  int64_t length = 0;
  Value value = value_missing;
  bool counts = strcmp(name, "length") == 0 || strcmp(name, "revindex") == 0 || strcmp(name, "revindex0") == 0;
  if (counts) *status = loop_length(&length, run, loop);
  if (strcmp(name, "length") == 0) return value_int(length);
  if (strcmp(name, "revindex") == 0) return value_int(length - loop->index0);
  if (strcmp(name, "revindex0") == 0) return value_int(length - loop->index0 - 1);
  if (strcmp(name, "index") == 0) return value_int(loop->index0 + 1);
  if (strcmp(name, "index0") == 0) return value_int(loop->index0);
  if (strcmp(name, "first") == 0) return value_bool(loop->index0 == 0);
  if (strcmp(name, "depth") == 0) return value_int(loop->depth0 + 1);
  if (strcmp(name, "depth0") == 0) return value_int(loop->depth0);
  if (strcmp(name, "last") == 0 || strcmp(name, "previtem") == 0 || strcmp(name, "nextitem") == 0)
    *status = loop_edge(&value, run, loop, name);
  return value;
}

static Status call_cycle(Value *out, Run *run, Value *given, const Arguments *arguments) {
  if (arguments->count == 0 || arguments->keyword_count > 0) return run_fail(run, "no items for cycling given");
  *out = arguments->items[given[0].as.loop->index0 % arguments->count];
  return STATUS_OK;
}

static Status call_changed(Value *out, Run *run, Value *given, const Arguments *arguments) {
  if (arguments->keyword_count > 0) return run_fail(run, "changed() takes no keyword arguments");
  Loop *loop = given[0].as.loop;
  List *list = list_new(run, arguments->count);
  for (int i = 0; i < arguments->count; i++) list_push(run, list, arguments->items[i]);
  *out = value_bool(loop->changed.type == VALUE_MISSING || !value_equal(run, loop->changed, value_tuple(list)));
  loop->changed = value_tuple(list);
  return STATUS_OK;
}

const Function loop_cycle = {"cycle", NULL, call_cycle}, loop_changed = {"changed", NULL, call_changed};

// One turn of the loop; *ended when there is none left.
static Status loop_turn(bool *ended, bool *completed, Run *run, Loop *loop) {
  const Node *node = loop->node;
  Value item = loop->after;
  if (item.type == VALUE_MISSING) TRY(loop_advance(&item, run, loop));
  *ended = item.type == VALUE_MISSING;
  if (*ended) return STATUS_OK;
  loop->after = value_missing;
  loop->index0++;
  loop->before = loop->current;
  loop->current = item;
  run->line = node->line;
  run_charge(run, 1);
  TRY(run_check(run));
  if (node->as.loop.has_loop) *place_value(run, node->as.loop.loop) = (Value){.type = VALUE_LOOP, .as.loop = loop};
  TRY(assign_target(run, node->as.loop.target, item));
  enter_scope(run, &node->as.loop.scope);
  TRY(execute(run, &node->as.loop.body));
  // As in the code that Jinja makes: the else branch is left out only when the body came to its end once.
  *completed = *completed || run->flow == FLOW_NORMAL;
  *ended = run->flow == FLOW_BREAK;
  run->flow = FLOW_NORMAL;
  return STATUS_OK;
}

static Status run_loop(Run *run, Loop *loop, Value iterable) {
  loop->index0 = -1;
  loop->filters = loop->node->as.loop.filter != NULL;
  if (iterable.type == VALUE_LOOP) return run_fail(run, "'LoopContext' object cannot be iterated again");
  if (iterable.type == VALUE_ITERATOR) loop->iterator = iterable.as.iterator;
  else TRY(value_items(&loop->items, run, iterable));
  loop->length = loop->filters || loop->iterator ? -1 : loop->items->count;
  bool ended = false, completed = false;
  while (!ended) TRY(loop_turn(&ended, &completed, run, loop));
  if (completed || loop->node->as.loop.otherwise.count == 0) return STATUS_OK;
  enter_scope(run, &loop->node->as.loop.otherwise_scope);
  return execute(run, &loop->node->as.loop.otherwise);
}

// A recursive loop is a function whose output is its value.
static Status run_recursive_loop(Value *out, Run *run, const Node *node, Activation *outer, Value iterable, int64_t depth0) {
  Loop *loop = run_allocate(run, sizeof *loop);
  Activation *caller = run->activation;
  Capture capture;
  if (!run_enter(run)) return run_check(run);
  run->activation = activation_new(run, outer, node->as.loop.slot_count);
  *loop = (Loop){.node = node, .activation = run->activation, .outer = outer, .depth0 = depth0};
  capture_begin(&capture, run);
  TRY(run_loop(run, loop, iterable));
  *out = capture_end(&capture);
  run->activation = caller;
  run_leave(run);
  return STATUS_OK;
}

Status call_loop(Value *out, Run *run, Loop *loop, const Arguments *arguments) {
  if (arguments->count != 1 || arguments->keyword_count > 0) return run_fail(run, "loop() takes one argument, the items of the next level");
  if (!loop->node->as.loop.recursive) return run_fail(run, "the loop must have the 'recursive' marker to be called recursively");
  return run_recursive_loop(out, run, loop->node, loop->outer, arguments->items[0], loop->depth0 + 1);
}

static Status execute_for(Run *run, const Node *node) {
  Value iterable, text;
  TRY(evaluate(&iterable, run, node->as.loop.iterable));
  if (node->as.loop.recursive) {
    TRY(run_recursive_loop(&text, run, node, run->activation, iterable, 0));
    builder_string(run->output, text.as.string);
    return STATUS_OK;
  }
  Loop *loop = run_allocate(run, sizeof *loop);
  *loop = (Loop){.node = node, .activation = run->activation, .outer = run->activation};
  return run_loop(run, loop, iterable);
}

// ---- Macros.

static bool take_keyword(Value *out, const Arguments *arguments, bool *used, const char *name) {
  for (int i = 0; i < arguments->keyword_count; i++) {
    const String *given = arguments->keywords[i].name;
    if (used[i] || strlen(name) != given->length || memcmp(name, given->bytes, given->length) != 0) continue;
    used[i] = true;
    *out = arguments->keywords[i].value;
    return true;
  }
  return false;
}

static Status bind_rest(Run *run, const MacroBody *body, const Arguments *arguments, bool *used) {
  if (body->caller.slot >= 0) {
    Value caller = value_missing;
    if (!take_keyword(&caller, arguments, used, "caller") || caller.type == VALUE_NONE)
      caller = value_undefined_hint(run, "No caller defined");
    *place_value(run, body->caller) = caller;
  }
  if (body->keyword_rest.slot >= 0) {
    Dict *rest = dict_new(run);
    for (int i = 0; i < arguments->keyword_count; i++)
      if (!used[i]) TRY(dict_set(run, rest, value_of_string(arguments->keywords[i].name), arguments->keywords[i].value));
    *place_value(run, body->keyword_rest) = value_dict(rest);
  } else {
    for (int i = 0; i < arguments->keyword_count; i++) {
      if (!used[i])
        return run_fail(run, "macro '%s' takes no keyword argument '%.*s'", body->name ? body->name : "caller",
                        (int)arguments->keywords[i].name->length, arguments->keywords[i].name->bytes);
    }
  }
  if (body->positional_rest.slot >= 0) {
    List *rest = list_new(run, 0);
    for (int i = body->parameters.count; i < arguments->count; i++) list_push(run, rest, arguments->items[i]);
    *place_value(run, body->positional_rest) = value_tuple(rest);
  } else if (arguments->count > body->parameters.count) {
    return run_fail(run, "macro '%s' takes not more than %d argument(s)", body->name ? body->name : "caller", body->parameters.count);
  }
  return STATUS_OK;
}

static Status bind_macro(Run *run, const MacroBody *body, const Arguments *arguments) {
  bool few[16] = {false}, *used = few;
  if (arguments->keyword_count > 16) used = run_allocate(run, (size_t)arguments->keyword_count);
  for (int i = 0; i < body->parameters.count; i++) {
    const Node *parameter = body->parameters.items[i];
    Value value = value_missing;
    if (i < arguments->count) value = arguments->items[i];
    else take_keyword(&value, arguments, used, parameter->as.name.name);
    *place_value(run, parameter->as.name.place) = value;
  }
  return bind_rest(run, body, arguments, used);
}

static Status set_defaults(Run *run, const MacroBody *body) {
  for (int i = 0; i < body->parameters.count; i++) {
    const Node *parameter = body->parameters.items[i];
    int at = i - (body->parameters.count - body->defaults.count);
    if (place_value(run, parameter->as.name.place)->type != VALUE_MISSING) continue;
    Value value = value_missing;
    if (at >= 0) TRY(evaluate(&value, run, body->defaults.items[at]));
    else value = value_undefined_hint(run, "parameter '%s' was not provided", parameter->as.name.name);
    *place_value(run, parameter->as.name.place) = value;
  }
  return STATUS_OK;
}

Status call_macro(Value *out, Run *run, const Macro *macro, const Arguments *arguments) {
  Activation *caller = run->activation;
  if (!run_enter(run)) return run_check(run);
  run->activation = activation_new(run, macro->outer, macro->body->slot_count);
  TRY(bind_macro(run, macro->body, arguments));
  enter_scope(run, &macro->body->scope);
  TRY(set_defaults(run, macro->body));
  TRY(capture_body(out, run, &macro->body->body));
  run->activation = caller;
  run_leave(run);
  return STATUS_OK;
}

static Value macro_value(Run *run, const MacroBody *body) {
  Macro *macro = run_allocate(run, sizeof *macro);
  *macro = (Macro){body, run->activation};
  return (Value){.type = VALUE_MACRO, .as.macro = macro};
}

static Status execute_call_block(Run *run, const Node *node) {
  Value caller = macro_value(run, node->as.macro.body), text;
  TRY(evaluate_call(&text, run, node->as.macro.call, &caller));
  builder_str(run->output, text);
  return STATUS_OK;
}

static Status execute_generation(Run *run, const Node *node) {
  Value body = macro_value(run, node->as.macro.body), text;
  TRY(call_macro(&text, run, body.as.macro, &(Arguments){0}));
  builder_generated(run->output, text.as.string);
  return STATUS_OK;
}

// ---- The other statements.

static Status execute_print(Run *run, const Node *node) {
  for (int i = 0; i < node->as.items.count; i++) {
    Value value;
    TRY(evaluate(&value, run, node->as.items.items[i]));
    builder_str(run->output, value);
  }
  return STATUS_OK;
}

static Status execute_if(Run *run, const Node *node) {
  for (int i = 0; i < node->as.choice.count; i++) {
    const IfBranch *branch = &node->as.choice.branches[i];
    Value test = value_bool(true);
    if (branch->test) TRY(evaluate(&test, run, branch->test));
    if (value_is_true(test)) return execute(run, &branch->body);
  }
  return STATUS_OK;
}

static Status execute_set(Run *run, const Node *node) {
  Value value;
  TRY(check_namespaces(run, node->as.set.target));
  TRY(evaluate(&value, run, node->as.set.value));
  return assign_target(run, node->as.set.target, value);
}

static Status execute_captured(Run *run, const Node *node) {
  Value text;
  enter_scope(run, &node->as.set.scope);
  TRY(capture_body(&text, run, &node->as.set.body));
  if (run->flow != FLOW_NORMAL) return STATUS_OK;
  if (node->as.set.value) TRY(evaluate_filter(&text, run, node->as.set.value, text));
  if (node->type == NODE_SET_BLOCK) return assign_target(run, node->as.set.target, text);
  builder_str(run->output, text);
  return STATUS_OK;
}

static Status execute_with(Run *run, const Node *node) {
  enter_scope(run, &node->as.with.scope);
  for (int i = 0; i < node->as.with.targets.count; i++) {
    Value value;
    TRY(evaluate(&value, run, node->as.with.values.items[i]));
    TRY(assign_target(run, node->as.with.targets.items[i], value));
  }
  return execute(run, &node->as.with.body);
}

static Status execute_statement(Run *run, const Node *node) {
  switch (node->type) {
    case NODE_TEXT: builder_string(run->output, node->as.text.string); return STATUS_OK;
    case NODE_PRINT: return execute_print(run, node);
    case NODE_IF: return execute_if(run, node);
    case NODE_FOR: return execute_for(run, node);
    case NODE_SET: return execute_set(run, node);
    case NODE_SET_BLOCK:
    case NODE_FILTER_BLOCK: return execute_captured(run, node);
    case NODE_MACRO: *place_value(run, node->as.macro.place) = macro_value(run, node->as.macro.body); return STATUS_OK;
    case NODE_CALL_BLOCK: return execute_call_block(run, node);
    case NODE_GENERATION: return execute_generation(run, node);
    case NODE_WITH: return execute_with(run, node);
    case NODE_BREAK: run->flow = FLOW_BREAK; return STATUS_OK;
    default: run->flow = FLOW_CONTINUE; return STATUS_OK;
  }
}

static Status execute(Run *run, const NodeList *body) {
  if (!run_enter(run)) return run_check(run);
  for (int i = 0; i < body->count && run->flow == FLOW_NORMAL; i++) {
    run->line = body->items[i]->line;
    run_charge(run, 1);
    TRY(execute_statement(run, body->items[i]));
    TRY(run_check(run));
  }
  run_leave(run);
  return STATUS_OK;
}

// ---- The interface.

Status jinja_compile(Jinja **out, const char *name, const char *source, size_t length) {
  Jinja *jinja = memory_new(1, sizeof *jinja);
  Token *tokens = NULL;
  int count;
  Status status;
  jinja->name = memory_copy_string(name);
  TRY_DONE(jinja_lex(&tokens, &count, jinja, source, length));
  TRY_DONE(jinja_parse(jinja, tokens));
  TRY_DONE(jinja_resolve(jinja));
done:
  free(tokens);
  *out = NULL;
  if (status == STATUS_OK) *out = jinja;
  else jinja_free(jinja);
  return status;
}

void jinja_free(Jinja *jinja) {
  if (!jinja) return;
  arena_release(&jinja->arena);
  map_release(&jinja->names);
  free(jinja->name);
  free(jinja);
}

bool jinja_has_generation(const Jinja *jinja) { return jinja->has_generation; }
bool jinja_reads(const Jinja *jinja, const char *variable) { return map_get_string(&jinja->names, variable, NULL); }

static void finish_text(JinjaText *out, const Builder *builder) {
  buffer_reserve(&out->text, 0);
  out->text.length = builder->length;
  out->text.data[out->text.length] = 0;
  out->capacity = builder->capacity;
  out->generated = memory_new(builder->capacity, 1);
  for (size_t i = 0; i < builder->length; i++) {
    out->generated[i] = (uint8_t)(out->origins[i] >> ORIGIN_GENERATED_BIT);
    out->origins[i] &= ~(1u << ORIGIN_GENERATED_BIT);
  }
}

Status jinja_render(JinjaText *out, const Jinja *jinja, const JinjaInput *input) {
  Run run = {.jinja = jinja, .steps_most = input->max_steps > 0 ? input->max_steps : RUN_STEPS_MOST, .now = input->now};
  Builder output;
  Map marks = {0};
  for (size_t i = 0; i < input->mark_count; i++)
    map_set(&marks, &input->marks[i].string, sizeof input->marks[i].string, input->marks[i].first);
  builder_begin(&output, &run);
  output.sink = out;
  run.output = &output;
  run.variables = value_from_json(&run, input->variables, &marks);
  if (run.variables.type != VALUE_DICT) run.variables = value_dict(dict_new(&run));
  run.activation = activation_new(&run, NULL, jinja->slot_count);
  enter_scope(&run, &jinja->scope);
  Status status = run_check(&run);
  if (status == STATUS_OK) status = execute(&run, &jinja->body);
  if (status == STATUS_OK) status = run_check(&run);
  if (status == STATUS_OK) finish_text(out, &output);
  map_release(&marks);
  arena_release(&run.arena);
  return status;
}

void jinja_text_release(JinjaText *text) {
  buffer_release(&text->text);
  free(text->origins);
  free(text->generated);
  *text = (JinjaText){0};
}
