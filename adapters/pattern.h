// Regular expressions over the names of modules, as PEFT's configuration has them.
#ifndef ADAPTERS_PATTERN_H
#define ADAPTERS_PATTERN_H

#include "adapters/adapter.h"

// *out: whether `pattern` matches the whole of `name`. STATUS_USAGE names `key` (of a recipe or a file) when it is no regular expression.
Status pattern_matches(bool *out, const char *pattern, const char *name, const char *key);

// The value of the first entry of which (.*\.)?(PATTERN) is all of `module` (PEFT's get_pattern_key), or `fallback`. STATUS_USAGE as above.
Status pattern_value(double *out, const PatternValue *patterns, int count, double fallback, const char *module, const char *key);

// *out: whether `module` is in one of the layers (PEFT's layers_to_transform): the number behind the first NAME. of its name that is followed
// by one, where NAME is any, or one of `patterns` (layers_pattern). No layers: all are. STATUS_USAGE as above.
Status pattern_layer(bool *out, const LayerChoice *choice, const char *module);

#endif
