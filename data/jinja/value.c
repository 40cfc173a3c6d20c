// Values: Python's objects as far as templates meet them, with Python's equality, order, truth, length and iteration.
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "data/jinja/parts.h"

const Value value_none = {.type = VALUE_NONE}, value_missing = {.type = VALUE_MISSING};

Value value_bool(bool truth) { return (Value){.type = VALUE_BOOL, .as.truth = truth}; }
Value value_int(int64_t integer) { return (Value){.type = VALUE_INT, .as.integer = integer}; }
Value value_float(double real) { return (Value){.type = VALUE_FLOAT, .as.real = real}; }
Value value_list(List *list) { return (Value){.type = VALUE_LIST, .as.list = list}; }
Value value_tuple(List *list) { return (Value){.type = VALUE_TUPLE, .as.list = list}; }
Value value_dict(Dict *dict) { return (Value){.type = VALUE_DICT, .as.dict = dict}; }
Value value_of_string(const String *string) { return (Value){.type = VALUE_STRING, .as.string = (String *)(uintptr_t)string}; }

Value value_iterator(Run *run, List *list) {
  Value value = {.type = VALUE_ITERATOR, .as.iterator = run_allocate(run, sizeof(Iterator))};
  value.as.iterator->list = list;
  return value;
}

Value value_undefined(Run *run, const char *name) {
  Undefined *undefined = run_allocate(run, sizeof *undefined);
  undefined->name = name;
  return (Value){.type = VALUE_UNDEFINED, .as.undefined = undefined};
}

Value value_undefined_hint(Run *run, const char *format, ...) {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  if (length < 0 || (size_t)length >= sizeof message) length = sizeof message - 1;
  Undefined *undefined = run_allocate(run, sizeof *undefined);
  char *copy = run_allocate(run, (size_t)length + 1);
  memcpy(copy, message, (size_t)length);
  undefined->message = copy;
  return (Value){.type = VALUE_UNDEFINED, .as.undefined = undefined};
}

Status undefined_fail(const Run *run, Value value) {
  const Undefined *undefined = value.as.undefined;
  return undefined->message ? run_fail(run, "%s", undefined->message) : run_fail(run, "'%s' is undefined", undefined->name);
}

Value value_text(Run *run, const char *bytes, size_t length) {
  String *string = run_allocate(run, sizeof *string);
  char *copy = run_allocate(run, length + 1);
  if (length) memcpy(copy, bytes, length);
  *string = (String){.bytes = copy, .length = length, .characters = -1};
  return value_of_string(string);
}

Value value_words(Run *run, const char *text) { return value_text(run, text, strlen(text)); }

// The bytes stay the caller's.
static Value string_from_json(Run *run, const json_t *json, const Map *marks) {
  String *string = run_allocate(run, sizeof *string);
  *string = (String){.bytes = json_string_value(json), .length = json_string_length(json), .characters = -1};
  int64_t first;
  if (string->length > 0 && map_get(marks, &json, sizeof json, &first)) {
    uint32_t *origins = run_allocate(run, string->length * sizeof *origins);
    for (size_t i = 0; i < string->length; i++) origins[i] = (uint32_t)((uint64_t)first + i);
    string->origins = origins;
  }
  return value_of_string(string);
}

Value value_from_json(Run *run, const json_t *json, const Map *marks) {
  if (json_is_string(json)) return string_from_json(run, json, marks);
  if (json_is_integer(json)) return value_int(json_integer_value(json));
  if (json_is_real(json)) return value_float(json_real_value(json));
  if (json_is_boolean(json)) return value_bool(json_is_true(json));
  if ((!json_is_array(json) && !json_is_object(json)) || !run_enter(run)) return value_none;
  Value value;
  if (json_is_array(json)) {
    List *list = list_new(run, (int64_t)json_array_size(json));
    for (size_t i = 0; i < json_array_size(json); i++) list_push(run, list, value_from_json(run, json_array_get(json, i), marks));
    value = value_list(list);
  } else {
    Dict *dict = dict_new(run);
    for (void *at = json_object_iter((json_t *)(uintptr_t)json); at; at = json_object_iter_next((json_t *)(uintptr_t)json, at)) {
      const char *key = json_object_iter_key(at);
      dict_set(run, dict, value_text(run, key, strlen(key)), value_from_json(run, json_object_iter_value(at), marks));
    }
    value = value_dict(dict);
  }
  run_leave(run);
  return value;
}

