#include "tests/support/recipe.h"

#include <string.h>

#include "core/log.h"

Recipe recipe;

int recipe_set_up(void **state) {
  (void)state;
  log_set_quiet(true);
  return 0;
}

int recipe_tear_down(void **state) {
  (void)state;
  recipe_release(&recipe);
  return 0;
}

Status parse_recipe(const char *name, const char *text, const RecipeOverride *override) {
  recipe_release(&recipe);
  return recipe_parse(&recipe, name, text, strlen(text), override, override ? 1 : 0);
}
