// manifest.json of a checkpoint: the size and SHA-256 of each file, in one canonical text, so that a change of any byte
// of the manifest itself shows as well.
#ifndef TRAINER_MANIFEST_H
#define TRAINER_MANIFEST_H

#include <stdbool.h>

#include "core/status.h"

// Names every regular file of the folder, syncs each, and writes manifest.json last. STATUS_NO_SPACE, STATUS_FAILED.
Status manifest_write(const char *folder);

// STATUS_BAD_INPUT, naming the file and what is wrong with it, unless all is as manifest_write saw it. Files that
// the manifest does not name are none of its business. has_state (may be NULL): whether it names state.h5.
Status manifest_verify(const char *folder, bool *has_state);

#endif