const char *value_type_name(Value value) {
  static const char *const names[] = {[VALUE_MISSING] = "missing",
                                      [VALUE_UNDEFINED] = "Undefined",
                                      [VALUE_NONE] = "NoneType",
                                      [VALUE_BOOL] = "bool",
                                      [VALUE_INT] = "int",
                                      [VALUE_FLOAT] = "float",
                                      [VALUE_STRING] = "str",
                                      [VALUE_LIST] = "list",
                                      [VALUE_TUPLE] = "tuple",
                                      [VALUE_DICT] = "dict",
                                      [VALUE_VIEW] = "dict view",
                                      [VALUE_RANGE] = "range",
                                      [VALUE_ITERATOR] = "generator",
                                      [VALUE_NAMESPACE] = "Namespace",
                                      [VALUE_LOOP] = "LoopContext",
                                      [VALUE_MACRO] = "Macro",
                                      [VALUE_METHOD] = "method",
                                      [VALUE_FUNCTION] = "function",
                                      [VALUE_CYCLER] = "Cycler",
                                      [VALUE_JOINER] = "Joiner"};
  return names[value.type];
}

bool value_is_true(Value value) {
  switch (value.type) {
    case VALUE_MISSING:
    case VALUE_UNDEFINED:
    case VALUE_NONE: return false;
    case VALUE_BOOL: return value.as.truth;
    case VALUE_INT: return value.as.integer != 0;
    case VALUE_FLOAT: return value.as.real != 0;
    case VALUE_STRING: return value.as.string->length > 0;
    case VALUE_LIST:
    case VALUE_TUPLE: return value.as.list->count > 0;
    case VALUE_DICT: return value.as.dict->count > 0;
    case VALUE_VIEW: return value.as.view->dict->count > 0;
    case VALUE_RANGE: return value.as.range->count > 0;
    default: return true;
  }
}

bool value_is_integer(Value value) { return value.type == VALUE_INT || value.type == VALUE_BOOL; }
bool value_is_number(Value value) { return value_is_integer(value) || value.type == VALUE_FLOAT; }
int64_t value_integer(Value value) { return value.type == VALUE_BOOL ? value.as.truth : value.as.integer; }
double value_real(Value value) { return value.type == VALUE_FLOAT ? value.as.real : (double)value_integer(value); }

bool value_is_string(Value value, const char *text) {
  return value.type == VALUE_STRING && strlen(text) == value.as.string->length &&
         memcmp(text, value.as.string->bytes, value.as.string->length) == 0;
}

// ---- Lists and dicts.

List *list_new(Run *run, int64_t capacity) {
  List *list = run_allocate(run, sizeof *list);
  list->capacity = capacity;
  if (capacity > 0) list->items = run_allocate(run, (size_t)capacity * sizeof(Value));
  return list;
}

void list_push(Run *run, List *list, Value value) {
  if (list->count == list->capacity) {
    list->capacity = list->capacity ? list->capacity * 2 : 4;
    Value *grown = run_allocate(run, (size_t)list->capacity * sizeof(Value));
    if (list->count) memcpy(grown, list->items, (size_t)list->count * sizeof(Value));
    list->items = grown;
  }
  list->items[list->count++] = value;
}

Dict *dict_new(Run *run) { return run_allocate(run, sizeof(Dict)); }

enum { DICT_SMALL = 8 };  // more entries are found by a table

