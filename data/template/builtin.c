#include "data/template/builtin.h"

#include <stddef.h>
#include <string.h>

const char *builtin_template(const char *name) {
  for (const BuiltinTemplate *builtin = builtin_templates; builtin->name; builtin++)
    if (strcmp(builtin->name, name) == 0) return builtin->source;
  return NULL;
}
