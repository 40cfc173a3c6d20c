// Reads a mapping by its schema: every key is found, its value typed and ranged and put into the struct; every problem
// is collected with its position.
#include "recipes/schema.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/log.h"
#include "core/text.h"

// After so many problems the rest is noise, and looking for near names costs too much on hostile input.
enum { MOST_REMARKS = 200 };

static void add_remark(Loader *loader, bool is_notice, const Node *at, const char *key, const char *message) {
  Recipe *recipe = loader->recipe;
  if (!is_notice) recipe->problem_count++;
  if (recipe->remark_count == MOST_REMARKS) return;
  if (!recipe->remarks) recipe->remarks = arena_new(loader->arena, MOST_REMARKS, sizeof *recipe->remarks);
  recipe->remarks[recipe->remark_count++] = (RecipeRemark){.position = {at ? at->line : 0, at ? at->column : 0},
                                                           .key = arena_format(loader->arena, "%s%s", loader->scope, key),
                                                           .message = arena_copy_string(loader->arena, message),
                                                           .is_notice = is_notice};
}

#define FORMAT_INTO(text)                          \
  char text[1024];                                 \
  va_list arguments;                               \
  va_start(arguments, format);                     \
  vsnprintf(text, sizeof text, format, arguments); \
  va_end(arguments)

void loader_fail(Loader *loader, const Node *at, const char *key, const char *format, ...) {
  FORMAT_INTO(text);
  add_remark(loader, false, at, key, text);
}

void loader_notice(Loader *loader, const Node *at, const char *key, const char *format, ...) {
  FORMAT_INTO(text);
  add_remark(loader, true, at, key, text);
}

void loader_notice_twice(Loader *loader, const Node *node, const char *scope) {
  if (node->kind == NODE_SCALAR) return;
  for (int i = 0; i < node->count; i++) {
    const Node *key = node->keys[i], *item = node->items[i];
    if (loader->recipe->remark_count == MOST_REMARKS) return;
    const bool is_container = item->kind != NODE_SCALAR;
    if (!is_container && !(key && key->overrules_line)) continue;
    const char *name = key ? arena_format(loader->arena, "%s%s", scope, key->text) : arena_format(loader->arena, "%s%d", scope, i);
    if (key && key->overrules_line)
      loader_notice(loader, key, name, "is there twice; this one counts, line %d does not", key->overrules_line);
    if (is_container) loader_notice_twice(loader, item, arena_format(loader->arena, "%s.", name));
  }
}

// --- values by their kind ---

static const char *kind_name(const Node *value) {
  return value->kind == NODE_MAPPING ? "a mapping" : value->kind == NODE_SEQUENCE ? "a list" : value->text;
}

static bool is_scalar(Loader *loader, const char *name, const Node *value, const char *wanted) {
  if (value->kind == NODE_SCALAR) return true;
  loader_fail(loader, value, name, "must be %s, not %s", wanted, kind_name(value));
  return false;
}

static bool is_in_range(Loader *loader, const SchemaKey *key, const char *name, const Node *value, double number) {
  if (number >= key->min && number <= key->max) return true;
  if (number < key->min) loader_fail(loader, value, name, "%s is too small; give at least %g", value->text, key->min);
  else loader_fail(loader, value, name, "%s is too large; give at most %g", value->text, key->max);
  return false;
}

static void read_number(Loader *loader, const SchemaKey *key, const char *name, const Node *value, void *target) {
  bool whole = key->kind == VALUE_INTEGER;
  const char *wanted = whole ? "a whole number" : "a number";
  double number;
  int64_t integer = 0;
  if (!is_scalar(loader, name, value, wanted)) return;
  bool read = whole ? node_integer(value, &integer) : node_number(value, &number);
  if (!read) {
    loader_fail(loader, value, name, "must be %s, not \"%s\"", wanted, value->text);
    return;
  }
  if (!is_in_range(loader, key, name, value, whole ? (double)integer : number)) return;
  if (whole) *(int64_t *)target = integer;
  else *(double *)target = number;
}

// Axolotl's schema (pydantic) takes more spellings than YAML has.
static bool read_truth(const Node *value, bool *truth) {
  static const char *const letters[] = {"f", "t", "n", "y"};
  double number;
  for (int i = 0; i < 4; i++) {
    if (strcasecmp(value->text, letters[i]) != 0) continue;
    *truth = i % 2 == 1;
    return true;
  }
  if (node_boolean(value, truth)) return true;
  if (!node_number(value, &number) || (number != 0 && number != 1)) return false;
  *truth = number == 1;
  return true;
}