static void dict_index(Run *run, Dict *dict) {
  dict->slot_count = dict->capacity * 2;
  dict->slots = run_allocate(run, (size_t)dict->slot_count * sizeof *dict->slots);
  for (int64_t i = 0; i < dict->count; i++) {
    uint64_t at = dict->entries[i].hash % (uint64_t)dict->slot_count;
    while (dict->slots[at]) at = (at + 1) % (uint64_t)dict->slot_count;
    dict->slots[at] = (int32_t)(i + 1);
  }
}

static DictEntry *dict_find_hashed(Run *run, const Dict *dict, Value key, uint64_t hash) {
  if (!dict->slots) {
    for (int64_t i = 0; i < dict->count; i++)
      if (dict->entries[i].hash == hash && value_equal(run, dict->entries[i].key, key)) return &dict->entries[i];
    return NULL;
  }
  for (uint64_t at = hash % (uint64_t)dict->slot_count; dict->slots[at]; at = (at + 1) % (uint64_t)dict->slot_count) {
    DictEntry *entry = &dict->entries[dict->slots[at] - 1];
    if (entry->hash == hash && value_equal(run, entry->key, key)) return entry;
  }
  return NULL;
}

const DictEntry *dict_find(Run *run, const Dict *dict, Value key) {
  uint64_t hash;
  return value_hash(&hash, run, key) == STATUS_OK ? dict_find_hashed(run, dict, key, hash) : NULL;
}

Status dict_set(Run *run, Dict *dict, Value key, Value value) {
  uint64_t hash;
  TRY(value_hash(&hash, run, key));
  DictEntry *entry = dict_find_hashed(run, dict, key, hash);
  if (entry) {
    entry->value = value;
    return STATUS_OK;
  }
  if (dict->count == dict->capacity) {
    dict->capacity = dict->capacity ? dict->capacity * 2 : DICT_SMALL;
    DictEntry *grown = run_allocate(run, (size_t)dict->capacity * sizeof *grown);
    if (dict->count) memcpy(grown, dict->entries, (size_t)dict->count * sizeof *grown);
    dict->entries = grown;
    dict->slots = NULL;
  }
  dict->entries[dict->count++] = (DictEntry){key, value, hash};
  if (dict->count <= DICT_SMALL) return STATUS_OK;
  if (!dict->slots) {
    dict_index(run, dict);
    return STATUS_OK;
  }
  uint64_t at = hash % (uint64_t)dict->slot_count;
  while (dict->slots[at]) at = (at + 1) % (uint64_t)dict->slot_count;
  dict->slots[at] = (int32_t)dict->count;
  return STATUS_OK;
}

const Value *dict_get_text(Run *run, const Dict *dict, const char *key) {
  String string = {.bytes = key, .length = strlen(key), .characters = -1};
  const DictEntry *entry = dict_find(run, dict, value_of_string(&string));
  return entry ? &entry->value : NULL;
}

List *view_items(Run *run, const View *view) {
  List *list = list_new(run, view->dict->count);
  for (int64_t i = 0; i < view->dict->count; i++) {
    const DictEntry *entry = &view->dict->entries[i];
    Value item = view->kind == VIEW_KEYS ? entry->key : entry->value;
    if (view->kind == VIEW_ITEMS) {
      List *pair = list_new(run, 2);
      list_push(run, pair, entry->key);
      list_push(run, pair, entry->value);
      item = value_tuple(pair);
    }
    list_push(run, list, item);
  }
  return list;
}

Value range_item(const Range *range, int64_t index) { return value_int(range->start + index * range->step); }

// ---- Equality, order, hashes.

static bool lists_equal(Run *run, const List *a, const List *b) {
  if (a->count != b->count) return false;
  for (int64_t i = 0; i < a->count; i++)
    if (!value_same(a->items[i], b->items[i]) && !value_equal(run, a->items[i], b->items[i])) return false;
  return true;
}

