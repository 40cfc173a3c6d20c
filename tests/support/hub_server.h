// A small Hub on loopback for tests: the HTTP interface that hub/remote.h describes, in a thread of the test, with faults on request and a
// log of what was asked. Files of more than LFS_BYTES lie behind a redirect to /cdn/, with their SHA-256 as ETag; others are served as they
// are, with their git blob id.
#ifndef TESTS_SUPPORT_HUB_SERVER_H
#define TESTS_SUPPORT_HUB_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/memory.h"

enum { LFS_BYTES = 4096 };

typedef struct HubServer HubServer;

// What happens to requests whose path holds `path`, `times` times (0: always).
typedef struct HubFault {
  const char *path;
  int times;
  bool only_get;  // HEAD is answered as if there were no fault
  int code;  // answers so; 0: as it would
  const char *headers;  // more lines, each with "\r\n"
  int64_t cut_after;  // the connection breaks after so many bytes of the body; 0: not
  bool corrupt;  // the first byte of the body is another
  bool ignores_range;  // all of the file is sent, whatever was asked for
  int stall_seconds;  // silence before the body
  bool hold;  // waits until hub_server_release
} HubFault;

typedef struct HubSeen {
  char method[8], path[256];
  int64_t from;  // of Range; -1: none
  int64_t sent;  // bytes of the body
  bool has_token;
} HubSeen;

HubServer *hub_server_start(void);
void hub_server_stop(HubServer *server);
const char *hub_server_url(const HubServer *server);  // "http://127.0.0.1:PORT"

// `kind`: "models" or "datasets". Every file of the repository belongs to its one commit. Contents are copied.
void hub_server_add(HubServer *server, const char *kind, const char *repository, const char *name, const void *bytes, size_t length);
void hub_server_add_file(HubServer *server, const char *kind, const char *repository, const char *name, const char *path);
// Only this revision is known, beside the commit; the default is "main".
void hub_server_set_revision(HubServer *server, const char *kind, const char *repository, const char *revision);
const char *hub_server_commit(const HubServer *server, const char *kind, const char *repository);
void hub_server_require_token(HubServer *server, const char *token, const char *error_code);  // of all but /cdn/
void hub_server_list_plainly(HubServer *server);  // names alone, as some mirrors do
void hub_server_redirect_cdn(HubServer *server, const char *url);  // /cdn/ is at another server, which has the same files
void hub_server_fault(HubServer *server, HubFault fault);  // strings are not copied
void hub_server_release(HubServer *server);

// The log, in order of arrival. Read it when no request is under way.
int hub_server_seen_count(const HubServer *server);
const HubSeen *hub_server_seen(const HubServer *server, int index);
// Requests with this method (NULL: any) whose path holds `path`.
int hub_server_count(const HubServer *server, const char *method, const char *path);
void hub_server_forget(HubServer *server);

#endif
