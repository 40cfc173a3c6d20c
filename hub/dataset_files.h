// Which files of a dataset are its rows: those that are asked for by name, else those that its card gives to the split, else those whose
// names do, by the rules of Hugging Face's datasets. A folder on this disk and a repository of the Hub are alike in this.
#ifndef HUB_DATASET_FILES_H
#define HUB_DATASET_FILES_H

#include "core/status.h"
#include "hub/hub.h"
#include "hub/names.h"

extern const char hub_card_name[];  // README.md

// Appends to `chosen` names out of `all`. `card`: the path of the card, or NULL for none. `place` is for messages: an id, or a folder.
// STATUS_BAD_INPUT, with the remedy, when nothing fits, or what fits is Parquet.
Status dataset_files_choose(HubNames *chosen, const HubNames *all, const char *card, const HubRequest *request, const char *place);
// The same over a folder: names relative to it.
Status dataset_files_of_folder(HubNames *chosen, const char *folder, const HubRequest *request);

#endif
