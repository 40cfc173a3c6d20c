// Hostile recipes: any bytes either load or are refused, and what loads comes back from its resolved text.
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "recipes/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const RecipeOverride overrides[] = {{"datasets.0.path", "x"}, {"peft.loftq_config", "{loftq_bits: 4}"}};
  log_set_quiet(true);
  Recipe recipe, again;
  if (recipe_parse(&recipe, "fuzz.yml", (const char *)data, size, overrides, size % 3) == STATUS_OK) {
    recipe_check_trainable(&recipe);
    if (recipe_parse(&again, "resolved.yml", recipe.resolved, strlen(recipe.resolved), NULL, 0) != STATUS_OK) abort();
    recipe_release(&again);
  }
  recipe_release(&recipe);
  return 0;
}
