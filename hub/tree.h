// The list of a commit's files in the cache, trees/<commit>.json, as huggingface_hub 2 writes and reads it:
//
//   {"format_version": 1, "files": {NAME: {"size": bytes, "blob_id": git blob id, "lfs_sha256": .., "lfs_size": ..}, ...}}
//
// A commit never changes, so with its list the cache can tell by itself whether a snapshot lacks anything.
#ifndef HUB_TREE_H
#define HUB_TREE_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "core/status.h"
#include "hub/cache.h"

// The "files" of an answer's siblings; NULL when the server did not tell sizes and digests. A new reference.
json_t *hub_tree_from_siblings(const json_t *siblings);
Status hub_tree_write(const HubCache *cache, const char *commit, json_t *files);
// Appends the names in their order in the file; false, and nothing, when there is no list, or none that can be trusted.
bool hub_tree_read(HubNames *names, const HubCache *cache, const char *commit);
bool hub_tree_parse(HubNames *names, const char *text, size_t length);

#endif