static bool dicts_equal(Run *run, const Dict *a, const Dict *b) {
  if (a->count != b->count) return false;
  for (int64_t i = 0; i < a->count; i++) {
    const DictEntry *other = dict_find_hashed(run, b, a->entries[i].key, a->entries[i].hash);
    if (!other || (!value_same(a->entries[i].value, other->value) && !value_equal(run, a->entries[i].value, other->value))) return false;
  }
  return true;
}

// keys() and items() are sets; values() equals nothing but itself.
static bool views_equal(Run *run, const View *a, const View *b) {
  if (a->kind == VIEW_VALUES || a->kind != b->kind || a->dict->count != b->dict->count) return false;
  for (int64_t i = 0; i < a->dict->count; i++) {
    const DictEntry *other = dict_find_hashed(run, b->dict, a->dict->entries[i].key, a->dict->entries[i].hash);
    if (!other || (a->kind == VIEW_ITEMS && !value_equal(run, a->dict->entries[i].value, other->value))) return false;
  }
  return true;
}

static bool containers_equal(Run *run, Value a, Value b) {
  if (value_same(a, b)) return true;
  if (!run_enter(run)) return false;
  bool equal = false;
  if (a.type == VALUE_LIST || a.type == VALUE_TUPLE) equal = lists_equal(run, a.as.list, b.as.list);
  else if (a.type == VALUE_DICT) equal = dicts_equal(run, a.as.dict, b.as.dict);
  else equal = views_equal(run, a.as.view, b.as.view);
  run_leave(run);
  return equal;
}

bool value_equal(Run *run, Value a, Value b) {
  run_charge(run, 1);
  if (value_is_number(a) && value_is_number(b)) {
    if (a.type != VALUE_FLOAT && b.type != VALUE_FLOAT) return value_integer(a) == value_integer(b);
    if (a.type != b.type) {  // an int beside a float: exactly
      double real = a.type == VALUE_FLOAT ? a.as.real : b.as.real;
      int64_t integer = value_integer(a.type == VALUE_FLOAT ? b : a);
      return real >= -0x1p63 && real < 0x1p63 && floor(real) == real && (int64_t)real == integer;
    }
    return a.as.real == b.as.real;
  }
  if (a.type != b.type) return false;
  switch (a.type) {
    case VALUE_UNDEFINED:
    case VALUE_NONE: return true;
    case VALUE_STRING: run_charge(run, a.as.string->length / 64); return string_equal(a.as.string, b.as.string);
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
    case VALUE_VIEW: return containers_equal(run, a, b);
    case VALUE_RANGE: {
      const Range *x = a.as.range, *y = b.as.range;
      return x->count == y->count && (x->count == 0 || (x->start == y->start && (x->count == 1 || x->step == y->step)));
    }
    default: return value_same(a, b);
  }
}

bool value_same(Value a, Value b) {
  if (a.type != b.type) return false;
  switch (a.type) {
    case VALUE_NONE: return true;
    case VALUE_BOOL: return a.as.truth == b.as.truth;
    case VALUE_INT: return a.as.integer == b.as.integer;
    case VALUE_FLOAT: return false;
    case VALUE_METHOD: return false;
    case VALUE_STRING: return a.as.string == b.as.string;
    default: return a.as.list == b.as.list;  // any pointer of the union
  }
}

static int order_of(double a, double b) { return a < b ? -1 : a > b ? 1 : a == b ? 0 : 2; }

static Status compare_lists(int *order, Run *run, const List *a, const List *b, const char *operator) {
  int64_t least = a->count < b->count ? a->count : b->count;
  for (int64_t i = 0; i < least; i++) {
    if (value_same(a->items[i], b->items[i]) || value_equal(run, a->items[i], b->items[i])) continue;
    if (!run_enter(run)) return run_check(run);
    Status status = value_compare(order, run, a->items[i], b->items[i], operator);
    run_leave(run);
    return status;
  }
  *order = a->count < b->count ? -1 : a->count > b->count;
  return STATUS_OK;
}

