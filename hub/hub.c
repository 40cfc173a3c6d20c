// The way of an id: parsed; looked for in the cache; the Hub's list of files; the choice among them; each described, then downloaded; the
// snapshot's folder.
#include "hub/hub.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "core/file.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/text.h"
#include "hub/card.h"
#include "hub/dataset_files.h"
#include "hub/download.h"
#include "hub/name.h"
#include "hub/select.h"
#include "hub/tree.h"

enum { INDEX_LIMIT = 64 << 20 };

typedef struct Resolver {
  const HubRequest *request;
  HubId id;
  const char *revision;
  HubSettings settings;
  HubCache cache;
  Http *http;
} Resolver;

// --- the cache ---

static Status read_shards(HubNames *shards, const HubCache *cache, const char *commit) {
  char *path = hub_cache_file(cache, commit, hub_weight_index);
  Buffer text = {0};
  Status status = file_read(&text, path, INDEX_LIMIT);
  if (status == STATUS_OK) status = hub_select_shards(shards, path, text.data ? text.data : "", text.length);
  buffer_release(&text);
  free(path);
  return status;
}

static bool has_all(const HubCache *cache, const char *commit, const HubNames *names) {
  for (int i = 0; i < names->count; i++)
    if (!hub_cache_has(cache, commit, names->items[i])) return false;
  return true;
}

// The chosen files, and for a model with a weight index its shards too.
static bool has_chosen(const HubCache *cache, const char *commit, const HubNames *chosen) {
  if (!has_all(cache, commit, chosen)) return false;
  if (!hub_names_have(chosen, hub_weight_index)) return true;
  HubNames shards = {0};
  bool has = read_shards(&shards, cache, commit) == STATUS_OK && has_all(cache, commit, &shards);
  hub_names_release(&shards);
  return has;
}

// Whether nothing can be missing though there is no list of the commit's files: a snapshot may hold a part of its commit, and an absent
// chat template would not be noticed.
static bool is_known_whole(const Resolver *resolver, const char *commit, const HubNames *chosen) {
  const HubRequest *request = resolver->request;
  if (resolver->id.file) return true;
  if (request->kind == HUB_DATASET) {
    for (int i = 0; i < request->pattern_count; i++)
      if (!hub_names_have(chosen, request->patterns[i])) return false;
    return request->pattern_count > 0;
  }
  for (const char *const *name = hub_wanted_names(request->kind); *name; name++)
    if (!hub_names_have(chosen, *name) && !hub_cache_is_absent(&resolver->cache, commit, *name)) return false;
  return true;
}

static char *result_path(const Resolver *resolver, const char *commit, const HubNames *chosen) {
  if (resolver->request->kind != HUB_DATASET && chosen->count && text_ends_with(chosen->items[0], ".gguf"))
    return hub_cache_file(&resolver->cache, commit, chosen->items[0]);
  return hub_cache_snapshot(&resolver->cache, commit);
}

// Whether the choice needs the dataset's card.
static bool needs_card(const Resolver *resolver, const HubNames *all) {
  return resolver->request->kind == HUB_DATASET && !resolver->request->pattern_count && hub_names_have(all, hub_card_name);
}

static Status choose(HubNames *chosen, const Resolver *resolver, const char *commit, const HubNames *all) {
  if (resolver->request->kind != HUB_DATASET) return hub_select(chosen, all, resolver->request, resolver->id.repository, resolver->id.file);
  char *card = needs_card(resolver, all) ? hub_cache_file(&resolver->cache, commit, hub_card_name) : NULL;
  Status status = dataset_files_choose(chosen, all, card, resolver->request, resolver->id.repository);
  free(card);
  return status;
}

// Sets *path to where the files are that are chosen among `all`, if the snapshot has them; it stays NULL otherwise.
static void look_for_chosen(char **path, HubNames *names, bool *whole, const Resolver *resolver, const char *commit, const HubNames *all) {
  HubNames chosen = {0};
  bool can_choose = !needs_card(resolver, all) || hub_cache_has(&resolver->cache, commit, hub_card_name);
  if (can_choose && choose(&chosen, resolver, commit, all) == STATUS_OK && has_chosen(&resolver->cache, commit, &chosen)) {
    *path = result_path(resolver, commit, &chosen);
    *whole = is_known_whole(resolver, commit, &chosen);
    hub_names_move(names, &chosen);
  }
  hub_names_release(&chosen);
}

