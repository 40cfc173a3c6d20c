// Paths, references, links and locks of the cache.
#define _GNU_SOURCE
#include "hub/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "core/memory.h"
#include "hub/name.h"

void hub_cache_open(HubCache *cache, const char *root, const char *repository, bool is_dataset) {
  const char *slash = strchr(repository, '/');
  cache->root = memory_copy_string(root);
  cache->name = memory_format("%s--%.*s--%s", is_dataset ? "datasets" : "models", (int)(slash - repository), repository, slash + 1);
  cache->folder = path_join(root, cache->name);
}

void hub_cache_release(HubCache *cache) {
  free(cache->root);
  free(cache->name);
  free(cache->folder);
  *cache = (HubCache){0};
}

char *hub_cache_commit(const HubCache *cache, const char *revision) {
  enum { REFERENCE_LIMIT = 4096 };
  if (hub_is_commit(revision)) return memory_copy_string(revision);
  char *path = memory_format("%s/refs/%s", cache->folder, revision), *commit = NULL;
  Buffer text = {0};
  if (file_exists(path) && file_read(&text, path, REFERENCE_LIMIT) == STATUS_OK && text.data) {
    text.data[strcspn(text.data, " \r\n")] = 0;
    if (hub_is_commit(text.data)) commit = memory_copy_string(text.data);
  }
  buffer_release(&text);
  free(path);
  return commit;
}

static Status write_beside_parents(const char *path, const char *text) {
  char *parent = path_parent(path);
  Status status = directory_create(parent);
  if (status == STATUS_OK) status = file_write_whole(path, text, strlen(text));
  free(parent);
  return status;
}

Status hub_cache_set_commit(const HubCache *cache, const char *revision, const char *commit) {
  if (hub_is_commit(revision)) return STATUS_OK;
  char *path = memory_format("%s/refs/%s", cache->folder, revision);
  Status status = write_beside_parents(path, commit);
  free(path);
  return status;
}

char *hub_cache_snapshot(const HubCache *cache, const char *commit) { return memory_format("%s/snapshots/%s", cache->folder, commit); }

char *hub_cache_file(const HubCache *cache, const char *commit, const char *name) {
  return memory_format("%s/snapshots/%s/%s", cache->folder, commit, name);
}

char *hub_cache_blob(const HubCache *cache, const char *etag) { return memory_format("%s/blobs/%s", cache->folder, etag); }

static char *absence_path(const HubCache *cache, const char *commit, const char *name) {
  return memory_format("%s/.no_exist/%s/%s", cache->folder, commit, name);
}

bool hub_cache_has(const HubCache *cache, const char *commit, const char *name) {
  char *path = hub_cache_file(cache, commit, name);
  bool has = file_exists(path);
  free(path);
  return has;
}

bool hub_cache_is_absent(const HubCache *cache, const char *commit, const char *name) {
  char *path = absence_path(cache, commit, name);
  bool absent = file_exists(path);
  free(path);
  return absent;
}

Status hub_cache_set_absent(const HubCache *cache, const char *commit, const char *name) {
  char *path = absence_path(cache, commit, name);
  Status status = file_exists(path) ? STATUS_OK : write_beside_parents(path, "");
  free(path);
  return status;
}

// "../../blobs/<etag>", one step up more for each folder in the name.
static char *link_target(const char *name, const char *etag) {
  Buffer target = {0};
  buffer_append_string(&target, "../../");
  for (; *name; name++)
    if (*name == '/') buffer_append_string(&target, "../");
  buffer_format(&target, "blobs/%s", etag);
  return target.data;
}

Status hub_cache_link(const HubCache *cache, const char *commit, const char *name, const char *etag) {
  char *path = hub_cache_file(cache, commit, name), *parent = path_parent(path), *target = link_target(name, etag);
  char *temporary = memory_format("%s/.link-%ld", parent, (long)getpid());
  Status status = directory_create(parent);
  if (status == STATUS_OK) {
    unlink(temporary);
    if (symlink(target, temporary) != 0)
      status = status_errno(STATUS_FAILED, errno,
                            "%s: cannot make a symbolic link; set HF_HUB_CACHE to a folder on a file system that has them", path);
    else if (rename(temporary, path) != 0) status = status_errno(STATUS_FAILED, errno, "%s: cannot be written", path);
    if (status != STATUS_OK) unlink(temporary);
  }
  free(path), free(parent), free(target), free(temporary);
  return status;
}

// huggingface_hub's lock removes the file in some versions: what was locked may by then be no file that others still find.
static bool is_still_there(int lock, const char *path) {
  struct stat held, found;
  return fstat(lock, &held) == 0 && stat(path, &found) == 0 && held.st_ino == found.st_ino && held.st_dev == found.st_dev;
}

static Status take_lock(int *lock, const char *path) {
  for (bool told = false;;) {
    *lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0664);
    if (*lock < 0) return status_errno(STATUS_FAILED, errno, "%s: cannot be opened", path);
    if (flock(*lock, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK && !told) log_info("waiting for another process that downloads the same file (%s)", path);
      told = true;
      int failed;
      do failed = flock(*lock, LOCK_EX);
      while (failed && errno == EINTR);
      if (failed) {
        Status status = status_errno(STATUS_FAILED, errno, "%s: cannot be locked", path);
        close(*lock);
        return status;
      }
    }
    if (is_still_there(*lock, path)) return STATUS_OK;
    close(*lock);
  }
}

Status hub_cache_lock(int *lock, const HubCache *cache, const char *etag) {
  char *folder = memory_format("%s/.locks/%s", cache->root, cache->name), *path = memory_format("%s/%s.lock", folder, etag);
  Status status = directory_create(folder);
  if (status == STATUS_OK) status = take_lock(lock, path);
  free(folder);
  free(path);
  return status;
}

// --- names ---

void hub_cache_list(HubNames *names, const HubCache *cache, const char *commit) {
  char *snapshot = hub_cache_snapshot(cache, commit);
  hub_names_read_folder(names, snapshot, HUB_FOLDER_DEPTH);
  free(snapshot);
}
