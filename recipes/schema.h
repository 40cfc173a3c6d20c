// The schema of recipes: one row a key, from which reading, checking and docs/recipes.md are made.
#ifndef RECIPES_SCHEMA_H
#define RECIPES_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>

#include "recipes/node.h"
#include "recipes/recipe.h"

typedef enum KeyFate {
  KEY_WORKS,  // read into the struct
  KEY_LATER,  // the same, but `train` refuses it while it is on: it is not built yet
  KEY_PENDING,  // of a method that is not built: known, not read, and `train` refuses it while it is on
  KEY_IDLE,  // accepted with a notice: it changes nothing here
  KEY_REFUSED,  // an error while it is on (not null, false, 0 or empty)
  KEY_PARALLEL,  // an error above 1: a number of processes
  KEY_DEAD,  // Axolotl ignores it too: a notice
  KEY_SECTION,  // no key: a heading of the reference
} KeyFate;

typedef enum ValueKind {
  VALUE_TEXT,  // char *
  VALUE_BOOLEAN,  // bool
  VALUE_CHOICE,  // Choice: absent, false, true
  VALUE_INTEGER,  // int64_t, from min to max
  VALUE_NUMBER,  // double, from min to max
  VALUE_WORD,  // char *: one of `words`; yes and on become "true"
  VALUE_TEXTS,  // StringList: a list, or one text
  VALUE_PAIRS,  // StringPairs: a mapping; what is no scalar in it becomes JSON
  VALUE_SPECIAL,  // by `read`
} ValueKind;

struct Loader;

typedef struct SchemaKey {
  const char *names;  // one name; several with spaces between for fates without a value
  KeyFate fate;
  ValueKind kind;
  size_t offset;  // of the field in Recipe, DatasetRecipe (also for `type` as a mapping)
  const char *fallback;  // the default, as YAML; NULL: absent
  double min, max;
  const char *const *words;  // NULL-terminated
  void (*read)(struct Loader *loader, const char *key, Node *value, void *target);
  const char *form;  // of a VALUE_SPECIAL, for the reference page: what its value looks like
  const char *doc;  // what it means; why it changes nothing; why it is refused, and what to do
  const char *idle;  // of a key that is read: why it changes nothing here, said while it is on and not auto
  const char *meant;  // of a dead key: the key that the author may have meant
} SchemaKey;

typedef struct SchemaTable {
  const SchemaKey *keys;
  int count;
} SchemaTable;

// Every top-level key: those that are read, then all others.
extern const SchemaTable schema_recipe, schema_others;
// The keys of an entry of datasets[], and of its `type` where that is a mapping; both fill a DatasetRecipe.
extern const SchemaTable schema_dataset, schema_dataset_type;
// The keys of the entry of pretraining_dataset, beside those of datasets[]; they fill a DatasetRecipe too.
extern const SchemaTable schema_pretraining;

// NULL-terminated lists of names.
extern const char *const optimizer_words[], *const scheduler_words[], *const chat_template_words[], *const dataset_type_words[],
                                                                                                        *const dpo_loss_words[];
// Those of dataset_type_words that only preference training takes, those that it never takes, and those with a style.
extern const char *const preference_type_words[], *const supervised_type_words[], *const styled_type_words[];
// The types that go with rl: dpo, ipo, simpo and orpo, whose rows are pairs of replies, and with rl: kto.
extern const char *const pair_type_words[], *const kto_type_words[];

// {name elsewhere, key here}, up to NULL.
extern const char *const foreign_names[][2];

// Why `train` refuses an optimiser or a schedule of the lists above, and what to use: "NAME ..." goes on so. NULL: it is built.
const char *optimizer_refusal(const char *optimizer);
const char *scheduler_refusal(const char *scheduler);
// What `train` can do.
bool dataset_type_is_built(const char *type);

// The row of a key, or NULL.
const SchemaKey *schema_find(const SchemaTable *table, const char *name);
// The known key nearest to `name` in either table (the second may be NULL), or NULL. Points into the schema's own copy.
const char *schema_nearest(const SchemaTable *first, const SchemaTable *second, const char *name, char found[64]);

// --- reading by the schema (load.c) ---

// What reading a recipe needs at hand. Problems are collected, so that one run names them all.
typedef struct Loader {
  Recipe *recipe;
  Arena *arena;
  Node *root;
  bool strict;
  const char *scope;  // "" or "datasets.0.": put before a key in messages
} Loader;

// A problem at a node (NULL or line 0: the command line, or the file as a whole).
void loader_fail(Loader *loader, const Node *at, const char *key, const char *format, ...) PRINTF_LIKE(4, 5);
void loader_notice(Loader *loader, const Node *at, const char *key, const char *format, ...) PRINTF_LIKE(4, 5);

// Notices of all keys that are there twice, in `node` and below.
void loader_notice_twice(Loader *loader, const Node *node, const char *scope);

// Reads one value into a field by its kind; null values are never passed.
void loader_read_value(Loader *loader, const SchemaKey *key, const char *name, Node *value, void *target);
// Sets every field of `table` to its default, then reads the mapping's keys.
void loader_read_mapping(Loader *loader, const SchemaTable *table, const SchemaTable *others, const Node *mapping, void *target);

// The readers of values of their own form (special.c).
void read_datasets(Loader *loader, const char *key, Node *value, void *target);
void read_dataset_type(Loader *loader, const char *key, Node *value, void *target);
void read_special_tokens(Loader *loader, const char *key, Node *value, void *target);
void read_target_modules(Loader *loader, const char *key, Node *value, void *target);
void read_layers(Loader *loader, const char *key, Node *value, void *target);
void read_quantiser(Loader *loader, const char *key, Node *value, void *target);
void read_peft(Loader *loader, const char *key, Node *value, void *target);
void read_pretraining(Loader *loader, const char *key, Node *value, void *target);
void read_pretraining_type(Loader *loader, const char *key, Node *value, void *target);
void read_arguments(Loader *loader, const char *key, Node *value, void *target);
void read_max_memory(Loader *loader, const char *key, Node *value, void *target);
void read_export(Loader *loader, const char *key, Node *value, void *target);
void read_device(Loader *loader, const char *key, Node *value, void *target);
void read_chat_template(Loader *loader, const char *key, Node *value, void *target);
void read_roles(Loader *loader, const char *key, Node *value, void *target);
void read_rl(Loader *loader, const char *key, Node *value, void *target);
void read_switch(Loader *loader, const char *key, Node *value, void *target);
void read_start(Loader *loader, const char *key, Node *value, void *target);
void read_token_indices(Loader *loader, const char *key, Node *value, void *target);
void read_token_texts(Loader *loader, const char *key, Node *value, void *target);
void read_losses(Loader *loader, const char *key, Node *value, void *target);
void read_numbers_by_name(Loader *loader, const char *key, Node *value, void *target);
void read_lr_groups(Loader *loader, const char *key, Node *value, void *target);

// The checks of keys against each other (check.c).
void recipe_check(Loader *loader);

#endif