// Sets *path when the cache has what was asked for. *whole: and it is known that nothing is missing.
static void look_in_cache(char **path, HubNames *names, bool *whole, const Resolver *resolver) {
  *path = NULL;
  *whole = false;
  char *commit = hub_cache_commit(&resolver->cache, resolver->revision);
  if (!commit) return;
  HubNames listed = {0}, present = {0};
  bool has_list = hub_tree_read(&listed, &resolver->cache, commit);
  if (has_list) look_for_chosen(path, names, whole, resolver, commit, &listed);
  if (*path) {
    *whole = true;
  } else {
    hub_cache_list(&present, &resolver->cache, commit);
    look_for_chosen(path, names, whole, resolver, commit, &present);
    if (has_list) *whole = false;  // something of the list is not there
  }
  hub_names_release(&listed);
  hub_names_release(&present);
  free(commit);
}

// --- the network ---

typedef struct HubFiles {
  HubFile *items;
  int count, capacity;
} HubFiles;

static void files_release(HubFiles *files) {
  for (int i = 0; i < files->count; i++) hub_file_release(&files->items[i]);
  free(files->items);
  *files = (HubFiles){0};
}

static Status describe_files(HubFiles *files, const Resolver *resolver, const HubRemote *remote, const char *commit,
                             const HubNames *names) {
  for (int i = 0; i < names->count; i++) {
    if (hub_cache_has(&resolver->cache, commit, names->items[i])) continue;
    HubFile file;
    Status status = hub_remote_describe(&file, remote, commit, names->items[i]);
    ARRAY_PUSH(files->items, files->count, files->capacity) = file;
    TRY(status);
  }
  return STATUS_OK;
}

static Status check_space(const Resolver *resolver, int64_t bytes) {
  struct statvfs disk;
  char needed[32], free_bytes[32];
  TRY(directory_create(resolver->cache.folder));
  if (statvfs(resolver->cache.folder, &disk) != 0) return STATUS_OK;  // then the write will tell
  double available = (double)disk.f_bavail * (double)disk.f_frsize;
  if ((double)bytes <= available) return STATUS_OK;
  return status_fail(STATUS_NO_SPACE,
                     "%s: %s are to be downloaded, and %s are free; make room, or set HF_HUB_CACHE to a folder on another disk",
                     resolver->cache.folder, format_bytes(needed, (double)bytes), format_bytes(free_bytes, available));
}

// A server may tell any size.
static int64_t add_bytes(int64_t sum, int64_t more) { return more > INT64_MAX - sum ? INT64_MAX : sum + more; }

// Fetches those of the names that the snapshot does not have yet.
static Status fetch_names(const Resolver *resolver, const HubRemote *remote, const char *commit, const HubNames *names) {
  HubFiles files = {0};
  HubProgress progress = {0};
  int64_t missing = 0;  // bytes
  char size[32];
  Status status = describe_files(&files, resolver, remote, commit, names);
  for (int i = 0; i < files.count && status == STATUS_OK; i++) {
    int64_t whole, rest;
    hub_download_measure(&whole, &rest, &resolver->cache, &files.items[i]);
    progress.total = add_bytes(progress.total, whole);
    missing = add_bytes(missing, rest);
  }
  if (status == STATUS_OK) status = check_space(resolver, missing);
  if (status == STATUS_OK && missing)
    log_info("%s: downloading %s into %s", resolver->id.repository, format_bytes(size, (double)missing), resolver->cache.folder);
  progress.started = time_seconds();
  for (int i = 0; i < files.count && status == STATUS_OK; i++)
    status = hub_download(remote, &resolver->cache, commit, &files.items[i], &progress);
  files_release(&files);
  return status;
}