static void read_boolean(Loader *loader, const SchemaKey *key, const char *name, const Node *value, void *target) {
  bool truth;
  if (!is_scalar(loader, name, value, "true or false")) return;
  if (!read_truth(value, &truth)) {
    loader_fail(loader, value, name, "must be true or false, not \"%s\"", value->text);
    return;
  }
  if (key->kind == VALUE_BOOLEAN) *(bool *)target = truth;
  else *(Choice *)target = truth ? CHOICE_TRUE : CHOICE_FALSE;
}

// "a, b or c"
static const char *list_words(Arena *arena, const char *const *words) {
  Buffer text = {0};
  for (int i = 0; words[i]; i++) buffer_format(&text, "%s%s", i == 0 ? "" : words[i + 1] ? ", " : " or ", words[i]);
  const char *copy = arena_copy_string(arena, text.data);
  buffer_release(&text);
  return copy;
}

static void read_word(Loader *loader, const SchemaKey *key, const char *name, const Node *value, void *target) {
  enum { SHORT_LIST = 12 };
  if (!is_scalar(loader, name, value, "one word")) return;
  const char *word = value->text;
  bool truth;
  if (!word_is_in(key->words, word) && node_boolean(value, &truth)) word = truth ? "true" : word_is_in(key->words, "no") ? "no" : "false";
  if (word_is_in(key->words, word)) {
    *(char **)target = arena_copy_string(loader->arena, word);
    return;
  }
  int count = 0;
  while (key->words[count]) count++;
  const char *nearest = nearest_name(value->text, key->words, count);
  for (int i = 0; !nearest && value->text[0] && i < count; i++)
    if (text_starts_with(key->words[i], value->text)) nearest = key->words[i];
  if (nearest) loader_fail(loader, value, name, "\"%s\" is not known; did you mean %s?", value->text, nearest);
  else if (count <= SHORT_LIST)
    loader_fail(loader, value, name, "\"%s\" is not known; give %s", value->text, list_words(loader->arena, key->words));
  else
    loader_fail(loader, value, name, "\"%s\" is not known or not built; %s is, and docs/recipes.md lists all", value->text, key->words[0]);
}

static void read_texts(Loader *loader, const char *name, const Node *value, StringList *list) {
  if (value->kind == NODE_MAPPING) {
    loader_fail(loader, value, name, "must be a list, not a mapping");
    return;
  }
  bool single = value->kind == NODE_SCALAR;
  int count = single ? 1 : value->count;
  *list = (StringList){arena_new(loader->arena, (size_t)count + 1, sizeof *list->items), 0};
  for (int i = 0; i < count; i++) {
    const Node *item = single ? value : value->items[i];
    if (node_is_null(item)) continue;
    if (is_scalar(loader, name, item, "a list of single values")) list->items[list->count++] = arena_copy_string(loader->arena, item->text);
  }
}

static void read_pairs(Loader *loader, const char *name, const Node *value, StringPairs *pairs) {
  if (value->kind == NODE_SEQUENCE && value->count == 0) return;
  if (value->kind != NODE_MAPPING) {
    loader_fail(loader, value, name, "must be a mapping (key: value), not %s", kind_name(value));
    return;
  }
  size_t room = (size_t)value->count + 1;
  *pairs = (StringPairs){arena_new(loader->arena, room, sizeof(char *)), arena_new(loader->arena, room, sizeof(char *)), 0};
  for (int i = 0; i < value->count; i++) {
    const Node *item = value->items[i];
    if (node_is_null(item)) continue;
    Buffer json = {0};
    if (item->kind != NODE_SCALAR) node_write_json(&json, item);
    pairs->keys[pairs->count] = arena_copy_string(loader->arena, value->keys[i]->text);
    pairs->values[pairs->count++] = arena_copy_string(loader->arena, json.data ? json.data : item->text);
    buffer_release(&json);
  }
}

void loader_read_value(Loader *loader, const SchemaKey *key, const char *name, Node *value, void *target) {
  switch (key->kind) {
    case VALUE_TEXT:
      if (is_scalar(loader, name, value, "one text")) *(char **)target = arena_copy_string(loader->arena, value->text);
      break;
    case VALUE_BOOLEAN:
    case VALUE_CHOICE: read_boolean(loader, key, name, value, target); break;
    case VALUE_INTEGER:
    case VALUE_NUMBER: read_number(loader, key, name, value, target); break;
    case VALUE_WORD: read_word(loader, key, name, value, target); break;
    case VALUE_TEXTS: read_texts(loader, name, value, target); break;
    case VALUE_PAIRS: read_pairs(loader, name, value, target); break;
    case VALUE_SPECIAL: key->read(loader, name, value, target); break;
  }
}

