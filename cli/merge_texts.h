// The tokens on which `lora merge` measures what it wrote.
#ifndef CLI_MERGE_TEXTS_H
#define CLI_MERGE_TEXTS_H

#include "adapters/divergence.h"
#include "core/status.h"
#include "core/thread.h"

enum { MERGE_TEXT_TOKENS = 4096 };

typedef struct MergeTexts {
  int32_t *ids;
  int64_t *begins;
  int64_t count;  // 0: there are none
  char *source;  // where they come from, for people; or, without any, why there are none
} MergeTexts;

// At most MERGE_TEXT_TOKENS tokens: of the file `text` when it is given, else of the training rows of the recipe.yml in (or above) the
// folder of `adapter`. A text that was asked for and cannot be read is an error; missing training data is a `source` without texts.
Status merge_texts_open(MergeTexts *out, const char *model, const char *adapter, const char *text, int64_t context, ThreadPool *pool);
void merge_texts_release(MergeTexts *texts);

#endif
