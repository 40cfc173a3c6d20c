// What a PEFT adapter's adapter_config.json says, without the model that it was made for.
#ifndef ADAPTERS_PEFT_CONFIG_H
#define ADAPTERS_PEFT_CONFIG_H

#include <jansson.h>
#include <stdint.h>

#include "core/status.h"

// *config: the JSON object, to be released by json_decref; NULL when there is none. STATUS_BAD_INPUT for what adapter_open refuses in it.
Status peft_config_examine(json_t **config, const char *folder);
double peft_module_scale(const json_t *config, const char *module,
                         int64_t rank);  // alpha / rank of one module, by rsLoRA's rule if it says so

#endif
