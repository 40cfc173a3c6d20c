// One recipe after another, read from text without messages: the state that tests of recipes share.
#ifndef TESTS_SUPPORT_RECIPE_H
#define TESTS_SUPPORT_RECIPE_H

#include "recipes/recipe.h"

extern Recipe recipe;  // the last one parsed

int recipe_set_up(void **state);
int recipe_tear_down(void **state);
// `override` may be NULL.
Status parse_recipe(const char *name, const char *text, const RecipeOverride *override);

#endif