// --- mappings by their table ---

static bool is_read(const SchemaKey *key) { return key->fate == KEY_WORKS || key->fate == KEY_LATER; }

// A default is YAML text that goes the same way as a user's value, but past the range: -1 stands for absent.
static void set_default(const SchemaKey *key, Loader *loader, void *target) {
  if (key->kind == VALUE_CHOICE) *(Choice *)target = CHOICE_ABSENT;
  if (!key->fallback) return;
  SchemaKey unranged = *key;
  unranged.min = -1, unranged.max = HUGE_VAL;
  Node value = {.kind = NODE_SCALAR, .text = (char *)key->fallback};
  loader_read_value(loader, &unranged, key->names, &value, target);
}

static void fail_unknown(Loader *loader, const SchemaTable *table, const SchemaTable *others, const Node *key, const Node *value) {
  char found[64];
  if (loader->recipe->problem_count >= MOST_REMARKS) {
    loader->recipe->problem_count++;
    return;
  }
  const char *nearest = schema_nearest(table, others, key->text, found);
  const char *meant =
      nearest ? arena_format(loader->arena, "did you mean %s?", nearest) : "remove it, or see docs/recipes.md for every key";
  if (node_is_null(value)) loader_notice(loader, key, key->text, "unknown key, without a value; %s", meant);
  else if (loader->strict) loader_fail(loader, key, key->text, "unknown key; %s", meant);
  else loader_notice(loader, key, key->text, "unknown key, ignored because of strict: false; %s", meant);
}

static void read_other(Loader *loader, const SchemaKey *key, const Node *name, const Node *value) {
  double number;
  if (node_is_off(value)) return;
  switch (key->fate) {
    case KEY_IDLE: loader_notice(loader, name, name->text, "changes nothing here: %s", key->doc); break;
    case KEY_REFUSED: loader_fail(loader, name, name->text, "is refused: %s", key->doc); break;
    case KEY_PARALLEL:
      if (!node_number(value, &number) || number > 1) loader_fail(loader, name, name->text, "is refused: %s", key->doc);
      break;
    case KEY_PENDING: break;
    case KEY_DEAD:
      if (key->meant) loader_notice(loader, name, name->text, "changes nothing: Axolotl ignores it too; did you mean %s?", key->meant);
      else loader_notice(loader, name, name->text, "changes nothing: Axolotl ignores it too; it can go");
      break;
    default: break;
  }
}

// Whether a value says nothing: Axolotl takes an empty text, or `false` where no truth is asked for, as not set.
static bool is_absent(const SchemaTable *table, const SchemaKey *key, const Node *value) {
  static const char *const words[] = {"false", "no", "off"};
  if (node_is_null(value)) return true;
  if (table != &schema_recipe || value->kind != NODE_SCALAR) return false;
  if (value->text[0] == 0) return true;
  if (value->quoted || key->kind == VALUE_BOOLEAN || key->kind == VALUE_CHOICE || key->read == read_switch) return false;
  for (int i = 0; i < 3; i++)
    if (strcasecmp(value->text, words[i]) == 0)
      return key->kind != VALUE_WORD || !(word_is_in(key->words, "false") || word_is_in(key->words, "no"));
  return false;
}

void loader_read_mapping(Loader *loader, const SchemaTable *table, const SchemaTable *others, const Node *mapping, void *target) {
  for (int i = 0; i < table->count; i++)
    if (is_read(&table->keys[i])) set_default(&table->keys[i], loader, (char *)target + table->keys[i].offset);
  for (int i = 0; i < mapping->count; i++) {
    const Node *name = mapping->keys[i];
    Node *value = mapping->items[i];
    const SchemaKey *key = schema_find(table, name->text);
    if (!key && others) key = schema_find(others, name->text);
    if (!key) fail_unknown(loader, table, others, name, value);
    else if (!is_read(key)) read_other(loader, key, name, value);
    else if (!is_absent(table, key, value)) {
      loader_read_value(loader, key, name->text, value, (char *)target + key->offset);
      bool automatic = value->kind == NODE_SCALAR && strcmp(value->text, "auto") == 0;
      if (key->idle && !node_is_off(value) && !automatic) loader_notice(loader, name, name->text, "changes nothing here: %s", key->idle);
    }
  }
}
