// Whole runs of the program on the tiny_gguf model, in the test's folder.
#ifndef TESTS_SUPPORT_TRAINING_H
#define TESTS_SUPPORT_TRAINING_H

#include "tests/support/test.h"

extern const char tiny_gguf[];  // path of the tiny_gguf model

char *write_file(const char *name, const char *text);  // in the test's folder; its path, a new string
// rows.jsonl: 12 rows of 9 to 20 tokens from `first` on, the first three of each masked.
char *write_token_rows(int first, int range);
// pairs.jsonl: twelve rows of a prompt and two replies, or marks.jsonl: of a prompt and a reply that is wanted or not. Its path, a new string.
char *write_preference_rows(bool is_paired);
// A recipe over rows of tokens, which it writes too; `more`: lines behind its own. Its path, a new string.
char *training_recipe(const char *name, const char *base, const char *output, const char *more);

void read_whole(Buffer *out, const char *relative);
void assert_same_file(const char *a, const char *b);  // two files of the test's folder
// Runs the program: `format` has two %s, for the recipe and what follows.
void assert_runs(const char *format, const char *recipe, const char *more);
// Runs train and checks its exit code and that the message holds both words.
void assert_refused(int expected, const char *recipe, const char *more, const char *word, const char *word2);

#endif
