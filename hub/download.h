// One file from the Hub into the cache: whole and with the digest that was promised, or not at all.
#ifndef HUB_DOWNLOAD_H
#define HUB_DOWNLOAD_H

#include <stdint.h>

#include "hub/remote.h"

// Of all the files of one request.
typedef struct HubProgress {
  int64_t total;  // bytes of all that are not in the cache
  int64_t done;  // of the files that are finished
  int64_t received;  // by this process
  double started, shown;  // seconds: when, and when the bar was last drawn
} HubProgress;

// The file's size, and how many of its bytes are still to come; both 0 when the cache has it or the size is not known.
void hub_download_measure(int64_t *whole, int64_t *missing, const HubCache *cache, const HubFile *file);
// Downloads the blob, going on where an earlier attempt has stopped, and links it into the snapshot.
Status hub_download(const HubRemote *remote, const HubCache *cache, const char *commit, const HubFile *file, HubProgress *progress);

#endif