Status value_compare(int *order, Run *run, Value a, Value b, const char *operator) {
  run_charge(run, 1);
  if (value_is_integer(a) && value_is_integer(b)) {
    *order = value_integer(a) < value_integer(b) ? -1 : value_integer(a) > value_integer(b);
  } else if (value_is_number(a) && value_is_number(b)) {
    *order = order_of(value_real(a), value_real(b));
  } else if (a.type == VALUE_STRING && b.type == VALUE_STRING) {
    run_charge(run, a.as.string->length / 64);
    *order = string_compare(a.as.string, b.as.string);
  } else if (a.type == b.type && (a.type == VALUE_LIST || a.type == VALUE_TUPLE)) {
    return compare_lists(order, run, a.as.list, b.as.list, operator);
  } else if (a.type == VALUE_UNDEFINED || b.type == VALUE_UNDEFINED) {
    return undefined_fail(run, a.type == VALUE_UNDEFINED ? a : b);
  } else {
    return run_fail(run, "'%s' not supported between instances of '%s' and '%s'", operator, value_type_name(a), value_type_name(b));
  }
  return STATUS_OK;
}

Status value_hash(uint64_t *hash, Run *run, Value value) {
  run_charge(run, 1);
  if (value_is_number(value)) {
    double real = value_real(value) + 0.0;  // equal numbers have equal hashes, -0.0 and 0.0 among them
    *hash = hash_bytes(&real, sizeof real);
    return STATUS_OK;
  }
  switch (value.type) {
    case VALUE_STRING:
      run_charge(run, value.as.string->length / 64);
      *hash = hash_bytes(value.as.string->bytes, value.as.string->length);
      return STATUS_OK;
    case VALUE_TUPLE:
      *hash = 0x9E3779B97F4A7C15u;
      if (!run_enter(run)) return run_check(run);
      for (int64_t i = 0; i < value.as.list->count; i++) {
        uint64_t part = 0;
        TRY(value_hash(&part, run, value.as.list->items[i]));
        *hash = (*hash ^ part) * 1099511628211u + 1;
      }
      run_leave(run);
      return STATUS_OK;
    case VALUE_LIST:
    case VALUE_DICT:
    case VALUE_VIEW: return run_fail(run, "unhashable type: '%s'", value_type_name(value));
    default: *hash = (uint64_t)value.type; return STATUS_OK;
  }
}

// ---- Containers.

static Status string_contains(bool *out, Run *run, const String *string, Value item) {
  if (item.type == VALUE_UNDEFINED) return undefined_fail(run, item);
  if (item.type != VALUE_STRING) return run_fail(run, "'in <string>' requires string as left operand, not %s", value_type_name(item));
  size_t at;
  run_charge(run, string->length / 64);
  *out = string_find(&at, string, item.as.string, 0, string->length);
  return STATUS_OK;
}

// What stands before the item is used up, and the item.
static Status iterator_contains(bool *out, Run *run, Iterator *iterator, Value item) {
  for (*out = false; !*out;) {
    Value next;
    TRY(iterator_next(&next, run, iterator));
    if (next.type == VALUE_MISSING) break;
    *out = value_same(next, item) || value_equal(run, next, item);
  }
  return STATUS_OK;
}

Status value_contains(bool *out, Run *run, Value container, Value item) {
  List *list;
  if (container.type == VALUE_STRING) return string_contains(out, run, container.as.string, item);
  if (container.type == VALUE_DICT || (container.type == VALUE_VIEW && container.as.view->kind == VIEW_KEYS)) {
    const Dict *dict = container.type == VALUE_DICT ? container.as.dict : container.as.view->dict;
    uint64_t hash;
    TRY(value_hash(&hash, run, item));
    *out = dict_find_hashed(run, dict, item, hash) != NULL;
    return STATUS_OK;
  }
  if (container.type == VALUE_RANGE && value_is_integer(item)) {
    int64_t offset = value_integer(item) - container.as.range->start, step = container.as.range->step;
    *out = offset % step == 0 && offset / step >= 0 && offset / step < container.as.range->count;
    return STATUS_OK;
  }
  if (container.type == VALUE_ITERATOR) return iterator_contains(out, run, container.as.iterator, item);
  if (!value_is_iterable(container)) return run_fail(run, "argument of type '%s' is not iterable", value_type_name(container));
  TRY(value_items(&list, run, container));
  *out = false;
  for (int64_t i = 0; i < list->count && !*out; i++) *out = value_same(list->items[i], item) || value_equal(run, list->items[i], item);
  return STATUS_OK;
}

