// A whole GGUF file cut into the files of a split model, so that tests need no other program for it.
#ifndef TESTS_SUPPORT_SHARDS_H
#define TESTS_SUPPORT_SHARDS_H

#include <stdint.h>

// What the files say of themselves; tests make single things wrong. Zeroed but for `parts`: all is well.
typedef struct ShardFaults {
  int wrong_number, wrong_count, wrong_tensors;  // added to split.no, split.count, split.tensors.count of the last file
  int repeated;  // the last file holds the first tensor as well
} ShardFaults;

// Writes FOLDER/model-00001-of-0000N.gguf and so on: metadata in the first, tensors spread evenly; with `bare_first` the first has none.
// Returns the path of the first, a new string.
char *split_gguf(const char *path, const char *folder, int parts, int bare_first, const ShardFaults *faults);

#endif
