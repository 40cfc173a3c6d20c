// A JSON object as YAML, by the bytes that PyYAML's dump gives it in block style: keys sorted, lines folded behind 80 columns, text that
// is not plain ASCII in double quotes.
#ifndef DATA_PROMPT_YAML_TEXT_H
#define DATA_PROMPT_YAML_TEXT_H

#include <jansson.h>

#include "core/memory.h"
#include "core/status.h"

// Appends the object, each line ended. STATUS_BAD_INPUT: a key that would not stand on one line before its colon.
Status yaml_text(Buffer *out, const json_t *object);

#endif
