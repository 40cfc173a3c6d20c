// What a dataset's card (README.md) says about its files: the `configs` of its YAML head, as Hugging Face's datasets reads them:
//
//   configs:
//   - config_name: default
//     data_files: [{split: train, path: data/train-*.jsonl}, {split: test, path: [a.jsonl, b.jsonl]}]
//   - config_name: small
//     data_dir: small
#ifndef HUB_CARD_H
#define HUB_CARD_H

#include <stddef.h>

#include "core/status.h"
#include "hub/names.h"

// Appends the patterns of a configuration's split; or sets *folder, a new string, in which the files' names tell the split; or neither, when
// the card has no configurations or names no files. `config` NULL: the default one, which is called "default", has `default: true`, or is
// the only one. STATUS_BAD_INPUT when there are others than the one, or the split, that is asked for.
Status hub_card_patterns(HubNames *patterns, char **folder, const char *text, size_t length, const char *config, const char *split);

#endif
