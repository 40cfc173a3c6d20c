// Small datasets and recipes for tests: rows in a temporary folder, and what dataset_prepare makes of them.
#ifndef TESTS_SUPPORT_DATA_H
#define TESTS_SUPPORT_DATA_H

#include "data/dataset.h"
#include "recipes/recipe.h"

typedef struct DataTest {
  char *folder;
  char *text;  // the recipe
  Recipe recipe;
  Tokenizer *tokenizer;
  RowSet train, evaluation;
} DataTest;

// A recipe on the tiny model of the tests. `dataset`: the keys of one dataset behind its path (FOLDER/rows.jsonl), each line
// indented by four spaces; `top`: top-level keys.
void data_test_start(DataTest *test, const char *rows, const char *dataset, const char *top);
void data_test_write(const DataTest *test, const char *name, const char *text);
Status data_test_prepare(DataTest *test);
void data_test_end(DataTest *test);

#endif
