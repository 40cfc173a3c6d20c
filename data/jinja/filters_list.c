// The filters on sequences and dicts, after Jinja2's filters.py. Where Jinja gives a generator, so does this file: it can be iterated
// once, and has no length.
#include <string.h>

#include "data/jinja/parts.h"

static Status integer_argument(int64_t *out, Run *run, Value value) {
  if (value.type == VALUE_UNDEFINED) return undefined_fail(run, value);
  if (!value_is_integer(value)) return run_fail(run, "'%s' object cannot be interpreted as an integer", value_type_name(value));
  *out = value_integer(value);
  return STATUS_OK;
}

// ---- Attributes by a path, as in map(attribute='function.name').

typedef struct Path {
  List *parts;  // strings and integers
  Value otherwise;  // in place of an undefined part; VALUE_MISSING: none
  bool ignore_case;
} Path;

static Value path_part(Run *run, const String *text) {
  int64_t integer;
  bool digits = text->length > 0;
  for (size_t at = 0, length; at < text->length && digits; at += length) digits = point_is_digit(string_point(text, at, &length));
  return digits && parse_integer(&integer, text, 10) ? value_int(integer) : string_slice(run, text, 0, text->length);
}

static Path path_new(Run *run, Value attribute, bool ignore_case) {
  Path path = {.parts = list_new(run, 2), .otherwise = value_missing, .ignore_case = ignore_case};
  if (attribute.type == VALUE_NONE || attribute.type == VALUE_MISSING) return path;
  if (attribute.type != VALUE_STRING) {
    list_push(run, path.parts, attribute);
    return path;
  }
  const String *text = attribute.as.string, dot = {.bytes = ".", .length = 1};
  for (size_t begin = 0, end; begin <= text->length; begin = end + 1) {
    if (!string_find(&end, text, &dot, begin, text->length)) end = text->length;
    list_push(run, path.parts, path_part(run, string_slice(run, text, begin, end).as.string));
  }
  return path;
}

static Status path_get(Value *out, Run *run, const Path *path, Value item) {
  *out = item;
  for (int64_t i = 0; i < path->parts->count; i++) {
    TRY(get_item(out, run, *out, path->parts->items[i]));
    if (path->otherwise.type != VALUE_MISSING && path->otherwise.type != VALUE_NONE && out->type == VALUE_UNDEFINED) *out = path->otherwise;
  }
  if (path->ignore_case && out->type == VALUE_STRING)
    return call_function(out, run, find_method(*out, "lower"), &(Value){VALUE_STRING, {.string = out->as.string}}, &(Arguments){0});
  return STATUS_OK;
}

// ---- Order.

// Merges by keys: stable, in reverse as sorted(reverse=True).
static Status merge(List *items, List *keys, List *spare_items, List *spare_keys, Run *run, int64_t begin, int64_t end, bool reverse) {
  if (end - begin < 2) return STATUS_OK;
  int64_t middle = begin + (end - begin) / 2;
  TRY(merge(items, keys, spare_items, spare_keys, run, begin, middle, reverse));
  TRY(merge(items, keys, spare_items, spare_keys, run, middle, end, reverse));
  int64_t left = begin, right = middle;
  for (int64_t to = begin; to < end; to++) {
    int order = 0;
    if (left < middle && right < end)
      TRY(value_compare(&order, run, reverse ? keys->items[left] : keys->items[right], reverse ? keys->items[right] : keys->items[left],
                        "<"));
    bool take_right = left >= middle || (right < end && order == -1);
    int64_t from = take_right ? right++ : left++;
    spare_items->items[to] = items->items[from];
    spare_keys->items[to] = keys->items[from];
  }
  memcpy(items->items + begin, spare_items->items + begin, (size_t)(end - begin) * sizeof(Value));
  memcpy(keys->items + begin, spare_keys->items + begin, (size_t)(end - begin) * sizeof(Value));
  return run_check(run);
}

static List *list_copy(Run *run, const List *list) {
  List *copy = list_new(run, list->count);
  for (int64_t i = 0; i < list->count; i++) list_push(run, copy, list->items[i]);
  return copy;
}

// Sorts `items` by `keys` in place.
static Status sort_by(List *items, List *keys, Run *run, bool reverse) {
  return merge(items, keys, list_copy(run, items), list_copy(run, keys), run, 0, items->count, reverse);
}

