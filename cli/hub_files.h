// Where ids of the Hub become paths: for a recipe right after it is loaded, for --model and --adapter before they are opened. A path that
// is there always wins over an id of the same letters.
#ifndef CLI_HUB_FILES_H
#define CLI_HUB_FILES_H

#include <stdbool.h>

#include "core/memory.h"
#include "hub/hub.h"
#include "recipes/recipe.h"

typedef enum RecipeFiles {
  RECIPE_TOKENIZER = 1,  // tokenizer_config, or base_model without its weights
  RECIPE_MODEL = 2,  // base_model and lora_model_dir
  RECIPE_DATA = 4,  // datasets, test_datasets
  RECIPE_ALL = 7,
} RecipeFiles;

// Puts paths in place of the ids: base_model (its id is kept in base_model_id), tokenizer_config, lora_model_dir, and the datasets' path
// (kept in hub_id). A failure names the key's place.
Status recipe_fetch(Recipe *recipe, int files);
// Looks for the files on this disk and in the cache, not on the network, and calls `missing` for each key whose files are not there.
typedef void (*MissingFunction)(void *argument, const char *key, const char *message);
void recipe_look_for_files(Recipe *recipe, MissingFunction missing, void *argument);

// *path: a new string: `given` itself, or where the Hub's files are. What is neither is left to whoever opens it. `option` is for the
// message.
Status hub_argument_path(char **path, const char *option, const char *given, HubKind kind);

#endif
