// What the Hub's HTTP interface is asked: the files of a repository at a revision, and one file's size and digest.
//
//   GET  {endpoint}/api/models/{id}/revision/{revision}?blobs=true
//       {"sha": commit, "siblings": [{"rfilename": name, "size": .., "blobId": .., "lfs": {..}}, ...]}
//   HEAD {endpoint}/{id}/resolve/{commit}/{name}
//       x-repo-commit; x-linked-etag and x-linked-size, or etag and content-length
//
// with api/datasets and datasets/{id} for datasets.
#ifndef HUB_REMOTE_H
#define HUB_REMOTE_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "core/status.h"
#include "hub/cache.h"
#include "hub/http.h"
#include "hub/settings.h"

typedef struct HubRemote {
  Http *http;
  const HubSettings *settings;
  const char *repository, *revision;
  bool is_dataset;
} HubRemote;

typedef struct HubListing {
  char *commit;
  HubNames files;
  json_t *tree;  // for hub_tree_write; NULL: the server does not tell enough
} HubListing;

typedef struct HubFile {
  char *name, *url, *etag;
  int64_t size;  // bytes; -1: the server did not say
} HubFile;

// Release the results in any case. *unreachable (may be NULL): whether the failure is the network's or the server's, and says nothing
// about the repository.
Status hub_remote_list(HubListing *listing, bool *unreachable, const HubRemote *remote);
Status hub_remote_describe(HubFile *file, const HubRemote *remote, const char *commit, const char *name);
// STATUS_BAD_INPUT when the text is no listing, or names a file that must not be written.
Status hub_listing_parse(HubListing *listing, const char *text, size_t length);
void hub_listing_release(HubListing *listing);
void hub_file_release(HubFile *file);

// The message for an answer that is no success: who has to do what.
Status hub_remote_refusal(const HubRemote *remote, const HttpResponse *response, const char *what);

#endif
