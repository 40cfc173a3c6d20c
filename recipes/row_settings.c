// What a recipe says about the shape of rows: every key but those of the sections, and the few others, that cannot change a row. A key
// that is forgotten here makes a cache stale too early, never too late.
#include <string.h>

#include "core/text.h"
#include "recipes/schema.h"

// The heading that a key stands under; "" for keys that are not read.
static const char *section_of(const char *name) {
  const char *section = "";
  for (int i = 0; i < schema_recipe.count; i++) {
    const SchemaKey *key = &schema_recipe.keys[i];
    if (key->fate == KEY_SECTION) section = key->doc;
    else if (strcmp(key->names, name) == 0) return section;
  }
  return "";
}

static bool shapes_rows(const char *name) {
  // Of the model only its vocabulary matters, whose contents are hashed wherever it lies.
  static const char *const without[] = {"base_model", "tokenizer_config", "revision_of_model", "dataset_prepared_path", NULL};
  static const char *const sections[] = {"Adapter",
                                         "Packing",
                                         "Batch and optimiser",
                                         "Memory and precision",
                                         "Log, evaluation, saving",
                                         "Preference training",
                                         "Distribution and export",
                                         "",
                                         NULL};
  if (strcmp(name, "rl") == 0) return true;  // of preference training, whose other keys are about losses
  return !word_is_in(without, name) && !word_is_in(sections, section_of(name));
}

void recipe_write_row_settings(Buffer *out, const Recipe *recipe) {
  const Node *tree = recipe->tree;
  buffer_append_string(out, "");
  for (int k = 0; k < schema_recipe.count; k++) {  // in the schema's order, so that the recipe's own does not matter
    const SchemaKey *key = &schema_recipe.keys[k];
    const Node *value = tree && key->fate != KEY_SECTION && shapes_rows(key->names) ? node_find(tree, key->names) : NULL;
    if (node_is_null(value)) continue;
    buffer_format(out, "%s: ", key->names);
    node_write_json(out, value);
    buffer_append_string(out, "\n");
  }
}
