// object.name, object[key] and object[start:stop:step], as Jinja's immutable sandbox allows them: an attribute that begins with an
// underscore, and a method that would change a list or a dict, are undefined values whose use tells that they are unsafe.
#include <string.h>

#include "core/text.h"
#include "data/jinja/parts.h"

static Value unsafe_attribute(Run *run, Value object, const String *name) {
  return value_undefined_hint(run, "access to attribute '%.*s' of '%s' object is unsafe.", (int)(name->length < 99 ? name->length : 99),
                              name->bytes, value_type_name(object));
}

static bool is_mutating(Value object, const char *name) {
  static const char *const list_methods[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove", NULL};
  static const char *const dict_methods[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
  const char *const *names = object.type == VALUE_LIST ? list_methods : object.type == VALUE_DICT ? dict_methods : NULL;
  return names && word_is_in(names, name);
}

static Value bound_method(Run *run, Value object, const Function *function) {
  Method *method = run_allocate(run, sizeof *method);
  *method = (Method){object, function};
  return (Value){.type = VALUE_METHOD, .as.method = method};
}

static Value macro_attribute(Run *run, const Macro *macro, const char *name) {
  const MacroBody *body = macro->body;
  if (strcmp(name, "name") == 0) return body->name ? value_words(run, body->name) : value_none;
  if (strcmp(name, "caller") == 0) return value_bool(body->caller.slot >= 0);
  if (strcmp(name, "catch_kwargs") == 0) return value_bool(body->keyword_rest.slot >= 0);
  if (strcmp(name, "catch_varargs") == 0) return value_bool(body->positional_rest.slot >= 0);
  if (strcmp(name, "arguments") != 0) return value_missing;
  List *list = list_new(run, body->parameters.count);
  for (int i = 0; i < body->parameters.count; i++) list_push(run, list, value_words(run, body->parameters.items[i]->as.name.name));
  return value_tuple(list);
}

static Value part_attribute(Value object, const char *name) {
  if (object.type == VALUE_CYCLER && strcmp(name, "current") == 0) return object.as.cycler->items->items[object.as.cycler->position];
  if (object.type == VALUE_TUPLE && object.as.list->is_group && object.as.list->count == 2) {
    if (strcmp(name, "grouper") == 0) return object.as.list->items[0];
    if (strcmp(name, "list") == 0) return object.as.list->items[1];
  }
  return value_missing;
}

Value value_attribute(Run *run, Value object, const String *name) {
  if (memchr(name->bytes, 0, name->length)) return value_missing;
  char text[64];
  if (name->length >= sizeof text) return value_missing;
  memcpy(text, name->bytes, name->length);
  text[name->length] = 0;
  if (object.type == VALUE_NAMESPACE) {
    const DictEntry *entry = dict_find(run, object.as.dict, value_of_string(name));
    return entry ? entry->value : value_missing;
  }
  if (name->length > 4 && strncmp(text, "__", 2) == 0 && strcmp(text + name->length - 2, "__") == 0)
    return unsafe_attribute(run, object, name);
  if (is_mutating(object, text)) return unsafe_attribute(run, object, name);
  if (object.type == VALUE_MACRO) return macro_attribute(run, object.as.macro, text);
  Value part = part_attribute(object, text);
  if (part.type != VALUE_MISSING) return part;
  const Function *function = find_method(object, text);
  return function ? bound_method(run, object, function) : value_missing;
}

static Value no_attribute(Run *run, Value object, const String *name) {
  const char *type = object.type == VALUE_NONE ? "None" : value_type_name(object);
  return value_undefined_hint(run, "'%s%s' has no attribute '%.*s'", type, object.type == VALUE_NONE ? "" : " object",
                              (int)(name->length < 99 ? name->length : 99), name->bytes);
}

// Loops compute their attributes, which may fail: a filter of the loop is evaluated to find its end.
static Status find_attribute(Value *out, Run *run, Value object, const String *name) {
  if (object.type == VALUE_UNDEFINED) {
    bool is_internal = name->length > 4 && memcmp(name->bytes, "__", 2) == 0 && memcmp(name->bytes + name->length - 2, "__", 2) == 0;
    if (!is_internal) return undefined_fail(run, object);
  }
  Status status = STATUS_OK;
  if (object.type == VALUE_LOOP && !memchr(name->bytes, 0, name->length)) {
    *out = loop_attribute(run, object.as.loop, name->bytes, &status);
    if (status != STATUS_OK || out->type != VALUE_MISSING) return status;
  }
  *out = value_attribute(run, object, name);
  return status;
}

Status get_attribute(Value *out, Run *run, Value object, const String *name) {
  TRY(find_attribute(out, run, object, name));
  if (out->type != VALUE_MISSING) return STATUS_OK;
  const DictEntry *entry = object.type == VALUE_DICT ? dict_find(run, object.as.dict, value_of_string(name)) : NULL;
  *out = entry ? entry->value : no_attribute(run, object, name);
  return STATUS_OK;
}

static bool list_index(int64_t *index, int64_t count, int64_t given) {
  *index = given < 0 ? given + count : given;
  return *index >= 0 && *index < count;
}

static bool index_value(Value *out, Run *run, Value object, int64_t given) {
  int64_t index, count;
  if (object.type == VALUE_LIST || object.type == VALUE_TUPLE) {
    if (!list_index(&index, object.as.list->count, given)) return false;
    *out = object.as.list->items[index];
  } else if (object.type == VALUE_RANGE) {
    if (!list_index(&index, object.as.range->count, given)) return false;
    *out = range_item(object.as.range, index);
  } else if (object.type == VALUE_STRING) {
    String *string = object.as.string;
    count = string_characters(string);
    if (!list_index(&index, count, given)) return false;
    size_t begin = string_offset(string, index), length;
    if ((size_t)count != string->length) run_charge(run, string->length / 64);
    string_point(string, begin, &length);
    *out = string_slice(run, string, begin, begin + length);
  } else {
    return false;
  }
  return true;
}

Status get_item(Value *out, Run *run, Value object, Value key) {
  if (object.type == VALUE_UNDEFINED) return undefined_fail(run, object);
  if (object.type == VALUE_DICT) {
    bool hashable = key.type != VALUE_LIST && key.type != VALUE_DICT && key.type != VALUE_VIEW;
    const DictEntry *entry = hashable ? dict_find(run, object.as.dict, key) : NULL;
    if (entry) {
      *out = entry->value;
      return STATUS_OK;
    }
  } else if (value_is_integer(key) && index_value(out, run, object, value_integer(key))) {
    return STATUS_OK;
  }
  if (key.type == VALUE_STRING) {
    TRY(find_attribute(out, run, object, key.as.string));
    if (out->type == VALUE_MISSING) *out = no_attribute(run, object, key.as.string);
    return STATUS_OK;
  }
  if (value_is_integer(key))
    *out = value_undefined_hint(run, "%s object has no element %lld", value_type_name(object), (long long)value_integer(key));
  else *out = value_undefined_hint(run, "%s object has no such element", value_type_name(object));
  return STATUS_OK;
}

// ---- Slices.

static Status slice_number(int64_t *out, Run *run, Value value, int64_t otherwise) {
  *out = otherwise;
  if (value.type == VALUE_NONE) return STATUS_OK;
  if (!value_is_integer(value)) {
    if (value.type == VALUE_UNDEFINED) return undefined_fail(run, value);
    return run_fail(run, "slice indices must be integers or None, not %s", value_type_name(value));
  }
  *out = value_integer(value);
  return STATUS_OK;
}

typedef struct SliceBounds {
  int64_t start, stop, step, count;
} SliceBounds;

// PySlice_AdjustIndices
static Status slice_bounds(SliceBounds *out, Run *run, int64_t length, Value start, Value stop, Value step) {
  int64_t from, to;
  TRY(slice_number(&out->step, run, step, 1));
  if (out->step == 0) return run_fail(run, "slice step cannot be zero");
  if (out->step < -INT64_MAX) out->step = -INT64_MAX;
  bool backward = out->step < 0;
  TRY(slice_number(&from, run, start, backward ? INT64_MAX : 0));
  TRY(slice_number(&to, run, stop, backward ? INT64_MIN : INT64_MAX));
  int64_t lowest = backward ? -1 : 0, highest = backward ? length - 1 : length;
  if (from < 0) from = from + length < lowest ? lowest : from + length;
  else if (from > highest) from = highest;
  if (to < 0) to = to + length < lowest || (backward && stop.type == VALUE_NONE) ? lowest : to + length;
  else if (to > highest) to = highest;
  out->start = from;
  out->stop = to;
  out->count = 0;
  if (!backward && from < to) out->count = (to - from - 1) / out->step + 1;
  if (backward && to < from) out->count = (from - to - 1) / -out->step + 1;
  return STATUS_OK;
}

static Value slice_list(Run *run, Value object, SliceBounds bounds) {
  List *list = list_new(run, bounds.count);
  for (int64_t i = 0; i < bounds.count; i++) list_push(run, list, object.as.list->items[bounds.start + i * bounds.step]);
  return (Value){.type = object.type, .as.list = list};
}

static Value slice_range(Run *run, const Range *range, SliceBounds bounds) {
  Range *part = run_allocate(run, sizeof *part);
  *part = (Range){.start = range->start + bounds.start * range->step, .step = range->step * bounds.step, .count = bounds.count};
  part->stop = range->start + bounds.stop * range->step;
  return (Value){.type = VALUE_RANGE, .as.range = part};
}

static Value slice_string(Run *run, String *string, SliceBounds bounds) {
  if (bounds.count == 0) return string_slice(run, string, 0, 0);
  if (bounds.step == 1)
    return string_slice(run, string, string_offset(string, bounds.start), string_offset(string, bounds.start + bounds.count));
  const List *characters = string_list(run, string);
  Builder builder;
  builder_begin(&builder, run);
  for (int64_t i = 0; i < bounds.count; i++) builder_string(&builder, characters->items[bounds.start + i * bounds.step].as.string);
  return builder_value(&builder, string->safe);
}

Status get_slice(Value *out, Run *run, Value object, Value start, Value stop, Value step) {
  SliceBounds bounds;
  int64_t length;
  if (object.type == VALUE_UNDEFINED) return undefined_fail(run, object);
  if (object.type != VALUE_STRING && object.type != VALUE_LIST && object.type != VALUE_TUPLE && object.type != VALUE_RANGE)
    return run_fail(run, "'%s' object cannot be sliced", value_type_name(object));
  TRY(value_length(&length, run, object));
  TRY(slice_bounds(&bounds, run, length, start, stop, step));
  run_charge(run, (size_t)bounds.count / 64);
  if (object.type == VALUE_STRING) *out = slice_string(run, object.as.string, bounds);
  else if (object.type == VALUE_RANGE) *out = slice_range(run, object.as.range, bounds);
  else *out = slice_list(run, object, bounds);
  return run_check(run);
}
