// What the commands that run a model have in common: device, tokenizer, model and the adapters over it.
#ifndef CLI_LOADED_MODEL_H
#define CLI_LOADED_MODEL_H

#include "adapters/adapter.h"
#include "cli/engine_options.h"
#include "cli/options.h"
#include "data/template/chat_template.h"

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
// Tokens that a text can have: what is asked for, or, where nobody does (0), the model's own, but no more than most machines have memory for.
int64_t loaded_model_context(const LoadedModel *loaded, int64_t asked);
// For one text at a time, of up to `context` tokens.
Status loaded_model_engine(Engine **out, const LoadedModel *loaded, int64_t context, const EngineChoice *choice);
void loaded_model_release(LoadedModel *loaded);

#endif
