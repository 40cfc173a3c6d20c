// --adapter A[:scale]..., for the commands that apply adapters to a model.
#ifndef CLI_ADAPTER_ARGUMENT_H
#define CLI_ADAPTER_ARGUMENT_H

#include "adapters/adapter.h"
#include "cli/options.h"

// Opens all of them into the model's slots, each with its scale (1 when none is given). The scale stands behind the last ':', unless
// the whole word is the name of a file or folder. *out is NULL when the list is empty.
Status adapter_arguments_open(Adapter **out, Model *model, const ArgumentList *list);
// The path without its scale; a new string.
char *adapter_argument_path(const char *argument, double *scale);

#endif