static Status filter_sort(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *items, *keys, *paths = list_new(run, 1);
  bool ignore_case = !value_is_true(given[2]);
  TRY(value_items(&items, run, given[0]));
  items = list_copy(run, items);
  keys = list_new(run, items->count);
  if (given[3].type == VALUE_STRING) {
    Value comma = value_words(run, ","), split;
    TRY(call_function(&split, run, find_method(given[3], "split"), &given[3], &(Arguments){.items = &comma, .count = 1}));
    paths = split.as.list;
  } else {
    list_push(run, paths, given[3]);
  }
  for (int64_t i = 0; i < items->count; i++) {
    List *key = list_new(run, paths->count);
    for (int64_t p = 0; p < paths->count; p++) {
      Path path = path_new(run, paths->items[p], ignore_case);
      Value part;
      TRY(path_get(&part, run, &path, items->items[i]));
      list_push(run, key, part);
    }
    list_push(run, keys, value_list(key));
  }
  TRY(sort_by(items, keys, run, value_is_true(given[1])));
  *out = value_list(items);
  return STATUS_OK;
}

static Status filter_dictsort(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  if (given[0].type == VALUE_UNDEFINED) return undefined_fail(run, given[0]);
  if (given[0].type != VALUE_DICT) return run_fail(run, "dictsort needs a dict, not %s", value_type_name(given[0]));
  bool by_value = value_is_string(given[2], "value");
  if (given[2].type != VALUE_MISSING && !by_value && !value_is_string(given[2], "key"))
    return run_fail(run, "You can only sort by either \"key\" or \"value\"");
  Path path = path_new(run, value_missing, !value_is_true(given[1]));
  List *items = view_items(run, &(View){given[0].as.dict, VIEW_ITEMS}), *keys = list_new(run, items->count);
  for (int64_t i = 0; i < items->count; i++) {
    Value key;
    TRY(path_get(&key, run, &path, items->items[i].as.list->items[by_value]));
    list_push(run, keys, key);
  }
  TRY(sort_by(items, keys, run, value_is_true(given[3])));
  *out = value_list(items);
  return STATUS_OK;
}

static Status filter_groupby(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *items, *keys, *groups = list_new(run, 4);
  bool ignore_case = !value_is_true(given[3]);
  Path path = path_new(run, given[1], ignore_case);
  path.otherwise = given[2];
  TRY(value_items(&items, run, given[0]));
  items = list_copy(run, items);
  keys = list_new(run, items->count);
  for (int64_t i = 0; i < items->count; i++) {
    Value key;
    TRY(path_get(&key, run, &path, items->items[i]));
    list_push(run, keys, key);
  }
  TRY(sort_by(items, keys, run, false));
  path.ignore_case = false;
  for (int64_t i = 0; i < items->count; i++) {
    bool same = i > 0 && value_equal(run, keys->items[i - 1], keys->items[i]);
    if (!same) {
      Value key = keys->items[i];
      List *group = list_new(run, 2);
      if (ignore_case) TRY(path_get(&key, run, &path, items->items[i]));
      group->is_group = true;
      list_push(run, group, key);
      list_push(run, group, value_list(list_new(run, 1)));
      list_push(run, groups, value_tuple(group));
    }
    list_push(run, groups->items[groups->count - 1].as.list->items[1].as.list, items->items[i]);
  }
  *out = value_list(groups);
  return STATUS_OK;
}

static Status extreme(Value *out, Run *run, Value *given, const char *operator, int wanted) {
  List *items;
  Value best_key, key;
  Path path = path_new(run, given[2], !value_is_true(given[1]));
  TRY(value_items(&items, run, given[0]));
  *out = value_undefined_hint(run, "No aggregated item, sequence was empty.");
  for (int64_t i = 0; i < items->count; i++) {
    int order = wanted;
    TRY(path_get(&key, run, &path, items->items[i]));
    if (i > 0) TRY(value_compare(&order, run, key, best_key, operator));
    if (order != wanted) continue;
    best_key = key;
    *out = items->items[i];
  }
  return STATUS_OK;
}

static Status filter_min(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return extreme(out, run, given, "<", -1);
}

static Status filter_max(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  return extreme(out, run, given, ">", 1);
}

