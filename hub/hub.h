// Models and datasets by their ids on the Hugging Face Hub: from the local cache, which is shared with huggingface_hub, or by a download
// into it.
//
// An id is "org/name"; "org/name@revision" names a branch, tag or commit; "org/name/path/inside.gguf" one GGUF file of a model,
// or any part of a split one, of which all parts are fetched.
//
// What is in the cache, and known to be whole, is used as it is, and nobody is asked whether there is something newer. Otherwise the Hub
// is asked, and where it cannot be reached, what the cache has is used if it is enough.
#ifndef HUB_HUB_H
#define HUB_HUB_H

#include <stdbool.h>

#include "core/status.h"
#include "hub/names.h"

typedef enum HubKind {
  HUB_MODEL,  // config, tokenizer, safetensors weights; or the one GGUF file
  HUB_TOKENIZER,  // a model without its weights
  HUB_ADAPTER,  // a PEFT adapter
  HUB_DATASET,
} HubKind;

typedef struct HubRequest {
  HubKind kind;
  const char *id;
  const char *revision;  // NULL: that of the id, or main
  // Of a dataset:
  const char *const *patterns;  // its files, as names or patterns (hub/glob.h)
  int pattern_count;  // 0: by the card's configurations, else by the files' names
  const char *subset, *split;  // without patterns: the configuration, or a folder; the split, "train" when NULL
  bool cache_only;  // never asks the network; HF_HUB_OFFLINE=1 says so for all
} HubRequest;

// Whether `text` can be an id. What ends like a data or model file ("rows/train.jsonl") is taken for a path.
bool hub_is_id(const char *text);

// *path: a new string: the folder of the snapshot, or the path of the GGUF file in it (the first of a split model). Otherwise the message says what is missing and what
// to do. STATUS_USAGE: no id; STATUS_BAD_INPUT: it is not there, or not what was asked for; STATUS_FAILED: the network; STATUS_NO_SPACE:
// the disk.
Status hub_resolve(char **path, const HubRequest *request);
// The same with the names of the files that were chosen, relative to the folder: a snapshot may hold others too. Release them with
// hub_names_release.
Status hub_resolve_files(char **path, HubNames *names, const HubRequest *request);

#endif
