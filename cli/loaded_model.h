// What the commands that run a model have in common: device, tokenizer, model and the adapters over it.
#ifndef CLI_LOADED_MODEL_H
#define CLI_LOADED_MODEL_H

#include "adapters/adapter.h"
#include "cli/options.h"
#include "data/template/chat_template.h"
#include "runtime/engine.h"

typedef struct LoadedModel {
  Backend *backend;
  Tokenizer *tokenizer;
  Model *model;
  Adapter *adapter;  // NULL: the base alone
  ChatTemplate *chat;  // NULL until loaded_model_open_chat
} LoadedModel;

// `adapters`: words of the form PATH or PATH:SCALE. Release `loaded` in any case.
Status loaded_model_open(LoadedModel *loaded, const char *command, const char *model, const ArgumentList *adapters,
                         const Arguments *arguments);
// The adapter's chat template, or else the model's. Where it ends a turn, text will end: by a token, or by a text that is added to
// `stops` and lives as long as `loaded`.
Status loaded_model_open_chat(LoadedModel *loaded, ArgumentList *stops);
// For one text at a time, of up to `context` tokens.
Status loaded_model_engine(Engine **out, const LoadedModel *loaded, int64_t context);
void loaded_model_release(LoadedModel *loaded);

#endif