static Status filter_unique(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *items, *kept = list_new(run, 4);
  Dict *seen = dict_new(run);
  Path path = path_new(run, given[2], !value_is_true(given[1]));
  TRY(value_items(&items, run, given[0]));
  for (int64_t i = 0; i < items->count; i++) {
    Value key;
    TRY(path_get(&key, run, &path, items->items[i]));
    int64_t count = seen->count;
    TRY(dict_set(run, seen, key, value_none));
    if (seen->count > count) list_push(run, kept, items->items[i]);
  }
  *out = value_iterator(run, kept);
  return STATUS_OK;
}

// ---- Parts.

static Status filter_length(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  int64_t length;
  TRY(value_length(&length, run, given[0]));
  *out = value_int(length);
  return STATUS_OK;
}

static Status filter_first(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *items;
  if (given[0].type == VALUE_ITERATOR) {
    TRY(iterator_next(out, run, given[0].as.iterator));
    if (out->type == VALUE_MISSING) *out = value_undefined_hint(run, "No first item, sequence was empty.");
    return STATUS_OK;
  }
  TRY(value_items(&items, run, given[0]));
  *out = items->count > 0 ? items->items[0] : value_undefined_hint(run, "No first item, sequence was empty.");
  return STATUS_OK;
}

static Status filter_last(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *items;
  if (given[0].type == VALUE_ITERATOR) return run_fail(run, "'generator' object is not reversible");
  TRY(value_items(&items, run, given[0]));
  *out = items->count > 0 ? items->items[items->count - 1] : value_undefined_hint(run, "No last item, sequence was empty.");
  return STATUS_OK;
}

static Status filter_reverse(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  if (given[0].type == VALUE_STRING) return get_slice(out, run, given[0], value_none, value_none, value_int(-1));
  List *items, *reversed;
  TRY(value_items(&items, run, given[0]));
  reversed = list_new(run, items->count);
  for (int64_t i = items->count; i > 0; i--) list_push(run, reversed, items->items[i - 1]);
  *out = given[0].type == VALUE_ITERATOR ? value_list(reversed) : value_iterator(run, reversed);
  return STATUS_OK;
}

static Status filter_list(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *items;
  TRY(value_items(&items, run, given[0]));
  *out = value_list(list_copy(run, items));
  return STATUS_OK;
}

static Status filter_items(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  if (given[0].type != VALUE_DICT && given[0].type != VALUE_UNDEFINED) return run_fail(run, "Can only get item pairs from a mapping.");
  *out = value_iterator(run, given[0].type == VALUE_DICT ? view_items(run, &(View){given[0].as.dict, VIEW_ITEMS}) : list_new(run, 0));
  return STATUS_OK;
}

static Status filter_batch(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *items, *batches = list_new(run, 4), *batch = list_new(run, 4);
  int64_t size = 0;
  TRY(value_items(&items, run, given[0]));
  TRY(integer_argument(&size, run, given[1]));
  for (int64_t i = 0; i < items->count; i++) {
    if (batch->count == size) {
      list_push(run, batches, value_list(batch));
      batch = list_new(run, 4);
    }
    list_push(run, batch, items->items[i]);
  }
  if (batch->count > 0) {
    list_push(run, batches, value_list(batch));
    bool fills = given[2].type != VALUE_MISSING && given[2].type != VALUE_NONE;
    TRY(run_reserve(run, fills && size > 0 ? size : 0, sizeof(Value)));
    while (fills && batch->count < size) list_push(run, batch, given[2]);
  }
  *out = value_iterator(run, batches);
  return STATUS_OK;
}

static Status filter_slice(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *items, *slices = list_new(run, 4);
  int64_t count = 0;
  TRY(value_items(&items, run, given[0]));
  TRY(integer_argument(&count, run, given[1]));
  if (count == 0) return run_fail(run, "integer division or modulo by zero");
  TRY(run_reserve(run, count > 0 ? count : 0, sizeof(List)));
  int64_t each = count > 0 ? items->count / count : 0, extra = count > 0 ? items->count % count : 0, at = 0;
  for (int64_t s = 0; s < count && !run->exceeded; s++) {
    List *slice = list_new(run, each + 1);
    for (int64_t end = at + each + (s < extra); at < end; at++) list_push(run, slice, items->items[at]);
    if (given[2].type != VALUE_MISSING && given[2].type != VALUE_NONE && s >= extra) list_push(run, slice, given[2]);
    list_push(run, slices, value_list(slice));
  }
  *out = value_iterator(run, slices);
  return STATUS_OK;
}

