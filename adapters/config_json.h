// config.json and generation_config.json of a merged model.
#ifndef ADAPTERS_CONFIG_JSON_H
#define ADAPTERS_CONFIG_JSON_H

#include "models/model.h"

// Writes both files into `folder`; `type` is that of the weights. From a folder base config.json is its own, with the type set, and
// generation_config.json is left to the caller. From a GGUF base both are made; STATUS_BAD_INPUT when the file has RoPE factors that
// config.json has no words for.
Status config_json_write(const char *folder, const Model *model, BlockType type);

#endif
