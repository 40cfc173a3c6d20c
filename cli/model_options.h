// --model MODEL and --adapter A[:SCALE]..., the same in every command that opens a model.
#ifndef CLI_MODEL_OPTIONS_H
#define CLI_MODEL_OPTIONS_H

#include "adapters/adapter.h"
#include "cli/options.h"

Option model_option(const char **model);
Option adapter_option(ArgumentList *adapters);
Option deterministic_option(bool *is_deterministic);  // Backend.is_deterministic

// Opens all of them into the model's slots, each with its scale (1 when none is given). The scale stands behind the last ':', unless
// the whole word is the name of a file or folder. *out is NULL when the list is empty. *chat_template, a new string: the template that
// lies beside the first adapter that has one, which it was trained with; else NULL.
Status adapter_arguments_open(Adapter **out, char **chat_template, Model *model, const ArgumentList *list);
// What adapters ask of the model before it is opened: *rows, those of its vocabulary (ModelOptions.vocabulary); and *tokenizer, a new
// string: the folder of the first adapter with a tokenizer.json that has other tokens than `model`'s, else NULL.
Status adapter_arguments_vocabulary(int64_t *rows, char **tokenizer, const char *model, const ArgumentList *list);
// The path without its scale; a new string.
char *adapter_argument_path(const char *argument, double *scale);
// STATUS_BAD_INPUT where nothing is at the path.
Status adapter_path_check(const char *path);

#endif
