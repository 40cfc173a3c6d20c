// Names of the Hub: ids, and the names of files in a repository.
#ifndef HUB_NAME_H
#define HUB_NAME_H

#include <stdbool.h>
#include <stddef.h>

#include "core/memory.h"

typedef struct HubId {
  char *repository;  // "org/name"
  char *revision;  // NULL: none was given
  char *file;  // "path/inside.gguf"; NULL: none was given
} HubId;

// False, and nothing to release, when it is none.
bool hub_id_parse(HubId *id, const char *text);
void hub_id_release(HubId *id);

// Whether a file of a repository may bear this name on this disk: relative, no empty, "." or ".." part, no control characters.
bool hub_file_name_is_safe(const char *name);
// A branch, tag or commit: a safe file name of letters, digits and "._-/".
bool hub_revision_is_safe(const char *revision);
bool hub_is_commit(const char *revision);  // 40 hexadecimal digits
// The digest of a file's content, as the Hub tells it; it names the blob.
bool hub_etag_is_safe(const char *etag);

// Appends `text` percent-encoded (RFC 3986); '/' stays when `keep_slash`.
void url_append(Buffer *url, const char *text, bool keep_slash);

#endif
