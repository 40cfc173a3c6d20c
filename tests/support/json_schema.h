// JSON schemas for tests: random ones over all keywords that are supported, and a validator that knows nothing of grammars.
#ifndef TESTS_SUPPORT_JSON_SCHEMA_H
#define TESTS_SUPPORT_JSON_SCHEMA_H

#include <jansson.h>

#include "core/memory.h"
#include "core/rng.h"

json_t *schema_random(Rng *rng, int depth);  // a whole schema, with its $defs
// False: `why` says which keyword at which place of the value.
bool schema_validate(Buffer *why, const json_t *schema, const json_t *root, const json_t *value);

#endif
