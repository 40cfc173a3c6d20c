// The functions that every template has: range, dict, namespace, cycler, joiner, raise_exception and strftime_now.
#include <string.h>
#include <time.h>

#include "data/jinja/parts.h"

static Status global_range(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)given;
  int64_t numbers[3] = {0, 0, 1};
  if (arguments->count < 1 || arguments->count > 3 || arguments->keyword_count > 0)
    return run_fail(run, "range() takes one to three integers");
  for (int i = 0; i < arguments->count; i++) {
    if (arguments->items[i].type == VALUE_UNDEFINED) return undefined_fail(run, arguments->items[i]);
    if (!value_is_integer(arguments->items[i]))
      return run_fail(run, "'%s' object cannot be interpreted as an integer", value_type_name(arguments->items[i]));
    numbers[arguments->count == 1 ? 1 : i] = value_integer(arguments->items[i]);
  }
  if (numbers[2] == 0) return run_fail(run, "range() arg 3 must not be zero");
  Range *range = run_allocate(run, sizeof *range);
  *range = (Range){.start = numbers[0], .stop = numbers[1], .step = numbers[2]};
  bool forward = range->step > 0;
  uint64_t distance = forward ? (uint64_t)range->stop - (uint64_t)range->start : (uint64_t)range->start - (uint64_t)range->stop;
  uint64_t step = forward ? (uint64_t)range->step : -(uint64_t)range->step;
  uint64_t count = (forward ? range->stop > range->start : range->stop < range->start) ? (distance - 1) / step + 1 : 0;
  if (count > RANGE_MOST) return run_fail(run, "Range too big. The sandbox blocks ranges larger than %d.", RANGE_MOST);
  range->count = (int64_t)count;
  *out = (Value){.type = VALUE_RANGE, .as.range = range};
  return STATUS_OK;
}

static Status copy_pairs(Dict *dict, Run *run, Value source) {
  List *items, *pair;
  if (source.type == VALUE_DICT) {
    for (int64_t i = 0; i < source.as.dict->count; i++)
      TRY(dict_set(run, dict, source.as.dict->entries[i].key, source.as.dict->entries[i].value));
    return STATUS_OK;
  }
  TRY(value_items(&items, run, source));
  for (int64_t i = 0; i < items->count; i++) {
    TRY(value_items(&pair, run, items->items[i]));
    if (pair->count != 2)
      return run_fail(run, "dictionary update sequence element #%lld has length %lld; 2 is required", (long long)i, (long long)pair->count);
    TRY(dict_set(run, dict, pair->items[0], pair->items[1]));
  }
  return STATUS_OK;
}

static Status global_dict(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)given;
  Dict *dict = dict_new(run);
  if (arguments->count > 1) return run_fail(run, "dict expected at most 1 argument, got %d", arguments->count);
  if (arguments->count == 1) TRY(copy_pairs(dict, run, arguments->items[0]));
  for (int i = 0; i < arguments->keyword_count; i++)
    TRY(dict_set(run, dict, value_of_string(arguments->keywords[i].name), arguments->keywords[i].value));
  *out = value_dict(dict);
  return STATUS_OK;
}

const Function function_dict = {"dict", NULL, global_dict};

Status method_dict_fromkeys(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  List *keys;
  Dict *dict = dict_new(run);
  TRY(value_items(&keys, run, given[1]));
  for (int64_t i = 0; i < keys->count; i++)
    TRY(dict_set(run, dict, keys->items[i], given[2].type == VALUE_MISSING ? value_none : given[2]));
  *out = value_dict(dict);
  return STATUS_OK;
}

static Status global_namespace(Value *out, Run *run, Value *given, const Arguments *arguments) {
  TRY(global_dict(out, run, given, arguments));
  for (int64_t i = 0; i < out->as.dict->count; i++) {
    Value key = out->as.dict->entries[i].key;
    if (key.type == VALUE_STRING && key.as.string->length > 0 && key.as.string->bytes[0] == '_')
      return run_fail(run, "a namespace cannot have an attribute that begins with an underscore");
  }
  out->type = VALUE_NAMESPACE;
  return STATUS_OK;
}

static Status global_cycler(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)given;
  if (arguments->count == 0 || arguments->keyword_count > 0) return run_fail(run, "at least one item has to be provided");
  Cycler *cycler = run_allocate(run, sizeof *cycler);
  cycler->items = list_new(run, arguments->count);
  for (int i = 0; i < arguments->count; i++) list_push(run, cycler->items, arguments->items[i]);
  *out = (Value){.type = VALUE_CYCLER, .as.cycler = cycler};
  return STATUS_OK;
}

static Status global_joiner(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  Joiner *joiner = run_allocate(run, sizeof *joiner);
  joiner->separator = given[0].type == VALUE_MISSING ? value_words(run, ", ") : given[0];
  *out = (Value){.type = VALUE_JOINER, .as.joiner = joiner};
  return STATUS_OK;
}

static Status global_raise_exception(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  TRY(value_str(out, run, given[0]));
  const String *message = out->as.string;
  return status_fail(STATUS_BAD_INPUT, "%.*s", (int)(message->length < 4000 ? message->length : 4000), message->bytes);
}

// datetime.now().strftime(): a time without a zone, of which %z and %Z print nothing, and without a part of a second.
static Status global_strftime_now(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)arguments;
  if (given[0].type != VALUE_STRING) return run_fail(run, "strftime_now() needs a format, as '%%d %%b %%Y'");
  struct tm now;
  if (!localtime_r(&run->now, &now)) return run_fail(run, "the time is out of range");
  Builder builder;
  builder_begin(&builder, run);
  const String *format = given[0].as.string;
  for (size_t at = 0; at < format->length; at++) {
    char pattern[4] = {format->bytes[at], 0}, text[256];
    if (*pattern != '%' || at + 1 >= format->length) {
      builder_slice(&builder, format, at, at + 1);
      continue;
    }
    size_t length = 1 + (strchr("-_0^#EO", format->bytes[at + 1]) && format->bytes[at + 1] && at + 2 < format->length);
    memcpy(pattern + 1, format->bytes + at + 1, length);
    at += length;
    char letter = pattern[length];
    if (letter == 'z' || letter == 'Z') continue;
    if (letter == 'f') builder_words(&builder, "000000");
    else builder_bytes(&builder, text, strftime(text, sizeof text, pattern, &now));
  }
  *out = builder_value(&builder, false);
  return STATUS_OK;
}

static Status global_lipsum(Value *out, Run *run, Value *given, const Arguments *arguments) {
  (void)out, (void)given, (void)arguments;
  return run_fail(run, "lipsum() makes text at random, which has no place in a chat template");
}

const Function *find_global(const char *name) {
  static const Function globals[] = {
      {"range", NULL, global_range},
      {"namespace", NULL, global_namespace},
      {"cycler", NULL, global_cycler},
      {"joiner", "sep?", global_joiner},
      {"lipsum", NULL, global_lipsum},
      {"raise_exception", "message", global_raise_exception},
      {"strftime_now", "format", global_strftime_now},
  };
  if (strcmp(name, "dict") == 0) return &function_dict;
  for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
    if (strcmp(globals[i].name, name) == 0) return &globals[i];
  return NULL;
}
