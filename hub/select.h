// Which of a repository's files a request is for.
#ifndef HUB_SELECT_H
#define HUB_SELECT_H

#include <stddef.h>

#include "core/status.h"
#include "hub/names.h"
#include "hub/hub.h"

// The files of `all` that are wanted, in the order of `all`. Of a model with a weight index, its shards are not among them:
// hub_select_shards finds them in it; of a split GGUF model all files are, the first first. `file`: the one GGUF file that the id names, or NULL. STATUS_BAD_INPUT, with the remedy, when there
// is nothing to be used.
Status hub_select(HubNames *chosen, const HubNames *all, const HubRequest *request, const char *repository, const char *file);
// The same for a dataset.
Status hub_select_data(HubNames *chosen, const HubNames *all, const HubRequest *request, const char *repository);
// The files that the text of model.safetensors.index.json names; STATUS_BAD_INPUT when it is none. `path` is for messages.
Status hub_select_shards(HubNames *shards, const char *path, const char *text, size_t length);

// Names that a repository of this kind may have, NULL-terminated: a snapshot is whole when each is there, or known to be absent.
const char *const *hub_wanted_names(HubKind kind);
// "a, b, c and 4 more" of the names that end so, a new string; "" when there is none.
char *hub_names_list(const HubNames *names, const char *ending);
int hub_names_count(const HubNames *names, const char *ending);
extern const char hub_weight_index[], hub_single_weight[];

#endif
