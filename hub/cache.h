// The local cache, in huggingface_hub's layout, so that both programs share what either has downloaded:
//
//   models--org--name/  (datasets--org--name/)
//     refs/<revision>              the commit, 40 hexadecimal digits
//     blobs/<etag>                 a file's content; its SHA-256 when it is in LFS, else its git blob id; <etag>.incomplete: a part of it
//     snapshots/<commit>/<name>    a relative symbolic link to its blob
//     trees/<commit>.json          the list of the commit's files (hub/tree.h)
//     .no_exist/<commit>/<name>    an empty file: the commit has no file of this name
//   .locks/models--org--name/<etag>.lock   held by flock while the blob is being downloaded
#ifndef HUB_CACHE_H
#define HUB_CACHE_H

#include <stdbool.h>

#include "core/status.h"
#include "hub/names.h"

typedef struct HubCache {
  char *root;  // of all repositories
  char *name;  // "models--org--name"
  char *folder;  // root/name
} HubCache;

void hub_cache_open(HubCache *cache, const char *root, const char *repository, bool is_dataset);
void hub_cache_release(HubCache *cache);

// The commit that a revision was when it was last asked for; NULL: not known. A new string.
char *hub_cache_commit(const HubCache *cache, const char *revision);
Status hub_cache_set_commit(const HubCache *cache, const char *revision, const char *commit);

char *hub_cache_snapshot(const HubCache *cache, const char *commit);  // new strings
char *hub_cache_file(const HubCache *cache, const char *commit, const char *name);
char *hub_cache_blob(const HubCache *cache, const char *etag);

// Whether the snapshot has the file, and whether it is known that the commit has none.
bool hub_cache_has(const HubCache *cache, const char *commit, const char *name);
bool hub_cache_is_absent(const HubCache *cache, const char *commit, const char *name);
Status hub_cache_set_absent(const HubCache *cache, const char *commit, const char *name);
// Makes snapshots/<commit>/<name> point to the blob, in place of what it pointed to.
Status hub_cache_link(const HubCache *cache, const char *commit, const char *name, const char *etag);

// Waits for the blob's lock; close(*lock) gives it back.
Status hub_cache_lock(int *lock, const HubCache *cache, const char *etag);

// Names of the files of a snapshot, relative to it and sorted.
void hub_cache_list(HubNames *names, const HubCache *cache, const char *commit);

#endif
