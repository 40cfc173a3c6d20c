// Answers that somebody else's model gave: rows of {prompt, response}.
#ifndef EVAL_RESPONSES_H
#define EVAL_RESPONSES_H

#include <jansson.h>

#include "core/map.h"
#include "core/memory.h"

typedef struct Responses {
  Map prompts;  // prompt -> index
  const char **texts;
  int64_t count, capacity;
  Arena arena;
} Responses;

// STATUS_BAD_INPUT by FILE:LINE; a prompt that stands there twice is refused. Release `responses` in any case.
Status responses_read(Responses *responses, const char *path);
Status responses_add(Responses *responses, const json_t *row);  // says what is wrong with the row, not where it is
void responses_release(Responses *responses);

#endif