static Status fetch_listed(char **path, HubNames *names, const Resolver *resolver, const HubRemote *remote, const HubListing *listing) {
  HubNames chosen = {0}, shards = {0}, card = {0};
  const HubCache *cache = &resolver->cache;
  const char *commit = listing->commit;
  Status status;
  if (needs_card(resolver, &listing->files)) {
    hub_names_add(&card, hub_card_name);
    TRY_DONE(fetch_names(resolver, remote, commit, &card));
  }
  TRY_DONE(choose(&chosen, resolver, commit, &listing->files));
  TRY_DONE(fetch_names(resolver, remote, commit, &chosen));
  if (hub_names_have(&chosen, hub_weight_index)) {
    TRY_DONE(read_shards(&shards, cache, commit));
    TRY_DONE(fetch_names(resolver, remote, commit, &shards));
  }
  for (const char *const *name = hub_wanted_names(resolver->request->kind); *name && !resolver->id.file; name++)
    if (!hub_names_have(&listing->files, *name)) TRY_DONE(hub_cache_set_absent(cache, commit, *name));
  if (listing->tree) TRY_DONE(hub_tree_write(cache, commit, listing->tree));
  TRY_DONE(hub_cache_set_commit(cache, resolver->revision, commit));
  *path = result_path(resolver, commit, &chosen);
  hub_names_move(names, &chosen);
done:
  hub_names_release(&card);
  hub_names_release(&chosen);
  hub_names_release(&shards);
  return status;
}

// `cached`: what the cache has, or NULL; it is used, with the names that are set already, when the Hub cannot be asked.
static Status fetch(char **path, HubNames *names, Resolver *resolver, const char *cached) {
  HubListing listing = {0};
  TRY(http_new(&resolver->http));
  HubRemote remote = {.http = resolver->http,
                      .settings = &resolver->settings,
                      .repository = resolver->id.repository,
                      .revision = resolver->revision,
                      .is_dataset = resolver->request->kind == HUB_DATASET};
  bool unreachable = false;
  Status status = hub_remote_list(&listing, &unreachable, &remote);
  if (status == STATUS_OK) status = fetch_listed(path, names, resolver, &remote, &listing);
  else if (cached && unreachable) {
    log_notice("%s: taken from the cache as it is there, since the Hub cannot be asked (%s)", resolver->id.repository, status_message());
    *path = memory_copy_string(cached);
    status = STATUS_OK;
  }
  hub_listing_release(&listing);
  return status;
}

static Status refuse_offline(const Resolver *resolver) {
  const char *what = resolver->request->kind == HUB_DATASET ? "dataset" : "model";
  char *snapshots = path_join(resolver->cache.folder, "snapshots");
  bool some = directory_exists(snapshots);
  free(snapshots);
  return status_fail(
      STATUS_BAD_INPUT, "the cache does not have %s of the %s %s at revision %s (%s), and %s", some ? "all that is needed" : "anything",
      what, resolver->id.repository, resolver->revision, resolver->cache.folder,
      resolver->request->cache_only ? "only the cache was looked in" : "HF_HUB_OFFLINE forbids to ask the Hub; unset it to download");
}

Status hub_resolve_files(char **path, HubNames *names, const HubRequest *request) {
  *path = NULL;
  *names = (HubNames){0};
  Resolver resolver = {.request = request};
  if (!hub_id_parse(&resolver.id, request->id))
    return status_fail(STATUS_USAGE, "\"%s\" is no id of the Hub; write org/name, org/name@revision, or org/name/FILE.gguf", request->id);
  resolver.revision = request->revision ? request->revision : resolver.id.revision ? resolver.id.revision : "main";
  char *cached = NULL;
  bool whole = false;
  Status status = STATUS_OK;
  if (!hub_revision_is_safe(resolver.revision)) status = status_fail(STATUS_USAGE, "\"%s\" is no branch, tag or commit", resolver.revision);
  if (status == STATUS_OK) status = hub_settings_read(&resolver.settings);
  if (status == STATUS_OK) {
    hub_cache_open(&resolver.cache, resolver.settings.cache, resolver.id.repository, request->kind == HUB_DATASET);
    look_in_cache(&cached, names, &whole, &resolver);
    bool may_ask = !request->cache_only && !resolver.settings.offline;
    if (cached && (whole || !may_ask)) *path = memory_copy_string(cached);
    else if (may_ask) status = fetch(path, names, &resolver, cached);
    else status = refuse_offline(&resolver);
  }
  free(cached);
  http_free(resolver.http);
  hub_cache_release(&resolver.cache);
  hub_settings_release(&resolver.settings);
  hub_id_release(&resolver.id);
  if (status != STATUS_OK) hub_names_release(names);
  return status;
}

Status hub_resolve(char **path, const HubRequest *request) {
  HubNames names;
  Status status = hub_resolve_files(path, &names, request);
  hub_names_release(&names);
  return status;
}
