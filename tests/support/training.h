// Whole runs of the program on the tiny model, in the test's folder.
#ifndef TESTS_SUPPORT_TRAINING_H
#define TESTS_SUPPORT_TRAINING_H

#include "tests/support/test.h"

extern const char tiny[];  // path of the tiny model

char *write_file(const char *name, const char *text);  // in the test's folder; its path, a new string
// A recipe over 12 short rows of tokens, which it writes too; `more`: lines behind its own. Its path, a new string.
char *write_recipe(const char *name, const char *base, const char *output, const char *more);

void read_whole(Buffer *out, const char *relative);
void assert_same_file(const char *a, const char *b);  // two files of the test's folder
// Runs the program: `format` has two %s, for the recipe and what follows.
void assert_runs(const char *format, const char *recipe, const char *more);
// Runs train and checks its exit code and that the message holds both words.
void assert_refused(int expected, const char *recipe, const char *more, const char *word, const char *word2);

#endif