static Status filter_join(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *items;
  Value separator = given[1].type == VALUE_MISSING ? value_words(run, "") : given[1], item;
  Builder builder;
  Path path = path_new(run, given[2], false);
  TRY(value_str(&separator, run, separator));
  TRY(value_items(&items, run, given[0]));
  builder_begin(&builder, run);
  for (int64_t i = 0; i < items->count && !run->exceeded; i++) {
    if (i > 0) builder_string(&builder, separator.as.string);
    TRY(path_get(&item, run, &path, items->items[i]));
    builder_str(&builder, item);
  }
  *out = builder_value(&builder, false);
  return STATUS_OK;
}

static Status filter_sum(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *items;
  Path path = path_new(run, given[1], false);
  TRY(value_items(&items, run, given[0]));
  *out = given[2].type == VALUE_MISSING ? value_int(0) : given[2];
  if (out->type == VALUE_STRING) return run_fail(run, "sum() can't sum strings");
  for (int64_t i = 0; i < items->count; i++) {
    Value item;
    TRY(path_get(&item, run, &path, items->items[i]));
    TRY(operate(out, run, OPERATOR_ADD, *out, item));
    TRY(run_check(run));
  }
  return STATUS_OK;
}

static Status filter_default(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  bool absent = given[0].type == VALUE_UNDEFINED || (value_is_true(given[2]) && !value_is_true(given[0]));
  *out = !absent ? given[0] : given[1].type == VALUE_MISSING ? value_words(run, "") : given[1];
  return STATUS_OK;
}

// Like object.name, but never object[name].
static Status filter_attr(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  if (given[0].type == VALUE_UNDEFINED) return undefined_fail(run, given[0]);
  if (given[1].type != VALUE_STRING) return run_fail(run, "attr needs the name of an attribute");
  Status status = STATUS_OK;
  *out = value_missing;
  if (given[0].type == VALUE_LOOP) *out = loop_attribute(run, given[0].as.loop, given[1].as.string->bytes, &status);
  if (out->type == VALUE_MISSING) *out = value_attribute(run, given[0], given[1].as.string);
  if (out->type == VALUE_MISSING)
    *out = value_undefined_hint(run, "'%s object' has no attribute '%.*s'", value_type_name(given[0]), (int)given[1].as.string->length,
                                given[1].as.string->bytes);
  return status;
}

// ---- Filters and tests by name on every item.

static const Keyword *find_keyword(const Arguments *arguments, const char *name) {
  for (int i = 0; i < arguments->keyword_count; i++) {
    const String *given = arguments->keywords[i].name;
    if (strlen(name) == given->length && memcmp(name, given->bytes, given->length) == 0) return &arguments->keywords[i];
  }
  return NULL;
}

static Status find_named(const Function **out, Run *run, Value name, bool test) {
  char text[64] = "";
  if (name.type == VALUE_STRING && name.as.string->length < sizeof text) memcpy(text, name.as.string->bytes, name.as.string->length);
  *out = test ? find_test(text) : find_filter(text);
  return *out ? STATUS_OK : run_fail(run, "there is no %s named '%s'", test ? "test" : "filter", text);
}

// What map, select and reject do with each item.
typedef struct ItemRule {
  Path path;
  const Function *function;  // NULL: the attribute itself
  Arguments arguments;
  bool wanted;  // of select and reject
} ItemRule;

static Status map_item(Value *item, bool *kept, Run *run, const void *state) {
  const ItemRule *rule = state;
  Value object;
  (void)kept;
  TRY(path_get(&object, run, &rule->path, *item));
  *item = object;
  return rule->function ? call_function(item, run, rule->function, &object, &rule->arguments) : STATUS_OK;
}

static Status select_item(Value *item, bool *kept, Run *run, const void *state) {
  const ItemRule *rule = state;
  Value subject, passes;
  TRY(path_get(&subject, run, &rule->path, *item));
  passes = subject;
  if (rule->function) TRY(call_function(&passes, run, rule->function, &subject, &rule->arguments));
  *kept = value_is_true(passes) == rule->wanted;
  return STATUS_OK;
}

static Arguments arguments_behind(const Arguments *arguments, int count) {
  Arguments rest = *arguments;
  rest.items += count;
  rest.count -= count;
  return rest;
}

