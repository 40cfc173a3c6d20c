// docs/recipes.md, from the schema: the same rows that recipes are read by.
#include <string.h>

#include "recipes/schema.h"

static const char *kind_text(const SchemaKey *key) {
  switch (key->kind) {
    case VALUE_TEXT: return "text";
    case VALUE_BOOLEAN:
    case VALUE_CHOICE: return "true, false";
    case VALUE_INTEGER: return "whole number";
    case VALUE_NUMBER: return "number";
    case VALUE_WORD: return "one of";
    case VALUE_TEXTS: return "list";
    case VALUE_PAIRS: return "mapping";
    case VALUE_SPECIAL: return "see there";
  }
  return "";
}

static void print_type(Buffer *out, const SchemaKey *key) {
  bool number = key->kind == VALUE_INTEGER || key->kind == VALUE_NUMBER;
  int words = 0;
  while (key->kind == VALUE_WORD && key->words[words]) words++;
  buffer_append_string(out, kind_text(key));
  if (number && key->max < 1e6) buffer_format(out, ", %g to %g", key->min, key->max);
  else if (number) buffer_format(out, ", from %g", key->min);
  if (words > 12) buffer_append_string(out, " the names below");
  for (int i = 0; i < words && words <= 12; i++) buffer_format(out, "%s %s", i ? "," : "", key->words[i]);
}

static void print_rows(Buffer *out, const SchemaTable *table) {
  static const char head[] = "| key | value | default | meaning |\n|---|---|---|---|\n";
  if (table->keys[0].fate != KEY_SECTION) buffer_append_string(out, head);
  for (int i = 0; i < table->count; i++) {
    const SchemaKey *key = &table->keys[i];
    if (key->fate == KEY_SECTION) {
      buffer_format(out, "%s### %s\n\n%s", i ? "\n" : "", key->doc, head);
      continue;
    }
    if (key->fate != KEY_WORKS && key->fate != KEY_LATER) continue;
    buffer_format(out, "| `%s` | ", key->names);
    print_type(out, key);
    const char *fallback = key->fallback && strcmp(key->fallback, "-1") != 0 ? key->fallback : "";
    buffer_format(out, " | %s | %s%s |\n", fallback, key->doc, key->fate == KEY_LATER ? " (validates; `train` does not do it yet)" : "");
  }
}

static void print_names(Buffer *out, const char *names) {
  for (const char *p = names; *p;) {
    size_t length = strcspn(p, " ");
    buffer_format(out, "%s`%.*s`", p == names ? "" : ", ", (int)length, p);
    p += length;
    p += strspn(p, " ");
  }
}

static void print_group(Buffer *out, const SchemaTable *table, KeyFate fate, KeyFate also) {
  for (int i = 0; i < table->count; i++) {
    const SchemaKey *key = &table->keys[i];
    if (key->fate != fate && key->fate != also) continue;
    buffer_append_string(out, "- ");
    print_names(out, key->names);
    if (key->doc) buffer_format(out, ": %s", key->doc);
    if (key->meant) buffer_format(out, ": did you mean %s?", key->meant);
    buffer_append_string(out, "\n");
  }
}

static void print_words(Buffer *out, const char *title, const char *const *words) {
  buffer_format(out, "\n**%s**: ", title);
  for (int i = 0; words[i]; i++) buffer_format(out, "%s%s", i ? ", " : "", words[i]);
  buffer_append_string(out, "\n");
}

void recipe_print_reference(Buffer *out) {
  buffer_append_string(
      out,
      "# Recipes\n\n"
      "<!-- Printed by `lora validate --reference` from the schema; do not edit. -->\n\n"
      "A recipe is a YAML file with the keys of Axolotl. `lora validate RECIPE` says what stands against one, a line a problem:\n"
      "`FILE:LINE:COL: key: what is wrong, and what to do`. Any key can be given on the command line as well: `--key value`,\n"
      "`--datasets.0.path rows.jsonl`. A key whose value is empty or `null` counts as absent. `2e-5` is a number.\n\n"
      "## Keys\n\n");
  print_rows(out, &schema_recipe);
  buffer_append_string(out, "\n## An entry of `datasets` or `test_datasets`\n\n");
  print_rows(out, &schema_dataset);
  buffer_append_string(out, "\n### Its `type`, as a mapping\n\n");
  print_rows(out, &schema_dataset_type);
  buffer_append_string(out, "\n## Names\n");
  print_words(out, "optimizer", optimizer_words);
  print_words(out, "lr_scheduler", scheduler_words);
  print_words(out, "chat_template", chat_template_words);
  print_words(out, "type of a dataset", dataset_type_words);
  buffer_append_string(out, "\n## Accepted, and changing nothing here (one notice)\n\n");
  print_group(out, &schema_others, KEY_IDLE, KEY_IDLE);
  print_group(out, &schema_dataset, KEY_IDLE, KEY_IDLE);
  buffer_append_string(out, "\n## Refused while they ask for something, and what to do\n\n");
  print_group(out, &schema_others, KEY_REFUSED, KEY_PARALLEL);
  print_group(out, &schema_dataset, KEY_REFUSED, KEY_PARALLEL);
  buffer_append_string(out, "\n## Ignored by Axolotl too (one notice)\n\n");
  print_group(out, &schema_others, KEY_DEAD, KEY_DEAD);
}