Status value_length(int64_t *length, Run *run, Value value) {
  switch (value.type) {
    case VALUE_UNDEFINED: *length = 0; return STATUS_OK;
    case VALUE_STRING: *length = string_characters(value.as.string); return STATUS_OK;
    case VALUE_LIST:
    case VALUE_TUPLE: *length = value.as.list->count; return STATUS_OK;
    case VALUE_DICT: *length = value.as.dict->count; return STATUS_OK;
    case VALUE_VIEW: *length = value.as.view->dict->count; return STATUS_OK;
    case VALUE_RANGE: *length = value.as.range->count; return STATUS_OK;
    case VALUE_LOOP: return loop_length(length, run, value.as.loop);
    default: return run_fail(run, "object of type '%s' has no len()", value_type_name(value));
  }
}

bool value_is_iterable(Value value) {
  switch (value.type) {
    case VALUE_UNDEFINED:
    case VALUE_STRING:
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
    case VALUE_VIEW:
    case VALUE_RANGE:
    case VALUE_ITERATOR: return true;
    default: return false;
  }
}

bool value_is_callable(Value value) {
  return value.type == VALUE_UNDEFINED || value.type == VALUE_MACRO || value.type == VALUE_METHOD || value.type == VALUE_FUNCTION ||
         value.type == VALUE_LOOP || value.type == VALUE_JOINER;
}

Status iterator_next(Value *item, Run *run, Iterator *iterator) {
  if (!run_enter(run)) return run_check(run);
  for (bool kept = false; !kept;) {
    run_charge(run, 1);
    TRY(run_check(run));
    if (iterator->outer) TRY(iterator_next(item, run, iterator->outer));
    else *item = iterator->position < iterator->list->count ? iterator->list->items[iterator->position++] : value_missing;
    kept = true;
    if (item->type != VALUE_MISSING && iterator->transform) TRY(iterator->transform(item, &kept, run, iterator->state));
  }
  run_leave(run);
  return STATUS_OK;
}

static Status iterator_rest(List **out, Run *run, Iterator *iterator) {
  *out = list_new(run, 4);
  for (Value item;;) {
    TRY(iterator_next(&item, run, iterator));
    if (item.type == VALUE_MISSING) return STATUS_OK;
    list_push(run, *out, item);
  }
}

Status value_items(List **out, Run *run, Value value) {
  switch (value.type) {
    case VALUE_UNDEFINED: *out = list_new(run, 0); return STATUS_OK;
    case VALUE_STRING: *out = string_list(run, value.as.string); return STATUS_OK;
    case VALUE_LIST:
    case VALUE_TUPLE: *out = value.as.list; return STATUS_OK;
    case VALUE_DICT: *out = view_items(run, &(View){value.as.dict, VIEW_KEYS}); return STATUS_OK;
    case VALUE_VIEW: *out = view_items(run, value.as.view); return STATUS_OK;
    case VALUE_ITERATOR: return iterator_rest(out, run, value.as.iterator);
    case VALUE_RANGE:
      *out = list_new(run, value.as.range->count);
      for (int64_t i = 0; i < value.as.range->count; i++) list_push(run, *out, range_item(value.as.range, i));
      return STATUS_OK;
    default: return run_fail(run, "'%s' object is not iterable", value_type_name(value));
  }
}