static Status ruled_iterator(Value *out, Run *run, Value source, const ItemRule *rule,
                             Status (*transform)(Value *item, bool *kept, Run *run, const void *state)) {
  ItemRule *copy = run_allocate(run, sizeof *copy);
  *copy = *rule;
  *out = value_iterator(run, NULL);
  out->as.iterator->transform = transform;
  out->as.iterator->state = copy;
  if (source.type == VALUE_ITERATOR) out->as.iterator->outer = source.as.iterator;
  else TRY(value_items(&out->as.iterator->list, run, source));
  return STATUS_OK;
}

static Status filter_map(Value *out, Run *run, Value *given, const Arguments *arguments) {
  *out = value_iterator(run, list_new(run, 0));
  if (!value_is_true(given[0])) return STATUS_OK;
  const Keyword *attribute = find_keyword(arguments, "attribute"), *otherwise = find_keyword(arguments, "default");
  ItemRule rule = {.path = path_new(run, value_missing, false)};
  if (arguments->count > 0) {
    TRY(find_named(&rule.function, run, arguments->items[0], false));
    rule.arguments = arguments_behind(arguments, 1);
  } else {
    if (!attribute) return run_fail(run, "map requires a filter argument");
    if (arguments->keyword_count > 1 + (otherwise != NULL)) return run_fail(run, "map got an unexpected keyword argument");
    rule.path = path_new(run, attribute->value, false);
    if (otherwise) rule.path.otherwise = otherwise->value;
  }
  return ruled_iterator(out, run, given[0], &rule, map_item);
}

static Status select_items(Value *out, Run *run, Value value, const Arguments *arguments, bool wanted, bool by_attribute) {
  *out = value_iterator(run, list_new(run, 0));
  if (!value_is_true(value)) return STATUS_OK;
  if (by_attribute && arguments->count == 0) return run_fail(run, "Missing parameter for attribute name");
  ItemRule rule = {.path = path_new(run, by_attribute ? arguments->items[0] : value_missing, false), .wanted = wanted};
  if (arguments->count > by_attribute) {
    TRY(find_named(&rule.function, run, arguments->items[by_attribute], true));
    rule.arguments = arguments_behind(arguments, by_attribute + 1);
  }
  return ruled_iterator(out, run, value, &rule, select_item);
}

static Status filter_select(Value *out, Run *run, Value *given, const Arguments *arguments) {
  return select_items(out, run, given[0], arguments, true, false);
}

static Status filter_reject(Value *out, Run *run, Value *given, const Arguments *arguments) {
  return select_items(out, run, given[0], arguments, false, false);
}

static Status filter_selectattr(Value *out, Run *run, Value *given, const Arguments *arguments) {
  return select_items(out, run, given[0], arguments, true, true);
}

static Status filter_rejectattr(Value *out, Run *run, Value *given, const Arguments *arguments) {
  return select_items(out, run, given[0], arguments, false, true);
}

const Function list_filters[] = {
    {"sort", "value reverse? case_sensitive? attribute?", filter_sort},
    {"dictsort", "value case_sensitive? by? reverse?", filter_dictsort},
    {"groupby", "value attribute default? case_sensitive?", filter_groupby},
    {"min", "value case_sensitive? attribute?", filter_min},
    {"max", "value case_sensitive? attribute?", filter_max},
    {"unique", "value case_sensitive? attribute?", filter_unique},
    {"length", "/obj", filter_length},
    {"count", "/obj", filter_length},
    {"first", "seq", filter_first},
    {"last", "seq", filter_last},
    {"reverse", "value", filter_reverse},
    {"list", "value", filter_list},
    {"items", "value", filter_items},
    {"batch", "value linecount fill_with?", filter_batch},
    {"slice", "value slices fill_with?", filter_slice},
    {"join", "value d? attribute?", filter_join},
    {"sum", "iterable attribute? start?", filter_sum},
    {"default", "value default_value? boolean?", filter_default},
    {"d", "value default_value? boolean?", filter_default},
    {"attr", "obj name", filter_attr},
    {"map", NULL, filter_map},
    {"select", NULL, filter_select},
    {"reject", NULL, filter_reject},
    {"selectattr", NULL, filter_selectattr},
    {"rejectattr", NULL, filter_rejectattr},
    {NULL},
};
