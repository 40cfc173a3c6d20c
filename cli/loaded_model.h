// What the commands that run a model have in common: device, tokenizer, model and the adapters over it.
#ifndef CLI_LOADED_MODEL_H
#define CLI_LOADED_MODEL_H

#include "adapters/adapter.h"
#include "cli/options.h"
#include "data/tokenizer/tokenizer.h"

typedef struct LoadedModel {
  Backend *backend;
  Tokenizer *tokenizer;
  Model *model;
  Adapter *adapter;  // NULL: the base alone
} LoadedModel;

// `adapters`: words of the form PATH or PATH:SCALE. Release `loaded` in any case.
Status loaded_model_open(LoadedModel *loaded, const char *command, const char *model, const ArgumentList *adapters,
                         const Arguments *arguments);
void loaded_model_release(LoadedModel *loaded);

#endif
