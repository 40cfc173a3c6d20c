// Where the Hub is and where its files are kept, from the environment variables of huggingface_hub.
#ifndef HUB_SETTINGS_H
#define HUB_SETTINGS_H

#include <stdbool.h>

#include "core/status.h"

typedef struct HubSettings {
  char *cache;  // HF_HUB_CACHE, else HF_HOME/hub; HF_HOME is XDG_CACHE_HOME/huggingface or ~/.cache/huggingface
  char *endpoint;  // HF_ENDPOINT, without a '/' at its end
  char *token;  // HF_TOKEN, else the file HF_TOKEN_PATH or HF_HOME/token; NULL: none. Never printed, never written.
  bool offline;  // HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE
} HubSettings;

// STATUS_USAGE when a token cannot be one. Release the settings in any case.
Status hub_settings_read(HubSettings *settings);
void hub_settings_release(HubSettings *settings);

#endif
